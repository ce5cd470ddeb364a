package reflink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/durable"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/plain"
)

// plainOpen opens a file to be read.
func plainOpen(path string) (source.Volume, error) {
	v, err := plain.Open(path)
	if err != nil {
		return nil, err // not a nil *plain.Volume in an interface
	}
	return v, nil
}

// A clone is a snapshot that is being made.
type clone struct {
	path     string
	src, dst *os.File
	taken    time.Time
}

// Snapshot makes snapshots of files of this file system, whatever Pool value
// they were found with. All that takes time and can be done before the first
// file is cloned, or after the last, is.
func (p *Pool) Snapshot(ctx context.Context, wanted []source.Wanted) []source.Taken {
	taken := make([]source.Taken, len(wanted))
	clones := make([]*clone, len(wanted))
	short, err := p.checkSpace(wanted)
	for i, w := range wanted {
		refused := err
		if refused == nil && !w.Replaces {
			refused = short
		}
		if clones[i], taken[i].Err = p.prepare(ctx, w, refused); taken[i].Err != nil {
			clones[i] = nil
		}
	}
	for i, c := range clones {
		if c == nil {
			continue
		}
		c.taken = time.Now()
		if err := ctx.Err(); err != nil {
			taken[i].Err = err
		} else if err := unix.IoctlFileClone(int(c.dst.Fd()), int(c.src.Fd())); err != nil {
			taken[i].Err = cloneCause(err)
		}
	}
	for i, c := range clones {
		if c != nil {
			taken[i] = p.finish(c, taken[i].Err)
		}
	}
	for i := range taken {
		if taken[i].Err != nil {
			taken[i] = source.Taken{Err: fmt.Errorf("make a snapshot of %s: %w", wanted[i].Source.Path, taken[i].Err)}
		}
	}
	return taken
}

// prepare opens the source and makes the empty file of its snapshot.
func (p *Pool) prepare(ctx context.Context, w source.Wanted, refused error) (_ *clone, err error) {
	if err := errors.Join(ctx.Err(), refused); err != nil {
		return nil, err
	}
	src, path, err := openState(w.Source)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			src.Close()
		}
	}()
	id, why, err := identify(src)
	switch {
	case err != nil:
		return nil, err
	case why != "":
		return nil, errors.New(why)
	case id != p.id:
		return nil, fmt.Errorf("it is on another file system, %s, than %s", id, p.id)
	}
	name, err := fileName(w.Label, path)
	if err != nil {
		return nil, err
	}
	dir, err := place(path, p.id)
	if err != nil {
		return nil, err
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	c := &clone{path: filepath.Join(dir, name), src: src}
	c.dst, err = os.OpenFile(c.path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", c.path, source.Cause(err))
	}
	if err := source.CopyNoCow(c.dst, src); err != nil {
		return nil, errors.Join(err, c.remove())
	}
	return c, nil
}

// openState opens what a snapshot of a source is made of, and returns its path.
// A state that is gone since it was found has become that which the volume is
// known by: a qube that stops renames the file which it wrote to.
func openState(s *source.Source) (*os.File, string, error) {
	src, err := openSource(s.Path)
	if known, ok := strings.CutPrefix(s.Locator, "file:"); ok && errors.Is(err, fs.ErrNotExist) && known != s.Path {
		src, err = openSource(known)
		return src, known, err
	}
	return src, s.Path, err
}

// finish makes a clone durable and takes down what tells it from any other
// file; if that fails, or the cloning has, nothing is left of it.
func (p *Pool) finish(c *clone, err error) source.Taken {
	defer c.src.Close()
	var b *source.Base
	if err == nil {
		b, err = p.seal(c)
	}
	if err != nil {
		return source.Taken{Err: errors.Join(err, c.remove())}
	}
	if err := c.dst.Close(); err != nil {
		return source.Taken{Err: errors.Join(err, c.remove())}
	}
	return source.Taken{Base: b}
}

// seal makes a clone read-only and durable, in this order: nothing changes
// its times after they were taken down.
func (p *Pool) seal(c *clone) (*source.Base, error) {
	if err := c.dst.Chmod(0o400); err != nil {
		return nil, fmt.Errorf("make %s read-only: %w", c.path, source.Cause(err))
	}
	if err := c.dst.Sync(); err != nil {
		return nil, fmt.Errorf("sync %s: %w", c.path, source.Cause(err))
	}
	if err := durable.SyncDir(filepath.Dir(c.path)); err != nil {
		return nil, err
	}
	identity, size, err := identityOf(c.dst, p.id)
	if err != nil {
		return nil, err
	}
	return &source.Base{
		Kind: source.Reflink, Pool: p.id, Name: c.path, Size: size, Taken: c.taken, Identity: identity,
	}, nil
}

