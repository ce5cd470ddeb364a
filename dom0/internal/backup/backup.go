// Package backup makes a session: it reads volumes, or what changed in them,
// and adds what the archive doesn't have yet.
//
// It owns the pipeline from a source to the archive's writer, the decision how
// much of a volume has to be read, and what is said of each volume afterwards.
// It promises that a volume in a session is whole, that nothing is taken for
// unchanged unless the tracker says so of a session that the archive still
// has, that a source that fails is left out and named and costs the others
// nothing, and that the order of chunks never depends on which core was
// faster. It never changes a source and never prints.
package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
)

// A backup, in the order in which its steps become durable:
//
//  1. tracker   snapshots are there; what may differ from the last session is
//               set aside for this run, and what changes from now on is kept
//               apart from it                                  (Dir.Begin)
//  2. archive   packs, index, and then the root, which makes the session a
//               part of the archive                     (Writer.CommitSession)
//  3. tracker   the session is what the next difference is from; what was set
//               aside is forgotten                             (Run.Commit)
//
// Killed before the root is committed, or in between 2 and 3: the next run finds
// that this one is dead and adds what was set aside to what changed since. It
// reads that again, from the older session on, and sends nothing of it that the
// archive has. What is set aside is forgotten only after the root is durable, so
// no order of crashes makes anything that changed look unchanged.

// A Source is a volume to back up.
type Source struct {
	Name   string // in the archive
	Source *source.Source
	Live   bool   // something may be writing to it
	Domain string // of its chunks; empty: the shared one
	Stored bool   // they aren't compressed
}

// A Qube is a qube to back up: its settings, and which of the sources are its
// volumes.
type Qube struct {
	Name    string
	Config  *format.QubeConfig // valid, as its Check says
	Volumes []string           // names of sources
	Running bool
	State   time.Time // of one that runs: when what is saved was committed; zero: not known
	// Confirm is asked once all volumes are read: an error leaves the qube out. Nil: it
	// always is what it was.
	Confirm func(ctx context.Context) error
}

// Options say how to back up.
type Options struct {
	// Qubes are those that the sources belong to. One that can't be saved
	// whole, because a source of its fails, is left out, and what could be
	// saved of its volumes is in the session as that of any other source.
	Qubes       []Qube
	Tracker     *tracker.Dir // what this host remembers of volumes
	Rescan      bool         // look at everything, whatever the tracker says
	Compression format.Compression
	Tags        []format.Tag
	Verify      bool // read everything new back before the commit
	Now         time.Time

	// Progress. Begin is called before a volume is read, with about how many
	// bytes that will be; Bytes with every further number of bytes read.
	Begin func(name string, size int64)
	Bytes func(n int64)
	Phase func(text string)
}

// A Result says what a backup did.
type Result struct {
	Session *format.Session
	Volumes []Volume // those in the session, in the order of the sources
	Failed  []Failed
	Qubes   []SavedQube // those in the session, in the order of Options.Qubes
	Limit   Limit       // what the reading of all volumes was limited by

	// Warning is what went wrong beside the backup without harm to it, such as
	// an old snapshot that could not be removed yet.
	Warning error

	// Untracked says why this host doesn't remember the session, which is
	// whole in the archive: the next one reads again what this one did.
	Untracked error
}

// A SavedQube is a qube of a session.
type SavedQube struct {
	Name   string
	New    bool  // its settings were not in the archive yet
	Stored int64 // sealed bytes of them that are new
}

// A Volume says what was done with a volume. All numbers but NewChunks are
// bytes.
type Volume struct {
	Name      string
	Kind      source.Kind
	Size      int64
	Mode      format.Mode
	Why       string // everything was looked at: why, as a clause for people
	Live      bool
	Moved     bool  // to another domain: it was read in full, and stored anew
	Read      int64 // from the source
	Changed   int64 // of the ranges that could have changed
	NewChunks uint64
	Stored    int64 // sealed bytes that are new with this volume

	at     int // which of the tracker's volumes it is
	isNew  bool
	id     format.ObjectID
	domain format.Domain // of its chunks
	stored bool          // they aren't compressed
	record format.BlobID
}

