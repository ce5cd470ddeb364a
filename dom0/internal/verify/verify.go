// Package verify finds out which bytes of which sessions can't be had.
//
// It owns the walk over many sessions that reads every shared blob once, and
// the checks of an archive's structure. It promises to report all damage, not
// the first, as ranges of volumes in sessions; what was met as damage once is
// reported, though it may read well a second time. Its memory is bounded but
// for some 40 bytes a distinct tree node, of which there is one for 32 chunks.
// It never writes to the store, but for a repair, which is asked for by name.
package verify

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/restore"
	"pinion/dom0/internal/tree"
)

// A Subject is a volume in a session that is to be verified.
type Subject struct {
	Name   string // of the volume
	Seq    uint64 // of the session
	Record format.BlobID
	Size   int64
}

// A Chunk is a chunk of a volume.
type Chunk struct {
	ID     format.BlobID
	Domain format.Domain // that the volume's record says
}

// Probe says which of the chunks can't be had: it calls bad for each, from any
// goroutine, and ends with the first error that bad returns.
type Probe func(ctx context.Context, chunks []Chunk, bad func(id format.BlobID, err error) error) error

// Options say how to verify.
type Options struct {
	Probe Probe
	Bad   func(id format.BlobID)          // gets each blob that can't be had, one at a time
	Begin func(phase string, total int64) // total: about how many plain bytes are probed
}

// probeBatch is how many distinct chunks are held at a time: their ids take 32
// bytes each, twice. An archive with more is gone through in as many passes
// over its trees as it takes, each for its own share of the ids.
const probeBatch = 1 << 18

// survey is one run.
type survey struct {
	a       *archive.Archive
	o       Options
	mu      sync.Mutex
	bad     map[format.BlobID]error // chunks and nodes that can't be had
	records map[format.BlobID]*format.VolumeRecord
}

// maxBad bounds the blobs that are remembered as bad. Beyond it the survey ends
// early and says so: that archive needs another tool than a list.
const maxBad = 1 << 20

// ErrTooMuch says that so much is damaged that not all of it is listed.
var ErrTooMuch = errors.New("too much is damaged to list it all")

// Run verifies the subjects and adds what is wrong to list. ErrTooMuch says that
// it gave up looking; what it found until then is in the list.
func Run(ctx context.Context, a *archive.Archive, subjects []Subject, list *damage.List, o Options) error {
	s := &survey{a: a, o: o, bad: map[format.BlobID]error{}, records: map[format.BlobID]*format.VolumeRecord{}}
	if err := s.readRecords(ctx, subjects); err != nil {
		return err
	}
	var entries uint64
	for _, ref := range a.Root().Index {
		entries += ref.Entries
	}
	shares := entries/probeBatch + 1
	var tooMuch error
	for share := uint64(0); share < shares && tooMuch == nil; share++ {
		err := s.pass(ctx, share, shares)
		if errors.Is(err, ErrTooMuch) {
			tooMuch = err
		} else if err != nil {
			return err
		}
	}
	if err := s.list(ctx, subjects, list); err != nil {
		return err
	}
	return tooMuch
}

// readRecords reads every distinct volume record.
func (s *survey) readRecords(ctx context.Context, subjects []Subject) error {
	var wants []archive.Want
	seen := map[format.BlobID]bool{}
	for _, x := range subjects {
		if !seen[x.Record] {
			seen[x.Record] = true
			wants = append(wants, archive.Want{Type: format.BlobVolumeRecord, ID: x.Record})
		}
	}
	return s.a.Fetch(ctx, wants, func(i int, plain []byte, err error) error {
		var r *format.VolumeRecord
		if err == nil {
			r, err = format.ParseVolumeRecord(plain)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			s.bad[wants[i].ID] = err
			s.o.Bad(wants[i].ID)
			return nil
		}
		s.records[wants[i].ID] = r
		return nil
	})
}

// pass walks all trees once, shared nodes once, and probes this share of the
// chunks.
func (s *survey) pass(ctx context.Context, share, shares uint64) error {
	nodes := map[[16]byte]bool{}
	chunks := map[format.BlobID]format.Domain{}
	w := s.a.Walker()
	w.Skip = func(it tree.Item) bool {
		short := [16]byte(it.ID[:16])
		seen := nodes[short]
		nodes[short] = true
		return seen
	}
	w.Damaged = func(it tree.Item, err error) error { return s.markBad(it.ID, err) }
	for _, r := range s.records {
		w.Entries = func(items []tree.Item) error {
			for _, it := range items {
				if shareOf(it.ID, shares) == share {
					chunks[it.ID] = r.Domain // an id is of one domain: two records that say otherwise are damage
				}
			}
			return nil
		}
		if err := s.a.WalkVolume(ctx, r, w); err != nil {
			return err
		}
	}
	list := make([]Chunk, 0, len(chunks))
	for id, domain := range chunks {
		list = append(list, Chunk{id, domain})
	}
	s.o.Begin("verifying", int64(len(list))*int64(s.a.ChunkSize()))
	return s.o.Probe(ctx, list, s.markBad)
}

