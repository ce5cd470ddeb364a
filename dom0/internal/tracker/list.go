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
	var damaged *damagedError
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
// each whose state can't be used. It asks no storage and waits for no lock.
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
		if err != nil {
			errs = append(errs, fmt.Errorf("tracker state %s: %w", path, err))
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
// an error, and are remembered.
func (d *Dir) Forget(ctx context.Context, find Find, locator string, which func(Entry) bool) error {
	if _, err := os.Stat(d.volumeDir(locator)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// Found before the lock is taken: it may take its time.
	src, findErr := find(ctx, locator)
	if findErr != nil {
		src = nil
	}
	u, err := d.openUnit(ctx, locator, src)
	if err != nil {
		return err
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
		return err
	}
	if err := d.sweep(ctx, []*unit{u}); err != nil {
		return fmt.Errorf("forget %s: %w", locator, err)
	}
	if err := u.dropDiscarded(ctx, find); err != nil {
		return fmt.Errorf("forget %s: %w", locator, err)
	}
	if u.onDisk == nil {
		u.removeDir()
	}
	return nil
}

// dropDiscarded removes snapshots in pools that the volume's source, if there
// is one, doesn't lead to.
func (u *unit) dropDiscarded(ctx context.Context, find Find) error {
	var errs []error
	var left []*source.Base
	for _, b := range u.st.Discarded {
		pool, err := poolOf(ctx, find, b)
		if err == nil && pool != nil {
			err = pool.Drop(ctx, u.d.owner, b.Name)
		}
		if err != nil {
			left = append(left, b)
			errs = append(errs, fmt.Errorf("snapshot %s is left: %w", b.Name, err))
		}
	}
	u.st.Discarded = left
	u.src, u.pool = nil, nil // what is left stays in the list
	u.named = u.st.refs()
	return errors.Join(append(errs, u.save())...)
}

// poolOf finds the pool of a snapshot by way of the snapshot. A pool or a
// snapshot that is gone gives nil: there is nothing to remove.
func poolOf(ctx context.Context, find Find, b *source.Base) (source.Pool, error) {
	prefix := "file:"
	if b.Kind != source.Reflink {
		prefix = "lvm:"
	}
	s, err := find(ctx, prefix+b.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case s.Pool == nil || s.Pool.ID() != b.Pool:
		return nil, nil // another thing has taken the name
	}
	return s.Pool, nil
}

// removeDir takes the volume's directory away, with its lock. Whoever waits
// for the lock sees that the file has no name any more.
func (u *unit) removeDir() {
	dir := u.d.volumeDir(u.locator)
	os.Remove(filepath.Join(dir, "lock"))
	os.Remove(dir) // fails if somebody has begun anew, as it should
}
