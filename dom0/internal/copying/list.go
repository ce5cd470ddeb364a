package copying

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// maxSections is how many directories that differ are listed one by one: with
// more, listing all packs at once is the shorter way.
const maxSections = 32

// largest is the most bytes that an object has in an archive.
func largest(prefix string) uint64 {
	if prefix == protocol.PrefixIndex {
		return format.MaxIndexObject
	}
	return format.MaxPack
}

// A cursor goes through what a store lists under a prefix, a page at a time.
type cursor struct {
	conn   *store.Conn
	prefix string
	most   int // entries; more are a store that lists for ever

	page  []protocol.Entry
	after string
	more  bool
	begun bool
	seen  int
}

// next returns the next entry, or nil after the last one.
func (c *cursor) next(ctx context.Context) (*protocol.Entry, error) {
	for len(c.page) == 0 {
		if c.begun && !c.more {
			return nil, nil
		}
		var err error
		if c.page, c.more, err = c.conn.List(ctx, c.prefix, c.after, protocol.MaxListed); err != nil {
			return nil, err
		}
		c.begun = true
		if c.seen += len(c.page); c.seen > c.most {
			return nil, fmt.Errorf("list %s: the store lists more than %d: %w", c.prefix, c.most, store.ErrProtocol)
		}
		if n := len(c.page); n > 0 {
			c.after = c.page[n-1].Name
		}
	}
	e := &c.page[0]
	c.page = c.page[1:]
	return e, nil
}

// A pair is an object that one store has, or both.
type pair struct {
	name      string
	inSource  bool
	there     bool   // in the destination
	size      uint64 // in the source, bytes
	sizeThere uint64
}

// A sourceError is a failed listing of the source's.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return fmt.Sprintf("the archive: %v", e.err) }
func (e *sourceError) Unwrap() error { return e.err }

// isUnlisted reports whether the source can't list a directory, and may list
// others.
func isUnlisted(err error) bool {
	var s *sourceError
	return errors.As(err, &s) && (errors.Is(err, store.ErrUnreadable) || errors.Is(err, store.ErrNotAFile))
}

// each calls visit for what is under a prefix in either store, in the order of
// the names.
func each(ctx context.Context, src, dst *store.Conn, prefix string, visit func(pair) error) error {
	from := cursor{conn: src, prefix: prefix, most: format.MaxPacks}
	to := cursor{conn: dst, prefix: prefix, most: format.MaxPacks}
	a, err := from.next(ctx)
	if err != nil {
		return &sourceError{err}
	}
	b, err := to.next(ctx)
	if err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	for a != nil || b != nil {
		p := pair{}
		if a != nil && (b == nil || a.Name <= b.Name) {
			p.name, p.inSource, p.size = a.Name, true, a.Size
		}
		if b != nil && (a == nil || b.Name <= a.Name) {
			p.name, p.there, p.sizeThere = b.Name, true, b.Size
		}
		if err := visit(p); err != nil {
			return err
		}
		if p.inSource {
			if a, err = from.next(ctx); err != nil {
				return &sourceError{err}
			}
		}
		if p.there {
			if b, err = to.next(ctx); err != nil {
				return fmt.Errorf("the copy: %w", err)
			}
		}
	}
	return nil
}

// A section is what there is to do under one prefix.
type section struct {
	prefix  string
	objects int64 // in the source
	common  int64 // in both
	extra   int64 // in the destination alone
	spare   int64 // bytes of those
	missing int64 // in the source alone
	bytes   int64 // of those that can be copied
	there   int64 // bytes in the destination
}

// A plan is what there is to do.
type plan struct {
	sections   []section // what differs, in the order in which it is sent
	objects    int64
	common     int64
	extra      int64
	spare      int64
	missing    int64
	bytes      int64
	bytesThere int64 // that the destination has
	needed     *tally
}

func (p *plan) add(s section) error {
	if s.bytes > math.MaxInt64-p.bytes || s.there > math.MaxInt64/2-p.bytesThere {
		return errSizes
	}
	p.objects += s.objects
	p.common += s.common
	p.extra += s.extra
	p.spare += s.spare
	p.missing += s.missing
	p.bytes += s.bytes
	p.bytesThere += s.there
	if s.missing+s.extra > 0 {
		p.sections = append(p.sections, s)
	}
	return nil
}

var errSizes = fmt.Errorf("the sizes that the store lists make no sense: %w", store.ErrProtocol)

