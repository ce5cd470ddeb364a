package cli

import (
	"context"
	"errors"
	"fmt"
	"math"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/dom0files"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/restore"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/source/plain"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
	"pinion/protocol"
)

// diffJSON is the document of "pinion diff --json".
type diffJSON struct {
	Name    string         `json:"name"`
	Source  string         `json:"source"`
	Session *sessionIDJSON `json:"session"`
	// Full says that the volume was read: the ranges do differ, in whole chunks. Else they may.
	Full         bool        `json:"full"`
	ChangedBytes int64       `json:"changed_bytes"`
	Ranges       []rangeJSON `json:"ranges"`
	MoreRanges   int         `json:"more_ranges"`
}

type rangeJSON struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

const (
	// shownRanges are as many as a person looks at, listedRanges as many as a program may hold.
	shownRanges, listedRanges = 20, 100_000
)

// diffing is one run of the command.
type diffing struct {
	env    *Env
	o      *diffCommand
	dir    *tracker.Dir
	finder *find.Finder
	src    *source.Source

	// The archive, where it is needed.
	a      *archive.Archive
	volume format.ObjectID
	entry  *format.SessionEntry
	record *format.VolumeRecord
}

func runDiff(ctx context.Context, env *Env, o *diffCommand) error {
	if o.Args.Name == dom0files.Name {
		return exit.With(exit.Failed, errors.New(dom0files.Name+" is made of dom0's files: there is no volume here to compare"),
			"pinion restore dom0 puts the saved files beside the live ones")
	}
	d := &diffing{env: env, o: o, finder: env.finder()}
	var err error
	if d.dir, err = env.trackers(); err != nil {
		return err
	}
	if o.Full || o.session != nil {
		if err := d.open(ctx); err != nil {
			return err
		}
		defer d.a.Close()
	}
	known, err := d.known(ctx)
	if err != nil {
		return err
	}
	if err := d.find(ctx, known); err != nil {
		return err
	}
	if !d.src.Kind.Tracks() || (o.Full && known == nil) {
		return d.readLive(ctx)
	}
	if known == nil {
		return exit.With(exit.Failed, fmt.Errorf("%s: nothing is known of %s here", ui.Quote(o.Args.Name), ui.Quote(d.src.Locator)), "--full reads it")
	}
	return d.tracked(ctx, known)
}

// open opens the archive and finds the session to compare with.
func (d *diffing) open(ctx context.Context) (err error) {
	if d.a, err = d.env.open(ctx, protocol.LockRead); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			d.a.Close()
		}
	}()
	c, err := readCatalog(ctx, d.env, d.a)
	if err != nil {
		return err
	}
	i, v, err := c.findVolume(d.o.Args.Name, d.o.session)
	if err != nil {
		return err
	}
	d.volume, d.entry = v.Volume, &c.entries[i]
	d.record, err = d.a.Record(ctx, v.Record)
	return err
}

// found is what this host knows of the volume for the archive.
type found struct {
	locator string
	entry   tracker.Entry
	// more are other places where the volume is.
	more int
}

// known looks the volume up in what this host knows; the result is nil if it doesn't.
func (d *diffing) known(ctx context.Context) (*found, error) {
	states, err := state.Open(d.env.StateDir)
	if err != nil {
		return nil, err
	}
	pin, ok, err := states.Pin(d.env.Dest.String())
	if err != nil || !ok {
		return nil, err
	}
	wanted := ""
	if d.o.source != nil {
		s, err := d.finder.Locator(ctx, d.o.source.Location)
		if err != nil {
			return nil, err
		}
		wanted = s.Locator
	}
	list, errs := d.dir.List(ctx)
	for _, err := range errs {
		d.env.UI.Warn("%s", oneLine(err))
	}
	var best *found
	places := 0
	for _, t := range list {
		for _, e := range t.Entries {
			mine := e.Key.Archive.String() == pin.Archive && e.Key.Branch.String() == pin.Branch && e.Session != nil
			if d.a != nil {
				mine = mine && e.Key.Volume == d.volume
			} else {
				mine = mine && e.Name == d.o.Args.Name
			}
			if !mine || (wanted != "" && wanted != t.Locator) {
				continue
			}
			// A volume that moved, or was restored elsewhere, is at several places: the newest is meant.
			places++
			if best == nil || e.Session.Seq > best.entry.Session.Seq {
				best = &found{locator: t.Locator, entry: e}
			}
		}
	}
	if best != nil {
		best.more = places - 1
	}
	return best, nil
}

// find finds where the volume is.
func (d *diffing) find(ctx context.Context, known *found) (err error) {
	switch {
	case d.o.source != nil:
		d.src, err = d.finder.Locator(ctx, d.o.source.Location)
	case known != nil:
		if d.src, err = d.finder.Locator(ctx, known.locator); err == nil && known.more > 0 {
			d.env.UI.Notice("compared is %s; the volume is at %s more, which --source names", ui.Quote(known.locator), count(known.more, "place"))
		}
	default:
		return exit.With(exit.Failed, fmt.Errorf("%s was not backed up from here to %s", ui.Quote(d.o.Args.Name), d.env.Dest),
			"pinion status shows the volumes that were; --full with --source compares any other")
	}
	return err
}

