package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
)

// A backup is one that has begun: all volumes are open, as close in time to
// each other as their storage allows.
type backup struct {
	a      *archive.Archive
	o      Options
	table  *format.VolumeTable
	run    *tracker.Run // nil: there is no volume
	over   bool         // the tracker knows how it ended
	ready  []Volume     // those that can be read
	failed []Failed
}

// begin asks the archive which of the sessions that the tracker remembers it
// still has, and has the tracker make the volumes ready to be read.
func begin(ctx context.Context, a *archive.Archive, sources []Source, o Options) (*backup, error) {
	table, err := a.Volumes(ctx)
	if err == nil {
		err = a.RaiseDomains(table)
	}
	if err != nil {
		return nil, err
	}
	b := &backup{a: a, o: o, table: table}
	requests, volumes, err := b.requests(ctx, sources)
	if err != nil {
		return nil, err
	}
	if len(requests) == 0 {
		b.over = true
		return b, nil
	}
	if b.run, err = o.Tracker.Begin(ctx, requests); err != nil {
		return nil, err
	}
	for i, t := range b.run.Volumes {
		v := volumes[i]
		if t.Err != nil {
			b.failed = append(b.failed, Failed{v.Name, t.Err})
			continue
		}
		v.Size = t.Data.Size()
		b.ready = append(b.ready, v)
	}
	return b, nil
}

// warning is what the tracker has to say beside.
func (b *backup) warning() error {
	if b.run == nil {
		return nil
	}
	return b.run.Warning
}

// abort has the tracker take back what it set aside, if there is no session,
// also if the command is being interrupted. It returns err, with what went
// wrong beside it.
func (b *backup) abort(ctx context.Context, err error) error {
	if b.over {
		return err
	}
	b.over = true
	return errors.Join(err, b.run.Abort(context.WithoutCancel(ctx)))
}

// remember tells the tracker what the volumes were in the session, which the
// archive has now, also if the command is being interrupted.
func (b *backup) remember(ctx context.Context, s *format.Session, volumes []Volume) error {
	if b.over {
		return nil // there was no volume
	}
	b.over = true
	ctx = context.WithoutCancel(ctx)
	sessions := make([]*tracker.Session, len(b.run.Volumes))
	for _, v := range volumes {
		sessions[v.at] = &tracker.Session{
			ID: s.ID, Seq: s.Seq, Time: time.Unix(0, s.Time), Record: v.record, Generation: b.a.Root().Generation,
		}
	}
	if err := b.run.Commit(ctx, sessions); err != nil {
		return errors.Join(err, b.run.Abort(ctx))
	}
	return nil
}

// requests says what the tracker has to make ready, and which volumes that are.
// One that is new to the archive gets its id here.
func (b *backup) requests(ctx context.Context, sources []Source) ([]tracker.Request, []Volume, error) {
	branch, err := b.a.Branch()
	if err != nil {
		return nil, nil, err
	}
	known := map[string]format.NamedVolume{}
	for _, v := range b.table.Volumes {
		known[v.Name] = v
	}
	var requests []tracker.Request
	var volumes []Volume
	for _, s := range sources {
		v := Volume{Name: s.Name, Kind: s.Source.Kind, Live: s.Live, at: len(requests)}
		v.id, v.stored = known[s.Name].ID, s.Stored
		if v.id.IsZero() {
			v.id, v.isNew = format.NewObjectID(), true
		}
		if v.domain, err = domainOf(b.table, s.Domain); err != nil {
			b.failed = append(b.failed, Failed{s.Name, err})
			continue
		}
		v.Moved = !v.isNew && known[s.Name].Domain != v.domain
		moveTo(b.table, v.id, v.domain)
		k := tracker.Key{Archive: b.a.Root().Archive, Branch: branch, Volume: v.id}
		paired, err := b.o.Tracker.Paired(s.Source.Locator, k)
		if err != nil { // such as that a newer version wrote it
			b.failed = append(b.failed, Failed{s.Name, err})
			continue
		}
		r, err := b.request(ctx, s, k, paired)
		if err != nil {
			return nil, nil, fmt.Errorf("back up %s: %w", s.Name, err)
		}
		requests, volumes = append(requests, r), append(volumes, v)
	}
	return requests, volumes, nil
}

