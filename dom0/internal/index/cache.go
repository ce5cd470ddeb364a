package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/flock"
	"pinion/dom0/internal/format"
)

const (
	pageSuffix = ".idx"
	listSuffix = ".list"
	tempPrefix = "tmp-"
	lockName   = "lock"
)

// A cacheDir is a directory of page files and lists, named by object id. Several
// processes may use it at once: each holds a shared lock, and only one that is
// alone removes anything.
type cacheDir struct {
	path    string
	archive format.ArchiveID
	lock    *os.File
}

// openCacheDir makes the directory if need be.
func openCacheDir(path string, archive format.ArchiveID) (*cacheDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make index cache: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock index cache: %w", err)
	}
	c := &cacheDir{path: path, archive: archive, lock: lock}
	// Waits for another process's cleaning at most.
	if err := flock.File(lock, unix.LOCK_SH); err != nil {
		lock.Close()
		return nil, fmt.Errorf("index cache %s: %w", path, err)
	}
	return c, nil
}

// tidy removes, when nobody else uses the directory, left-over temporary files,
// and the files of objects that keep doesn't name; other files are never
// touched. Nothing in the directory may be in use: the lock is given up for a
// moment.
func (c *cacheDir) tidy(keep map[format.ObjectID]bool) error {
	err := flock.File(c.lock, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = c.clean(keep)
	} else if errors.Is(err, unix.EWOULDBLOCK) {
		err = nil
	}
	if err == nil {
		err = flock.File(c.lock, unix.LOCK_SH)
	}
	if err != nil {
		return fmt.Errorf("index cache %s: %w", c.path, err)
	}
	return nil
}

// clean needs the exclusive lock.
func (c *cacheDir) clean(keep map[format.ObjectID]bool) error {
	names, err := os.ReadDir(c.path)
	if err != nil {
		return err
	}
	for _, n := range names {
		name := n.Name()
		ext := filepath.Ext(name)
		id, err := format.ParseObjectID(strings.TrimSuffix(name, ext))
		stale := (ext == pageSuffix || ext == listSuffix) && err == nil && !keep[id]
		if !stale && !strings.HasPrefix(name, tempPrefix) {
			continue
		}
		if err := os.Remove(filepath.Join(c.path, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (c *cacheDir) close() error { return c.lock.Close() }

func (c *cacheDir) file(object format.ObjectID) string {
	return filepath.Join(c.path, object.String()+pageSuffix)
}

func (c *cacheDir) listFile(list format.ObjectID) string {
	return filepath.Join(c.path, list.String()+listSuffix)
}

// open opens an object's page file and checks that it is the listed one. The
// error is ErrCacheDamaged, or os.ErrNotExist; anything else about the cache
// is no reason to stop, as it is only a copy.
func (c *cacheDir) open(ref *Ref) (*pageFile, error) {
	f, err := openFile(c.file(ref.Object))
	if err != nil {
		return nil, err
	}
	p, err := openPageFile(f, c.archive, ref.Object)
	if err == nil && (p.head.level != ref.Level || uint64(p.head.entries) != ref.Entries) {
		err = damaged("page file of %s is not as the root lists it", ref.Object)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// openFile opens a file of the cache. The error is ErrCacheDamaged, or
// os.ErrNotExist.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, damaged("%w", err)
	}
	return f, err
}

// store checks an object's body against ref, writes the object's page file
// in place of any that is there, and opens it.
func (c *cacheDir) store(ref *Ref, untrustedBody []byte) (*pageFile, error) {
	b, err := ParseBody(untrustedBody)
	if err != nil {
		return nil, fmt.Errorf("index object %s: %w: %w", ref.Object, ErrBadObject, err)
	}
	if b.Level() != ref.Level || uint64(b.Len()) != ref.Entries {
		return nil, fmt.Errorf("index object %s: %w: holds %d entries of level %d, where the root lists %d of level %d",
			ref.Object, ErrBadObject, b.Len(), b.Level(), ref.Entries, ref.Level)
	}
	if err := checkSize(ref, untrustedBody); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(c.path, tempPrefix)
	if err != nil {
		return nil, fmt.Errorf("write index cache: %w", err)
	}
	p, err := c.fill(f, ref, b)
	if err == nil {
		err = os.Rename(f.Name(), c.file(ref.Object))
	}
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, fmt.Errorf("write index cache: %w", err)
	}
	return p, nil
}

// fill writes b to f and reads its head back.
func (c *cacheDir) fill(f *os.File, ref *Ref, b *Body) (*pageFile, error) {
	w, err := newPageWriter(f, c.archive, ref.Object, b.level)
	if err != nil {
		return nil, err
	}
	for i := range b.Len() {
		r := b.record(i)
		if err := w.add(&r); err != nil {
			return nil, err
		}
	}
	if err := w.finish(pagePackList(b)); err != nil {
		return nil, err
	}
	return openPageFile(f, c.archive, ref.Object)
}

// pagePackList is the body's packs as a page file has them: those with metadata are
// marked. It takes as much memory as they do in the body.
func pagePackList(b *Body) []byte {
	packs := slices.Clone(b.packs)
	for i := range b.Len() {
		raw := b.raw(i)
		if at := binary.BigEndian.Uint32(raw[33:]); at != noPack && format.BlobType(raw[32]).Metadata() {
			packs[at*packBytes+16] |= metadataPack >> 24
		}
	}
	return packs
}

// checkSize compares the size that is listed with what sealing makes of a body.
func checkSize(ref *Ref, untrustedBody []byte) error {
	if size := len(untrustedBody) + objectOverhead; uint64(size) != uint64(ref.Size) {
		return fmt.Errorf("index object %s: %w: has %d bytes, where %d are listed", ref.Object, ErrBadObject, size, ref.Size)
	}
	return nil
}

// temp makes a file without a name: it is gone when closed, however that
// comes about.
func (c *cacheDir) temp() (*os.File, error) {
	f, err := os.CreateTemp(c.path, tempPrefix)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
