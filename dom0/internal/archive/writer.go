package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"pinion/dom0/internal/blob"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/pack"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// A Writer adds blobs to an archive and commits them with a new root. Known is
// safe for concurrent use beside everything else; the other methods belong to
// one goroutine.
type Writer struct {
	a       *Archive
	branch  format.ObjectID
	sealer  *blob.Sealer // of metadata
	data    packStream
	meta    packStream
	own     map[format.ObjectID]bool // the packs that this run began
	adopted map[format.ObjectID]bool // packs of backups that were interrupted

	stored int64       // sealed bytes of packs, this run's and adopted ones
	packs  []newPack   // the same packs, to be read back by Verify
	index  []newObject // this run's index objects, likewise
	sealed []byte      // scratch

	composed  []newPack         // by Compose
	rewritten []format.IndexRun // by RewriteIndex
}

// packsInFlight is how many finished packs of a kind may be on their way to
// the store while the next one grows: one is being made durable, one is being
// sent, one waits, so that the pipe is never idle.
const packsInFlight = 3

// NewWriter begins to write. It fails where this host may not write. What an
// interrupted backup left in the store is found and used; with tryAll, only
// after it was read and opened.
func (a *Archive) NewWriter(ctx context.Context, c format.Compression, tryAll bool) (*Writer, error) {
	branch, err := a.Branch()
	if err != nil {
		return nil, err
	}
	if a.conn.Info().ReadOnly {
		return nil, fmt.Errorf("write to %s: %w", a.dest, store.ErrReadOnly)
	}
	if doubt, err := a.InDoubt(); err != nil || doubt {
		return nil, errors.Join(err, fmt.Errorf("nothing is written to %s: %w", a.dest, ErrDoubt))
	}
	if a.tables != nil {
		return nil, a.tables
	}
	w, err := a.newWriter(c, branch)
	if err != nil {
		return nil, err
	}
	if err := w.adopt(ctx, tryAll); err != nil {
		return nil, err
	}
	return w, a.opts.State.MarkUnclean(a.keys.Archive, a.dest.String(), false)
}

// newWriter is a writer that has asked nobody whether it may write.
func (a *Archive) newWriter(c format.Compression, branch format.ObjectID) (*Writer, error) {
	sealer, err := blob.NewSealer(a.keys, c, format.MaxMetadata)
	if err != nil {
		return nil, err
	}
	w := &Writer{a: a, branch: branch, sealer: sealer, own: map[format.ObjectID]bool{}, adopted: map[format.ObjectID]bool{}}
	w.data = packStream{w: w, kind: format.PackData, size: pack.Capacity(a.ChunkSize())}
	w.meta = packStream{w: w, kind: format.PackMetadata, twins: true}
	return w, nil
}

// Known reports whether a blob is in the archive already, or in this run.
func (w *Writer) Known(ctx context.Context, id format.BlobID) (bool, error) {
	_, ok, err := w.a.index.Lookup(ctx, id)
	return ok, err
}

// AddSealed adds a sealed chunk that isn't known. sealed is copied.
func (w *Writer) AddSealed(ctx context.Context, id format.BlobID, sealed []byte) error {
	return w.data.add(ctx, format.BlobChunk, id, sealed)
}

// AddMetadata adds a metadata blob unless it is known, and returns its id and
// the sealed bytes that it cost.
func (w *Writer) AddMetadata(ctx context.Context, t format.BlobType, plain []byte) (id format.BlobID, stored int64, err error) {
	id = w.sealer.ID(t, format.SharedDomain, plain)
	known, err := w.Known(ctx, id)
	if err != nil || known {
		return id, 0, err
	}
	return w.addMetadata(ctx, t, id, plain)
}

// RenewMetadata is AddMetadata where what the archive has is in doubt: only a
// blob that this run stored is known. From the commit on, the new one is found.
func (w *Writer) RenewMetadata(ctx context.Context, t format.BlobType, plain []byte) (id format.BlobID, stored int64, err error) {
	id = w.sealer.ID(t, format.SharedDomain, plain)
	e, ok, err := w.a.index.Lookup(ctx, id)
	if err != nil || ok && w.own[e.Pack] {
		return id, 0, err
	}
	return w.addMetadata(ctx, t, id, plain)
}

func (w *Writer) addMetadata(ctx context.Context, t format.BlobType, id format.BlobID, plain []byte) (format.BlobID, int64, error) {
	w.sealed = w.sealer.Seal(w.sealed, t, format.SharedDomain, id, plain)
	return id, int64(len(w.sealed)), w.meta.add(ctx, t, id, w.sealed)
}

// flush sends what is left of the packs, data first, and waits until all of
// them are durable.
func (w *Writer) flush(ctx context.Context) error {
	if err := w.data.flush(ctx); err != nil {
		return err
	}
	return w.meta.flush(ctx)
}

