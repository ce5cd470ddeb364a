package prune

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"slices"

	"pinion/dom0/internal/bigsort"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
)

// maxStrays bounds the packs that no index names of one prune: a store can list
// any number of them. What is left, the next one removes.
const maxStrays = 256 << 10

// blockBytes is what a file system gives back at the least.
const blockBytes = 4096

// A packState is what is known of a pack. A metadata pack and its twin are one,
// in two files: what happens to one happens to the other.
type packState struct {
	size  int64 // bytes of each of its files in the store; 0: there is none
	first bool  // the file that the index names is there
	twin  bool  // its twin is there
	live  int   // blobs that are needed
	dead  int   // places of others
	bytes int64 // of live blobs
	data  bool  // it has chunks
	held  bool  // this run wrote or adopted it: it is left as it is
	fate  fate

	gone int64 // bytes of it that are gone after this run, of all files
}

// files is how many files of it are there.
func (p *packState) files() int64 {
	n := int64(0)
	if p.first {
		n++
	}
	if p.twin {
		n++
	}
	return n
}

// whole reports whether all files of it are there.
func (p *packState) whole() bool { return p.first && (p.data || p.twin) }

// The fates of packs.
type fate uint8

const (
	stays fate = iota
	goes
	punched
	composed
)

// A place is a stretch of a pack that has a blob, or had one.
type place struct {
	at   format.Location
	kind format.BlobType
	id   format.BlobID
	live bool
}

const placeBytes = 16 + 4 + 4 + 1 + 32 + 1

var places = bigsort.Record[place]{
	Size: placeBytes,
	Put: func(b []byte, p place) {
		copy(b, p.at.Pack[:])
		binary.BigEndian.PutUint32(b[16:], p.at.Offset)
		binary.BigEndian.PutUint32(b[20:], p.at.Length)
		b[24] = byte(p.kind)
		copy(b[25:], p.id[:])
		b[57] = 0
		if p.live {
			b[57] = 1
		}
	},
	Get: func(b []byte) place {
		return place{
			at: format.Location{
				Pack: format.ObjectID(b[:16]), Offset: binary.BigEndian.Uint32(b[16:]), Length: binary.BigEndian.Uint32(b[20:]),
			},
			kind: format.BlobType(b[24]), id: format.BlobID(b[25:57]), live: b[57] == 1,
		}
	},
	Compare: func(a, b place) int {
		return cmp.Or(bytes.Compare(a.at.Pack[:], b.at.Pack[:]), cmp.Compare(a.at.Offset, b.at.Offset),
			cmp.Compare(a.at.Length, b.at.Length), bytes.Compare(a.id[:], b.id[:]))
	},
}

// eachPlace goes through the index beside the marks.
func (r *run) eachPlace(ctx context.Context, f func(p place) error) error {
	needed, err := r.needed()
	if err != nil {
		return err
	}
	return r.a.Places(ctx, func(e index.Entry, counts bool) error {
		live, err := needed(e)
		if err != nil {
			return err
		}
		return f(place{
			at:   format.Location{Pack: e.Pack, Offset: e.Offset, Length: e.Length},
			kind: e.Type, id: e.ID, live: live && counts,
		})
	})
}

// needed returns a function that says, for entries in ascending order of their
// ids, whether the blob is marked, or this run's own.
func (r *run) needed() (func(index.Entry) (bool, error), error) {
	sorted, err := r.marks.Reader()
	if err != nil {
		return nil, err
	}
	m, more, err := sorted.Next()
	return func(e index.Entry) (bool, error) {
		id := markOf(e.ID)
		for err == nil && more && marks.Compare(m, id) < 0 {
			m, more, err = sorted.Next()
		}
		return more && m == id || r.w != nil && r.w.Holds(e.Pack), err
	}, err
}

// count finds out of each pack how much of it is needed.
func (r *run) count(ctx context.Context) error {
	err := r.eachPlace(ctx, func(p place) error {
		s := r.packs[p.at.Pack]
		if s == nil {
			s = &packState{data: p.kind == format.BlobChunk}
			r.packs[p.at.Pack] = s
		}
		if p.live {
			s.live++
			s.bytes += int64(p.at.Length)
		} else {
			s.dead++
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.a.Packs(ctx, func(id format.ObjectID, size int64) error {
		s, twin := r.packs[id], false
		if s == nil {
			if s, twin = r.packs[id.Twin()], true; s == nil || s.data {
				return r.unnamed(ctx, id, size)
			}
		}
		if twin {
			s.twin = true
		} else {
			s.first = true
		}
		s.size = max(s.size, size) // one that was cut short is damaged
		if s.held = r.w != nil && r.w.Holds(id); s.held {
			r.res.Held += size
		}
		return nil
	})
}

// unnamed takes a pack that no entry names: it goes, unless it is what an
// interrupted backup left, which a run that isn't dry has adopted.
func (r *run) unnamed(ctx context.Context, id format.ObjectID, size int64) error {
	if r.w == nil {
		wanted, err := r.a.Adoptable(ctx, id, size)
		if err != nil {
			return err
		}
		if wanted {
			r.res.Held += size
			return nil
		}
	}
	if len(r.strays) == maxStrays {
		r.moreStrays = true
		return nil
	}
	// They come in order of their ids, and so does the first of a pair.
	if _, pair := slices.BinarySearchFunc(r.strays, id.Twin(), compareIDs); !pair {
		r.res.Deleted++
		r.strayPacks++
	}
	r.strays = append(r.strays, id)
	r.freed(onDisk(size))
	r.strayRoom += onDisk(size)
	return nil
}

func compareIDs(x, y format.ObjectID) int { return bytes.Compare(x[:], y[:]) }

// place sorts the places of all packs that may change.
func (r *run) place(ctx context.Context) error {
	small := r.smallPacks()
	return r.eachPlace(ctx, func(p place) error {
		if s := r.packs[p.at.Pack]; s.size > 0 && (s.dead > 0 || r.again || small[s.data] && s.isSmall()) {
			return r.places.Add(p)
		}
		return nil
	})
}

// blocks is how many bytes of whole blocks lie between two offsets.
func blocks(from, to int64) int64 {
	return max(0, to/blockBytes-(from+blockBytes-1)/blockBytes) * blockBytes
}

// onDisk is what a file of that size takes.
func onDisk(size int64) int64 { return (size + blockBytes - 1) / blockBytes * blockBytes }
