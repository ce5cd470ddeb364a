package lvmthin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
)

// The pool's clock counts snapshots, for ever, and has 24 bits of room in each
// mapping; ids of devices have 24 bits too, and LVM never uses one again but
// the highest. Past that, the kernel silently shares blocks between volumes
// that don't know of each other.
const (
	clockEnd    = 1 << 24
	clockWarn   = 1 << 23
	clockRefuse = clockEnd - 1<<20
)

// Snapshot makes snapshots: read-only, not active, skipped when all volumes
// are activated. All are made by one process of LVM's, one after the other,
// each in some hundredths of a second.
func (p *Pool) Snapshot(ctx context.Context, wanted []source.Wanted) []source.Taken {
	taken := make([]source.Taken, len(wanted))
	fail := func(err error) []source.Taken {
		for i, w := range wanted {
			taken[i].Err = fmt.Errorf("make a snapshot of %s: %w", w.Source.Locator, err)
		}
		return taken
	}
	g, err := p.look(ctx)
	if err != nil {
		return fail(err)
	}
	short, err := p.checkRoom(ctx, g, wanted)
	if err != nil {
		return fail(err)
	}
	before := time.Now().UTC()
	made := make([]*snapshot, len(wanted))
	for i, w := range wanted {
		v, err := p.origin(ctx, g, w.Source)
		if err == nil && !w.Replaces {
			err = short
		}
		if err != nil {
			taken[i].Err = fmt.Errorf("make a snapshot of %s: %w", w.Source.Locator, err)
			continue
		}
		made[i] = &snapshot{source: w.Source, origin: v, name: p.vg + "/" + lvm.SnapshotName(p.vg, lvOf(w.Source), w.Label)}
	}
	p.step("found")
	p.make(ctx, g, made)
	p.step("made")
	for i, s := range made {
		if s == nil {
			continue
		}
		b, err := p.complete(ctx, s, before)
		if err != nil {
			err = fmt.Errorf("make a snapshot of %s: %w", wanted[i].Source.Locator, err)
		}
		taken[i] = source.Taken{Base: b, Err: err}
	}
	return taken
}

// lvOf is the name, without its group's, that a source is known by.
func lvOf(s *source.Source) string {
	_, lv, _ := strings.Cut(nameOf(s), "/")
	return lv
}

// A snapshot is one on its way.
type snapshot struct {
	source *source.Source
	origin *lvm.Volume // what was found; by its name, another may be taken
	name   string      // VG/LV
	// group is LVM's report with the snapshot in it; err why there is none.
	group *group
	err   error
}

// command makes it. The tags say at a glance whose it is, and what of.
func (s *snapshot) command() []string {
	_, lv, _ := lvm.Split(s.name)
	return []string{
		"lvcreate", "--quiet", "--yes", "--snapshot", "--permission", "r", "--setactivationskip", "y",
		"--addtag", "pinion", "--addtag", "pinion-of-" + s.origin.Name, "--name", lv, s.origin.FullName(),
	}
}

// make makes all snapshots. LVM's shell doesn't say which of its commands
// failed, so the ones that are missing afterwards are tried once more, alone,
// for what LVM has to say.
func (p *Pool) make(ctx context.Context, before *group, made []*snapshot) {
	var commands [][]string
	for _, s := range made {
		if s == nil {
			continue
		}
		if _, err := before.volume(s.name); !errors.Is(err, lvm.ErrNotFound) {
			s.err = fmt.Errorf("there is a volume %s already", s.name)
			continue
		}
		commands = append(commands, s.command())
	}
	if len(commands) > 1 {
		// Its error says less than what is there afterwards.
		_ = lvm.Batch(ctx, commands)
		p.changed()
	}
	g, err := p.look(ctx)
	for _, s := range made {
		if s == nil || s.err != nil {
			continue
		}
		if s.group, s.err = g, err; err != nil {
			continue
		}
		if _, err := g.volume(s.name); err == nil {
			continue
		}
		p.makeOne(ctx, s)
	}
}

// makeOne makes a snapshot alone. If that fails and the origin's name is
// another volume's since, or it has another name, then the name may have been
// nobody's just when LVM looked for it, and it is tried again.
func (p *Pool) makeOne(ctx context.Context, s *snapshot) {
	const tries = 5
	for range tries {
		command := s.command()
		_, s.err = lvm.Run(ctx, command[0], command[1:]...)
		p.changed()
		g, err := p.look(ctx)
		if s.err == nil {
			s.group, s.err = g, err
			return
		}
		if err != nil || ctx.Err() != nil {
			return
		}
		p.step("missed")
		v, err := p.origin(ctx, g, s.source)
		if err != nil || v.UUID == s.origin.UUID && v.Name == s.origin.Name {
			return
		}
		s.origin = v
	}
}

