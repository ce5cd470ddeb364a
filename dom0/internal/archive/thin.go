package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

const (
	// rootsKept is how many of the newest roots nobody deletes, however old
	// they are: an archive that is rarely written to keeps its past.
	rootsKept = 64

	// rootsWhole is how long all roots are kept. The helper holds to both by
	// its own clock, whatever it is asked for.
	rootsWhole = 30 * 24 * time.Hour

	// rootsDaily is how long the last root of each day is kept.
	rootsDaily = 365 * 24 * time.Hour

	// maxThinned bounds the roots that are read at a time: a store can list any
	// number. A prune a day comes by 400 in an archive of years.
	maxThinned = 8192

	// thinnedAtOnce is how many roots are asked for at a time.
	thinnedAtOnce = 16
)

// ThinRoots deletes old roots from roots/: of those that are older than 30 days and
// not among the newest 64, the newest of each day stays for a year, by the zone
// of this host. What doesn't open among them goes, what can't be read stays, and
// so does what the store refuses to delete. It returns how many went. It needs
// the exclusive lock.
func (a *Archive) ThinRoots(ctx context.Context) (deleted int, err error) {
	if a.Limited() != nil {
		return 0, nil
	}
	return a.thinRoots(ctx, a.conn, nil)
}

// ThinCopy is ThinRoots for a copy of the archive, whose exclusive lock conn holds.
// Of a copy, what doesn't open above the root that is used goes, too: whoever
// copied without the key may have taken it there.
func (a *Archive) ThinCopy(ctx context.Context, conn *store.Conn) (deleted int, err error) {
	r, err := allRoots(ctx, conn)
	if err != nil {
		return 0, err
	}
	above := slices.DeleteFunc(r.names, func(n RootName) bool { return n.Head || n.Generation <= a.root.Generation })
	var dead []string
	for some := range slices.Chunk(above[:min(len(above), maxThinned)], thinnedAtOnce) {
		roots, err := a.readOld(ctx, conn, some)
		if err != nil {
			return 0, err
		}
		for _, r := range roots {
			if r.junk {
				dead = append(dead, r.name)
			}
		}
	}
	return a.thinRoots(ctx, conn, dead)
}

// thinRoots deletes the old roots of a store, and those that are dead anyway.
func (a *Archive) thinRoots(ctx context.Context, conn *store.Conn, dead []string) (deleted int, err error) {
	old, err := a.thinnable(ctx, conn)
	if err != nil {
		return 0, err
	}
	t := thinning{now: a.opts.Now(), days: map[string]string{}}
	for some := range slices.Chunk(old, thinnedAtOnce) {
		roots, err := a.readOld(ctx, conn, some)
		if err != nil {
			return 0, err
		}
		if t.take(roots) {
			break
		}
	}
	return deleteRoots(ctx, conn, append(dead, t.dead...))
}

// thinnable are the roots that may be old enough to go, the oldest first.
func (a *Archive) thinnable(ctx context.Context, conn *store.Conn) ([]RootName, error) {
	r, err := allRoots(ctx, conn)
	if err != nil {
		return nil, err
	}
	// What is above the root that is used is not the past, and may be made up.
	old := slices.DeleteFunc(r.names, func(n RootName) bool { return n.Head || n.Generation >= a.root.Generation })
	old = old[min(len(old), rootsKept-1):]
	slices.Reverse(old)
	return old[:min(len(old), maxThinned)], nil
}

// allRoots lists the roots of a store.
func allRoots(ctx context.Context, conn *store.Conn) (*roots, error) {
	r := newRoots(conn)
	return r, r.listEvery(ctx)
}

// An oldRoot is what is known of a root that may go.
type oldRoot struct {
	name    string
	keep    bool // it can't be read, or is of a newer version
	junk    bool // it was read, and doesn't open
	written time.Time
}

// readOld reads some roots.
func (a *Archive) readOld(ctx context.Context, conn *store.Conn, names []RootName) ([]oldRoot, error) {
	list := make([]oldRoot, len(names))
	g, ctx := errgroup.WithContext(ctx)
	for i, n := range names {
		g.Go(func() error {
			list[i].name = n.Name
			object, err := conn.GetWhole(ctx, n.Name, format.MaxRoot)
			if store.IsObjectError(err) {
				list[i].keep = true
				return nil
			}
			if err != nil {
				return fmt.Errorf("read %s: %w", n.Name, err)
			}
			s, err := parseSealedRoot(n, object)
			var root *format.Root
			if err == nil {
				root, err = s.open(a.keys)
			}
			switch {
			case err == nil:
				list[i].written = time.Unix(0, root.Written)
			case isDamage(err):
				list[i].junk = true
			default:
				list[i].keep = true
			}
			return nil
		})
	}
	return list, g.Wait()
}

// thinning chooses among roots that come in ascending order of their generations.
type thinning struct {
	now  time.Time
	days map[string]string // the newest root of each day
	junk []string          // since the last one that opens: how old they are isn't known yet
	dead []string
}

// take goes through some roots, and reports whether all that open are too young to
// go: then those that follow are, too. A single one may have been written when a
// clock was wrong.
func (t *thinning) take(roots []oldRoot) (done bool) {
	done = true
	for _, r := range roots {
		switch {
		case r.keep:
			continue
		case r.junk:
			done = false
			t.junk = append(t.junk, r.name)
			continue
		}
		age := t.now.Sub(r.written)
		if age <= rootsWhole {
			continue
		}
		done = false
		t.dead, t.junk = append(t.dead, t.junk...), nil
		if age > rootsDaily {
			t.dead = append(t.dead, r.name)
			continue
		}
		day := r.written.In(t.now.Location()).Format(time.DateOnly)
		if older, ok := t.days[day]; ok {
			t.dead = append(t.dead, older)
		}
		t.days[day] = r.name
	}
	return done
}

// deleteRoots deletes roots, but for those that the store refuses to.
func deleteRoots(ctx context.Context, conn *store.Conn, names []string) (deleted int, err error) {
	for some := range slices.Chunk(names, protocol.MaxDeletes) {
		err := conn.Delete(ctx, some)
		if err == nil {
			deleted += len(some)
			continue
		}
		if !errors.Is(err, store.ErrRefused) {
			return deleted, fmt.Errorf("delete old roots: %w", err)
		}
		for _, name := range some { // one by one, since one was enough to refuse all
			switch err := conn.Delete(ctx, []string{name}); {
			case err == nil:
				deleted++
			case !errors.Is(err, store.ErrRefused):
				return deleted, fmt.Errorf("delete old roots: %w", err)
			}
		}
	}
	return deleted, nil
}
