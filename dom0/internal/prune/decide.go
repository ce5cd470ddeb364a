package prune

import (
	"context"
	"errors"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

const (
	// smallBytes: a pack with less that is needed is small. Every backup
	// leaves two, however little has changed.
	smallBytes = format.PackTarget / 8

	// fewSmall is how many small packs of a kind are left as they are.
	fewSmall = 16

	// wasted is which share of a pack may be of no use without the rest of it
	// being copied: one part in so many.
	wasted = 4
)

func (p *packState) isSmall() bool { return p.live > 0 && p.bytes < smallBytes }

// smallPacks says of each kind of pack, true being data, whether so many are
// small that they are put together.
func (r *run) smallPacks() map[bool]bool {
	n := map[bool]int{}
	for _, p := range r.packs {
		if p.isSmall() && p.whole() && !p.held {
			n[p.data]++
		}
	}
	can := r.canCompose()
	return map[bool]bool{true: can && n[true] > fewSmall, false: can && n[false] > fewSmall}
}

func (r *run) canCompose() bool {
	return r.a.Store().Info().CanCompose && !r.noCompose && !r.o.noCompose
}

func (r *run) canPunch() bool { return r.a.Store().Info().CanPunch && !r.o.noPunch }

// decide finds a fate for every pack, and what comes of it.
func (r *run) decide(ctx context.Context) error {
	for _, p := range r.packs {
		if p.live == 0 && p.size > 0 {
			p.fate, p.gone = goes, p.files()*p.size
		}
	}
	small := r.smallPacks()
	made := map[bool]*made{true: {files: 1}, false: {files: 2}}
	err := r.eachChange(ctx, func(c *change) error {
		p := c.state
		files := p.files()
		if p.fate == goes {
			p.gone -= files * c.before
			r.freed(files * (onDisk(p.size) - c.before))
			return nil
		}
		rest := c.dead
		if r.canPunch() {
			rest -= c.after
		}
		if r.canCompose() && p.whole() && !p.held && (rest > p.size/wasted || small[p.data] && p.isSmall()) {
			p.fate, p.gone = composed, files*(p.size-c.before)
			r.freed(files * (onDisk(p.size) - c.before))
			for _, at := range c.live {
				made[p.data].add(at.at.Length)
			}
			return nil
		}
		if r.canPunch() && (c.after > c.before || r.again && c.after > 0) {
			p.fate, p.gone = punched, files*(c.after-c.before)
			r.freed(p.gone)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range r.packs {
		switch {
		case p.fate == goes:
			r.res.Deleted++
		case p.fate == punched:
			r.res.Punched++
		case p.fate == composed:
			r.res.Composed++
		}
	}
	for _, m := range made {
		m.end()
		r.freed(-m.onDisk)
		r.res.Made += m.packs
	}
	return nil
}

func (r *run) freed(bytes int64) { r.res.Freed += bytes }

// made counts what composed packs will take, as pack.Composition makes them.
type made struct {
	files  int64 // of each
	packs  int
	onDisk int64
	blobs  int
	bytes  int64
}

func (m *made) add(length uint32) {
	m.blobs++
	m.bytes += int64(length)
	if format.HeaderSize+m.bytes >= format.PackTarget || m.blobs >= format.MaxPackBlobs {
		m.end()
	}
}

func (m *made) end() {
	if m.blobs > 0 {
		m.packs++
		m.onDisk += m.files * onDisk(format.HeaderSize+m.bytes+int64(format.SealedTOCSize(m.blobs))+format.TrailerSize)
	}
	m.blobs, m.bytes = 0, 0
}

// A change is what happens to the stretches of one pack.
type change struct {
	pack   format.ObjectID
	state  *packState
	live   []place          // in order of their offsets
	dead   int64            // bytes between header and the end of the last blob that nobody needs
	before int64            // bytes of whole blocks that nobody needed before
	after  int64            // and after this run
	punch  []protocol.Range // those, but for the ones that were so before
}

// eachChange goes through the packs whose places were sorted.
func (r *run) eachChange(ctx context.Context, f func(c *change) error) error {
	sorted, err := r.places.Reader()
	if err != nil {
		return err
	}
	var of []place
	end := func() error {
		if len(of) == 0 {
			return nil
		}
		c, err := r.changeOf(ctx, of)
		of = of[:0]
		if err != nil {
			return err
		}
		return f(c)
	}
	for {
		p, ok, err := sorted.Next()
		if err != nil {
			return err
		}
		if !ok {
			return end()
		}
		if len(of) > 0 && of[0].at.Pack != p.at.Pack {
			if err := end(); err != nil {
				return err
			}
		}
		of = append(of, p)
	}
}

// changeOf finds the gaps between the places of one pack.
//
// The table of contents behind the last blob is never touched. Where it begins
// is not known here: behind the last place, unless blobs were there that are
// long gone, whose room an earlier prune has freed.
func (r *run) changeOf(ctx context.Context, of []place) (*change, error) {
	id := of[0].at.Pack
	c := &change{pack: id, state: r.packs[id]}
	before, after := gaps{from: format.HeaderSize}, gaps{from: format.HeaderSize}
	for _, p := range of {
		before.over(p.at)
		if p.live {
			after.over(p.at)
			c.live = append(c.live, p)
			c.dead -= int64(p.at.Length)
		}
	}
	end := before.from
	if r.again && c.state.live > 0 && !c.whole() {
		there := id
		if !c.state.first {
			there = id.Twin()
		}
		to, err := r.a.BlobsEnd(ctx, there, c.state.size)
		var damage *archive.DamageError
		if err != nil && !errors.As(err, &damage) {
			return nil, err
		}
		end = max(end, to)
	}
	before.until(end)
	after.until(end)
	c.dead += end - format.HeaderSize
	c.before, c.after = before.whole, after.whole
	known := map[protocol.Range]bool{}
	for _, g := range before.ranges {
		known[g] = !r.again
	}
	for _, g := range after.ranges {
		if !known[g] {
			c.punch = append(c.punch, g)
		}
	}
	return c, nil
}

// whole reports whether the pack has nothing but blobs that are needed.
func (c *change) whole() bool {
	n := int64(format.HeaderSize + format.SealedTOCSize(len(c.live)) + format.TrailerSize)
	for _, p := range c.live {
		n += int64(p.at.Length)
	}
	return n == c.state.size
}

// gaps are the stretches between places.
type gaps struct {
	from   int64 // where the last place ended
	whole  int64 // bytes of whole blocks
	ranges []protocol.Range
}

func (g *gaps) over(at format.Location) {
	g.until(int64(at.Offset))
	g.from = max(g.from, int64(at.Offset)+int64(at.Length))
}

// until ends a gap.
func (g *gaps) until(end int64) {
	if n := blocks(g.from, end); n > 0 {
		g.whole += n
		first := (g.from + blockBytes - 1) / blockBytes * blockBytes
		g.ranges = append(g.ranges, protocol.Range{Off: uint64(first), Len: uint32(n)})
	}
}
