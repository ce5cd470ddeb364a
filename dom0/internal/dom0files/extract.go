package dom0files

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/durable"
	"pinion/dom0/internal/source"
)

// ExtractOptions say how an archive is extracted.
type ExtractOptions struct {
	// Skip is told of every entry that is not there afterwards, or not as it
	// was, by its untrusted name. It may be nil.
	Skip func(untrustedPath string, why error)
	// Max bounds the content of all files together: the size of the volume is
	// a good bound. 0 means 1 TiB.
	Max int64
}

// Extracted says what an extraction made.
type Extracted struct {
	Files       int // regular files
	Directories int
	Links       int // symbolic and hard ones
	Bytes       int64
	Skipped     int  // calls of Skip
	Owners      bool // files have their owners back: the process was root's
}

// PartSuffix is what the name of the directory has at its end until all is in
// it.
const PartSuffix = ".part"

// What is said of an archive that was cut, and of one with more behind it.
var (
	errNoEnd  = errors.New("the archive ends without the mark of its end")
	errBehind = errors.New("there is something behind the end of the archive")
)

// Extract makes the directory dir, or takes an empty one's place, and extracts
// the archive into it, to the last byte. What can't be made is left out and
// reported by Skip. An error says that the archive is not whole or the
// directory can't be written; then what was extracted stays in dir+".part",
// and dir is as it was. When Extract returns nil all is durable. The directory
// is its owner's only, so that nobody else gets at programs that run as
// another user.
func Extract(ctx context.Context, untrusted io.Reader, dir string, o ExtractOptions) (*Extracted, error) {
	if o.Max <= 0 {
		o.Max = maxExtracted
	}
	dir = filepath.Clean(dir)
	part, err := begin(dir)
	if err != nil {
		return nil, fmt.Errorf("extract %s to %s: %w", Name, dir, err)
	}
	x := &extraction{o: o, result: &Extracted{Owners: os.Geteuid() == 0}, buffer: make([]byte, copyBuffer)}
	x.top, err = openat(unix.AT_FDCWD, part, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("extract %s to %s: %w", Name, part, err)
	}
	defer unix.Close(x.top)
	if err := x.all(ctx, untrusted); err != nil {
		return x.result, fmt.Errorf("extract %s to %s: %w", Name, part, err)
	}
	if err := unix.Syncfs(x.top); err != nil {
		return x.result, fmt.Errorf("sync %s: %w", part, err)
	}
	// Renaming a directory onto another works if that is empty.
	if err := unix.Rename(part, dir); err != nil {
		return x.result, fmt.Errorf("%s is complete, but rename it to %s: %w", part, dir, err)
	}
	return x.result, durable.SyncDir(filepath.Dir(dir))
}

// begin checks that dir can be had and makes the directory for its parts.
func begin(dir string) (part string, err error) {
	if dir == "/" || dir == "." {
		return "", errors.New("name a directory that is new or empty")
	}
	parent := filepath.Dir(dir)
	if err := durable.MkdirAll(parent); err != nil {
		return "", err
	}
	if st, err := stat(unix.AT_FDCWD, dir); err == nil {
		if kind(st) != unix.S_IFDIR {
			return "", errors.New("there is something of this name that is no directory")
		}
		if st.Attributes&st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			return "", errors.New("a file system is mounted there: name a new directory inside it")
		}
		names, err := os.ReadDir(dir)
		if err != nil {
			return "", err
		}
		if len(names) > 0 {
			return "", errors.New("the directory is not empty")
		}
	}
	part = dir + PartSuffix
	if err := unix.Mkdir(part, 0o700); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return "", fmt.Errorf("%s is there, of a restore that was cut short: remove it", part)
		}
		return "", fmt.Errorf("make %s: %w", part, err)
	}
	return part, durable.SyncDir(parent)
}

// An extraction is an archive on its way to a directory.
type extraction struct {
	o       ExtractOptions
	top     int // the directory
	result  *Extracted
	entries int
	buffer  []byte
	// Directories get their modes and times when nothing more comes into them.
	directories []directory
	text        int // bytes that directories keep
}

type directory struct {
	name string
	meta meta
}

// skip reports what is left out.
func (x *extraction) skip(untrustedName string, why error) {
	x.result.Skipped++
	if x.o.Skip != nil {
		x.o.Skip(untrustedName, why)
	}
}

// all extracts every entry and reads to the end of the archive.
func (x *extraction) all(ctx context.Context, untrusted io.Reader) error {
	end := &endReader{r: untrusted}
	t := tar.NewReader(end)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		end.zeros = 0 // what was read is not the end
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // names are checked below
			return fmt.Errorf("read the archive: %w", err)
		}
		if x.entries++; x.entries > maxEntries {
			return errTooMany
		}
		if err := x.one(ctx, h, t); err != nil {
			var left *leftOut
			if !errors.As(err, &left) {
				return fmt.Errorf("%s: %w", quoted(h.Name), err)
			}
			x.skip(h.Name, left.error)
		}
		if _, err := io.Copy(io.Discard, t); err != nil { // of what was left out
			return fmt.Errorf("read the archive: %w", err)
		}
	}
	for i := len(x.directories) - 1; i >= 0; i-- {
		x.finish(x.directories[i])
	}
	return end.drain(ctx)
}

