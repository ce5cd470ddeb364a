package reflink

import (
	"context"
	"encoding/binary"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

// A watchedReader calls back when a part has been settled.
type watchedReader struct {
	reader
	settled func(pos int64)
}

func (r watchedReader) settle(pos int64) {
	r.reader.settle(pos)
	r.settled(pos)
}

// TestItemsJoinedBetweenParts: where one part ends, two extents are made one
// before the next part is read. It begins before that part, so that a search
// from there doesn't find it; and yet it may not pass for a hole.
func TestItemsJoinedBetweenParts(t *testing.T) {
	im := newImage(t, testenv.Mount(t, "btrfs", 512*mib), 40*mib)
	text := random(1, 32<<20)
	for first := range int64(2) {
		for at := first * 4096; at < int64(len(text)); at += 8192 {
			if _, err := im.f.WriteAt(text[at:at+4096], at); err != nil {
				t.Fatal(err)
			}
		}
		im.sync()
	}
	hole := open(t, create(t, im.path+".hole", 40*mib))
	a, b, err := newReaders(im.f, hole, 40*mib)
	if err != nil {
		t.Fatal(err)
	}
	joined := 0
	watch := func(pos int64) {
		if pos >= 32*mib || joined > 1 {
			return
		}
		joined++
		start, end := pos-40*kib, pos+24*kib
		if _, err := im.f.WriteAt(text[start:end], start); err != nil {
			t.Fatal(err)
		}
		im.sync()
	}
	named := int64(0)
	d := differ{file: im.f, a: watchedReader{a, watch}, b: b, size: 40 * mib, yield: func(r source.Range) error {
		named += r.Len()
		return nil
	}}
	if err := d.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if named != 32*mib || joined != 2 {
		t.Errorf("%d bytes differ, want %d, with %d changes meanwhile", named, 32*mib, joined)
	}
}

// extentItem is a btrfs_file_extent_item.
func extentItem(kind, compression byte, address, length, offset, mapped uint64) []byte {
	item := make([]byte, extentLen)
	item[16], item[20] = compression, kind
	for i, v := range []uint64{address, length, offset, mapped} {
		binary.LittleEndian.PutUint64(item[inlineLen+8*i:], v)
	}
	return item
}

func TestDecodeExtent(t *testing.T) {
	inline := extentItem(extentInline, 1, 0, 0, 0, 0)
	binary.LittleEndian.PutUint64(inline[8:], 5000)
	for name, c := range map[string]struct {
		item []byte
		want piece
	}{
		"regular":       {extentItem(extentRegular, 0, 1<<30, 1<<20, 4096, 8192), piece{end: 8192, content: blocks, at: 1<<30 + 4096}},
		"hole":          {extentItem(extentRegular, 0, 0, 0, 0, 8192), piece{end: 8192}},
		"preallocated":  {extentItem(extentPrealloc, 0, 1<<30, 1<<20, 4096, 8192), piece{end: 8192}},
		"of a new type": {extentItem(3, 0, 1<<30, 1<<20, 4096, 8192), piece{end: 8192, content: unclear}},
		"inline":        {inline[:inlineLen], piece{end: 8192, content: unclear}},
		"compressed": {extentItem(extentRegular, 3, 1<<30, 4096, 8192, 4096),
			piece{end: 4096, content: blocks, at: 8192, enc: encoding{address: 1 << 30, length: 4096, how: 3}}},
	} {
		if got, err := decodeExtent(c.item); got != c.want || err != nil {
			t.Errorf("%s: %+v, want %+v (%v)", name, got, c.want, err)
		}
	}
	for name, item := range map[string][]byte{
		"short":     extentItem(extentRegular, 0, 1<<30, 1<<20, 0, 8192)[:extentLen-1],
		"empty":     extentItem(extentRegular, 0, 1<<30, 1<<20, 0, 0),
		"too large": extentItem(extentRegular, 0, 1<<30, 1<<20, 0, 1<<63),
	} {
		if p, err := decodeExtent(item); err == nil {
			t.Errorf("an item that is %s: %+v", name, p)
		}
	}
}
