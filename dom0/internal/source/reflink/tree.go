package reflink

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"unsafe"
)

// Items of a file system tree of btrfs, and what they say (linux/btrfs_tree.h).
const (
	extentDataKey  = 108
	extentInline   = 0
	extentRegular  = 1
	extentPrealloc = 2

	itemHead  = 32 // struct btrfs_ioctl_search_header
	inlineLen = 21 // struct btrfs_file_extent_item up to the data, or the address
	extentLen = 53 // all of it
)

// treeWindow is how many bytes of items are asked for at once, a good 3,000
// of them: as for fiemapWindow. It holds any item whole, which are smaller
// than the largest tree block, 64 KiB.
const treeWindow = 256 << 10

// searchArgs is struct btrfs_ioctl_search_args_v2 with room for items.
type searchArgs struct {
	Tree                     uint64 // zero: the subvolume of the open file
	MinObject, MaxObject     uint64
	MinOffset, MaxOffset     uint64
	MinTransaction, MaxTrans uint64
	MinType, MaxType         uint32
	Items                    uint32 // how many at most; then how many there are
	_                        uint32
	_                        [4]uint64
	Room                     uint64
	Buf                      [treeWindow]byte
}

// A span is where one item begins and ends in the file.
type span struct{ start, end int64 }

// A treeReader reads a mapping from the tree of a btrfs subvolume, where
// extents that are compressed have what tells their parts apart. It needs
// CAP_SYS_ADMIN.
//
// A search only goes forward from a key, and an item's key is where it begins:
// one that begins before the offset that is looked for, and reaches over it,
// isn't found from there, and what it maps would look like a hole. So each
// search begins at an item that is known, the anchor, and that item has to be
// found again just as long: then nothing else can reach over what follows it.
type treeReader struct {
	f      *os.File
	inode  uint64
	size   int64
	anchor *span // nil: searches begin at the beginning of the file
	seen   []span
	args   searchArgs
}

func newTreeReader(f *os.File, size int64) (*treeReader, error) {
	st, err := stat(f)
	if err != nil {
		return nil, err
	}
	return &treeReader{f: f, inode: st.Ino, size: size}, nil
}

// search returns the next items, whole, with their heads, of extents that
// begin at or after offset. No bytes: there are none.
func (r *treeReader) search(offset int64) ([]byte, error) {
	a := &r.args
	a.Tree, a.MinObject, a.MaxObject = 0, r.inode, r.inode
	a.MinOffset, a.MaxOffset = uint64(offset), math.MaxUint64
	a.MinTransaction, a.MaxTrans = 0, math.MaxUint64
	a.MinType, a.MaxType = extentDataKey, extentDataKey
	a.Items, a.Room = math.MaxUint32, treeWindow
	if err := ioctl(r.f, ioctlBtrfsSearch, unsafe.Pointer(a)); err != nil {
		return nil, fmt.Errorf("search the extents of %s from offset %d: %w", r.f.Name(), offset, err)
	}
	n := 0
	for range a.Items {
		if n+itemHead > treeWindow {
			return nil, r.damaged(offset)
		}
		size := int(binary.NativeEndian.Uint32(a.Buf[n+28:]))
		if size > treeWindow-n-itemHead {
			return nil, r.damaged(offset)
		}
		n += itemHead + size
	}
	return a.Buf[:n], nil
}

// damaged is what is said of an answer that no kernel should give.
func (r *treeReader) damaged(offset int64) error {
	return fmt.Errorf("search the extents of %s: the kernel's answer for offset %d makes no sense", r.f.Name(), offset)
}

// next takes the first item off items.
func (r *treeReader) next(items []byte) (p piece, rest []byte, err error) {
	head, item := items[:itemHead], items[itemHead:]
	offset := binary.NativeEndian.Uint64(head[16:])
	size := binary.NativeEndian.Uint32(head[28:])
	item, rest = item[:size], item[size:]
	object, kind := binary.NativeEndian.Uint64(head[8:]), binary.NativeEndian.Uint32(head[24:])
	if object != r.inode || kind != extentDataKey || offset > math.MaxInt64 || size < inlineLen {
		return p, nil, r.damaged(int64(offset & math.MaxInt64))
	}
	p, err = decodeExtent(item)
	if err != nil || p.end > math.MaxInt64-int64(offset) {
		return p, nil, r.damaged(int64(offset))
	}
	p.start, p.end = p.start+int64(offset), p.end+int64(offset)
	return p, rest, nil
}

