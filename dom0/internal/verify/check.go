package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/format"
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
	Repaired bool
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

	unlisted     []format.ObjectID // key slots that the root doesn't list
	moreUnlisted bool
}

// Check looks at the archive's structure: key slots, index objects, packs,
// sessions and trees; and at data, as far as it is asked to. With Repair it
// mends what it can, and then what it reports is what is left. With ErrTooMuch
// there is a report, and the list isn't all.
func Check(ctx context.Context, a *archive.Archive, list *damage.List, o CheckOptions) (*Report, error) {
	c := &check{a: a, o: o, list: list, bad: map[format.BlobID]bool{}}
	if err := c.structure(ctx, func(err error) { c.broken = append(c.broken, err) }); err != nil {
		return nil, err
	}
	found := &damage.List{}
	tooMuch := c.sessions(ctx, found)
	if tooMuch != nil && !errors.Is(tooMuch, ErrTooMuch) {
		return nil, tooMuch
	}
	doubt, err := a.InDoubt()
	if err != nil {
		return nil, err
	}
	if o.Repair && (doubt || len(c.broken) > 0 || !found.Empty()) {
		return c.repair(ctx, !found.Empty())
	}
	if o.Repair {
		if err := c.tidy(ctx); err != nil {
			return nil, err
		}
	}
	c.sayUnlisted()
	for _, err := range c.broken {
		list.Add(damage.Range{}, err)
	}
	list.AddAll(found)
	if ranges, more := list.Ranges(); more == 0 && tooMuch == nil {
		c.report.Damaged = Summarize(c.subjects, c.configs, ranges)
	}
	return &c.report, tooMuch
}

// tidy is what a repair does where nothing is damaged.
func (c *check) tidy(ctx context.Context) (err error) {
	if c.report.Strays.Packs > 0 {
		c.report.Adopted, err = c.a.AdoptStrays(ctx, c.a.Root().Params.Compression)
		if errors.Is(err, archive.ErrAdopt) {
			err = nil // nothing is wrong, so it is no reason to fail either
		}
	}
	if err == nil && !c.o.KeepAll {
		err = c.sweep(ctx)
	}
	return err
}

// sweep deletes what the root doesn't name any more.
func (c *check) sweep(ctx context.Context) error {
	if err := c.a.SweepIndex(ctx); err != nil {
		return err
	}
	n, err := c.a.SweepSlots(ctx)
	if n > 0 {
		c.unlisted = nil
		what := fmt.Sprintf("%d key slots", n)
		if n == 1 {
			what = "1 key slot"
		}
		c.o.Warn(fmt.Sprintf("removed %s from the store that the root doesn't list", what))
	}
	return err
}

// namedSlots is how many unlisted key slots are called by their ids.
const namedSlots = 8

// sayUnlisted names the key slots that open nothing. They are no damage: a
// store that only appends keeps what was removed.
func (c *check) sayUnlisted() {
	ids := c.unlisted
	if len(ids) == 0 {
		return
	}
	text, most := "", ids[:min(len(ids), namedSlots)]
	for _, id := range most {
		text += " " + id.String()[:8]
	}
	if rest := len(ids) - len(most); c.moreUnlisted {
		text += fmt.Sprintf(", and more than %d others", rest)
	} else if rest > 0 {
		text += fmt.Sprintf(", and %d others", rest)
	}
	c.o.Warn("the store has key slots that the root doesn't list, and that open nothing:" + text)
}

// structure looks at slots, index and packs.
func (c *check) structure(ctx context.Context, bad func(error)) error {
	if err := c.a.CheckSlots(ctx, bad); err != nil {
		return err
	}
	var err error
	if c.unlisted, c.moreUnlisted, err = c.a.UnlistedSlots(ctx); err != nil {
		return err
	}
	if err := c.a.LoadGoodIndex(ctx, bad); err != nil {
		return err
	}
	whole := len(c.broken) == 0
	begin := func(total int64) { c.o.Begin("checking packs", total) }
	packs, strays, err := c.a.CheckPacks(ctx, begin, c.o.Bytes, bad)
	if err != nil {
		return err
	}
	c.packs, c.report.Packs = packs, len(packs)
	if whole {
		c.report.Strays = strays
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
	if err := Configs(ctx, c.a, c.configs, found, c.markBad); err != nil {
		return err
	}
	return Run(ctx, c.a, c.subjects, found, Options{Probe: c.probe(), Bad: c.markBad, Begin: c.begin})
}

// contents collects what all sessions that can be read hold.
func (c *check) contents(ctx context.Context, l *archive.Listing, found *damage.List) error {
	names := map[format.ObjectID]string{}
	for _, v := range slices.Concat(l.Table.Volumes, l.Table.Qubes) {
		names[v.ID] = v.Name
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
	return func(ctx context.Context, ids []format.BlobID, bad func(format.BlobID, error) error) error {
		var read []format.BlobID
		for _, id := range ids {
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
				read = append(read, id)
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
	r := archive.Repair{Bad: c.bad, Lost: lost, Warn: c.o.Warn}
	if err := c.a.Repair(ctx, r, c.a.Root().Params.Compression); err != nil {
		return nil, fmt.Errorf("repair: %w", err)
	}
	if !c.o.KeepAll {
		if err := c.sweep(ctx); err != nil {
			return nil, fmt.Errorf("repair: %w", err)
		}
	}
	if after := c.a.Root().Sessions; after < before {
		c.list.Add(damage.Range{}, &archive.DamageError{Object: "session list", Reason: fmt.Errorf("%d of %d sessions are lost", before-after, before)})
	}
	again := c.o
	again.Repair = false
	report, err := Check(ctx, c.a, c.list, again)
	if report != nil {
		report.Repaired = true
	}
	return report, err
}