// remove takes back what was made so far. Where that fails, the name that is
// left has the owner's label.
func (c *clone) remove() error {
	c.dst.Close() // it may be closed already
	if err := os.Remove(c.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the unfinished %s: %w", c.path, source.Cause(err))
	}
	return nil
}

// checkSpace finds out how much of the file system is free. If it is less than
// the reserve, short says so, which is for snapshots that don't replace
// another. It warns if little is free and nothing else will say so.
func (p *Pool) checkSpace(wanted []source.Wanted) (short, err error) {
	dir := filepath.Dir(p.dir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("find the free space of %s: %w", dir, err)
	}
	if st.Blocks == 0 {
		return nil, nil
	}
	free := 100 * float64(st.Bavail) / float64(st.Blocks)
	if free < p.opts.RefuseBelow {
		short = fmt.Errorf("only %.1f %% of the file system of %s is free, and snapshots are made down to %g %% (--pool-reserve)", free, dir, p.opts.RefuseBelow)
	}
	refuses := short != nil && slices.ContainsFunc(wanted, func(w source.Wanted) bool { return !w.Replaces })
	if low := short != nil || free < p.opts.WarnBelow; low && !refuses && p.opts.Warn != nil {
		p.opts.Warn(fmt.Sprintf("only %.1f %% of the file system of %s is free; below %g %% no snapshots will be made but in place of older ones",
			free, dir, p.opts.RefuseBelow))
	}
	return short, nil
}

// identityOf returns what has to be as it was for an open file to be the same
// file, unchanged, and its size. Times are in nanoseconds: every write, and
// every change of mode, owner or times, sets the last one, ctime, to now.
func identityOf(f *os.File, id string) (map[string]string, int64, error) {
	st, err := stat(f)
	if err != nil {
		return nil, 0, err
	}
	generation, err := inodeGeneration(f)
	if err != nil {
		return nil, 0, err
	}
	return map[string]string{
		"fs":         id,
		"inode":      strconv.FormatUint(st.Ino, 10),
		"generation": strconv.FormatUint(uint64(generation), 10),
		"size":       strconv.FormatInt(st.Size, 10),
		"mtime":      timestamp(st.Mtim),
		"ctime":      timestamp(st.Ctim),
	}, st.Size, nil
}

// timestamp keeps all of one, in a form that people can read.
func timestamp(t unix.Timespec) string {
	return time.Unix(t.Unix()).UTC().Format(time.RFC3339Nano)
}

// Check looks at the file that the snapshot's name leads to.
func (p *Pool) Check(ctx context.Context, b *source.Base) error {
	f, err := p.openBase(ctx, b)
	if err != nil {
		return err
	}
	return f.Close()
}

// openBase opens the file of a snapshot, after the same look that Check
// takes. The error is a clause for people.
func (p *Pool) openBase(ctx context.Context, b *source.Base) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, unsure(err)
	}
	if b.Kind != source.Reflink || b.Pool != p.id {
		return nil, errors.New("it was made in other storage")
	}
	f, _, err := openRegular(b.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil, errors.New("it is gone")
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO), errors.Is(err, errNotRegular):
		return nil, errOther
	case err != nil:
		return nil, unsure(err)
	}
	if err := p.checkFile(f, b); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// unsure says that err proves nothing about a snapshot.
func unsure(err error) error { return fmt.Errorf("%w: %w", source.ErrUnsure, err) }

var (
	errOther   = errors.New("another file has its name")
	errWritten = errors.New("it was written to")
)

// checkFile compares an open file with what is known of a snapshot.
func (p *Pool) checkFile(f *os.File, b *source.Base) error {
	id, why, err := identify(f)
	if err != nil {
		return unsure(err)
	}
	if why != "" || id != p.id {
		return errOther
	}
	got, size, err := identityOf(f, id)
	if err != nil {
		return unsure(err)
	}
	for _, key := range []string{"fs", "inode", "generation"} {
		if got[key] != b.Identity[key] {
			return errOther
		}
	}
	for _, key := range []string{"size", "mtime", "ctime"} {
		if got[key] != b.Identity[key] {
			return errWritten
		}
	}
	if size != b.Size {
		return errWritten
	}
	return nil
}
