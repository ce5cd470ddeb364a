package tracker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/plain"
)

// A Request asks for one volume to be read for one archive.
type Request struct {
	Source      *source.Source
	Key         Key
	Destination string // for people who read the state
	Name        string // of the volume in the archive, for the same people
	// Since is what Paired said, if the archive still has that session with
	// that record. Nil: everything has to be looked at.
	Since *Session
	// Why says why Since is nil although Paired gave one.
	Why string
	// Rescan says that everything is to be looked at, whatever is known.
	Rescan bool
	// Confirm reports whether the archive of Key still has a session of the
	// volume k with its record. Begin asks it of volumes that this one may be
	// a clone of, at most kinAsks times, before any volume is locked: it may
	// take its time, and nobody else waits. Nil: no difference from another
	// volume's session is wanted.
	Confirm func(ctx context.Context, k Key, s Session) bool
}

// A Volume is one answer to a Request. The Run owns it.
type Volume struct {
	Request Request
	// Err says why this volume can't be read: it is to be left out.
	Err error
	// Data is what is to be read, open until Commit or Abort: a snapshot, or
	// the volume itself if Base is nil.
	Data source.Volume
	Base *source.Base
	// Since is the session whose tree Data differs from inside Candidates at
	// most. Nil: everything has to be looked at, for the reason Why.
	Since *Session
	// Sibling is set if Since is a session of another volume of the archive,
	// which this one is a clone of.
	Sibling *Key
	// Candidates is what has to be read; it may go beyond the end of Data. If
	// Since is nil, it is where Data may hold anything but zeros, or nil if
	// only Data.NextData can tell. It is the caller's.
	Candidates *dirty.Map
	Why        string

	unit *unit
	kin  *kinship
	data *dirty.Map
}

// A Run is a backup at work: it holds its snapshots until Commit or Abort. It
// belongs to one goroutine; its volumes' Data may be read by many.
type Run struct {
	// Volumes answer the requests, in their order.
	Volumes []*Volume
	// Warning is what went wrong without harm while the run began, such as a
	// snapshot that could not be removed yet.
	Warning error

	d     *Dir
	life  *life
	units []string // locators in the order of their locks
	over  bool
}

// Begin takes snapshots of all volumes together, freezes what has to be sent
// to each archive, and opens the snapshots. Volumes that fail have an Err and
// harm no others; an error of Begin means that there is no run. The caller
// ends the run by Commit or Abort; a run that ends with its process is found
// and taken back by the next to lock the volume.
func (d *Dir) Begin(ctx context.Context, requests []Request) (*Run, error) {
	if err := checkRequests(requests); err != nil {
		return nil, err
	}
	d.buryTheDead()
	life, err := d.begin()
	if err != nil {
		return nil, err
	}
	b := &beginning{d: d, run: &Run{d: d, life: life}}
	for _, r := range requests {
		b.run.Volumes = append(b.run.Volumes, &Volume{Request: r})
	}
	err = b.lock(ctx)
	if err == nil {
		err = b.begin(ctx)
	}
	closeAll(b.units)
	closeAll(b.siblings)
	if err == nil {
		b.open(ctx)
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin a backup: %w", err), b.run.Abort(ctx))
	}
	return b.run, nil
}

func checkRequests(requests []Request) error {
	type what struct {
		locator string
		key     Key
	}
	seen := map[what]bool{}
	for _, r := range requests {
		w := what{r.Source.Locator, r.Key}
		if seen[w] {
			return fmt.Errorf("%s is to be backed up twice as %q", w.locator, r.Name)
		}
		seen[w] = true
	}
	return nil
}

// A beginning is a run before anybody has it.
type beginning struct {
	d        *Dir
	run      *Run
	units    []*unit
	siblings []*unit // of volumes that are not in the run
	// confirmed is what archives still have of other volumes.
	confirmed map[pledge]bool
}

// lock locks the volumes of the run, and those that new ones may be clones of,
// in the order that all processes keep.
func (b *beginning) lock(ctx context.Context) error {
	sources := map[string]*source.Source{}
	for _, v := range b.run.Volumes {
		if s := v.Request.Source; sources[s.Locator] == nil {
			sources[s.Locator] = s
		}
	}
	var all []*source.Source
	for _, s := range sources {
		all = append(all, s)
	}
	for _, locator := range b.confirmKin(ctx) {
		if sources[locator] == nil {
			all = append(all, &source.Source{Locator: locator})
		}
	}
	for _, i := range lockOrder(all) {
		locator := all[i].Locator
		u, err := b.d.openUnit(ctx, locator, sources[locator])
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && sources[locator] == nil:
			b.siblings = append(b.siblings, u)
		case err == nil:
			b.units = append(b.units, u)
			b.run.units = append(b.run.units, locator)
		}
		b.assign(locator, u, err)
	}
	return nil
}

// assign gives the volumes that were asked for by a locator their unit.
func (b *beginning) assign(locator string, u *unit, err error) {
	for _, v := range b.run.Volumes {
		if v.Request.Source.Locator == locator {
			v.unit, v.Err = u, err
		}
	}
}