// leftOut is an error that costs one entry and not the rest.
type leftOut struct{ error }

// Unwrap gives the cause.
func (l *leftOut) Unwrap() error { return l.error }

// lost makes an error of one entry of what the kernel said, unless it would say
// the same of the next.
func lost(doing string, err error) error {
	for _, e := range []error{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EIO} {
		if errors.Is(err, e) {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	return &leftOut{fmt.Errorf("%s: %w", doing, err)}
}

// one extracts an entry.
func (x *extraction) one(ctx context.Context, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.map"] != "" || h.PAXRecords["GNU.sparse.major"] != "" {
		// It may claim to have any size, and take no bytes to say so.
		return errors.New("it is sparse in a way that this archive never is")
	}
	name := h.Name
	if h.Typeflag == tar.TypeDir {
		name = strings.TrimSuffix(name, "/")
	}
	if err := checkName(name); err != nil {
		return &leftOut{err}
	}
	dir, err := descend(x.top, path.Dir(name), true)
	if err != nil {
		return lost("open the directory that it is in", err)
	}
	defer unix.Close(dir)
	base := path.Base(name)
	switch h.Typeflag {
	case tar.TypeDir:
		return x.directory(dir, base, name, h)
	case tar.TypeReg:
		return x.file(ctx, dir, base, h, content)
	case tar.TypeSymlink:
		return x.symlink(dir, base, h)
	case tar.TypeLink:
		return x.link(dir, base, h)
	}
	return &leftOut{errors.New("it is no file, directory or link")}
}

// directory makes a directory, or takes one that an entry in it made before.
func (x *extraction) directory(dir int, base, name string, h *tar.Header) error {
	if err := unix.Mkdirat(dir, base, 0o700); err != nil {
		st, statErr := stat(dir, base)
		if !errors.Is(err, unix.EEXIST) || statErr != nil || kind(st) != unix.S_IFDIR {
			return lost("make the directory", err)
		}
	}
	x.result.Directories++
	d := directory{strings.Clone(name), metaOf(h)}
	if x.text += len(d.name) + d.meta.text(); x.text > maxText {
		return errTooLong
	}
	x.directories = append(x.directories, d)
	return nil
}

// file makes a regular file. What is in the way stays: it would be of the
// archive too.
func (x *extraction) file(ctx context.Context, dir int, base string, h *tar.Header, content io.Reader) error {
	if h.Size > x.o.Max-x.result.Bytes {
		return fmt.Errorf("with it there would be more than the %d bytes that can be in the archive", x.o.Max)
	}
	fd, err := openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return lost("make the file", err)
	}
	f := os.NewFile(uintptr(fd), h.Name)
	defer f.Close()
	if err := x.write(ctx, f, h.Size, content); err != nil {
		_ = unix.Unlinkat(dir, base, 0) // half a file is none
		return err
	}
	x.result.Files++
	x.result.Bytes += h.Size
	x.restoreMeta(fd, h.Name, metaOf(h))
	if err := f.Close(); err != nil {
		return lost("close the file", source.Cause(err))
	}
	return nil
}

// write writes the content of a file, zeros as holes. A failure to read is one
// of the archive's.
func (x *extraction) write(ctx context.Context, f *os.File, size int64, content io.Reader) error {
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := x.buffer[:min(int64(len(x.buffer)), size-off)]
		if _, err := io.ReadFull(content, b); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read the archive: %w", err)
		}
		if len(bytes.Trim(b, "\x00")) > 0 {
			if _, err := f.WriteAt(b, off); err != nil {
				return lost("write the file", source.Cause(err))
			}
		}
		off += int64(len(b))
	}
	if err := f.Truncate(size); err != nil {
		return lost("set the size of the file", source.Cause(err))
	}
	return nil
}

// symlink makes a symbolic link, which nothing here ever follows.
func (x *extraction) symlink(dir int, base string, h *tar.Header) error {
	if h.Linkname == "" || len(h.Linkname) > maxPath || strings.IndexByte(h.Linkname, 0) >= 0 {
		return &leftOut{errors.New("its target is none")}
	}
	if err := unix.Symlinkat(h.Linkname, dir, base); err != nil {
		return lost("make the symbolic link", err)
	}
	x.result.Links++
	x.linkMeta(dir, base, h)
	return nil
}

// link gives a file that was extracted another name.
func (x *extraction) link(dir int, base string, h *tar.Header) error {
	if err := checkName(h.Linkname); err != nil {
		return &leftOut{fmt.Errorf("it is a link to %s: %w", quoted(h.Linkname), err)}
	}
	from, err := descend(x.top, path.Dir(h.Linkname), false)
	if err != nil {
		return lost("find what it is a link to", err)
	}
	defer unix.Close(from)
	st, err := stat(from, path.Base(h.Linkname))
	if err != nil {
		return lost("find what it is a link to", err)
	}
	if kind(st) != unix.S_IFREG {
		return &leftOut{errors.New("it is a link to what is no file")}
	}
	if err := unix.Linkat(from, path.Base(h.Linkname), dir, base, 0); err != nil {
		return lost("link the file", err)
	}
	x.result.Links++
	return nil
}
