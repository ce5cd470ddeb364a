package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sort"

	"golang.org/x/sync/errgroup"

	"pinion/dom0/internal/blob"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// The way of a blob from the store, in the order of this file:
//
//  1. locate   look up every id in the index               (caller's goroutine)
//  2. plan     sort by pack and offset, join into requests (caller's goroutine)
//  3. ask      send gets, as many as the window allows     (caller's goroutine)
//  4. open     authenticate, decompress, hash, deliver     (one worker a core)
//
// Metadata that can't be read there, or doesn't open, is read from the pack's twin,
// and where tables of contents stand in for the index, everything from other packs.
// A request's buffer is reserved from the window before the request is sent
// and given back when its last blob was delivered.

// A Want names a blob to fetch.
type Want struct {
	Type   format.BlobType
	ID     format.BlobID
	Domain format.Domain // of a chunk; metadata is of the shared one

	AnyDomain bool // whatever its domain is: what its seal holds is all that is asked
	// Found is told the domain of a blob that opened, before it is delivered. It
	// may be nil.
	Found func(format.Domain)
}

// Deliver gets the blob wants[i], or why it can't be had: a DamageError. It is
// called once for each, concurrently, from many goroutines; plain is valid
// during the call only. An error that it returns ends the fetch.
type Deliver func(i int, plain []byte, err error) error

// requestBytes is the most that one get asks for, unless one blob is larger.
const requestBytes = 2 << 20

// located is a want whose place is known.
type located struct {
	i  int
	at format.Location
}

// request is one get: blobs of one pack, in the order of their offsets.
type request struct {
	pack   format.ObjectID
	blobs  []located
	ranges []protocol.Range
	bytes  int
}

// Fetch reads blobs, whatever their number and order, and returns after the
// last delivery. A blob that is damaged or missing is delivered as an error;
// what Fetch itself returns is deliver's error, or a failure of the connection
// or of the index. The connection lives on if deliver ends the fetch, and not
// if ctx does.
func (a *Archive) Fetch(ctx context.Context, wants []Want, deliver Deliver) error {
	if a.kept != nil {
		plainly := deliver
		deliver = func(i int, plain []byte, err error) error { return plainly(i, plain, a.kept.explain(a.root, err)) }
	}
	found := make([]located, 0, len(wants))
	for i, w := range wants {
		e, ok, err := a.find(ctx, w.ID)
		if err != nil {
			return fmt.Errorf("look up %s %s: %w", w.Type, w.ID, err)
		}
		if !ok || e.Type != w.Type {
			lost := lostBlob(w)
			if err := deliver(i, nil, lost); err != nil {
				return err
			}
			continue
		}
		if w.Type == format.BlobChunk {
			a.fetched.Add(int64(e.Length))
		}
		found = append(found, located{i: i, at: format.Location{Pack: e.Pack, Offset: e.Offset, Length: e.Length}})
	}
	return a.fetchLocated(ctx, wants, found, deliver)
}

// lostBlob is the damage of a blob that no index has. Chunks have no names, so
// that neighbours are one range in a list.
func lostBlob(w Want) error {
	object := w.Type.String()
	if w.Type != format.BlobChunk {
		object += " " + short(w.ID.String())
	}
	return &DamageError{Object: object, Reason: errors.New("is in no index")}
}

// An answer is a request that was sent, and the memory for what comes back.
type answer struct {
	request
	buf     []byte
	pending *store.Pending
}

func (a *Archive) fetchLocated(ctx context.Context, wants []Want, found []located, deliver Deliver) error {
	return a.fetchFrom(ctx, wants, found, true, deliver)
}

// fetchFrom is fetchLocated; without twins, what doesn't open where it was looked
// for is damaged.
func (a *Archive) fetchFrom(ctx context.Context, wants []Want, found []located, twins bool, deliver Deliver) error {
	requests := plan(found, a.conn.Info().MaxRanges)
	answers := make(chan answer, len(requests))
	var g errgroup.Group
	going, stop := context.WithCancelCause(ctx) // ends early, without the connection
	defer stop(nil)
	g.Go(func() error {
		defer close(answers)
		for _, r := range requests {
			if a.window.Acquire(going, r.window()) != nil {
				return nil // stop has the cause
			}
			buf := make([]byte, r.bytes)
			answers <- answer{r, buf, a.conn.Get(ctx, protocol.PackName(r.pack), r.ranges, buf)}
		}
		return nil
	})
	for range min(cap(a.openers), len(requests)) {
		g.Go(func() error {
			f := &opening{a: a, wants: wants, twins: twins, deliver: deliver}
			f.scratch = make([]byte, 0, max(a.ChunkSize(), format.MaxMetadata))
			for x := range answers {
				err := x.pending.Wait() // even of what nobody wants any more: its memory is in use
				if going.Err() == nil {
					// Held only while there is something to open: two fetches
					// that wait for each other's openers would never end.
					f.opener = <-a.openers
					err := f.open(ctx, x.request, x.buf, err)
					a.openers <- f.opener
					if err != nil {
						stop(err)
					}
				}
				a.window.Release(x.window())
			}
			return nil
		})
	}
	g.Wait()
	return context.Cause(going)
}

