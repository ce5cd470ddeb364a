package copying

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// Needed is the packs and index objects that a root needs, each ascending by id.
// The twin of one is needed as well, where there is one.
type Needed struct{ Packs, Index []format.ObjectID }

// find is where an object, not a twin, stands in its list.
func (n *Needed) find(object string) (list []format.ObjectID, at int, found bool) {
	id, ok := protocol.ParseID(object)
	if !ok {
		return nil, 0, false
	}
	list = n.Packs
	if strings.HasPrefix(object, protocol.PrefixIndex) {
		list = n.Index
	}
	at, found = findID(list, id)
	return list, at, found
}

func findID(list []format.ObjectID, id format.ObjectID) (int, bool) {
	return slices.BinarySearchFunc(list, id, func(x, y format.ObjectID) int { return bytes.Compare(x[:], y[:]) })
}

// has reports whether an object is needed, or is the twin of one that is.
func (n *Needed) has(object string) bool {
	list, _, found := n.find(object)
	if found || list == nil {
		return found
	}
	id, _ := protocol.ParseID(object)
	_, found = findID(list, format.ObjectID(id).Twin())
	return found
}

// A tally notes which of the objects that are needed the two stores list. A nil
// one notes nothing.
type tally struct {
	of           *Needed
	packs, index []uint8 // for each object: seenSource, seenCopy
}

const (
	seenSource = 1 << iota
	seenCopy
)

func newTally(n *Needed) *tally {
	return &tally{n, make([]uint8, len(n.Packs)), make([]uint8, len(n.Index))}
}

func (t *tally) see(p pair) {
	if t == nil {
		return
	}
	_, at, found := t.of.find(p.name)
	if !found {
		return
	}
	marks := t.packs
	if strings.HasPrefix(p.name, protocol.PrefixIndex) {
		marks = t.index
	}
	if p.inSource {
		marks[at] |= seenSource
	}
	if p.there {
		marks[at] |= seenCopy
	}
}

var errMissing = errors.New("is missing, and the newest root needs it")

// ErrMissingThere says of an object that the copy has what the archive lost.
var ErrMissingThere = errors.New("is missing, and the newest root needs it; the copy has it")

// sayMissing tells of the objects that the newest root needs and the source
// doesn't have.
func (p *plan) sayMissing(o Options) {
	if p.needed == nil {
		return
	}
	say := func(name string, marks uint8) {
		switch {
		case marks&seenSource != 0:
		case marks&seenCopy != 0:
			o.Failed(name, ErrMissingThere)
		default:
			o.Failed(name, errMissing)
		}
	}
	for i, m := range p.needed.packs {
		say(protocol.PackName(p.needed.of.Packs[i]), m)
	}
	for i, m := range p.needed.index {
		say(protocol.IndexName(p.needed.of.Index[i]), m)
	}
}