// request asks for a volume since the session that the tracker remembers, if
// the archive still has that.
func (b *backup) request(ctx context.Context, s Source, k tracker.Key, paired *tracker.Session) (tracker.Request, error) {
	r := tracker.Request{
		Source: s.Source, Name: s.Name, Destination: b.a.Destination().String(), Rescan: b.o.Rescan, Key: k,
		Confirm: func(ctx context.Context, of tracker.Key, s tracker.Session) bool {
			why, err := b.refuted(ctx, &s, of.Volume)
			return why == "" && err == nil && of.Archive == k.Archive && of.Branch == k.Branch
		},
	}
	if paired == nil {
		return r, nil
	}
	var err error
	if r.Why, err = b.refuted(ctx, paired, k.Volume); err == nil && r.Why == "" {
		r.Since = paired
	}
	return r, err
}

// refuted says why a session that the tracker remembers is not one to compare
// with, or nothing: then the current root leads to it, it has that volume with
// the very record that is remembered, and no blob of the archive was found to
// be lost since.
func (b *backup) refuted(ctx context.Context, s *tracker.Session, volume format.ObjectID) (why string, err error) {
	if b.a.Root().Heal > s.Generation {
		return "parts of the archive were found to be lost since its last session", nil
	}
	entry, session, err := b.a.SessionAt(ctx, s.Seq)
	switch {
	case errors.Is(err, archive.ErrNoSession), err == nil && entry.ID != s.ID:
		return fmt.Sprintf("its last session, #%d, is gone from the archive", s.Seq), nil
	case isDamage(err):
		return fmt.Sprintf("its last session can't be read: %v", err), nil
	case err != nil:
		return "", err
	}
	for _, v := range session.Volumes {
		if v.Record == s.Record && v.Volume == volume {
			return "", nil
		}
	}
	return fmt.Sprintf("its last session, #%d, doesn't have it any more", s.Seq), nil
}

// isDamage tells what is lost for good from a failure to ask, and from what a
// newer version wrote.
func isDamage(err error) bool {
	var d *archive.DamageError
	return errors.As(err, &d) && !errors.Is(err, format.ErrNewer)
}

// A look is how much of a volume is looked at.
type look struct {
	mode  format.Mode
	why   string               // everything is, because
	since *format.VolumeRecord // else: what it is compared with
	only  *dirty.Map           // nothing else can hold data, or differ from since; nil: all of it can
}

// everything is the look at a volume that there is nothing to compare with.
func everything(v *Volume, why string) look {
	l := look{mode: format.ModeScan, why: why}
	if v.isNew {
		l.mode = format.ModeFull
	}
	return l
}

// look decides how much of a volume to look at.
func (b *backup) look(ctx context.Context, v *Volume) (look, error) {
	t := b.run.Volumes[v.at]
	if t.Since == nil {
		l := everything(v, t.Why)
		l.only = t.Candidates
		return l, nil
	}
	since, err := b.a.Record(ctx, t.Since.Record)
	if isDamage(err) {
		return everything(v, fmt.Sprintf("the record of its last session can't be read: %v", err)), nil
	}
	if err != nil {
		return look{}, err
	}
	if since.Domain != v.domain {
		v.Moved = true // or is a clone of what is in another
		return everything(v, "its domain changed"), nil
	}
	// A clone's session is that of another volume, whose record it can't share.
	l := look{mode: format.ModeDelta, since: since, only: resized(t.Candidates, since.Size, v.Size, b.a.ChunkSize())}
	if l.only.Within(v.Size) == 0 && since.Size == v.Size && since.Volume == v.id {
		l.mode = format.ModeUnchanged
	}
	return l, nil
}

// resized is a set of ranges with all that a change of the volume's size
// touches: the part that one of the two doesn't have, and the chunk that was
// the last.
func resized(only *dirty.Map, was, now int64, chunkSize int) *dirty.Map {
	if was == now {
		return only
	}
	only = only.Clone()
	low := min(was, now)
	only.Add(source.Range{Start: low - low%int64(chunkSize), End: max(was, now)})
	return only
}