// window is what the request takes of the fetch window.
func (r *request) window() int64 { return int64(min(r.bytes, fetchWindow)) }

// plan sorts blobs by their place and joins them into requests. A blob that is
// wanted twice is asked for once.
func plan(found []located, maxRanges int) []request {
	sort.Slice(found, func(i, j int) bool {
		a, b := found[i].at, found[j].at
		if c := bytes.Compare(a.Pack[:], b.Pack[:]); c != 0 {
			return c < 0
		}
		return a.Offset < b.Offset
	})
	var requests []request
	for i, f := range found {
		again := i > 0 && found[i-1].at == f.at
		r := last(requests)
		if r == nil || r.pack != f.at.Pack || !again && (r.bytes+int(f.at.Length) > requestBytes || len(r.ranges) >= maxRanges) {
			requests = append(requests, request{pack: f.at.Pack})
			r, again = last(requests), false
		}
		r.blobs = append(r.blobs, f)
		if !again {
			r.add(f.at)
		}
	}
	return requests
}

func last(requests []request) *request {
	if len(requests) == 0 {
		return nil
	}
	return &requests[len(requests)-1]
}

// add asks for one more blob; one right behind the last range makes that range
// longer.
func (r *request) add(at format.Location) {
	r.bytes += int(at.Length)
	if n := len(r.ranges); n > 0 {
		if end := &r.ranges[n-1]; end.Off+uint64(end.Len) == uint64(at.Offset) {
			end.Len += at.Length
			return
		}
	}
	r.ranges = append(r.ranges, protocol.Range{Off: uint64(at.Offset), Len: at.Length})
}

// opening is what a worker opens blobs with.
type opening struct {
	a       *Archive
	wants   []Want
	twins   bool // what is damaged may be read from the twin
	deliver Deliver
	opener  *blob.Opener
	scratch []byte
}

// open opens the blobs of an answered request and delivers them. A request
// that failed for its pack alone is asked again blob by blob, so that one short
// pack costs no more blobs than it must.
func (f *opening) open(ctx context.Context, r request, buf []byte, err error) error {
	switch {
	case err == nil:
	case !store.IsObjectError(err):
		return fmt.Errorf("read %s: %w", protocol.PackName(r.pack), err)
	case len(r.blobs) > 1 && !errors.Is(err, store.ErrMissing):
		return f.openOneByOne(ctx, r, buf)
	}
	for i := 0; i < len(r.blobs); {
		first := r.blobs[i]
		want := f.wants[first.i]
		var plain []byte
		blobErr := err
		if err == nil {
			var sealed []byte
			sealed, buf = buf[:first.at.Length], buf[first.at.Length:]
			plain, blobErr = f.unseal(want, sealed)
		}
		if blobErr != nil {
			blobErr = blobDamage(want, first.at, blobErr)
			if f.twins && isDamage(blobErr) {
				if plain, err := f.fromElsewhere(ctx, want, first.at, blobErr); err != nil {
					return err
				} else if plain != nil {
					if err := f.give(r, &i, first, plain, nil); err != nil {
						return err
					}
					continue
				}
			}
		}
		if err := f.give(r, &i, first, plain, blobErr); err != nil {
			return err
		}
	}
	return nil
}

// give delivers a blob to all who want it, from the i-th of the request on.
func (f *opening) give(r request, i *int, first located, plain []byte, blobErr error) error {
	for ; *i < len(r.blobs) && r.blobs[*i].at == first.at; *i++ {
		if err := f.deliver(r.blobs[*i].i, plain, blobErr); err != nil {
			return err
		}
	}
	return nil
}

// unseal opens a blob and checks its domain.
func (f *opening) unseal(want Want, untrusted []byte) ([]byte, error) {
	plain, domain, err := f.opener.OpenAny(f.scratch, untrusted, want.Type, want.ID, f.a.maxPlain(want.Type))
	if err == nil && domain != want.Domain && !want.AnyDomain {
		return nil, fmt.Errorf("is of domain %d, not %d: %w", domain, want.Domain, blob.ErrDamaged)
	}
	if err == nil && want.Found != nil {
		want.Found(domain)
	}
	return plain, err
}

