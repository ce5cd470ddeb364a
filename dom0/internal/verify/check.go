package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/format"
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
	Repaired bool
}

// check is one run.
type check struct {
	a      *archive.Archive
	o      CheckOptions
	list   *damage.List
	report Report
	packs  map[format.ObjectID]*archive.PackState
	broken []error                // damage to the structure itself
	bad    map[format.BlobID]bool // blobs that can't be had
}

// Check looks at the archive's structure: key slots, index objects, packs,
// sessions and trees; and at data, as far as it is asked to. With Repair it
// mends what it can, and then what it reports is what is left.
func Check(ctx context.Context, a *archive.Archive, list *damage.List, o CheckOptions) (*Report, error) {
	c := &check{a: a, o: o, list: list, bad: map[format.BlobID]bool{}}
	if err := c.structure(ctx, func(err error) { c.broken = append(c.broken, err) }); err != nil {
		return nil, err
	}
	found := &damage.List{}
	if err := c.sessions(ctx, found); err != nil {
		return nil, err
	}
	if o.Repair && (len(c.broken) > 0 || !found.Empty()) {
		return c.repair(ctx, !found.Empty())
	}
	if o.Repair && !o.KeepAll {
		if err := a.SweepIndex(ctx); err != nil {
			return nil, err
		}
	}
	for _, err := range c.broken {
		list.Add(damage.Range{}, err)
	}
	ranges, more := found.Ranges()
	for _, r := range ranges {
		list.AddRange(r)
	}
	if more > 0 {
		return nil, ErrTooMuch
	}
	return &c.report, nil
}

// structure looks at slots, index and packs.
func (c *check) structure(ctx context.Context, bad func(error)) error {
	if err := c.a.CheckSlots(ctx, bad); err != nil {
		return err
	}
	if err := c.a.LoadGoodIndex(ctx, bad); err != nil {
		return err
	}
	begin := func(total int64) { c.o.Begin("checking packs", total) }
	packs, err := c.a.CheckPacks(ctx, begin, c.o.Bytes, bad)
	if err != nil {
		return err
	}
	c.packs, c.report.Packs = packs, len(packs)
	return nil
}

// sessions walks all sessions and their trees and lists what can't be had.
func (c *check) sessions(ctx context.Context, found *damage.List) error {
	entries, err := c.a.Sessions(ctx, func(first, last uint64, err error) error {
		if errors.Is(err, format.ErrNewer) {
			return err
		}
		object, reason := damage.Explain(err)
		first, last = max(first, 1), min(last, c.a.Root().NextSeq-1)
		found.AddRange(damage.Range{Object: object, Reason: fmt.Sprintf("sessions #%d to #%d can't be listed: %s", first, last, reason)})
		return nil
	})
	if err != nil {
		return err
	}
	c.report.Sessions = len(entries)
	if n := int(c.a.Root().Sessions); len(entries) != n && found.Empty() {
		found.Add(damage.Range{}, &archive.DamageError{Object: "session list", Reason: fmt.Errorf("has %d sessions where the root says %d", len(entries), n)})
	}
	subjects, err := c.subjects(ctx, entries, found)
	if err != nil {
		return err
	}
	return Run(ctx, c.a, subjects, found, Options{Probe: c.probe(), Bad: c.markBad, Begin: c.begin})
}

// subjects lists every volume of every session that can be read.
func (c *check) subjects(ctx context.Context, entries []format.SessionEntry, found *damage.List) ([]Subject, error) {
	names := map[format.ObjectID]string{}
	table, err := c.a.Volumes(ctx)
	var d *archive.DamageError
	switch {
	case errors.As(err, &d):
		c.markBad(c.a.Root().VolumeTable)
		found.Add(damage.Range{}, err)
	case err != nil:
		return nil, err
	default:
		for _, v := range slices.Concat(table.Volumes, table.Qubes) {
			names[v.ID] = v.Name
		}
	}
	sessions, errs, err := c.a.ReadSessions(ctx, entries)
	if err != nil {
		return nil, err
	}
	nameOf := func(id format.ObjectID) string {
		if name, ok := names[id]; ok {
			return name
		}
		return id.String()
	}
	var subjects []Subject
	var configs []Config
	for i, s := range sessions {
		if errs[i] != nil {
			c.markBad(entries[i].Blob)
			found.Add(damage.Range{Session: entries[i].Seq}, errs[i])
			continue
		}
		for _, v := range s.Volumes {
			subjects = append(subjects, Subject{Name: nameOf(v.Volume), Seq: s.Seq, Record: v.Record, Size: v.Size})
		}
		for _, q := range s.Qubes {
			configs = append(configs, Config{Name: nameOf(q.Qube), Seq: s.Seq, Blob: q.Config})
		}
	}
	return subjects, Configs(ctx, c.a, configs, found, c.markBad)
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
				err = bad(id, &archive.DamageError{Object: "chunk " + id.String()[:8], Reason: errors.New("is in no index")})
			case s == nil || s.Missing:
				err = bad(id, &archive.DamageError{Object: "pack " + pack.String(), Reason: errors.New("is missing")})
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
		if err := c.a.SweepIndex(ctx); err != nil {
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