// plan compares the two stores. What the source can't list is told, and left out.
func (s *Source) plan(ctx context.Context, dst *store.Conn, o Options) (*plan, error) {
	p := &plan{}
	prefixes := []string{protocol.PrefixPacks, protocol.PrefixIndex}
	if o.Key != nil && o.Key.Needed != nil {
		p.needed = newTally(o.Key.Needed)
	} else {
		var err error
		if prefixes, err = s.differing(ctx, dst, p); err != nil {
			return nil, err
		}
	}
	for len(prefixes) > 0 {
		prefix := prefixes[0]
		prefixes = prefixes[1:]
		found := section{prefix: prefix}
		var differ []pair
		err := each(ctx, s.conn, dst, prefix, func(o pair) error {
			p.needed.see(o)
			return found.enter(o, dst, &differ)
		})
		switch {
		case isUnlisted(err) && prefix == protocol.PrefixPacks:
			prefixes = append(packPrefixes(), prefixes...) // those of them that can be listed
			continue
		case isUnlisted(err):
			o.Failed(prefix, errors.Unwrap(err))
			p.needed = nil // what is in there isn't missing
			continue
		case err != nil:
			return nil, err
		}
		for _, d := range differ {
			o.Failed(d.name, fmt.Errorf("has %d bytes in the archive and %d in the copy, which is kept", d.size, d.sizeThere))
		}
		if err := p.add(found); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// packPrefixes are the directories of packs.
func packPrefixes() []string {
	list := make([]string, 256)
	for i := range list {
		list[i] = protocol.PackPrefix(byte(i))
	}
	return list
}

// differing are the prefixes under which the two stores differ, as far as that is
// known without listing them. What is the same is entered in p.
func (s *Source) differing(ctx context.Context, dst *store.Conn, p *plan) ([]string, error) {
	all := []string{protocol.PrefixPacks, protocol.PrefixIndex}
	if !s.conn.Info().CanInventory || !dst.Info().CanInventory {
		return all, nil
	}
	from, err := s.conn.Inventory(ctx)
	if err != nil {
		return all, notTheConnections(err)
	}
	to, err := dst.Inventory(ctx)
	if err != nil {
		return all, notTheConnections(err)
	}
	if from.Age != 0 || to.Age != 0 {
		return all, nil // what was put there since isn't in it
	}
	same, prefixes := plan{}, []string{}
	for i := range from.Rows {
		row := from.Rows[i]
		if row != to.Rows[i] {
			prefixes = append(prefixes, protocol.InventoryPrefix(i))
			continue
		}
		if row.Bytes > math.MaxInt64/2 {
			return nil, errSizes
		}
		n := int64(row.Objects)
		if err := same.add(section{objects: n, common: n, there: int64(row.Bytes)}); err != nil {
			return nil, err
		}
	}
	if len(prefixes) > maxSections {
		return all, nil
	}
	*p = same
	return prefixes, nil
}

// notTheConnections is nil for an answer after which the store can be asked for
// other things.
func notTheConnections(err error) error {
	var answer *store.Error
	if errors.As(err, &answer) {
		return nil
	}
	return err
}

// maxDiffering bounds the objects of a section that are named as not the same in
// both stores.
const maxDiffering = 1000

func (s *section) enter(o pair, dst *store.Conn, differ *[]pair) error {
	if o.there {
		if o.sizeThere > uint64(math.MaxInt64/2-s.there) {
			return errSizes
		}
		s.there += int64(o.sizeThere)
	}
	if !o.inSource {
		s.extra++
		s.spare += int64(o.sizeThere) // no more than there
		return nil
	}
	s.objects++
	if o.there {
		s.common++
		if o.size != o.sizeThere && len(*differ) < maxDiffering {
			*differ = append(*differ, o)
		}
		return nil
	}
	s.missing++
	if o.unfit(dst) != nil {
		return nil // said when its turn comes
	}
	if int64(o.size) > math.MaxInt64-s.bytes {
		return errSizes
	}
	s.bytes += int64(o.size)
	return nil
}

// unfit is why an object can't be copied: it can be no archive's, or is none that
// the destination takes.
func (o pair) unfit(dst *store.Conn) error {
	prefix := protocol.PrefixPacks
	if strings.HasPrefix(o.name, protocol.PrefixIndex) {
		prefix = protocol.PrefixIndex
	}
	if most := largest(prefix); o.size == 0 || o.size > most {
		return fmt.Errorf("has %d bytes, where 1 to %d can be", o.size, most)
	}
	if most := dst.Info().MaxObject; o.size > uint64(most) {
		return fmt.Errorf("has %d bytes, and the destination takes %d", o.size, most)
	}
	return nil
}