// complete finds out all that tells the snapshot from others. If that fails,
// there is no snapshot.
func (p *Pool) complete(ctx context.Context, s *snapshot, taken time.Time) (*source.Base, error) {
	if s.err != nil {
		return nil, s.err
	}
	v, err := s.group.volume(s.name)
	if err != nil {
		return nil, err
	}
	// Not the first volume of that name in LVM's mind, if its origin was
	// replaced meanwhile: the snapshot is what was made of it.
	b := &source.Base{
		Kind: source.LVMThin, Pool: p.ID(), Name: s.name, Size: v.Size, Taken: taken,
		Identity: map[string]string{
			keyVG: v.VGUUID, keyPool: v.PoolUUID, keyLV: v.UUID, keyID: strconv.FormatUint(uint64(v.ThinID), 10),
			keySource: v.OriginUUID, keyAncestor: ancestor(s.group, v.OriginUUID),
		},
	}
	err = p.readStable(ctx, s.group, func(m metadata) error {
		d, err := m.device(ctx, uint64(v.ThinID))
		if err != nil {
			return err
		}
		b.Identity[keyCreated] = strconv.FormatUint(d.created, 10)
		b.Identity[keyMapped] = strconv.FormatUint(d.mapped, 10)
		b.Identity[keyRoot] = ""
		if d.known {
			b.Identity[keyRoot] = strconv.FormatUint(d.root, 10)
		}
		return nil
	})
	if err != nil {
		_, lv, _ := lvm.Split(s.name)
		defer p.changed()
		return nil, errors.Join(err, lvm.Drop(context.WithoutCancel(ctx), p.vg, lv))
	}
	return b, nil
}

// ancestor is the id of what a volume is a snapshot of.
func ancestor(g *group, uuid string) string {
	for _, v := range g.volumes {
		if v.UUID == uuid {
			return v.OriginUUID
		}
	}
	return ""
}

// checkRoom warns of a pool that gets full. An error says that there is no
// room for any snapshot; short, that its data is full beyond the reserve, which
// is for those that don't replace another.
func (p *Pool) checkRoom(ctx context.Context, g *group, wanted []source.Wanted) (short, err error) {
	name := g.pool.FullName()
	s, err := g.status()
	if err != nil {
		return nil, err
	}
	warning, short := p.checkPart(name, "data", s.DataUsed, s.DataTotal)
	another, full := p.checkPart(name, "metadata", s.MetadataUsed, s.MetadataTotal)
	if full != nil {
		return nil, full
	}
	// Where one is refused for it, the error says it.
	if short == nil || !slices.ContainsFunc(wanted, func(w source.Wanted) bool { return !w.Replaces }) {
		p.warn(warning)
	}
	p.warn(another)
	var now, highest uint64
	err = p.readStable(ctx, g, func(m metadata) error {
		now, highest, err = m.clock(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the clock of the thin pool %s: %w", name, err)
	}
	return short, p.checkClock(name, max(now, highest)+uint64(len(wanted)))
}

// checkPart looks how full the pool's data, or metadata, is.
func (p *Pool) checkPart(name, what string, used, total uint64) (warning string, full error) {
	percent := float64(used) / float64(total) * 100
	if percent >= float64(p.options.RefusePercent) {
		full = fmt.Errorf("the thin pool %s is full to %.1f %% of its %s; no snapshot is made from %d %% on (--pool-reserve)",
			name, percent, what, p.options.RefusePercent)
	}
	if full != nil || percent >= float64(p.options.WarnPercent) {
		warning = fmt.Sprintf("the thin pool %s is full to %.1f %% of its %s; from %d %% on no snapshot is made",
			name, percent, what, p.options.RefusePercent)
		if what == "data" {
			warning += " but in place of an older one"
		}
	}
	return warning, full
}

// warn passes a warning on, if it is one.
func (p *Pool) warn(warning string) {
	if warning != "" {
		p.options.Warn(warning)
	}
}

// checkClock warns of a pool whose clock, or whose highest id, will be this
// after the snapshots, and refuses one where that comes near the end.
func (p *Pool) checkClock(name string, after uint64) error {
	switch {
	case after >= clockRefuse:
		return fmt.Errorf("the thin pool %s has counted %d snapshots of %d that its metadata has room for; it has to be made anew", name, after, clockEnd)
	case after >= clockWarn:
		p.options.Warn(fmt.Sprintf("the thin pool %s has counted %d snapshots; from %d on no snapshot is made, and it has to be made anew",
			name, after, clockRefuse))
	}
	return nil
}