// A packStream fills packs of one kind and sends them one after the other.
type packStream struct {
	w        *Writer
	kind     format.PackKind
	twins    bool // each is put a second time, as its twin
	size     int  // capacity of a buffer, bytes; 0: grow as needed
	builder  *pack.Builder
	inFlight []sentPack
	free     [][]byte // buffers of packs that are durable
	made     int      // buffers
}

// A sentPack is a pack on its way. Its buffer is free when it is durable.
type sentPack struct {
	name    string
	buf     []byte
	pending *store.Pending
	twin    *store.Pending // nil: it has none
}

// add puts a sealed blob into the open pack and sends the pack if it is full.
func (s *packStream) add(ctx context.Context, t format.BlobType, id format.BlobID, sealed []byte) error {
	if s.builder == nil {
		buf, err := s.buffer()
		if err != nil {
			return err
		}
		s.builder = pack.NewBuilder(s.w.a.keys, s.kind, s.w.a.root.Generation, buf)
		s.w.own[s.builder.ID()] = true
	}
	at := s.builder.Add(t, id, sealed)
	err := s.w.a.index.Add(index.Entry{ID: id, Type: t, Pack: at.Pack, Offset: at.Offset, Length: at.Length})
	if err != nil {
		return fmt.Errorf("index %s: %w", t, err)
	}
	if s.builder.Full() {
		return s.send(ctx)
	}
	return nil
}

// buffer returns a free buffer, waiting for the oldest pack in flight if there
// are as many as may be.
func (s *packStream) buffer() ([]byte, error) {
	if len(s.free) == 0 && s.made > packsInFlight {
		if err := s.settle(); err != nil {
			return nil, err
		}
	}
	if n := len(s.free); n > 0 {
		buf := s.free[n-1]
		s.free = s.free[:n-1]
		return buf, nil
	}
	s.made++
	return make([]byte, 0, s.size), nil
}

// send finishes the open pack and puts it.
func (s *packStream) send(ctx context.Context) error {
	w := s.w
	id := s.builder.ID()
	name, object := s.builder.Finish()
	w.a.index.SetPackLength(id, uint32(len(object)))
	w.stored += int64(len(object))
	w.packs = append(w.packs, newPack{id, int64(len(object)), s.twins})
	sent := sentPack{name: name, buf: object, pending: w.a.conn.Put(ctx, name, object)}
	if s.twins {
		twinName, twin := s.builder.Twin()
		w.stored += int64(len(twin))
		sent.twin = w.a.conn.Put(ctx, twinName, twin)
	}
	s.builder = nil
	s.inFlight = append(s.inFlight, sent)
	return nil
}

// settle waits until the oldest pack in flight is durable.
func (s *packStream) settle() error {
	p := s.inFlight[0]
	if err := p.pending.Wait(); err != nil {
		return fmt.Errorf("store %s: %w", p.name, err)
	}
	if p.twin != nil {
		if err := p.twin.Wait(); err != nil {
			return fmt.Errorf("store the twin of %s: %w", p.name, err)
		}
	}
	s.inFlight = s.inFlight[1:]
	s.free = append(s.free, p.buf)
	return nil
}

func (s *packStream) flush(ctx context.Context) error {
	if s.builder != nil {
		if err := s.send(ctx); err != nil {
			return err
		}
	}
	for len(s.inFlight) > 0 {
		if err := s.settle(); err != nil {
			return err
		}
	}
	return nil
}

// An indexSink puts index objects and lists of them, each and its twin.
type indexSink struct{ w *Writer }

// PutObject puts an index object.
func (s indexSink) PutObject(ctx context.Context, body []byte) (format.ObjectID, uint32, error) {
	return s.w.putIndex(ctx, format.KindIndex, body)
}

// PutList puts a list of index objects.
func (s indexSink) PutList(ctx context.Context, body []byte) (format.ObjectID, uint32, error) {
	return s.w.putIndex(ctx, format.KindIndexList, body)
}

// putIndex seals a body under a new id and once more under that of its twin, and
// puts both.
func (w *Writer) putIndex(ctx context.Context, kind format.Kind, body []byte) (format.ObjectID, uint32, error) {
	id := format.NewObjectID()
	size := 0
	var names []string
	var sent []*store.Pending
	for _, id := range []format.ObjectID{id, id.Twin()} {
		name := protocol.IndexName(id)
		object := w.a.keys.SealObject(kind, name, nil, body)
		if len(object) > format.MaxIndexObject {
			return id, 0, fmt.Errorf("store %s: %d bytes are too many for an index object", name, len(object))
		}
		names, sent = append(names, name), append(sent, w.a.conn.Put(ctx, name, object))
		w.index = append(w.index, newObject{name, sha256.Sum256(object)})
		size = len(object)
	}
	var failed error
	for i, p := range sent {
		if err := p.Wait(); err != nil && failed == nil {
			failed = fmt.Errorf("store %s: %w", names[i], err)
		}
	}
	return id, uint32(size), failed
}

// NewSealer makes a sealer of chunks; every worker needs its own.
func (a *Archive) NewSealer(c format.Compression) (*blob.Sealer, error) {
	return blob.NewSealer(a.keys, c, a.ChunkSize())
}
