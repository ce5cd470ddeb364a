package copying

import (
	"context"
	"fmt"
	"math"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// prefixes are what a copy is made of, in the order in which it is sent.
var prefixes = []string{protocol.PrefixKeys, protocol.PrefixPacks, protocol.PrefixIndex}

// maxListed bounds the objects under a prefix that a store may list: a store
// that goes on for ever is told from a large one. Of key slots, a copy may have
// as many that were removed from the source as that has.
func maxListed(prefix string) int {
	if prefix == protocol.PrefixKeys {
		return 2 * maxSlots
	}
	return format.MaxPacks
}

// largest is the most bytes that an object has in an archive.
func largest(prefix string) uint64 {
	switch prefix {
	case protocol.PrefixKeys:
		return format.MaxKeySlot
	case protocol.PrefixIndex:
		return format.MaxIndexObject
	}
	return format.MaxPack
}

// A cursor goes through what a store lists under a prefix, a page at a time.
type cursor struct {
	conn   *store.Conn
	prefix string
	most   int // entries

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
		c.seen += len(c.page)
		if c.seen > c.most && c.prefix == protocol.PrefixKeys {
			return nil, ErrTooManySlots
		}
		if c.seen > c.most {
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
	prefix    string
}

// each calls visit for what is under a prefix in either store, in the order of
// the names.
func each(ctx context.Context, src, dst *store.Conn, prefix string, visit func(pair) error) error {
	from := cursor{conn: src, prefix: prefix, most: maxListed(prefix)}
	to := cursor{conn: dst, prefix: prefix, most: maxListed(prefix)}
	a, err := from.next(ctx)
	if err != nil {
		return fmt.Errorf("the archive: %w", err)
	}
	b, err := to.next(ctx)
	if err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	for a != nil || b != nil {
		p := pair{prefix: prefix}
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
				return fmt.Errorf("the archive: %w", err)
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

// A plan is what there is to do.
type plan struct {
	objects int64            // in the source
	common  int64            // in both
	extra   int64            // in the destination alone
	missing int64            // in the source alone
	bytes   int64            // of those that can be copied
	slots   int              // key slots that there will be in the destination
	under   map[string]int64 // missing, by prefix
}

// plan compares the two stores. Nothing was sent yet when something is odd.
func (s *Source) plan(ctx context.Context, dst *store.Conn) (*plan, error) {
	p := &plan{under: map[string]int64{}}
	for _, prefix := range prefixes {
		err := each(ctx, s.conn, dst, prefix, func(o pair) error { return p.enter(o, dst) })
		if err != nil {
			return nil, err
		}
		if prefix != protocol.PrefixKeys {
			continue
		}
		switch {
		case p.objects == 0:
			return nil, &archive.DamageError{Object: "keys", Reason: fmt.Errorf("no key slot is there")}
		case p.objects > maxSlots:
			return nil, fmt.Errorf("the archive: %w", ErrTooManySlots)
		}
		p.slots = int(p.objects + p.extra)
	}
	return p, nil
}

func (p *plan) enter(o pair, dst *store.Conn) error {
	if !o.inSource {
		p.extra++
		return nil
	}
	p.objects++
	if o.there {
		p.common++
		if o.size != o.sizeThere {
			return fmt.Errorf("%s of %d bytes %w: %d", o.name, o.size, ErrDiffers, o.sizeThere)
		}
		return nil
	}
	p.missing++
	p.under[o.prefix]++
	if o.unfit() != nil {
		return nil // said when its turn comes
	}
	if most := dst.Info().MaxObject; o.size > uint64(most) {
		return fmt.Errorf("%s has %d bytes, and the destination takes %d: %w", o.name, o.size, most, store.ErrTooLarge)
	}
	if int64(o.size) > math.MaxInt64-p.bytes {
		return fmt.Errorf("the sizes that the store lists make no sense: %w", store.ErrProtocol)
	}
	p.bytes += int64(o.size)
	return nil
}

// unfit is why an object can't be one of an archive's.
func (o pair) unfit() error {
	if most := largest(o.prefix); o.size == 0 || o.size > most {
		return fmt.Errorf("has %d bytes, where 1 to %d can be", o.size, most)
	}
	return nil
}
