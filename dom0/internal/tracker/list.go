package tracker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/flock"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
)

// A Tracked is what state knows of a volume. It is the caller's.
type Tracked struct {
	Locator string
	Base    *source.Base // nil: nothing can be told apart from it
	Entries []Entry
	Runs    []Activity
	// Note says why there is nothing of what was known before.
	Note string
}

// An Entry is what state knows of a volume for one branch of an archive.
type Entry struct {
	Key         Key
	Destination string
	Name        string
	Session     *Session   // nil: the first one is being made
	Changed     *dirty.Map // where Base may differ from the session
	Lost        string     // why the next backup looks at everything; else empty
}

// An Activity is somebody at work on a snapshot of a volume.
type Activity struct {
	What    string // backup, restore or pairing
	Started time.Time
	Base    *source.Base // what it reads; nil: the volume itself
	Alive   bool         // its process lives
}

// Paired returns the session that the next backup for a key can go on from, as
// far as state knows: nil if there is none. The caller asks the archive
// whether it still has it, and then Begin for the difference.
func (d *Dir) Paired(locator string, k Key) (*Session, error) {
	st, _, err := d.read(locator)
	var damaged *DamagedError
	if errors.As(err, &damaged) || st == nil && err == nil {
		return nil, nil // Begin says so
	}
	if err != nil {
		return nil, err
	}
	e := st.entry(k)
	if e == nil {
		return nil, nil
	}
	if _, lost := e.changed(); lost != "" {
		return nil, nil
	}
	return e.session(), nil
}

// List returns what state knows of all volumes, by locator, and an error for
// each whose state can't be used: a DamagedError, if it never will be. It asks no storage and waits for no lock.
func (d *Dir) List(ctx context.Context) ([]Tracked, []error) {
	names, err := d.volumeDirs()
	if err != nil {
		return nil, []error{err}
	}
	var out []Tracked
	var errs []error
	for _, name := range names {
		if ctx.Err() != nil {
			return out, append(errs, ctx.Err())
		}
		path := filepath.Join(d.path, name, "state.json")
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var st *state
		if err == nil {
			st, err = decode(text)
		}
		if err == nil && (dirName(st.Locator) != name || st.Owner != d.owner) {
			err = errors.New("it is of another volume or state directory")
		}
		damaged := text != nil && !errors.Is(err, format.ErrNewer)
		if err != nil {
			if damaged {
				err = &DamagedError{path, err}
			} else {
				err = fmt.Errorf("tracker state %s: %w", path, err)
			}
			errs = append(errs, err)
			continue
		}
		out = append(out, d.tracked(st))
	}
	slices.SortFunc(out, func(a, b Tracked) int { return strings.Compare(a.Locator, b.Locator) })
	return out, errs
}

func (d *Dir) tracked(st *state) Tracked {
	t := Tracked{Locator: st.Locator, Base: st.Base, Note: st.Note}
	for _, e := range st.Entries {
		t.Entries = append(t.Entries, e.export())
	}
	for _, r := range st.Runs {
		t.Runs = append(t.Runs, Activity{What: r.What, Started: r.Started, Base: r.Base, Alive: d.alive(r.ID)})
	}
	return t
}

func (e *entry) export() Entry {
	out := Entry{Key: e.key(), Destination: e.Destination, Name: e.Name, Session: e.session()}
	out.Changed, out.Lost = e.changed()
	return out
}