// readLive reads a volume as it is, where there is no snapshot to read.
func (d *diffing) readLive(ctx context.Context) error {
	if !d.o.Full {
		why := d.src.Why
		if why == "" {
			why = "its storage can't tell"
		}
		return exit.With(exit.Failed, fmt.Errorf("what changed in %s is not known: %s", ui.Quote(d.o.Args.Name), why), "--full reads it")
	}
	v, err := plain.Open(d.src.Path)
	if err != nil {
		return err
	}
	defer v.Close()
	return d.compare(ctx, v)
}

// tracked compares the volume as it is now, by a new base snapshot.
func (d *diffing) tracked(ctx context.Context, known *found) error {
	if err := d.env.advance(ctx, d.dir, d.src); err != nil {
		return err
	}
	local, err := d.dir.Local(ctx, d.finder.Locator, known.locator, known.entry.Key)
	if errors.Is(err, tracker.ErrNoCopy) && d.o.Full {
		return d.readLive(ctx)
	}
	if errors.Is(err, tracker.ErrNoCopy) {
		return exit.With(exit.Failed, fmt.Errorf("what changed in %s is not known: %w", ui.Quote(d.o.Args.Name), err), "--full reads it")
	}
	if err != nil {
		return err
	}
	defer d.env.release(ctx, local)
	if d.o.Full {
		v, err := local.Pool.Open(ctx, local.Base)
		if err != nil {
			return err
		}
		defer v.Close()
		return d.compare(ctx, v)
	}
	if d.entry == nil || d.entry.ID == local.Session.ID {
		session := &sessionIDJSON{local.Session.ID.String(), local.Session.Seq, jsonTime(local.Session.Time.UnixNano())}
		return d.report(session, local.Changed, local.Base.Size)
	}
	since, err := d.a.Record(ctx, local.Session.Record)
	if err != nil {
		return fmt.Errorf("read session #%d, which is what is known of the volume: %w", local.Session.Seq, err)
	}
	changed, err := changedSince(ctx, d.a, local, since, d.record)
	if err != nil {
		return err
	}
	return d.report(d.sessionJSON(), changed, local.Base.Size)
}

func (d *diffing) sessionJSON() *sessionIDJSON {
	return &sessionIDJSON{d.entry.ID.String(), d.entry.Seq, jsonTime(d.entry.Time)}
}

// compare reads a volume and compares it with the session, chunk by chunk.
func (d *diffing) compare(ctx context.Context, v source.Volume) error {
	m := &meter{ui: d.env.UI}
	defer m.stop()
	differ, err := restore.Compare(ctx, d.a, d.o.Args.Name, d.entry.Seq, d.record, v, restore.Options{
		Begin: func(phase string, total int64) { m.begin(phase+" "+ui.Quote(d.o.Args.Name), total) }, Bytes: m.add,
	})
	if err != nil {
		return err
	}
	m.done()
	return d.report(d.sessionJSON(), differ, max(v.Size(), d.record.Size))
}

// report prints ranges. They are rounded to whole chunks, which end where the volume does.
func (d *diffing) report(session *sessionIDJSON, m *dirty.Map, size int64) error {
	doc := diffJSON{Name: d.o.Args.Name, Source: d.src.Locator, Session: session, Full: d.o.Full, Ranges: []rangeJSON{}}
	for r, ok := m.Next(0); ok; r, ok = m.Next(r.End) {
		if r.Start < size && r.End-size < format.MaxChunkSize {
			r.End = min(r.End, size)
		}
		doc.ChangedBytes += r.Len()
		if len(doc.Ranges) < listedRanges {
			doc.Ranges = append(doc.Ranges, rangeJSON{r.Start, r.Len()})
		} else {
			doc.MoreRanges++
		}
		if r.End == math.MaxInt64 {
			break
		}
	}
	what := "may have changed"
	if d.o.Full {
		what = "differ, in whole chunks"
	}
	if doc.ChangedBytes == 0 {
		d.env.UI.Printf("%s since session #%d: nothing has changed.", ui.Quote(doc.Name), session.Seq)
	} else {
		d.env.UI.Printf("%s since session #%d: %s %s.", ui.Quote(doc.Name), session.Seq, bytesExactly(doc.ChangedBytes), what)
	}
	if len(doc.Ranges) > 0 {
		var rows [][]string
		for _, r := range doc.Ranges[:min(len(doc.Ranges), shownRanges)] {
			rows = append(rows, []string{fmt.Sprint(r.Offset), fmt.Sprint(r.Length), ui.Bytes(r.Length)})
		}
		d.env.UI.Table([]string{"OFFSET", "LENGTH", ""}, rows)
	}
	if more := len(doc.Ranges) - shownRanges + doc.MoreRanges; more > 0 {
		d.env.UI.Printf("and %s more; --json lists them", count(more, "range"))
	}
	return d.env.UI.Result(doc)
}
