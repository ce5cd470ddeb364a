package verify

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// CheckOptions say how deep to look.
type CheckOptions struct {
	ReadData int // per cent of the packs whose chunks are read; 0: none
	Repair   bool
	KeepAll  bool // a repair deletes nothing that the root doesn't name: the root was put back, and may be an old one

	Begin func(phase string, total int64)
	Bytes func(n int64)
	Warn  func(text string)
}

// A Report says what check went through.
type Report struct {
	Sessions int
	Packs    int
	Strays   archive.Strays // that are in no index; none where the index is damaged
	Restored int            // objects that a repair put again from what there is twice of them
	Repaired bool           // a new index and root were made
	Adopted  int            // strays that a repair entered into the index
	Damaged  []SessionState // sessions with damage; nil if not all of it is listed
}

// check is one run.
type check struct {
	a        *archive.Archive
	o        CheckOptions
	list     *damage.List
	report   Report
	packs    map[format.ObjectID]*archive.PackState
	broken   []error // damage to the structure itself
	subjects []Subject
	configs  []Config
	bad      map[format.BlobID]bool // blobs that can't be had
	after    bool                   // a repair has just been made
	above    map[string]bool        // damaged roots above the one that was used before it
}

// Check looks at the archive's structure: roots, index objects, packs, sessions
// and trees; and at data, as far as it is asked to. What is there twice has to be
// whole both times. With Repair it mends what it can, and then what it reports is
// what is left. With ErrTooMuch there is a report, and the list isn't all.
func Check(ctx context.Context, a *archive.Archive, list *damage.List, o CheckOptions) (*Report, error) {
	return (&check{a: a, o: o, list: list, bad: map[format.BlobID]bool{}}).run(ctx)
}

func (c *check) run(ctx context.Context) (*Report, error) {
	a, list, o := c.a, c.list, c.o
	if err := c.structure(ctx); err != nil {
		return nil, err
	}
	found := &damage.List{}
	tooMuch := c.sessions(ctx, found)
	if tooMuch != nil && !errors.Is(tooMuch, ErrTooMuch) {
		return nil, tooMuch
	}
	if err := c.mendPacks(ctx); err != nil {
		return nil, err
	}
	doubt, err := a.InDoubt()
	if err != nil {
		return nil, err
	}
	if o.Repair {
		if err := c.unreadable(found); err != nil {
			return nil, err
		}
		var unlisted []uint64
		if c.report.Strays.Packs > 0 {
			if unlisted, err = a.Unlisted(ctx); err != nil {
				return nil, err
			}
		}
		if doubt || len(c.broken) > 0 || !found.Empty() || len(unlisted) > 0 {
			return c.repair(ctx, !found.Empty())
		}
	}
	if o.Repair {
		if err := c.tidy(ctx); err != nil {
			return nil, err
		}
	}
	for _, err := range c.broken {
		list.Add(damage.Range{Spare: found.Empty() && len(c.above) == 0}, err)
	}
	list.AddAll(found)
	if ranges, more := list.Ranges(); more == 0 && tooMuch == nil {
		c.report.Damaged = Summarize(c.subjects, c.configs, ranges)
	}
	return &c.report, tooMuch
}