// fromElsewhere reads a blob from the twin of its pack, if that has one; or, where
// tables of contents stand in for the index, from any other pack that has it; nil: it
// doesn't open anywhere. An error ends the fetch.
func (f *opening) fromElsewhere(ctx context.Context, want Want, at format.Location, damage error) ([]byte, error) {
	if want.Type.Metadata() {
		if plain, err := f.fromTwin(ctx, want, at, damage); plain != nil || err != nil {
			return plain, err
		}
	}
	if f.a.tables == nil {
		return nil, nil
	}
	others, err := f.a.otherPlaces(ctx, want.ID)
	if err != nil {
		return nil, err
	}
	for _, at := range others {
		plain, err := f.readAt(ctx, want, at.Pack, at)
		if plain == nil && err == nil && want.Type.Metadata() {
			plain, err = f.readAt(ctx, want, at.Pack.Twin(), at)
		}
		if plain != nil || err != nil {
			return plain, err
		}
	}
	return nil, nil
}

// fromTwin reads a blob from the twin of the pack that it should be in, and says
// so, once for each pack; nil: it isn't there either. An error ends the fetch.
func (f *opening) fromTwin(ctx context.Context, want Want, at format.Location, damage error) ([]byte, error) {
	plain, err := f.readAt(ctx, want, at.Pack.Twin(), at)
	if plain != nil {
		f.a.sayTwin(protocol.PackName(at.Pack), damage)
	}
	return plain, err
}

// readAt reads a blob from a pack that may have it; nil: it doesn't. An error ends the
// fetch.
func (f *opening) readAt(ctx context.Context, want Want, pack format.ObjectID, at format.Location) ([]byte, error) {
	buf := make([]byte, at.Length)
	pending := f.a.conn.Get(ctx, protocol.PackName(pack), []protocol.Range{{Off: uint64(at.Offset), Len: at.Length}}, buf)
	err := pending.Wait()
	if err != nil && !store.IsObjectError(err) {
		return nil, fmt.Errorf("read %s: %w", protocol.PackName(pack), err)
	}
	if err != nil {
		return nil, nil
	}
	plain, err := f.unseal(want, buf)
	if err != nil {
		return nil, nil
	}
	return append(make([]byte, 0, len(plain)+1), plain...), nil // not nil, though it may be empty
}

// sayTwin says once that an object's twin stands in for it.
func (a *Archive) sayTwin(object string, damage error) {
	a.saidMu.Lock()
	defer a.saidMu.Unlock()
	if a.said[object] != nil {
		return
	}
	if a.said == nil {
		a.said = map[string]error{}
	}
	a.said[object] = damage
	a.opts.Warn(fmt.Sprintf("%v; its second copy is used", damage))
}

// openOneByOne asks for each blob of a failed request by itself.
func (f *opening) openOneByOne(ctx context.Context, r request, buf []byte) error {
	for _, b := range r.blobs {
		one := request{pack: r.pack, blobs: []located{b}}
		one.add(b.at)
		pending := f.a.conn.Get(ctx, protocol.PackName(r.pack), one.ranges, buf[:one.bytes])
		if err := f.open(ctx, one, buf[:one.bytes], pending.Wait()); err != nil {
			return err
		}
	}
	return nil
}

// maxPlain is the most plain bytes that a blob of a type may have.
func (a *Archive) maxPlain(t format.BlobType) int {
	if t == format.BlobChunk {
		return a.ChunkSize()
	}
	return format.MaxMetadata
}

// blobDamage names a blob that can't be had by its pack and place.
func blobDamage(w Want, at format.Location, err error) error {
	object := protocol.PackName(at.Pack)
	if store.IsObjectError(err) {
		return readError(object, err)
	}
	return &DamageError{Object: object, Reason: fmt.Errorf("%s at %d: %w", w.Type, at.Offset, err)}
}

// Read fetches one metadata blob.
func (a *Archive) Read(ctx context.Context, t format.BlobType, id format.BlobID) ([]byte, error) {
	var plain []byte
	err := a.Fetch(ctx, []Want{{Type: t, ID: id}}, func(_ int, p []byte, err error) error {
		plain = append(plain, p...)
		return err
	})
	return plain, err
}

// NewHasher makes a hasher that names blobs as this archive does.
func (a *Archive) NewHasher() *crypt.Hasher { return a.keys.NewHasher() }