// begin advances, freezes and makes that durable. An error is that of ctx.
func (b *beginning) begin(ctx context.Context) error {
	a := &advance{
		d: b.d, units: b.units, group: byPool(b.units), backup: true,
		wantsMore: b.scans, more: b.lookCloser, undo: b.lookAway,
	}
	if err := a.run(ctx); err != nil {
		return errors.Join(err, b.d.sweep(context.WithoutCancel(ctx), b.units))
	}
	for _, v := range b.run.Volumes {
		if v.Err == nil && v.unit.err == nil {
			b.freeze(v)
		}
	}
	for _, u := range b.units {
		if u.err == nil {
			u.st.Runs = append(u.st.Runs, &run{ID: b.run.life.id, What: whatBackup, Started: now(), Base: u.held()})
			u.err = u.save()
		}
	}
	for _, v := range b.run.Volumes {
		if v.Err == nil {
			v.Err = v.unit.err
		}
	}
	b.run.Warning = b.d.sweep(context.WithoutCancel(ctx), b.units)
	return nil
}

// now is the time, as it is written down.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// held is the snapshot that a run reads, or nil.
func (u *unit) held() *source.Base {
	if u.unchanged {
		return u.old
	}
	return u.now
}

// since returns the session that a request can go on from, and else why there
// is none.
func (u *unit) since(r *Request) (s *Session, why string) {
	e := u.st.entry(r.Key)
	if e != nil {
		s = e.session()
	}
	switch {
	case r.Rescan:
		return nil, "a rescan was asked for"
	case !u.tracks() && r.Source.Why != "":
		return nil, r.Source.Why
	case !u.tracks():
		return nil, u.mute()
	case r.Since == nil && r.Why != "":
		return nil, r.Why
	case s == nil && u.st.Note != "":
		return nil, u.st.Note
	case s == nil:
		return nil, "no earlier backup of it is known here"
	}
	if _, lost := e.changed(); lost != "" {
		return nil, lost
	}
	if !s.same(r.Since) {
		return nil, "another backup or a restore of it came between"
	}
	return s, ""
}

// scans reports whether any volume of a unit is to be looked at as a whole.
func (b *beginning) scans(u *unit) bool {
	return slices.ContainsFunc(b.run.Volumes, func(v *Volume) bool { return v.unit == u && v.scans() })
}

func (v *Volume) scans() bool {
	if v.Err != nil || v.unit.err != nil || !v.unit.tracks() || v.unit.held() == nil {
		return false
	}
	s, _ := v.unit.since(&v.Request)
	return s == nil
}

// lookCloser asks the comparison of a pool where there is data in volumes that
// have to be looked at as a whole, and whether those are clones.
func (b *beginning) lookCloser(ctx context.Context, c source.Comparison, group []*unit) error {
	for _, v := range b.run.Volumes {
		if !slices.Contains(group, v.unit) || !v.scans() {
			continue
		}
		data := &dirty.Map{}
		if err := c.Data(ctx, v.unit.held(), collect(ctx, data)); err == nil {
			v.data = data
		}
		b.findKin(ctx, c, v)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// lookAway forgets what lookCloser saw.
func (b *beginning) lookAway(group []*unit) {
	for _, v := range b.run.Volumes {
		if slices.Contains(group, v.unit) {
			v.data, v.kin = nil, nil
		}
	}
}

// freeze sets what is dirty apart for the run to send.
func (b *beginning) freeze(v *Volume) {
	u, r := v.unit, &v.Request
	v.Since, v.Why = u.since(r)
	v.Base = u.held()
	v.Candidates = v.data
	e := u.st.entry(r.Key)
	if e == nil {
		e = &entry{Key: r.Key.json(), Dirty: &dirty.Map{}}
		u.st.add(e)
	}
	if e.Run != "" {
		// An earlier run for the same key that seems to live: its session
		// could only be committed over this one's, and it loses its claim.
		e.release()
	}
	if v.Since != nil {
		v.Candidates = e.Dirty.Clone()
	} else if v.kin != nil {
		v.Since, v.Sibling, v.Candidates, v.Why = v.kin.session, &v.kin.key, v.kin.changed, ""
	}
	e.Destination, e.Name = r.Destination, r.Name
	e.Run, e.Frozen, e.FrozenLost = b.run.life.id, e.Dirty, e.Lost
	e.Dirty, e.Lost = &dirty.Map{}, ""
	if !u.tracks() {
		e.lose(u.mute())
	}
}

// open opens what is to be read.
func (b *beginning) open(ctx context.Context) {
	b.d.step("open")
	for _, v := range b.run.Volumes {
		if v.Err != nil {
			continue
		}
		if v.Base == nil {
			v.Data, v.Err = openNow(ctx, v.Request.Source)
			continue
		}
		if v.Data, v.Err = v.Request.Source.Pool.Open(ctx, v.Base); v.Err != nil {
			v.Data = nil
		}
	}
}

// openNow opens a volume of which there is no snapshot.
func openNow(ctx context.Context, s *source.Source) (source.Volume, error) {
	if s.Open != nil {
		data, err := s.Open(ctx)
		if err == nil && data == nil {
			err = fmt.Errorf("open %s: there is nothing to read", s.Locator)
		}
		if err != nil {
			return nil, err
		}
		return data, nil
	}
	data, err := plain.Open(s.Path)
	if err != nil {
		return nil, err // not a nil *plain.Volume in an interface
	}
	return data, nil
}