// unreadable is the error for what can't be read now, and may be whole: a repair would
// do without it.
func (c *check) unreadable(found *damage.List) error {
	err := found.Unreadable()
	for _, b := range c.broken {
		if err == nil && errors.Is(b, store.ErrUnreadable) {
			err = b
		}
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w; nothing was repaired, since what can't be read now may be whole", err)
}

// tidy is what a repair does where nothing is damaged.
func (c *check) tidy(ctx context.Context) (err error) {
	if c.report.Strays.Packs > 0 {
		c.report.Adopted, err = c.a.AdoptStrays(ctx, c.a.Root().Compression)
		if errors.Is(err, archive.ErrAdopt) {
			err = nil // nothing is wrong, so it is no reason to fail either
		}
	}
	if err == nil && !c.o.KeepAll {
		err = c.a.SweepIndex(ctx)
	}
	return err
}

// structure looks at roots, index and packs. What is lost of roots and index
// objects and there a second time is mended at once.
func (c *check) structure(ctx context.Context) error {
	if err := c.roots(ctx); err != nil {
		return err
	}
	named := map[string]bool{}
	broken := func(err error) {
		var d *archive.DamageError
		if errors.As(err, &d) && named[d.Object] {
			return
		} else if d != nil {
			named[d.Object] = true
		}
		c.broken = append(c.broken, err)
	}
	if err := c.a.CheckIndex(ctx, c.o.Repair, broken, c.restored); err != nil {
		return err
	}
	whole := true
	err := c.a.LoadGoodIndex(ctx, func(err error) {
		whole = false
		broken(err)
	})
	if err != nil {
		return err
	}
	begin := func(total int64) { c.o.Begin("checking packs", total) }
	packs, strays, err := c.a.CheckPacks(ctx, begin, c.o.Bytes, broken)
	if err != nil {
		return err
	}
	c.packs, c.report.Packs = packs, len(packs)
	if whole {
		c.report.Strays = strays
	}
	return nil
}

// restored tells of an object that was put again.
func (c *check) restored(name string) {
	c.report.Restored++
	c.o.Warn(fmt.Sprintf("%s was damaged or missing, and was put again from its second copy", name))
}

// mendPacks adds what only the walk over the sessions has shown of metadata packs,
// and with Repair puts those again of which the other one is whole.
func (c *check) mendPacks(ctx context.Context) error {
	named := map[string]bool{}
	for _, err := range c.broken {
		var d *archive.DamageError
		if errors.As(err, &d) {
			named[d.Object] = true
		}
	}
	for _, err := range c.a.StoodIn() {
		var d *archive.DamageError
		if errors.As(err, &d) && !named[d.Object] && c.twinsOf(d.Object) != nil {
			c.broken = append(c.broken, err)
		}
	}
	if !c.o.Repair {
		return nil
	}
	left, tried := c.broken[:0], map[string]bool{}
	for _, err := range c.broken {
		var d *archive.DamageError
		if !errors.As(err, &d) {
			left = append(left, err)
			continue
		}
		mended, again := tried[d.Object]
		if !again {
			var err error
			if mended, err = c.mendPack(ctx, d.Object); err != nil {
				return err
			}
			tried[d.Object] = mended
		}
		if !mended {
			left = append(left, err)
		}
	}
	c.broken = left
	return nil
}

// twinsOf is what is known of the metadata pack that an object is, or the twin of;
// nil: it is none.
func (c *check) twinsOf(object string) *archive.PackState {
	id, ok := protocol.ParseID(object)
	if !ok || object != protocol.PackName(id) {
		return nil
	}
	s := c.packs[id]
	if s == nil {
		s = c.packs[format.ObjectID(id).Twin()]
	}
	if s == nil || s.Twin == nil {
		return nil
	}
	return s
}

// notWhole are the metadata packs that are still damaged, or their twins are, by the
// ids that the index has.
func (c *check) notWhole() map[format.ObjectID]bool {
	packs := map[format.ObjectID]bool{}
	for _, err := range c.broken {
		var d *archive.DamageError
		if !errors.As(err, &d) || c.twinsOf(d.Object) == nil {
			continue
		}
		id, _ := protocol.ParseID(d.Object)
		if c.packs[id] == nil {
			id = format.ObjectID(id).Twin()
		}
		packs[id] = true
	}
	return packs
}

// mendPack puts a metadata pack, or its twin, again from the other one.
func (c *check) mendPack(ctx context.Context, object string) (bool, error) {
	s := c.twinsOf(object)
	if s == nil {
		return false, nil
	}
	id, _ := protocol.ParseID(object)
	lost, from := s, s.Twin
	if c.packs[id] != s {
		lost, from = s.Twin, s
	}
	if from.Missing || from.TOC != nil {
		return false, nil
	}
	mended, err := c.a.RestoreTwin(ctx, id, format.ObjectID(id).Twin(), from.Size)
	if err == nil && mended {
		lost.Missing, lost.TOC, lost.Size = false, nil, from.Size
		c.restored(object)
	}
	return mended, err
}

// readTwins reads all metadata, each twice.
func (c *check) readTwins(ctx context.Context) error {
	var pairs []format.ObjectID
	for id, s := range c.packs {
		if s.Twin != nil {
			pairs = append(pairs, id)
		}
	}
	slices.SortFunc(pairs, func(x, y format.ObjectID) int { return bytes.Compare(x[:], y[:]) })
	for _, id := range pairs {
		if err := c.a.ReadPair(ctx, id, c.packs[id], func(err error) { c.broken = append(c.broken, err) }); err != nil {
			return err
		}
	}
	return nil
}

// sessions walks all sessions and their trees and lists what can't be had. Where
// the session list or the volume table is damaged, sessions and names come from
// the session blobs themselves: no damage hides another.
func (c *check) sessions(ctx context.Context, found *damage.List) error {
	l, err := c.a.Listing(ctx)
	if err != nil {
		return err
	}
	for _, g := range l.ListDamage {
		object, reason := damage.Explain(g.Err)
		found.AddRange(damage.Range{Object: object, Reason: fmt.Sprintf("sessions #%d to #%d can't be listed: %s", g.First, g.Last, reason)})
	}
	c.report.Sessions = len(l.Entries)
	if n := int(c.a.Root().Sessions); len(l.Entries) != n && found.Empty() {
		found.Add(damage.Range{}, &archive.DamageError{Object: "session list", Reason: fmt.Errorf("has %d sessions where the root says %d", len(l.Entries), n)})
	}
	if l.TableDamage != nil {
		c.markBad(c.a.Root().VolumeTable)
		found.Add(damage.Range{}, l.TableDamage)
	}
	if err := c.contents(ctx, l, found); err != nil {
		return err
	}
	if c.o.ReadData > 0 {
		c.o.Begin("reading metadata", 0)
		if err := c.readTwins(ctx); err != nil {
			return err
		}
	}
	if err := Configs(ctx, c.a, c.configs, found, c.markBad); err != nil {
		return err
	}
	return Run(ctx, c.a, c.subjects, found, Options{Probe: c.probe(), Bad: c.markBad, Begin: c.begin})
}

// contents collects what all sessions that can be read hold.
func (c *check) contents(ctx context.Context, l *archive.Listing, found *damage.List) error {
	names := map[format.ObjectID]string{}
	for _, v := range l.Table.Volumes {
		names[v.ID] = v.Name
	}
	for _, q := range l.Table.Qubes {
		names[q.ID] = q.Name
	}
	nameOf := func(id format.ObjectID) string { return cmp.Or(names[id], id.String()) }
	sessions, errs, err := c.a.ReadSessions(ctx, l.Entries)
	if err != nil {
		return err
	}
	for i, s := range sessions {
		if errs[i] != nil {
			c.markBad(l.Entries[i].Blob)
			found.Add(damage.Range{Session: l.Entries[i].Seq}, errs[i])
			continue
		}
		for _, v := range s.Volumes {
			c.subjects = append(c.subjects, Subject{Name: nameOf(v.Volume), Seq: s.Seq, Record: v.Record, Size: v.Size})
		}
		for _, q := range s.Qubes {
			c.configs = append(c.configs, Config{Name: nameOf(q.Qube), Seq: s.Seq, Blob: q.Config})
		}
	}
	return nil
}

// begin shows what the survey is at: without reading data it has no bytes.
func (c *check) begin(phase string, total int64) {
	if c.o.ReadData == 0 {
		phase, total = "checking trees", 0
	}
	c.o.Begin(phase, total*int64(c.o.ReadData)/100)
}

// markBad remembers a blob that can't be had.
func (c *check) markBad(id format.BlobID) { c.bad[id] = true }

// probe finds chunks that are in no index or in a pack that isn't there, and
// reads as many as it was asked to.
func (c *check) probe() Probe {
	salt := rand.Uint32()
	return func(ctx context.Context, chunks []Chunk, bad func(format.BlobID, error) error) error {
		var read []Chunk
		for _, chunk := range chunks {
			id := chunk.ID
			pack, ok, err := c.a.Locate(ctx, id)
			if err != nil {
				return err
			}
			s := c.packs[pack]
			switch {
			case !ok:
				err = bad(id, &archive.DamageError{Object: "chunk", Reason: errors.New("is in no index")})
			case s == nil || s.Missing:
				err = bad(id, &archive.DamageError{Object: protocol.PackName(pack), Reason: errors.New("is missing")})
			case sampled(pack, salt, c.o.ReadData):
				read = append(read, chunk)
			}
			if err != nil {
				return err
			}
		}
		return ReadAll(c.a, c.o.Bytes)(ctx, read, bad)
	}
}

// sampled picks that many per cent of all packs, other ones each time.
func sampled(pack format.ObjectID, salt uint32, percent int) bool {
	n := (uint32(pack[0])<<24 | uint32(pack[1])<<16 | uint32(pack[2])<<8 | uint32(pack[3])) ^ salt
	return uint64(n)*100 < uint64(percent)<<32
}

// repair mends what can be mended, and checks again.
func (c *check) repair(ctx context.Context, lost bool) (*Report, error) {
	c.o.Begin("repairing", 0)
	before := c.a.Root().Sessions
	r := archive.Repair{Bad: c.bad, Lost: lost, Warn: c.o.Warn, Resend: c.notWhole()}
	if err := c.a.Repair(ctx, r, c.a.Root().Compression); err != nil {
		return nil, fmt.Errorf("repair: %w", err)
	}
	if !c.o.KeepAll {
		if err := c.a.SweepIndex(ctx); err != nil {
			return nil, fmt.Errorf("repair: %w", err)
		}
	}
	if after := c.a.Root().Sessions; after < before {
		c.list.Add(damage.Range{}, &archive.DamageError{Object: "session list", Reason: fmt.Errorf("%d of %d sessions are lost", before-after, before)})
	}
	again := check{a: c.a, o: c.o, list: c.list, bad: map[format.BlobID]bool{}, after: true, above: c.above}
	again.o.Repair = false
	report, err := again.run(ctx)
	if report != nil {
		report.Repaired, report.Restored = true, c.report.Restored
	}
	return report, err
}
