package tracker

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/source"
)

// A kinship is how a volume differs from a session of another volume.
type kinship struct {
	key     Key
	session *Session
	changed *dirty.Map
}

// possibleKin lists volumes that those of which nothing is known may be clones
// of. It looks without locks: what changes before they are taken costs a scan.
func (d *Dir) possibleKin(volumes []*Volume) []string {
	pools := map[string][]Key{} // keys of new volumes
	for _, v := range volumes {
		s := v.Request.Source
		if v.Request.Confirm == nil || v.Request.Rescan || !s.Kind.Tracks() || s.Pool == nil {
			continue
		}
		if st, _, err := d.read(s.Locator); err != nil || st == nil || st.Base == nil {
			pools[s.Pool.ID()] = append(pools[s.Pool.ID()], v.Request.Key)
		}
	}
	if len(pools) == 0 {
		return nil
	}
	names, err := d.volumeDirs()
	if err != nil {
		return nil
	}
	var kin []string
	for _, name := range names {
		st := d.peek(name)
		if st == nil || st.Base == nil {
			continue
		}
		if slices.ContainsFunc(pools[st.Base.Pool], func(k Key) bool { return len(st.useful(k)) > 0 }) {
			kin = append(kin, st.Locator)
		}
	}
	return kin
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
		if sibling != u && base != nil && base.Pool == u.pool.ID() && len(sibling.st.useful(v.Request.Key)) > 0 {
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
		e := units[i].st.useful(v.Request.Key)[0]
		known, _ := e.changed()
		changed.Merge(known)
		v.kin = &kinship{key: e.key(), session: e.session(), changed: changed}
		return
	}
}