// Forget removes the entries of a volume that which returns true for. Without
// the last of them, the volume's snapshots go and its state goes, but for what
// a run that lives still reads. A volume that state doesn't know is no error.
// If find doesn't lead to the volume any more, it is asked for the snapshots,
// since those are volumes, too. Snapshots whose storage can't be reached are
// an error, and are remembered. It returns the names of those it removed.
func (d *Dir) Forget(ctx context.Context, find Find, locator string, which func(Entry) bool) (removed []string, err error) {
	if _, err := os.Stat(d.volumeDir(locator)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	// Found before the lock is taken: it may take its time.
	src, findErr := find(ctx, locator)
	if findErr != nil {
		src = nil
	}
	u, err := d.openUnit(ctx, locator, src)
	if err != nil {
		return nil, err
	}
	defer u.close()
	u.st.Entries = slices.DeleteFunc(u.st.Entries, func(e *entry) bool { return which(e.export()) })
	if len(u.st.Entries) == 0 {
		u.st.Note = ""
	}
	if u.pool != nil {
		d.findOrphans(ctx, []*unit{u})
	}
	if err := u.save(); err != nil {
		return nil, err
	}
	for r, b := range u.garbage {
		if u.reachable(b) && u.named[r] == nil {
			removed = append(removed, b.Name)
		}
	}
	slices.Sort(removed)
	if err := d.sweep(ctx, []*unit{u}); err != nil {
		return nil, fmt.Errorf("forget %s: %w", locator, err)
	}
	more, err := u.dropDiscarded(ctx, find)
	removed = append(removed, more...)
	if err != nil {
		return removed, fmt.Errorf("forget %s: %w", locator, err)
	}
	if u.onDisk == nil {
		removeDir(d.volumeDir(locator))
	}
	return removed, nil
}

// dropDiscarded removes snapshots in pools that the volume's source, if there
// is one, doesn't lead to, and returns the names of those that it did remove.
func (u *unit) dropDiscarded(ctx context.Context, find Find) (removed []string, err error) {
	var errs []error
	var left []*source.Base
	for _, b := range u.st.Discarded {
		pool, err := poolOf(ctx, find, b)
		if err == nil && pool != nil {
			err = pool.Drop(ctx, u.d.owner, b.Name)
		}
		switch {
		case err != nil:
			left = append(left, b)
			errs = append(errs, fmt.Errorf("snapshot %s is left: %w (if its storage is gone for good, remove %s)", b.Name, err, u.d.volumeDir(u.locator)))
		case pool != nil:
			removed = append(removed, b.Name)
		}
	}
	u.st.Discarded = left
	u.src, u.pool = nil, nil // what is left stays in the list
	u.named = u.st.refs()
	return removed, errors.Join(append(errs, u.save())...)
}

// errAway says that nobody can tell whether a snapshot is still there.
var errAway = errors.New("its storage can't be reached")

// poolOf finds the pool of a snapshot by way of the snapshot. One that is gone
// gives nil: there is nothing to remove. That it can't be seen doesn't say
// that it is gone: what it is on may not be mounted.
func poolOf(ctx context.Context, find Find, b *source.Base) (source.Pool, error) {
	prefix := "file:"
	if b.Kind != source.Reflink {
		prefix = "lvm:"
	}
	s, err := find(ctx, prefix+b.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && (b.Kind != source.Reflink || inSight(ctx, find, b)):
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, errAway
	case err != nil:
		return nil, err
	case s.Pool == nil: // such as if it is mounted read-only
		return nil, fmt.Errorf("%w: %s", errAway, s.Why)
	case s.Pool.ID() != b.Pool:
		return nil, fmt.Errorf("%w: another has taken its place", errAway)
	}
	return s.Pool, nil
}

// maxWitnesses is how many files are looked at to tell a file system by.
const maxWitnesses = 16

// inSight reports whether the file system of a snapshot is where the snapshot
// would be: any file beside it, or beside the directory that it would be in, is
// of its pool. An empty directory tells nothing: it may be a mount point.
func inSight(ctx context.Context, find Find, b *source.Base) bool {
	beside := filepath.Dir(b.Name)
	for _, dir := range []string{beside, filepath.Dir(beside)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !e.Type().IsRegular() })
		for _, e := range entries[:min(len(entries), maxWitnesses)] {
			if s, err := find(ctx, "file:"+filepath.Join(dir, e.Name())); err == nil && s.Pool != nil && s.Pool.ID() == b.Pool {
				return true
			}
		}
	}
	return false
}

// ForgetDamaged removes the state that List found damaged. Snapshots that only
// it named are found as a volume's leftovers by the next backup of the volume.
// What was made whole meanwhile stays and is no error; a lock is waited for
// until ctx ends.
func (d *Dir) ForgetDamaged(ctx context.Context, e *DamagedError) error {
	dir := filepath.Dir(e.Path)
	lock, err := flock.Lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return fmt.Errorf("lock the tracker state %s: %w", e.Path, err)
	}
	defer lock.Close()
	if d.peek(filepath.Base(dir)) != nil {
		return nil
	}
	if err := os.Remove(e.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove damaged state: %w", err)
	}
	removeDir(dir)
	return nil
}

// removeDir takes a volume's directory away, with its lock, which the caller
// holds. Whoever waits for the lock sees that the file has no name any more.
func removeDir(dir string) {
	os.Remove(filepath.Join(dir, "lock"))
	os.Remove(dir) // fails if somebody has begun anew, as it should
}