// marks are what a session says of how the volume was read.
func (v *Volume) marks() format.Marks {
	if v.Live {
		return format.MarkLive
	}
	return 0
}

// Failed is a source that is not in the session.
type Failed struct {
	Name string
	Err  error
}

// ErrNothing says that every source failed, so there is no session.
var ErrNothing = errors.New("no volume could be backed up")

// Run backs the sources up as one session. If it returns an error there is no
// session, or one that this host could not take note of; what was sent is used
// by the next run. The Result is never nil.
func Run(ctx context.Context, a *archive.Archive, sources []Source, o Options) (res *Result, err error) {
	res = &Result{}
	b, err := begin(ctx, a, sources, o)
	if err != nil {
		return res, err
	}
	defer func() { err = b.abort(ctx, err) }()
	res.Failed, res.Warning = b.failed, b.warning()
	if len(b.ready) == 0 && !b.settingsOnly() {
		return res, ErrNothing
	}
	w, err := a.NewWriter(ctx, o.Compression, o.Verify)
	if err != nil {
		return res, err
	}
	p, err := newPipeline(ctx, a, w, o.Compression)
	if err != nil {
		return res, err
	}
	defer p.close()
	res.Volumes, err = b.each(ctx, func(v *Volume) error { return b.volume(ctx, p, v) })
	res.Failed, res.Limit = b.failed, p.busy.limit()
	if err != nil {
		return res, err
	}
	if len(res.Volumes) == 0 && !b.settingsOnly() {
		return res, ErrNothing
	}
	d, err := b.draft(res.Volumes)
	if err == nil {
		res.Qubes, err = b.qubes(ctx, &d, res.Volumes, func(plain []byte) (format.BlobID, int64, error) {
			return w.AddMetadata(ctx, format.BlobQubeConfig, plain)
		})
	}
	res.Failed = b.failed
	if err != nil {
		return res, err
	}
	if len(res.Volumes) == 0 && len(res.Qubes) == 0 {
		return res, ErrNothing
	}
	var verify func() error
	if o.Verify {
		verify = func() error {
			o.Phase("reading back what is new")
			return w.ReadBack(ctx)
		}
	}
	if err := w.CommitSession(ctx, d, verify); err != nil {
		return res, err
	}
	res.Session = d.Session
	res.Untracked = b.remember(ctx, d.Session, res.Volumes)
	return res, nil
}

// each does something with all volumes that are ready, and returns those that
// it could be done with. A volume whose source fails joins the failed ones.
func (b *backup) each(ctx context.Context, do func(*Volume) error) ([]Volume, error) {
	var done []Volume
	for _, v := range b.ready {
		err := do(&v)
		var failed errSource
		switch {
		case err == nil:
			done = append(done, v)
		case errors.As(err, &failed) && ctx.Err() == nil:
			b.failed = append(b.failed, Failed{v.Name, failed.error})
		default:
			return done, fmt.Errorf("back up %s: %w", v.Name, err)
		}
	}
	return done, nil
}

// draft makes the session of volumes, and the volume table with those that are
// new.
func (b *backup) draft(volumes []Volume) (archive.Draft, error) {
	_, host := archive.Host()
	zone, offset := b.o.Now.Zone()
	s := &format.Session{
		ID: format.NewObjectID(), Time: b.o.Now.UnixNano(), ZoneOffset: int32(offset),
		Zone: zone[:min(len(zone), format.MaxZone)], Host: host,
	}
	for _, v := range volumes {
		s.Volumes = append(s.Volumes, format.SessionVolume{
			Volume: v.id, Record: v.record, Size: v.Size, Stored: v.Stored, NewChunks: v.NewChunks, Mode: v.Mode, Marks: v.marks(),
		})
		if v.isNew {
			b.table.Volumes = append(b.table.Volumes, format.NamedVolume{ID: v.id, Domain: v.domain, Name: v.Name})
		}
	}
	if n := len(b.table.Volumes); n > format.MaxVolumes {
		return archive.Draft{}, fmt.Errorf("the archive would have %d volumes, and %d are allowed", n, format.MaxVolumes)
	}
	return archive.Draft{Session: s, Tags: b.o.Tags, Table: b.table}, nil
}
