package qubesd

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// exists reports a file.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// removeAny removes files that may not be there.
func removeAny(paths ...string) error {
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// sparse makes an image full of zeros, for root alone (0600).
func sparse(path string, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o770); err != nil {
		return err
	}
	// As _create_sparse_file of storage/reflink.py: a new file takes the name.
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"~*")
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close(), os.Rename(f.Name(), path))
}

// clone makes an image a copy of another, by FICLONE where the file system
// can, else by copying its data. The new one appears whole.
func clone(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), filepath.Base(to)+"~*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
		err = copySparse(in, out)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), to)
}

// copySparse copies the data of a file and leaves its holes.
func copySparse(in, out *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		begin, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(in.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, begin), io.NewSectionReader(in, begin, end-begin)); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// fileSize is the size of the first file that is there.
func fileSize(otherwise int64, paths ...string) int64 {
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil {
			return info.Size()
		}
	}
	return otherwise
}

// allocated is what files take on the disk.
func allocated(paths ...string) int64 {
	var n int64
	for _, path := range paths {
		var stat unix.Stat_t
		if unix.Stat(path, &stat) == nil {
			n += stat.Blocks * 512
		}
	}
	return n
}
