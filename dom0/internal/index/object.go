package index

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"sync"
	"sync/atomic"

	"pinion/dom0/internal/format"
)

// ErrBadObject says that an index object is not what the root lists, although
// its seal was right. Callers treat it as damage of the archive.
var ErrBadObject = errors.New("malformed index object")

// A Source gets the opened (authenticated, decrypted) bodies of index objects
// and of lists from the store; an id's twin serves as well. It may be called by
// several goroutines at once, but not for one object. The Table does not change
// the body, nor keep it once it is written to the cache.
type Source interface {
	Object(ctx context.Context, id format.ObjectID) (body []byte, err error)
	List(ctx context.Context, id format.ObjectID) (body []byte, err error)
}

// A Ref is an index object, or the list of the objects of a run.
type Ref struct {
	Object  format.ObjectID
	List    bool
	Level   uint8  // of the run
	Entries uint64 // of a list: of all its objects
	Size    uint32 // of the sealed object, in bytes
}

// An object is an index object of a run with its page file.
type object struct {
	ref Ref // no list
	t   *Table

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
// missing or damaged, or if fresh is set.
func (t *Table) openObject(ctx context.Context, ref Ref, fresh bool) (*object, error) {
	o := &object{ref: ref, t: t}
	var p *pageFile
	err := os.ErrNotExist
	if !fresh {
		if p, err = t.cache.open(&ref); errors.Is(err, ErrCacheDamaged) {
			t.stats.damaged.Add(1)
		}
	}
	if err != nil {
		if p, err = o.refetch(ctx); err != nil {
			return nil, err
		}
	}
	o.file.Store(p)
	return o, nil
}

func (o *object) refetch(ctx context.Context) (*pageFile, error) {
	if err := os.RemoveAll(o.t.cache.file(o.ref.Object)); err != nil {
		return nil, fmt.Errorf("discard damaged index cache: %w", err)
	}
	untrustedBody, err := o.t.source.Object(ctx, o.ref.Object)
	if err != nil {
		return nil, fmt.Errorf("fetch index object %s: %w", o.ref.Object, err)
	}
	o.t.stats.fetched.Add(1)
	return o.t.cache.store(&o.ref, untrustedBody)
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
	o.t.stats.damaged.Add(1)
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
	listed  format.IndexRun
	objects []*object
}

// refs are the run's list, if it has one, and its objects.
func (r *run) refs() []Ref {
	var refs []Ref
	if r.listed.List {
		refs = append(refs, refOf(&r.listed))
	}
	for _, o := range r.objects {
		refs = append(refs, o.ref)
	}
	return refs
}

// refOf is the object or the list that a root names for a run.
func refOf(r *format.IndexRun) Ref {
	return Ref{Object: r.Object, List: r.List, Level: r.Level, Entries: r.Entries, Size: r.Size}
}

// behind says that the object's range isn't above that of before, in one run.
func (o *object) behind(before *object) error {
	if compareIDs(&before.file.Load().head.last, &o.file.Load().head.first) < 0 {
		return nil
	}
	return fmt.Errorf("index object %s: %w: overlaps %s of the same run", o.ref.Object, ErrBadObject, before.ref.Object)
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
