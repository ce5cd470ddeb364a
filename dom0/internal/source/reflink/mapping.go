package reflink

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"pinion/dom0/internal/source"
)

// A content says what a piece of a file reads as, as far as the mapping tells.
type content uint8

const (
	// zeros are holes and what is allocated but not written. They read alike,
	// so they are equal wherever they are.
	zeros content = iota
	// blocks are what lies at an address of the storage.
	blocks
	// unclear is everything that an address says too little about. It is
	// equal to nothing, not even to itself.
	unclear
)

// encoding is what an extent is that can't be read at any place by itself,
// but only by decoding all of it. Zero: not encoded.
type encoding struct {
	address, length uint64 // of the encoded bytes
	how             uint32 // compression and whatever else there is
}

// A piece is a run of bytes of a file, from offset start to before end, that
// is mapped in one way.
type piece struct {
	start, end int64
	content    content
	// at is the address of the byte at start or, within an encoding, its
	// offset in what the encoded bytes decode to.
	at  uint64
	enc encoding
}

// same says whether two pieces that hold the byte at offset pos read alike
// from there to where the first of them ends.
func same(a, b *piece, pos int64) bool {
	if a.content != b.content {
		return false
	}
	switch a.content {
	case zeros:
		return true
	case blocks:
		return a.enc == b.enc && a.at+uint64(pos-a.start) == b.at+uint64(pos-b.start)
	}
	return false
}

// add puts p behind pieces, clipped to what lies in pos to size: as a part of
// the last one if it goes on just so. What isn't mapped between them is
// zeros. So there is one way to write a mapping down, however the storage has
// cut it up.
func add(pieces []piece, p piece, pos, size int64) []piece {
	covered := pos
	if n := len(pieces); n > 0 {
		covered = pieces[n-1].end
	}
	if p.start < covered {
		p.at += uint64(covered - p.start)
		p.start = covered
	}
	p.end = min(p.end, size)
	if p.start > covered {
		pieces = join(pieces, piece{start: covered, end: min(p.start, size)})
	}
	return join(pieces, p)
}

// join puts p right behind pieces.
func join(pieces []piece, p piece) []piece {
	if p.start >= p.end {
		return pieces
	}
	if p.content != blocks {
		p.at, p.enc = 0, encoding{}
	}
	if n := len(pieces); n > 0 {
		last := &pieces[n-1]
		goesOn := p.content != blocks || p.at == last.at+uint64(p.start-last.start)
		if last.content == p.content && last.enc == p.enc && goesOn {
			last.end = p.end
			return pieces
		}
	}
	return append(pieces, p)
}

// end is where pieces that begin at pos end.
func end(pieces []piece, pos int64) int64 {
	if len(pieces) == 0 {
		return pos
	}
	return pieces[len(pieces)-1].end
}

// clip leaves of pieces what is before end.
func clip(pieces []piece, end int64) []piece {
	n, found := slices.BinarySearchFunc(pieces, end, func(p piece, end int64) int {
		switch {
		case p.end < end:
			return -1
		case p.end > end:
			return 1
		}
		return 0
	})
	if found {
		return pieces[:n+1]
	}
	if n == len(pieces) {
		return pieces
	}
	if pieces[n].start >= end {
		return pieces[:n]
	}
	pieces[n].end = end
	return pieces[:n+1]
}

// compare calls yield with the ranges in which two mappings of one range, cut
// up in any way, may differ.
func compare(a, b []piece, yield func(source.Range) error) error {
	for i, j := 0, 0; i < len(a) && j < len(b); {
		r := source.Range{Start: max(a[i].start, b[j].start), End: min(a[i].end, b[j].end)}
		if !same(&a[i], &b[j], r.Start) {
			if err := yield(r); err != nil {
				return err
			}
		}
		if a[i].end == r.End {
			i++
		}
		if b[j].end == r.End {
			j++
		}
	}
	return nil
}

// errMoved says that a mapping was changed while it was read. Only moving
// blocks about changes that of a snapshot.
var errMoved = errors.New("the file system is moving its blocks (balance or defragmentation may be running)")

// A reader reads the mapping of a file, of a bounded part at a time.
type reader interface {
	// read returns, in the memory of into, pieces without gaps from pos to
	// some place behind it, the end of the file at most.
	read(pos int64, into []piece) ([]piece, error)
	// settle says that what read returned last is right up to pos, where the
	// next read will begin.
	settle(pos int64)
	// find is called after errMoved: it looks anew for what pos is in.
	find(pos int64) error
}

// newReaders returns readers of the first size bytes of two files, of one
// kind for both: the addresses have to mean the same.
func newReaders(a, b *os.File, size int64) (reader, reader, error) {
	if one, err := oneDevice(a, b); err != nil {
		return nil, nil, err
	} else if !one {
		return nil, nil, fmt.Errorf("%s and %s are on two devices", a.Name(), b.Name())
	}
	btrfs, err := isBtrfs(a)
	if err != nil {
		return nil, nil, err
	}
	if !btrfs {
		return newFiemapReader(a, size), newFiemapReader(b, size), nil
	}
	ra, err := newTreeReader(a, size)
	if err != nil {
		return nil, nil, err
	}
	rb, err := newTreeReader(b, size)
	if err != nil {
		return nil, nil, err
	}
	if _, err := ra.search(0); notAllowed(err) {
		// Searching is root's. Mappings are told to everybody, but say less.
		return newFiemapReader(a, size), newFiemapReader(b, size), nil
	}
	return ra, rb, nil
}

// oneDevice says whether addresses mean the same for two files of one pool.
// Two copies of one XFS have one UUID, and may be mounted at once; btrfs is
// never, and its subvolumes all look like devices of their own.
func oneDevice(a, b *os.File) (bool, error) {
	btrfs, err := isBtrfs(a)
	if err != nil || btrfs {
		return btrfs, err
	}
	as, err := stat(a)
	if err != nil {
		return false, err
	}
	bs, err := stat(b)
	if err != nil {
		return false, err
	}
	return as.Dev == bs.Dev, nil
}
