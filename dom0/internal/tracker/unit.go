package tracker

import (
	"bytes"
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
	"pinion/dom0/internal/durable"
	"pinion/dom0/internal/flock"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
)

// A unit is a volume with its lock held and its state as it is about to be.
// It belongs to one goroutine, and nothing is on disk before save.
type unit struct {
	d       *Dir
	locator string
	pool    source.Pool // nil: there are no snapshots to be made or removed
	src     *source.Source
	lock    *os.File
	st      *state
	err     error // this volume can't be gone on with

	onDisk  []byte               // content of the state file
	named   map[ref]*source.Base // snapshots that the state file may name
	garbage map[ref]*source.Base // snapshots that it no longer names
	orphans []string             // snapshots that it never named

	// What advance finds out.
	old       *source.Base // base that can be compared with
	now       *source.Base // new snapshot
	unchanged bool         // old is what the volume holds
	delta     *dirty.Map   // where old and now differ
	lost      string       // why there is no delta, though there is old
}

// openUnit locks a volume and reads its state. Runs that died are taken back.
// src is nil if nobody knows the way to the volume.
func (d *Dir) openUnit(ctx context.Context, locator string, src *source.Source) (*unit, error) {
	u := &unit{d: d, locator: locator, src: src}
	if src != nil {
		u.pool = src.Pool
	}
	var err error
	if u.lock, err = flock.Lock(ctx, filepath.Join(d.volumeDir(locator), "lock")); err != nil {
		return nil, fmt.Errorf("lock the tracker of %s: %w", locator, err)
	}
	if err := u.load(); err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

// close gives the lock back. It may be called twice.
func (u *unit) close() {
	if u.lock != nil {
		u.lock.Close()
		u.lock = nil
	}
}

// load reads the state file. One that is damaged, or that is another's, is as
// none: a scan sends nothing twice.
func (u *unit) load() error {
	st, text, err := u.d.read(u.locator)
	var damaged *DamagedError
	switch {
	case errors.As(err, &damaged):
		st = u.fresh()
		st.Note = "its tracker's state was lost: " + damaged.err.Error()
	case err != nil:
		return err
	case st == nil:
		st = u.fresh()
	default:
		u.named = st.refs()
	}
	u.st, u.onDisk = st, text
	for _, r := range slices.Clone(st.Runs) {
		if !u.d.alive(r.ID) {
			st.endRun(r.ID)
		}
	}
	for _, e := range st.Entries {
		if e.Run != "" && !slices.ContainsFunc(st.Runs, func(r *run) bool { return r.ID == e.Run }) {
			e.release()
		}
	}
	return nil
}

func (u *unit) fresh() *state {
	return &state{Locator: u.locator, Owner: u.d.owner, Entries: []*entry{}}
}

// A DamagedError says why a state file is of no use.
type DamagedError struct {
	Path string // of the file
	err  error
}

// Error names the file.
func (e *DamagedError) Error() string { return fmt.Sprintf("tracker state %s: %v", e.Path, e.err) }

// Unwrap gives the cause.
func (e *DamagedError) Unwrap() error { return e.err }

// read reads a volume's state: nil if there is none, a DamagedError if it is
// not to be used. The file is replaced as a whole, so this needs no lock.
func (d *Dir) read(locator string) (*state, []byte, error) {
	path := d.statePath(locator)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the tracker's state: %w", err)
	}
	st, err := decode(text)
	switch {
	case errors.Is(err, format.ErrNewer):
		return nil, nil, fmt.Errorf("tracker state %s: %w", path, err)
	case err != nil:
	case st.Locator != locator:
		err = fmt.Errorf("it is of %q", st.Locator)
	case st.Owner != d.owner:
		err = errors.New("it is of another state directory")
	default:
		return st, text, nil
	}
	return nil, text, &DamagedError{path, err}
}

// tracks reports whether the volume's storage can tell what changed.
func (u *unit) tracks() bool { return u.src != nil && u.src.Kind.Tracks() && u.pool != nil }

// mute says why a volume whose storage doesn't track has nothing but scans, for
// entries that may outlive the storage.
func (u *unit) mute() string {
	why := "its storage could not tell what changed"
	if u.src != nil && u.src.Why != "" {
		why += ": " + u.src.Why
	}
	return why
}

// nextLabel returns the label of a new snapshot. Serials go up with the time,
// in microseconds, so that none is used again when state is lost.
func (u *unit) nextLabel() source.Label {
	u.st.Serial = max(u.st.Serial+1, uint64(max(time.Now().UnixMicro(), 0)))
	return source.Label{Owner: u.d.owner, Volume: labelOf(u.locator), Serial: u.st.Serial}
}

// save makes the state durable, if it changed. Snapshots that it named and
// names no more are then garbage. If it fails, the old state is on disk or the
// new one, and no snapshot may be removed that either of them names.
func (u *unit) save() error {
	u.st.tidy()
	u.discard()
	if u.st.empty() {
		return u.remove()
	}
	text, err := u.st.encode()
	if err != nil {
		return err
	}
	named := u.st.refs()
	if !bytes.Equal(text, u.onDisk) {
		u.d.step("write state")
		if err := durable.WriteFile(u.d.statePath(u.locator), text); err != nil {
			return fmt.Errorf("write the tracker's state of %s: %w", u.locator, err)
		}
		u.d.step("state written")
	}
	u.onDisk = text
	u.forgetNamed(named)
	return nil
}

