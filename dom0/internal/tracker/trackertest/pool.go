// Package trackertest has storage that is in memory, for tests of what asks
// storage for snapshots and differences.
//
// It owns volumes of which it knows one byte for each 64 KiB, and snapshots of
// them. It promises to keep to what source.Pool says, to fail where it is told
// to, and to lie, within what source.Pool allows, where it can. It never
// does input or output, but for a file that processes can share it by.
package trackertest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pinion/dom0/internal/source"
)

// Grain is how many bytes of a volume have one value.
const Grain = 64 << 10

// A Content is what a volume holds: Size bytes, each those of its grain. The
// storage may know grains beyond Size, which a growth brings back.
type Content struct {
	Size   int64
	Grains []byte
}

// At is the value of a grain, and 0 beyond what was ever written.
func (c Content) At(grain int64) byte {
	if grain >= int64(len(c.Grains)) {
		return 0
	}
	return c.Grains[grain]
}

// Clone returns a content of its own.
func (c Content) Clone() Content { return Content{c.Size, slices.Clone(c.Grains)} }

// Snap is a snapshot as the storage has it.
type Snap struct {
	Content Content
	ID      int // no two have the same
	Owner   string
	Volume  string
	Written bool
}

// stored is all that a Pool knows.
type stored struct {
	Volumes map[string]Content
	Snaps   map[string]Snap
	Next    int
}

// A Pool is a source.Pool. Its methods are safe for concurrent use.
type Pool struct {
	// Fail is asked before each call, and makes it fail: "snapshot", "check",
	// "open", "compare", "unchanged", "diff", "data", "kin", "close", "owned",
	// "drop". "snapshot taken" makes one fail that is there all the same;
	// "close" makes all that the comparison said before a lie. Nil: none fails.
	Fail func(call string) error
	// Before, if not nil, is told of each call of Snapshot, Diff and Drop.
	Before func(call string)
	// Wanted, if not nil, is told of each snapshot that is asked for.
	Wanted func(path string, replaces bool)
	// File, if not empty, is where processes share the pool.
	File string

	id   string
	kind source.Kind
	mu   sync.Mutex
	s    stored
}

// New returns an empty pool of a kind.
func New(id string, kind source.Kind) *Pool {
	return &Pool{id: id, kind: kind, s: stored{Volumes: map[string]Content{}, Snaps: map[string]Snap{}}}
}

func (p *Pool) fail(call string) error {
	if p.Fail == nil {
		return nil
	}
	return p.Fail(call)
}

func (p *Pool) before(call string) {
	if p.Before != nil {
		p.Before(call)
	}
}

// Source returns the source of the volume at a path.
func (p *Pool) Source(path string) *source.Source {
	s := &source.Source{Locator: "file:" + path, Path: path, Kind: p.kind, Pool: p}
	if !p.kind.Tracks() {
		s.Why = "it is of no use for that"
	}
	return s
}

// Find is a tracker.Find over pools.
func Find(pools ...*Pool) func(context.Context, string) (*source.Source, error) {
	return func(_ context.Context, locator string) (*source.Source, error) {
		path := strings.TrimPrefix(strings.TrimPrefix(locator, "file:"), "lvm:")
		for _, p := range pools {
			found := false
			if err := p.do(func() {
				_, volume := p.s.Volumes[path]
				_, snap := p.s.Snaps[path]
				found = volume || snap
			}); err != nil {
				return nil, err
			}
			if found {
				return p.Source(path), nil
			}
		}
		return nil, fmt.Errorf("find %s: %w", locator, fs.ErrNotExist)
	}
}

// Set makes c what the volume at path holds.
func (p *Pool) Set(path string, c Content) {
	p.must(func() { p.s.Volumes[path] = c.Clone() })
}

// Get returns what the volume at path holds.
func (p *Pool) Get(path string) (c Content) {
	p.must(func() { c = p.s.Volumes[path].Clone() })
	return c
}

// Remove removes a volume.
func (p *Pool) Remove(path string) { p.must(func() { delete(p.s.Volumes, path) }) }

// Write makes value what grains from to before to of a volume hold.
func (p *Pool) Write(path string, from, to int64, value byte) {
	p.must(func() {
		c := p.s.Volumes[path]
		for int64(len(c.Grains)) < to {
			c.Grains = append(c.Grains, 0)
		}
		for g := from; g < to; g++ {
			c.Grains[g] = value
		}
		p.s.Volumes[path] = c
	})
}

// Resize sets a volume's size in bytes. Old grains come back with a growth.
func (p *Pool) Resize(path string, size int64) {
	p.must(func() {
		c := p.s.Volumes[path]
		c.Size = size
		p.s.Volumes[path] = c
	})
}

