package tracker

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
)

// A kinship is how a volume differs from a session of another volume.
type kinship struct {
	key     Key
	session *Session
	changed *dirty.Map
}

// kinAsks is how often an archive is asked about sessions of other volumes
// when a run begins: each question may cost a round trip, and a volume has few
// siblings whose newest session is gone.
const kinAsks = 64

// A pledge names a session of a volume, with its record, to an archive.
type pledge struct {
	key     Key
	session format.ObjectID
	record  format.BlobID
}

// A relative is an entry of a volume that new ones may go on from.
type relative struct {
	locator string
	key     Key
	session *Session
	confirm func(ctx context.Context, k Key, s Session) bool
}

func (r *relative) pledge() pledge { return pledge{r.key, r.session.ID, r.session.Record} }

// confirmKin asks the archives, while nothing is locked, which sessions of
// other volumes they still have, and returns the locators of the volumes of
// those. What changes before the locks are taken costs a scan.
func (b *beginning) confirmKin(ctx context.Context) []string {
	b.confirmed = map[pledge]bool{}
	var locators []string
	asks := 0
	for _, r := range b.d.possibleKin(b.run.Volumes) {
		ok, asked := b.confirmed[r.pledge()]
		if !asked {
			if asks == kinAsks || ctx.Err() != nil {
				break
			}
			asks++
			ok = r.confirm(ctx, r.key, *r.session)
			b.confirmed[r.pledge()] = ok
		}
		if ok && !slices.Contains(locators, r.locator) {
			locators = append(locators, r.locator)
		}
	}
	return locators
}

// possibleKin lists what volumes of which nothing is known may be clones of,
// the newest session first. It looks without locks.
func (d *Dir) possibleKin(volumes []*Volume) []*relative {
	pools := map[string][]*Request{} // for new volumes
	for _, v := range volumes {
		r := &v.Request
		if r.Confirm == nil || r.Rescan || !r.Source.Kind.Tracks() || r.Source.Pool == nil {
			continue
		}
		if st, _, err := d.read(r.Source.Locator); err != nil || st == nil || st.Base == nil {
			id := r.Source.Pool.ID()
			pools[id] = append(pools[id], r)
		}
	}
	if len(pools) == 0 {
		return nil
	}
	names, err := d.volumeDirs()
	if err != nil {
		return nil
	}
	var out []*relative
	for _, name := range names {
		st := d.peek(name)
		if st == nil || st.Base == nil {
			continue
		}
		for _, r := range pools[st.Base.Pool] {
			for _, e := range st.useful(r.Key) {
				out = append(out, &relative{st.Locator, e.key(), e.session(), r.Confirm})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b *relative) int { return cmp.Compare(b.session.Seq, a.session.Seq) })
	return out
}

// peek reads the state in a directory, or returns nil if that can't be had.
func (d *Dir) peek(dir string) *state {
	text, err := os.ReadFile(filepath.Join(d.path, dir, "state.json"))
	if err != nil {
		return nil
	}
	st, err := decode(text)
	if err != nil || dirName(st.Locator) != dir || st.Owner != d.owner {
		return nil
	}
	return st
}

// useful lists entries that a new volume of the archive and branch of k could
// go on from, the newest session first.
func (s *state) useful(k Key) []*entry {
	var out []*entry
	for _, e := range s.Entries {
		key := e.key()
		if _, lost := e.changed(); lost == "" && e.Session != nil && key.Archive == k.Archive && key.Branch == k.Branch {
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b *entry) int { return cmp.Compare(b.Session.Seq, a.Session.Seq) })
	return out
}

// known lists the useful entries of a sibling that their archive confirmed.
func (b *beginning) known(s *state, k Key) []*entry {
	return slices.DeleteFunc(s.useful(k), func(e *entry) bool {
		r := relative{key: e.key(), session: e.session()}
		return !b.confirmed[r.pledge()]
	})
}

// findKin looks for a volume whose base shares blocks with a new one, and for
// how the two differ. All failures mean that there is none.
func (b *beginning) findKin(ctx context.Context, c source.Comparison, v *Volume) {
	u := v.unit
	if u.old != nil || v.Request.Rescan || v.Request.Confirm == nil {
		return
	}
	var bases []*source.Base
	var units []*unit
	for _, sibling := range slices.Concat(b.units, b.siblings) {
		base := sibling.st.Base
		if sibling != u && base != nil && base.Pool == u.pool.ID() && len(b.known(sibling.st, v.Request.Key)) > 0 {
			bases, units = append(bases, base), append(units, sibling)
		}
	}
	for len(bases) > 0 {
		i, err := c.Kin(ctx, u.held(), bases)
		if err != nil || i < 0 || i >= len(bases) {
			return
		}
		// What was written to since isn't what its dirty maps are about.
		if u.pool.Check(ctx, bases[i]) != nil {
			bases, units = slices.Delete(bases, i, i+1), slices.Delete(units, i, i+1)
			continue
		}
		changed, err := difference(ctx, c, bases[i], u.held())
		if err != nil {
			return
		}
		e := b.known(units[i].st, v.Request.Key)[0]
		known, _ := e.changed()
		changed.Merge(known)
		v.kin = &kinship{key: e.key(), session: e.session(), changed: changed}
		return
	}
}
