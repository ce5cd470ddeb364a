package lvmthin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/thinmeta"
)

// A device is what the metadata says of a thin device.
type device struct {
	id      uint64
	mapped  uint64 // blocks
	created uint64 // the pool's clock
	// root is the block with the root of its mappings. Devices with one root
	// hold the same. Known is false if only the tools know the format.
	root  uint64
	known bool
	inner thinmeta.Device
}

// A run is a run of blocks of a device.
type run struct {
	first, count uint64
	// held is set of blocks that the left of two devices maps to a place of
	// its own.
	held bool
}

// metadata is a way to read the metadata of a pool, as it is at one time. It
// belongs to one goroutine.
type metadata interface {
	// blockBytes is the size of a block.
	blockBytes() int64
	// clock is the pool's, and the highest id of its devices.
	clock(ctx context.Context) (now, highest uint64, err error)
	// device looks a device up.
	device(ctx context.Context, id uint64) (device, error)
	// diff calls yield with runs in which two devices differ, ascending, and
	// reports whether left, a snapshot, is seen to have been written to.
	diff(ctx context.Context, left, right device, yield func(run) error) (written bool, err error)
	// mappings calls yield with runs that are mapped, ascending.
	mappings(ctx context.Context, d device, yield func(run) error) error
	// shared is the part, 0 to 1, of a sample of a's blocks that b has too.
	shared(ctx context.Context, a, b device) (float64, error)
}

// direct reads the metadata device itself.
type direct struct{ m *thinmeta.Metadata }

func (d direct) blockBytes() int64 {
	s := d.m.Superblock()
	return s.BlockBytes()
}

func (d direct) clock(ctx context.Context) (now, highest uint64, err error) {
	highest, err = d.m.HighestID(ctx)
	if errors.Is(err, thinmeta.ErrNoDevice) {
		err = nil
	}
	return uint64(d.m.Superblock().Time), highest, err
}

func (d direct) device(ctx context.Context, id uint64) (device, error) {
	found, err := d.m.Device(ctx, id)
	return device{
		id: id, mapped: found.MappedBlocks, created: uint64(found.Created), root: found.Root, known: true, inner: found,
	}, err
}

func (d direct) diff(ctx context.Context, left, right device, yield func(run) error) (bool, error) {
	return d.m.Diff(ctx, left.inner, right.inner, func(c thinmeta.Change) error {
		return yield(run{c.First, c.Count, c.Kind != thinmeta.OnlyRight})
	})
}

func (d direct) mappings(ctx context.Context, dev device, yield func(run) error) error {
	return d.m.Mapped(ctx, dev.inner, func(r thinmeta.Run) error { return yield(run{r.First, r.Count, true}) })
}

func (d direct) shared(ctx context.Context, a, b device) (float64, error) {
	s, err := d.m.Shared(ctx, a.inner, b.inner)
	if err != nil || s.Looked == 0 {
		return 0, err
	}
	return float64(s.Shared) / float64(s.Looked), nil
}

// open opens the metadata device, which is there if the pool is active.
func (g *group) open() (*thinmeta.DeviceFile, error) {
	dev, err := thinmeta.OpenDevice(g.metadata)
	if errors.Is(err, fs.ErrNotExist) {
		err = lvm.ErrInactive
	}
	if err != nil {
		return nil, fmt.Errorf("open the metadata of the thin pool %s: %w", g.pool.FullName(), err)
	}
	return dev, nil
}

// Reading without a metadata snapshot.
const (
	// stableTries is how often it is tried. A pool commits once a second, and
	// at each flush of a volume; the few blocks that are looked at take about
	// a millisecond.
	stableTries = 200
	stablePause = 5 * time.Millisecond
)

// errRestless says that metadata couldn't be read between two changes.
var errRestless = errors.New("the metadata changes too often to be looked at")

// readStable lets look see the metadata as it was committed last, for a few
// look-ups, without a metadata snapshot. Blocks that the committed superblock
// leads to are not written to before the next one is: if the superblock is the
// same before and after, what look saw is the metadata of that superblock.
// Otherwise it is done again: what look found out or answered is dropped.
func (p *Pool) readStable(ctx context.Context, g *group, look func(metadata) error) error {
	if p.tools {
		return p.lookWithTools(ctx, g, look)
	}
	dev, err := g.open()
	if err != nil {
		return err
	}
	defer dev.Close()
	for range stableTries {
		err := lookOnce(dev, look)
		if errors.Is(err, thinmeta.ErrFormat) {
			return p.lookWithTools(ctx, g, look)
		}
		if !errors.Is(err, errRestless) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(stablePause):
		}
	}
	return fmt.Errorf("thin pool %s: %w", g.pool.FullName(), errRestless)
}

// lookOnce returns errRestless if the metadata changed meanwhile. A superblock
// that is just being written may look damaged.
func lookOnce(dev *thinmeta.DeviceFile, look func(metadata) error) error {
	m, err := thinmeta.Open(dev, dev.Size())
	if err != nil {
		return restless(err)
	}
	looked := look(direct{m})
	after, err := thinmeta.ReadSuperblock(dev, 0)
	if err != nil {
		return restless(err)
	}
	if after != m.Superblock() {
		return errRestless
	}
	return looked
}

// restless takes damage, which a superblock that is being written to shows,
// for a reason to look again.
func restless(err error) error {
	var damage *thinmeta.DamagedError
	if errors.As(err, &damage) {
		return fmt.Errorf("%w: %w", errRestless, err)
	}
	return err
}

// A mismatch proves that a snapshot isn't what was made.
type mismatch struct{ error }

func mismatchf(format string, args ...any) error { return mismatch{fmt.Errorf(format, args...)} }

// checkDevice finds a snapshot's device and compares it with what it was when
// it was made. An error that isn't a mismatch says that this failed.
func checkDevice(ctx context.Context, m metadata, b *source.Base) (device, error) {
	id, err := strconv.ParseUint(b.Identity[keyID], 10, 64)
	if err != nil {
		return device{}, mismatchf("the snapshot %s has no thin id in the state", b.Name)
	}
	d, err := m.device(ctx, id)
	switch {
	case errors.Is(err, thinmeta.ErrNoDevice):
		return d, mismatchf("the snapshot %s is not in the pool's metadata", b.Name)
	case err != nil:
		return d, fmt.Errorf("look for the snapshot %s: %w", b.Name, err)
	case strconv.FormatUint(d.created, 10) != b.Identity[keyCreated]:
		return d, mismatchf("the snapshot %s was made at another time than the one in the state", b.Name)
	case strconv.FormatUint(d.mapped, 10) != b.Identity[keyMapped]:
		return d, mismatchf("the snapshot %s was written to: it maps %d blocks, not %s", b.Name, d.mapped, b.Identity[keyMapped])
	}
	if was := b.Identity[keyRoot]; d.known && was != "" && was != strconv.FormatUint(d.root, 10) {
		return d, mismatchf("the snapshot %s was written to: its mappings are others than at first", b.Name)
	}
	return d, nil
}