// decodeExtent says what a btrfs_file_extent_item maps. The piece begins at
// offset zero.
func decodeExtent(item []byte) (piece, error) {
	u64 := binary.LittleEndian.Uint64
	if item[20] == extentInline {
		// The content is in the tree, not at an address. The rest of its
		// block reads as zeros; no block is smaller than this.
		const block = 4096
		length := u64(item[8:])
		if length > 1<<20 {
			return piece{}, fmt.Errorf("an inline extent of %d bytes", length)
		}
		return piece{end: int64((length + block - 1) / block * block), content: unclear}, nil
	}
	if len(item) < extentLen {
		return piece{}, fmt.Errorf("an extent's item of %d bytes", len(item))
	}
	address, length, offset, mapped := u64(item[21:]), u64(item[29:]), u64(item[37:]), u64(item[45:])
	if mapped == 0 || mapped > math.MaxInt64 {
		return piece{}, fmt.Errorf("an extent of %d bytes", mapped)
	}
	p := piece{end: int64(mapped)}
	how := binary.LittleEndian.Uint32(item[16:]) // compression, encryption, other
	switch {
	case item[20] == extentPrealloc, item[20] == extentRegular && address == 0:
		p.content = zeros
	case item[20] != extentRegular:
		p.content = unclear
	case how == 0:
		p.content, p.at = blocks, address+offset
	default:
		p.content, p.at = blocks, offset
		p.enc = encoding{address: address, length: length, how: how}
	}
	return p, nil
}

func (r *treeReader) read(pos int64, into []piece) ([]piece, error) {
	pieces := into[:0]
	r.seen = r.seen[:0]
	from := int64(0)
	if r.anchor != nil {
		from = r.anchor.start
	}
	for {
		items, err := r.search(from)
		if err != nil {
			return nil, err
		}
		if len(items) == 0 {
			if r.anchor != nil && len(r.seen) == 0 {
				return nil, errMoved
			}
			return add(pieces, piece{start: r.size, end: r.size}, pos, r.size), nil
		}
		for len(items) > 0 {
			var p piece
			if p, items, err = r.next(items); err != nil {
				return nil, err
			}
			if err := r.see(p); err != nil {
				return nil, err
			}
			if p.end > pos {
				pieces = add(pieces, p, pos, r.size)
			}
		}
		// All that was answered lay before pos: that is the anchor and what
		// else was there, and there is more behind it.
		if end(pieces, pos) > pos {
			return pieces, nil
		}
		from = r.seen[len(r.seen)-1].start + 1
	}
}

// see takes down where an item is, and finds out whether those that were seen
// can be parts of one mapping.
func (r *treeReader) see(p piece) error {
	s := span{p.start, p.end}
	if n := len(r.seen); n > 0 {
		if s.start < r.seen[n-1].end {
			return errMoved
		}
	} else if r.anchor != nil && s != *r.anchor {
		return errMoved
	}
	r.seen = append(r.seen, s)
	return nil
}

func (r *treeReader) settle(pos int64) {
	for i := len(r.seen) - 1; i >= 0; i-- {
		if r.seen[i].start <= pos {
			anchor := r.seen[i]
			r.anchor = &anchor
			return
		}
	}
}

// find goes through the file from its beginning: how far before pos the item
// may begin that pos is in, only those who write btrfs know.
func (r *treeReader) find(pos int64) error {
	r.anchor = nil
	for from := int64(0); ; {
		items, err := r.search(from)
		if err != nil || len(items) == 0 {
			return err
		}
		for len(items) > 0 {
			var p piece
			if p, items, err = r.next(items); err != nil {
				return err
			}
			if p.start > pos {
				return nil
			}
			r.anchor = &span{p.start, p.end}
			from = p.start + 1
		}
	}
}