// remove takes away a state file that would say nothing.
func (u *unit) remove() error {
	if u.onDisk != nil {
		u.d.step("remove state")
		if err := os.Remove(u.d.statePath(u.locator)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the tracker's state of %s: %w", u.locator, err)
		}
		if err := durable.SyncDir(u.d.volumeDir(u.locator)); err != nil {
			return err
		}
		u.d.step("state removed")
	}
	u.onDisk = nil
	u.forgetNamed(nil)
	return nil
}

// forgetNamed finds what became garbage when the state began to name only now.
func (u *unit) forgetNamed(now map[ref]*source.Base) {
	for r, b := range u.named {
		if now[r] == nil {
			u.addGarbage(b)
		}
	}
	u.named = now
}

func (u *unit) addGarbage(b *source.Base) {
	if b == nil {
		return
	}
	if u.garbage == nil {
		u.garbage = map[ref]*source.Base{}
	}
	u.garbage[refOf(b)] = b
}

// discard moves snapshots that the state is about to name no more, and that
// are in a pool which isn't at hand, to those it keeps for another time. Those
// whose pool is at hand are taken off that list.
func (u *unit) discard() {
	u.st.Discarded = slices.DeleteFunc(u.st.Discarded, u.reachable)
	now := u.st.refs()
	for r, b := range u.named {
		if now[r] == nil && !u.reachable(b) {
			u.st.Discarded = append(u.st.Discarded, b)
		}
	}
	slices.SortFunc(u.st.Discarded, func(a, b *source.Base) int { return strings.Compare(a.Pool+a.Name, b.Pool+b.Name) })
}

func (u *unit) reachable(b *source.Base) bool { return u.pool != nil && u.pool.ID() == b.Pool }

// takeGarbage returns the names of snapshots that nothing needs any more.
func (u *unit) takeGarbage() []string {
	names := u.orphans
	for _, b := range u.garbage {
		if u.reachable(b) && u.named[refOf(b)] == nil {
			names = append(names, b.Name)
		}
	}
	u.orphans, u.garbage = nil, nil
	return names
}

// sweep removes the garbage of units, with one call for each pool. What could
// not be removed is found as an orphan by the next to hold the volume's lock.
func (d *Dir) sweep(ctx context.Context, units []*unit) error {
	var errs []error
	for _, group := range byPool(units) {
		var names []string
		for _, u := range group {
			names = append(names, u.takeGarbage()...)
		}
		if len(names) == 0 {
			continue
		}
		slices.Sort(names)
		d.step("drop")
		if err := group[0].pool.Drop(ctx, d.owner, slices.Compact(names)...); err != nil {
			errs = append(errs, fmt.Errorf("remove snapshots that are not needed any more: %w", err))
		}
		d.step("dropped")
	}
	return errors.Join(errs...)
}

// byPool groups units that have a pool, in their order.
func byPool(units []*unit) [][]*unit {
	var groups [][]*unit
	at := map[string]int{}
	for _, u := range units {
		if u.pool == nil {
			continue
		}
		id := u.pool.ID()
		i, ok := at[id]
		if !ok {
			i, at[id] = len(groups), len(groups)
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], u)
	}
	return groups
}

// findOrphans finds snapshots of units' volumes that their state names
// nowhere: of a process that died before it could write down what it took.
// Each volume's own pool is asked: of one file system, it may know only the
// directory that is beside the volume. What can't be listed now is found
// another time.
func (d *Dir) findOrphans(ctx context.Context, units []*unit) {
	volumes, err := d.volumeDirs()
	if err != nil {
		return
	}
	for _, u := range units {
		if u.pairing() || labelIsShared(u.locator, volumes) {
			continue
		}
		known := func(name string) bool { return u.named[ref{u.pool.ID(), name}] != nil }
		if names, err := u.pool.Owned(ctx, d.owner, labelOf(u.locator)); err == nil {
			u.orphans = append(u.orphans, slices.DeleteFunc(names, known)...)
		}
	}
}

// pairing reports whether somebody is about to give this volume a snapshot
// that was taken by way of another file.
func (u *unit) pairing() bool {
	return slices.ContainsFunc(u.st.Runs, func(r *run) bool { return r.What == whatPairing })
}

// The words that a state file has for what runs do.
const (
	whatBackup  = "backup"
	whatRestore = "restore"
	whatPairing = "pairing"
)

// sizeRule is what sizes add to a difference: everything from the smaller
// one, rounded down to the largest chunk of any archive, to the larger. Blocks
// that a shrink took away and a growth brought back may look the same to the
// storage, and the last chunk has another length.
func sizeRule(m *dirty.Map, a, b int64) {
	if a == b {
		return
	}
	from := min(a, b) / format.MaxChunkSize * format.MaxChunkSize
	m.Add(source.Range{Start: from, End: max(a, b)})
}
