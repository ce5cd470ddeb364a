package main

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	chunkSize = 128 << 10 // bytes; what init chooses

	// stripe is how many bytes of one sort lie side by side in the image.
	stripe = 32 << 20

	// fileAlign is where files begin in the image, as in a file system.
	fileAlign = 4 << 10
)

// An image is the file that is backed up.
type image struct {
	path string
	size int64 // bytes
	real int64 // bytes of real files
	data int64 // bytes that are not holes
}

// makeImage makes an image of which half are real files, a quarter random
// bytes and a quarter holes, in stripes. If there are too few files, what is
// missing of them is left as holes.
func makeImage(path string, size int64, dirs []string) (*image, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := newFileReader(dirs)
	defer files.close()
	img := &image{path: path, size: size}
	random := rand.NewChaCha8([32]byte{1})
	for off, i := int64(0), 0; off < size; off, i = off+stripe, i+1 {
		length := min(stripe, size-off)
		var n int64
		var err error
		switch i % 4 {
		case 0, 2:
			n, err = io.Copy(io.NewOffsetWriter(f, off), io.LimitReader(files, length))
			img.real += n
		case 1:
			n, err = io.Copy(io.NewOffsetWriter(f, off), io.LimitReader(random, length))
		}
		if err != nil {
			return nil, err
		}
		img.data += n
	}
	if img.real == 0 {
		return nil, fmt.Errorf("no files can be read in %q", dirs)
	}
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	// What is still being written out would slow the first measurement.
	return img, f.Sync()
}

// change overwrites one chunk in a hundred of the image's data with something
// new, and returns how many bytes that were.
func (m *image) change() (changed int64, err error) {
	f, err := os.OpenFile(m.path, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	random := rand.NewChaCha8([32]byte{2})
	buf := make([]byte, chunkSize)
	for off := int64(chunkSize); off+chunkSize <= m.size; off += 100 * chunkSize {
		if off/stripe%4 == 3 {
			continue // a hole
		}
		random.Read(buf) // never fails
		if _, err := f.WriteAt(buf, off); err != nil {
			return changed, err
		}
		changed += chunkSize
	}
	return changed, f.Sync()
}

// extents calls fn for each run of data in the image.
func (m *image) extents(f *os.File, fn func(start, end int64) error) error {
	for end := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil
		}
		if err == nil {
			end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		}
		if err == nil {
			err = fn(start, end)
		}
		if err != nil {
			return err
		}
	}
}

// A fileReader reads the regular files of directories one after the other,
// each padded to fileAlign. What can't be read is left out.
type fileReader struct {
	paths chan string
	stop  chan struct{}
	open  *os.File
	buf   *bufio.Reader
	pad   int64 // zeros that are due
	at    int64
}

func newFileReader(dirs []string) *fileReader {
	r := &fileReader{paths: make(chan string), stop: make(chan struct{}), buf: bufio.NewReaderSize(nil, 1<<20)}
	go func() {
		defer close(r.paths)
		for _, dir := range dirs {
			if resolved, err := filepath.EvalSymlinks(dir); err == nil {
				dir = resolved
			}
			err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err != nil || !e.Type().IsRegular() {
					return nil // some directories are not for everybody
				}
				select {
				case r.paths <- path:
					return nil
				case <-r.stop:
					return fs.SkipAll
				}
			})
			if err != nil {
				return
			}
		}
	}()
	return r
}

// Read reads from the file that is open, or from the next one.
func (r *fileReader) Read(p []byte) (int, error) {
	for {
		if r.pad > 0 {
			n := int(min(r.pad, int64(len(p))))
			clear(p[:n])
			r.pad -= int64(n)
			return n, nil
		}
		if r.open != nil {
			n, err := r.buf.Read(p)
			r.at += int64(n)
			if n > 0 {
				return n, nil
			}
			if err != nil {
				r.open.Close()
				r.open, r.pad, r.at = nil, -r.at&(fileAlign-1), 0
				continue
			}
		}
		path, ok := <-r.paths
		if !ok {
			return 0, io.EOF
		}
		if f, err := os.Open(path); err == nil {
			r.open = f
			r.buf.Reset(f)
		}
	}
}

func (r *fileReader) close() {
	close(r.stop)
	if r.open != nil {
		r.open.Close()
	}
}
