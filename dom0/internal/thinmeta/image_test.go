package thinmeta

import (
	"bytes"
	"encoding/binary"
	"testing"
)

const (
	bitmapXor    = 240779
	indexXor     = 160478
	bitmapHeader = 16
	perBitmap    = (BlockSize - bitmapHeader) * 4 // counts of two bits
)

// An image is pool metadata that is being encoded: the trees of a maker, and
// all that the kernel and the tools want beside them.
type image struct {
	blocks [][]byte
	counts []uint32 // references to metadata blocks
}

var le = binary.LittleEndian

// image encodes the pool. If held, its metadata snapshot holds what is there,
// and the live trees are those that the snapshot has.
func (m *maker) image(t testing.TB, held bool) []byte {
	t.Helper()
	im := &image{blocks: make([][]byte, len(m.nodes)), counts: make([]uint32, len(m.nodes))}
	im.counts[0] = 1
	data := make([]uint32, m.nextData+1)
	var roots, details []entry
	for _, id := range m.ids() {
		d := m.devices[id]
		m.count(im, data, d.root)
		roots = append(roots, entry{id, le.AppendUint64(nil, d.root)})
		v := le.AppendUint64(nil, uint64(len(d.mapped)))
		v = le.AppendUint64(v, 7)
		v = le.AppendUint32(v, d.created)
		details = append(details, entry{id, le.AppendUint32(v, d.snapshotted)})
	}
	for b, n := range m.nodes {
		if im.counts[b] > 0 && n != nil {
			im.blocks[b] = n.encode(uint64(b), m.room)
		}
	}
	super := make([]byte, BlockSize)
	le.PutUint64(super[superMagicAt:], superMagic)
	le.PutUint32(super[superVersion:], 2)
	le.PutUint32(super[superTime:], m.time)
	le.PutUint64(super[superTransaction:], 7)
	mapping, detail := im.tree(roots, pointerSize), im.tree(details, detailsSize)
	le.PutUint64(super[superMappingRoot:], mapping)
	le.PutUint64(super[superDetailsRoot:], detail)
	le.PutUint32(super[superDataBlockSize:], m.blockSize)
	le.PutUint32(super[superMetaBlockSize:], BlockSize/512)
	if held {
		b := im.add(seal(bytes.Clone(super), uint64(len(im.blocks)), superCsumXor))
		im.counts[mapping]++
		im.counts[detail]++
		le.PutUint64(super[superHeldRoot:], b)
	}
	copy(super[64:], im.dataMap(data))
	copy(super[192:], im.metaMap())
	le.PutUint64(super[superMetaBlocks:], uint64(len(im.blocks)))
	im.blocks[0] = seal(super, 0, superCsumXor)
	return im.bytes()
}

// count counts references from the tree at b, to nodes and to data blocks. A
// node that was counted before counts what it refers to no more.
func (m *maker) count(im *image, data []uint32, b uint64) {
	if im.counts[b]++; im.counts[b] > 1 {
		return
	}
	for _, v := range m.nodes[b].vals {
		if m.nodes[b].leaf {
			data[dataBlock(v)]++
		} else {
			m.count(im, data, v)
		}
	}
}

func (n *made) encode(b uint64, room int) []byte {
	raw := nodeOf(n.leaf, pointerSize, room, len(n.keys))
	for i, key := range n.keys {
		le.PutUint64(raw[nodeHeader+8*i:], key)
		le.PutUint64(raw[nodeHeader+8*room+8*i:], n.vals[i])
	}
	return seal(raw, b, nodeCsumXor)
}

type entry struct {
	key   uint64
	value []byte
}

func encodeNode(b uint64, leaf bool, valueSize, room int, entries []entry) []byte {
	raw := nodeOf(leaf, valueSize, room, len(entries))
	for i, e := range entries {
		le.PutUint64(raw[nodeHeader+8*i:], e.key)
		copy(raw[nodeHeader+8*room+valueSize*i:], e.value)
	}
	return seal(raw, b, nodeCsumXor)
}

// nodeOf makes a node that has everything but its entries.
func nodeOf(leaf bool, valueSize, room, count int) []byte {
	raw := make([]byte, BlockSize)
	le.PutUint32(raw[nodeFlags:], innerFlag)
	if leaf {
		le.PutUint32(raw[nodeFlags:], leafFlag)
	}
	le.PutUint32(raw[nodeEntries:], uint32(count))
	le.PutUint32(raw[nodeMax:], uint32(room))
	le.PutUint32(raw[nodeValueSize:], uint32(valueSize))
	return raw
}

