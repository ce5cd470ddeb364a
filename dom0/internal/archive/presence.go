package archive

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"pinion/dom0/internal/state"
	"pinion/protocol"
)

// What the index names may be gone from the store, and a backup that finds a chunk in
// the index doesn't send it. So whoever commits a session looks afterwards whether
// everything that the root needs is there, with its size. The store says of each
// directory what it holds in a few bytes; listed are those where that is neither what
// the index says nor what was listed already. A store that lies in that could lie in a
// listing as well: what an object holds is proven when it is read, and not before.
//
// A store may say from its memory what a directory holds, and not have noticed that an
// object was cut. So everything is listed if that wasn't done for a day.

// listedEvery is how old the last listing of everything may be.
const listedEvery = 24 * time.Hour

// A Presence says whether the store has what the root needs.
type Presence struct {
	Missing int       // objects that aren't there, or have another size
	First   string    // one of them, and what is wrong with it
	Listed  time.Time // when everything was listed last; zero: never
	Dirs    int       // directories that were listed now, of protocol.InventoryRows
}

// Presence looks whether the store has all packs and index objects that the root
// needs. The index has to be loaded.
func (a *Archive) Presence(ctx context.Context) (*Presence, error) {
	known, err := a.opts.State.Listed(a.keys.Archive, a.dest.String())
	if err != nil {
		return nil, err
	}
	needed, err := a.neededRows(ctx)
	if err != nil {
		return nil, err
	}
	p := &Presence{Listed: known.At}
	look := func(i int, list []object) error {
		p.Dirs++
		delete(known.Rows, i)
		if !p.compare(i, needed[i], list) {
			return nil
		}
		if held, want := rowOf(list), rowOf(needed[i]); held != want {
			known.Rows[i] = rowsHash(held, want)
		}
		return nil
	}
	if age := a.opts.Now().Sub(known.At); age < 0 || age >= listedEvery {
		p.Listed = a.opts.Now()
		known = &state.Listed{At: p.Listed, Rows: map[int][32]byte{}}
		err = a.eachObject(ctx, look)
	} else {
		err = a.eachChanged(ctx, known, needed, look)
	}
	if err != nil {
		return nil, err
	}
	return p, a.opts.State.SetListed(a.keys.Archive, a.dest.String(), known)
}

// eachChanged lists the directories that hold neither what is needed nor what they held
// when they were listed last and the same was needed. Where the store can't say what
// they hold, that is none.
func (a *Archive) eachChanged(ctx context.Context, known *state.Listed, needed *[protocol.InventoryRows][]object, fn func(int, []object) error) error {
	inv, err := a.inventory(ctx)
	if err != nil || inv == nil {
		return err
	}
	var rows []int
	for i := range needed {
		want := rowOf(needed[i])
		if inv.Rows[i] != want && known.Rows[i] != rowsHash(inv.Rows[i], want) {
			rows = append(rows, i)
		}
	}
	return a.eachDir(ctx, rows, fn)
}

// compare enters what a directory lacks of what it should have, both in order, and
// reports whether that is nothing.
func (p *Presence) compare(row int, needed, there []object) bool {
	before := p.Missing
	for _, o := range needed {
		at, found := slices.BinarySearchFunc(there, o, compareObjectIDs)
		if found && there[at].size == o.size {
			continue
		}
		if p.Missing++; p.First != "" {
			continue
		}
		name := protocol.PackName(o.id)
		if row == protocol.InventoryRows-1 {
			name = protocol.IndexName(o.id)
		}
		p.First = name + " is missing"
		if found {
			p.First = fmt.Sprintf("%s has %d bytes, and %d are needed", name, there[at].size, o.size)
		}
	}
	return p.Missing == before
}

// rowsHash stands for what a directory held when something else was needed of it.
func rowsHash(held, needed protocol.InventoryRow) [32]byte {
	var b []byte
	for _, r := range []protocol.InventoryRow{held, needed} {
		b = binary.BigEndian.AppendUint32(b, r.Objects)
		b = binary.BigEndian.AppendUint64(b, r.Bytes)
		b = append(b, r.Digest[:]...)
	}
	return sha256.Sum256(b)
}

// listedAll remembers that everything was listed by a command that says itself what is
// missing.
func (a *Archive) listedAll() error {
	if a.rootless != nil {
		return nil // of an archive without a root nothing is remembered
	}
	known, err := a.opts.State.Listed(a.keys.Archive, a.dest.String())
	if err != nil {
		return err
	}
	known.At = a.opts.Now()
	return a.opts.State.SetListed(a.keys.Archive, a.dest.String(), known)
}