// Snaps returns all snapshots by name.
func (p *Pool) Snaps() (snaps map[string]Snap) {
	p.must(func() { snaps = maps.Clone(p.s.Snaps) })
	return snaps
}

// Spoil writes to a snapshot what the volume of its name holds now, replaces
// it by another of the same name, or removes it: how is "write", "replace" or
// "remove".
func (p *Pool) Spoil(name, how string) {
	p.must(func() {
		s, ok := p.s.Snaps[name]
		if !ok {
			return
		}
		for path, c := range p.s.Volumes {
			if strings.HasSuffix(name, "."+filepath.Base(path)) {
				s.Content = c.Clone()
			}
		}
		switch how {
		case "write":
			s.Written = true
		case "replace":
			p.s.Next++
			s.ID = p.s.Next
		}
		p.s.Snaps[name] = s
		if how == "remove" {
			delete(p.s.Snaps, name)
		}
	})
}

// ID implements source.Pool.
func (p *Pool) ID() string { return p.id }

// Snapshot implements source.Pool.
func (p *Pool) Snapshot(_ context.Context, wanted []source.Wanted) []source.Taken {
	p.before("snapshot")
	out := make([]source.Taken, len(wanted))
	for i, w := range wanted {
		if p.Wanted != nil {
			p.Wanted(w.Source.Path, w.Replaces)
		}
		if out[i].Err = p.fail("snapshot"); out[i].Err != nil {
			continue
		}
		if err := p.do(func() { out[i].Base, out[i].Err = p.take(w) }); err != nil {
			out[i].Err = err
		}
		if err := p.fail("snapshot taken"); err != nil {
			out[i] = source.Taken{Err: err}
		}
	}
	return out
}

func (p *Pool) take(w source.Wanted) (*source.Base, error) {
	c, ok := p.s.Volumes[w.Source.Path]
	if !ok {
		return nil, fmt.Errorf("%s: %w", w.Source.Path, fs.ErrNotExist)
	}
	name := fmt.Sprintf("/%s/.pinion/%s.%s.%d.%s", p.id, w.Label.Owner, w.Label.Volume, w.Label.Serial, filepath.Base(w.Source.Path))
	if _, ok := p.s.Snaps[name]; ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrExist)
	}
	p.s.Next++
	p.s.Snaps[name] = Snap{Content: c.Clone(), ID: p.s.Next, Owner: w.Label.Owner, Volume: w.Label.Volume}
	return &source.Base{
		Kind: p.kind, Pool: p.id, Name: name, Size: c.Size, Taken: time.Unix(1700000000, 0).UTC(),
		Identity: map[string]string{"id": strconv.Itoa(p.s.Next)},
	}, nil
}

// Check implements source.Pool.
func (p *Pool) Check(_ context.Context, b *source.Base) error {
	if err := p.fail("check"); err != nil {
		return err
	}
	_, err := p.snap(b)
	return err
}

func (p *Pool) snap(b *source.Base) (s Snap, err error) {
	if doErr := p.do(func() {
		var ok bool
		s, ok = p.s.Snaps[b.Name]
		switch {
		case !ok || b.Pool != p.id:
			err = errors.New("it is gone")
		case strconv.Itoa(s.ID) != b.Identity["id"]:
			err = errors.New("it is another")
		case s.Written:
			err = errors.New("it was written to")
		}
	}); doErr != nil {
		return Snap{}, doErr
	}
	return s, err
}

// Open implements source.Pool.
func (p *Pool) Open(_ context.Context, b *source.Base) (source.Volume, error) {
	if err := p.fail("open"); err != nil {
		return nil, err
	}
	s, err := p.snap(b)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", b.Name, err)
	}
	return &volume{p, b, s.Content}, nil
}

// Owned implements source.Pool.
func (p *Pool) Owned(_ context.Context, owner, volume string) (names []string, err error) {
	if err := p.fail("owned"); err != nil {
		return nil, err
	}
	err = p.do(func() {
		for name, s := range p.s.Snaps {
			if s.Owner == owner && (volume == "" || s.Volume == volume) {
				names = append(names, name)
			}
		}
	})
	slices.Sort(names)
	return names, err
}

// Drop implements source.Pool.
func (p *Pool) Drop(_ context.Context, owner string, names ...string) error {
	p.before("drop")
	for _, name := range names {
		if err := p.fail("drop"); err != nil {
			return err
		}
		var mine = true
		if err := p.do(func() {
			if s, ok := p.s.Snaps[name]; ok {
				if mine = s.Owner == owner; mine {
					delete(p.s.Snaps, name)
				}
			}
		}); err != nil {
			return err
		}
		if !mine {
			return fmt.Errorf("remove %s: it is not of %s", name, owner)
		}
	}
	return nil
}
