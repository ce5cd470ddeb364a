package index

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"pinion/dom0/internal/format"
)

// ErrBadObject says that an index object is not what the root lists, although
// its seal was right. Callers treat it as damage of the archive.
var ErrBadObject = errors.New("malformed index object")

// A Fetch gets the opened (authenticated, decrypted) body of an index object
// from the store. It may be called by several goroutines at once, but not for
// one object. The Table does not change the body, nor keep it once it is
// written to the cache.
type Fetch func(ctx context.Context, ref Ref) (body []byte, err error)

// An object is a listed index object with its page file.
type object struct {
	ref   Ref
	cache *cacheDir
	fetch Fetch
	stats *counters

	file atomic.Pointer[pageFile]

	mu    sync.Mutex  // guards what follows, and changes of file
	old   []*pageFile // replaced ones; readers may still hold them
	heals int
}

// counters say how well the cache did.
type counters struct {
	fetched, damaged atomic.Int64
}

// openObject opens the object's page file, fetching the object if that is
// missing or damaged.
func openObject(ctx context.Context, ref Ref, cache *cacheDir, fetch Fetch, stats *counters) (*object, error) {
	o := &object{ref: ref, cache: cache, fetch: fetch, stats: stats}
	p, err := cache.open(&ref)
	if err != nil {
		if errors.Is(err, ErrCacheDamaged) {
			stats.damaged.Add(1)
		}
		if p, err = o.refetch(ctx); err != nil {
			return nil, err
		}
	}
	o.file.Store(p)
	return o, nil
}

// fetchObject fetches the object, whatever page file there is.
func fetchObject(ctx context.Context, ref Ref, cache *cacheDir, fetch Fetch, stats *counters) (*object, error) {
	o := &object{ref: ref, cache: cache, fetch: fetch, stats: stats}
	p, err := o.refetch(ctx)
	if err != nil {
		return nil, err
	}
	o.file.Store(p)
	return o, nil
}

func (o *object) refetch(ctx context.Context) (*pageFile, error) {
	if err := os.RemoveAll(o.cache.file(o.ref.Object)); err != nil {
		return nil, fmt.Errorf("discard damaged index cache: %w", err)
	}
	untrustedBody, err := o.fetch(ctx, o.ref)
	if err != nil {
		return nil, fmt.Errorf("fetch index object %s: %w", o.ref.Object, err)
	}
	o.stats.fetched.Add(1)
	return o.cache.store(&o.ref, untrustedBody)
}

// do runs f on the page file, and again on a fresh one for as long as f finds
// it damaged, which is bounded by maxHeals.
func (o *object) do(ctx context.Context, f func(*pageFile) error) error {
	for {
		p := o.file.Load()
		err := f(p)
		if err == nil || !errors.Is(err, ErrCacheDamaged) {
			return err
		}
		if err := o.heal(ctx, p, err); err != nil {
			return err
		}
	}
}

// heal replaces the page file bad, unless somebody else did already.
func (o *object) heal(ctx context.Context, bad *pageFile, cause error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file.Load() != bad {
		return nil
	}
	o.stats.damaged.Add(1)
	if o.heals == maxHeals {
		return fmt.Errorf("index object %s was fetched again %d times: %w", o.ref.Object, o.heals, cause)
	}
	o.heals++
	p, err := o.refetch(ctx)
	if err != nil {
		return err
	}
	o.old = append(o.old, bad)
	o.file.Store(p)
	return nil
}

// close is for when no reader is left.
func (o *object) close() error {
	errs := []error{o.file.Load().close()}
	for _, p := range o.old {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}

// A run is a listed run: its objects in ascending order of blob ids.
type run struct {
	number  uint32
	level   uint8
	objects []*object
}

// entries is the number of entries of all objects.
func (r *run) entries() uint64 {
	var n uint64
	for _, o := range r.objects {
		n += uint64(o.ref.Entries)
	}
	return n
}

// newer orders runs, newest first.
func newer(a, b *run) int {
	if a.level != b.level {
		return int(a.level) - int(b.level)
	}
	switch {
	case a.number > b.number:
		return -1
	case a.number < b.number:
		return 1
	}
	return 0
}

// groupRuns makes runs of objects, newest first, and checks that the objects
// of each divide it into ascending ranges.
func groupRuns(objects []*object) ([]*run, error) {
	byNumber := make(map[uint32]*run)
	var runs []*run
	for _, o := range objects {
		r := byNumber[o.ref.Run]
		if r == nil {
			r = &run{number: o.ref.Run, level: o.ref.Level}
			byNumber[r.number] = r
			runs = append(runs, r)
		}
		if r.level != o.ref.Level {
			return nil, fmt.Errorf("index object %s: %w: is on level %d in a run of level %d", o.ref.Object, ErrBadObject, o.ref.Level, r.level)
		}
		if n := len(r.objects); n > 0 {
			before := r.objects[n-1]
			if compareIDs(&before.file.Load().head.last, &o.file.Load().head.first) >= 0 {
				return nil, fmt.Errorf("index object %s: %w: overlaps %s of the same run", o.ref.Object, ErrBadObject, before.ref.Object)
			}
		}
		r.objects = append(r.objects, o)
	}
	slices.SortFunc(runs, newer)
	return runs, nil
}

// lookup finds id in the one object whose range it is in.
func (r *run) lookup(ctx context.Context, id *format.BlobID, buf *page) (e Entry, known bool, err error) {
	i := sort.Search(len(r.objects), func(i int) bool {
		return compareIDs(&r.objects[i].file.Load().head.last, id) >= 0
	})
	if i == len(r.objects) {
		return Entry{}, false, nil
	}
	err = r.objects[i].do(ctx, func(p *pageFile) (err error) {
		e, known, err = p.lookup(id, buf)
		return err
	})
	return e, known, err
}