// shareOf spreads ids, which are hashes, evenly.
func shareOf(id format.BlobID, shares uint64) uint64 {
	return (uint64(id[0])<<24 | uint64(id[1])<<16 | uint64(id[2])<<8 | uint64(id[3])) % shares
}

// markBad remembers a blob that can't be had.
func (s *survey) markBad(id format.BlobID, err error) error {
	var d *archive.DamageError
	if !errors.As(err, &d) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.bad) >= maxBad {
		return fmt.Errorf("%d blobs can't be had: %w", len(s.bad), ErrTooMuch)
	}
	s.bad[id] = err
	s.o.Bad(id)
	return nil
}

// list says what the bad blobs mean: it walks each tree that may hold one, and
// names the ranges for every subject.
func (s *survey) list(ctx context.Context, subjects []Subject, list *damage.List) error {
	if len(s.bad) == 0 {
		return nil
	}
	lists := map[format.BlobID]*damage.List{}
	for _, x := range subjects {
		r := s.records[x.Record]
		if r == nil {
			list.Add(damage.Range{Volume: x.Name, Session: x.Seq, Length: x.Size}, s.bad[x.Record])
			continue
		}
		one := lists[x.Record]
		if one == nil {
			var err error
			if one, err = s.rangesOf(ctx, r); err != nil {
				return err
			}
			lists[x.Record] = one
		}
		found, more := one.Ranges()
		list.AddMore(more)
		for _, f := range found {
			f.Volume, f.Session = x.Name, x.Seq
			list.AddRange(f)
		}
	}
	if list.Empty() {
		for id, err := range s.bad { // what was met as damage is never told as whole
			list.Add(damage.Range{}, fmt.Errorf("blob %s: %w", id, err))
		}
	}
	return nil
}

// rangesOf lists the ranges of one volume record that can't be had.
func (s *survey) rangesOf(ctx context.Context, r *format.VolumeRecord) (*damage.List, error) {
	one := &damage.List{}
	note := func(it tree.Item, err error) error {
		off, length := restore.Extent(it, r.Size, s.a.ChunkSize())
		one.Add(damage.Range{Offset: off, Length: length}, err)
		return nil
	}
	w := s.a.Walker()
	w.Damaged = note
	w.Skip = func(it tree.Item) bool {
		// A node that couldn't be read once is damage, though it can be now:
		// nothing below it was looked at.
		err := s.bad[it.ID]
		if err != nil {
			note(it, err)
		}
		return err != nil
	}
	w.Entries = func(items []tree.Item) error {
		for _, it := range items {
			if err := s.bad[it.ID]; err != nil {
				if err := note(it, err); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return one, s.a.WalkVolume(ctx, r, w)
}

// ReadAll is the Probe that reads every chunk and opens it.
func ReadAll(a *archive.Archive, progress func(int64)) Probe {
	return func(ctx context.Context, chunks []Chunk, bad func(format.BlobID, error) error) error {
		for len(chunks) > 0 {
			some := chunks[:min(len(chunks), readBatch)]
			chunks = chunks[len(some):]
			if err := readSome(ctx, a, some, bad, progress); err != nil {
				return err
			}
		}
		return nil
	}
}

// readBatch is how many chunks are sorted by their place at a time; each takes
// about 150 bytes meanwhile.
const readBatch = 1 << 16

func readSome(ctx context.Context, a *archive.Archive, chunks []Chunk, bad func(format.BlobID, error) error, progress func(int64)) error {
	wants := make([]archive.Want, len(chunks))
	for i, c := range chunks {
		wants[i] = archive.Want{Type: format.BlobChunk, ID: c.ID, Domain: c.Domain}
	}
	return a.Fetch(ctx, wants, func(i int, plain []byte, err error) error {
		if err != nil {
			return bad(chunks[i].ID, err)
		}
		progress(int64(a.ChunkSize()))
		return nil
	})
}