// seal puts the block's number and checksum where nodes, superblocks, indexes
// and bitmaps have them.
func seal(raw []byte, b uint64, xor uint32) []byte {
	le.PutUint64(raw[8:], b)
	le.PutUint32(raw, checksum(raw, xor))
	return raw
}

func (im *image) add(raw []byte) uint64 {
	im.blocks = append(im.blocks, raw)
	im.counts = append(im.counts, 1)
	return uint64(len(im.blocks) - 1)
}

// tree makes a tree of entries, its nodes about two thirds full, and returns
// its root.
func (im *image) tree(entries []entry, valueSize int) uint64 {
	leaf := true
	for {
		room := (BlockSize - nodeHeader) / (8 + valueSize) / 3 * 3
		nodes := max((len(entries)+room*2/3-1)/(room*2/3), 1)
		var above []entry
		for i := range nodes {
			part := entries[len(entries)*i/nodes : len(entries)*(i+1)/nodes]
			b := im.add(encodeNode(uint64(len(im.blocks)), leaf, valueSize, room, part))
			if nodes == 1 {
				return b
			}
			above = append(above, entry{part[0].key, le.AppendUint64(nil, b)})
		}
		leaf, valueSize, entries = false, pointerSize, above
	}
}

// overflow makes the tree of counts that two bits don't hold.
func (im *image) overflow(counts []uint32) uint64 {
	var entries []entry
	for i, n := range counts {
		if n > 2 {
			entries = append(entries, entry{uint64(i), le.AppendUint32(nil, n)})
		}
	}
	return im.tree(entries, 4)
}

// bitmap encodes up to perBitmap counts as block b, and returns its entry of
// the index.
func (im *image) bitmap(b uint64, counts []uint32) []byte {
	raw, free := make([]byte, BlockSize), uint32(0)
	for i, n := range counts {
		n = min(n, 3)
		if n == 0 {
			free++
		}
		raw[bitmapHeader+i/4] |= byte(n>>1|n&1<<1) << (i % 4 * 2)
	}
	im.blocks[b] = seal(raw, b, bitmapXor)
	return le.AppendUint32(le.AppendUint32(le.AppendUint64(nil, b), free), 0)
}

func mapRoot(counts []uint32, index, overflow uint64) []byte {
	used := uint64(0)
	for _, n := range counts {
		if n > 0 {
			used++
		}
	}
	root := le.AppendUint64(nil, uint64(len(counts)))
	root = le.AppendUint64(root, used)
	return le.AppendUint64(le.AppendUint64(root, index), overflow)
}

// dataMap makes the space map of data blocks and returns its root.
func (im *image) dataMap(counts []uint32) []byte {
	var index []entry
	for i := 0; i < len(counts); i += perBitmap {
		e := im.bitmap(im.add(nil), counts[i:min(i+perBitmap, len(counts))])
		index = append(index, entry{uint64(i / perBitmap), e})
	}
	return mapRoot(counts, im.tree(index, 16), im.overflow(counts))
}

// metaMap makes the space map of metadata blocks, its own and some free ones
// included, and returns its root.
func (im *image) metaMap() []byte {
	overflow := im.overflow(im.counts)
	index := make([]byte, BlockSize)
	at, first := im.add(index), uint64(len(im.blocks))
	for (len(im.blocks)-int(first))*perBitmap < len(im.blocks)+10 {
		im.add(nil)
	}
	bitmaps := len(im.blocks) - int(first)
	for range 10 {
		im.counts[im.add(nil)] = 0
	}
	for i := range bitmaps {
		part := im.counts[i*perBitmap : min((i+1)*perBitmap, len(im.counts))]
		copy(index[16+16*i:], im.bitmap(first+uint64(i), part))
	}
	seal(index, at, indexXor)
	return mapRoot(im.counts, at, overflow)
}

func (im *image) bytes() []byte {
	all := make([]byte, len(im.blocks)*BlockSize)
	for b, raw := range im.blocks {
		copy(all[b*BlockSize:], raw)
	}
	return all
}

// open reads an image; what it holds doesn't change.
func open(t testing.TB, raw []byte) *Metadata {
	t.Helper()
	m, err := Open(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}
