package index

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sort"

	"pinion/dom0/internal/format"
	"pinion/protocol/wire"
)

// ErrCacheDamaged says that a page file is not what was written: it is cut
// off, a checksum differs, or it can't be read. A Table fetches the object
// again by itself; callers see the error only where that can't help: for the
// additions of this run, or when the cache keeps going bad.
var ErrCacheDamaged = errors.New("the index cache is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrCacheDamaged, fmt.Errorf(format, args...))
}

const (
	pageMagic   = "PINPAGE"
	pageVersion = 3
)

// A page is the unit in which page files are read and checked.
type page = [pageBytes]byte

// pageSum computes the checksums of one file's pages.
type pageSum struct {
	table *crc32.Table
	seed  uint32
}

func newPageSum(archive format.ArchiveID, object format.ObjectID) pageSum {
	s := pageSum{table: crc32.MakeTable(crc32.Castagnoli)}
	s.seed = crc32.Update(crc32.Checksum(archive[:], s.table), s.table, object[:])
	return s
}

func (s pageSum) of(number uint32, p *page) uint32 {
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], number)
	return crc32.Update(crc32.Update(s.seed, s.table, n[:]), s.table, p[:pageBody])
}

// pageHead is what the header page says.
type pageHead struct {
	level       uint8
	entries     uint32
	packs       uint32
	first, last format.BlobID
}

func ceilDiv(n, by uint64) uint64 { return (n + by - 1) / by }

// pages gives how many pages of each kind follow the header page.
func (h *pageHead) pages() (entry, fence, pack uint64) {
	entry = ceilDiv(uint64(h.entries), pageEntries)
	return entry, ceilDiv(entry, pageFences), ceilDiv(uint64(h.packs), pagePacks)
}

// A pageWriter writes a page file: newPageWriter, add for each entry, finish.
// It keeps 8 bytes in memory for each 67 entries.
type pageWriter struct {
	file    *os.File
	w       *bufio.Writer
	sum     pageSum
	archive format.ArchiveID
	object  format.ObjectID
	head    pageHead
	fences  []uint64
	number  uint32 // of the page being filled
	fill    int    // bytes of it
	page    page
}

// newPageWriter writes to file, which is empty and stays the caller's.
func newPageWriter(file *os.File, archive format.ArchiveID, object format.ObjectID, level uint8) (*pageWriter, error) {
	w := &pageWriter{
		file: file, w: bufio.NewWriterSize(file, 16*pageBytes), sum: newPageSum(archive, object),
		archive: archive, object: object, head: pageHead{level: level}, number: 1,
	}
	_, err := w.w.Write(w.page[:]) // the header's place, filled by finish
	return w, err
}

// add takes an entry above all earlier ones.
func (w *pageWriter) add(e *record) error {
	if w.head.entries == maxPageEntries {
		return errors.New("more entries than a page file may have")
	}
	if w.head.entries == 0 {
		w.head.first = e.ID
	}
	if w.fill == 0 {
		w.fences = append(w.fences, prefix(&e.ID))
	}
	w.head.last = e.ID
	w.head.entries++
	putPageEntry(w.page[w.fill:], e)
	w.fill += pageEntryBytes
	if w.fill+pageEntryBytes > pageBody {
		return w.endPage()
	}
	return nil
}

// endPage writes the page being filled, if anything is in it.
func (w *pageWriter) endPage() error {
	if w.fill == 0 {
		return nil
	}
	binary.BigEndian.PutUint32(w.page[pageBody:], w.sum.of(w.number, &w.page))
	_, err := w.w.Write(w.page[:])
	w.page = page{}
	w.fill = 0
	w.number++
	return err
}

// finish adds fences, packs (packBytes each, as pagePackList has them) and header. The file is then
// complete, but not durable: a cache that a power cut damaged is noticed when
// it is read.
func (w *pageWriter) finish(packs []byte) error {
	if err := w.endPage(); err != nil {
		return err
	}
	for _, f := range w.fences {
		binary.BigEndian.PutUint64(w.page[w.fill:], f)
		if w.fill += fenceBytes; w.fill+fenceBytes > pageBody {
			if err := w.endPage(); err != nil {
				return err
			}
		}
	}
	if err := w.endPage(); err != nil {
		return err
	}
	w.head.packs = uint32(len(packs) / packBytes)
	for len(packs) > 0 {
		w.fill = copy(w.page[:pagePacks*packBytes], packs)
		packs = packs[w.fill:]
		if err := w.endPage(); err != nil {
			return err
		}
	}
	if err := w.w.Flush(); err != nil {
		return err
	}
	h := append(w.page[:0], pageMagic...)
	h = append(h, pageVersion)
	h = append(h, w.archive[:]...)
	h = append(h, w.object[:]...)
	h = append(h, w.head.level)
	h = binary.BigEndian.AppendUint32(h, w.head.entries)
	h = binary.BigEndian.AppendUint32(h, w.head.packs)
	h = append(h, w.head.first[:]...)
	copy(w.page[len(h):], w.head.last[:])
	binary.BigEndian.PutUint32(w.page[pageBody:], w.sum.of(0, &w.page))
	_, err := w.file.WriteAt(w.page[:], 0)
	return err
}

// A pageFile is an open page file. It may be read by many goroutines.
type pageFile struct {
	file   io.ReaderAt
	close  func() error
	sum    pageSum
	head   pageHead
	fences []uint64 // one for each entry page
}

// openPageFile checks file's size and header and reads its fences. All errors
// are ErrCacheDamaged. On success the file belongs to the pageFile.
func openPageFile(file *os.File, archive format.ArchiveID, object format.ObjectID) (*pageFile, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, damaged("%w", err)
	}
	return newPageFile(file, info.Size(), file.Close, archive, object)
}

// newPageFile is openPageFile for size bytes of anything.
func newPageFile(file io.ReaderAt, size int64, closeFile func() error, archive format.ArchiveID, object format.ObjectID) (*pageFile, error) {
	p := &pageFile{file: file, close: closeFile, sum: newPageSum(archive, object)}
	var buf page
	if err := p.read(0, &buf); err != nil {
		return nil, err
	}
	if err := p.parseHead(buf[:pageBody], archive, object); err != nil {
		return nil, damaged("header %w", err)
	}
	entry, fence, pack := p.head.pages()
	if want := (1 + entry + fence + pack) * pageBytes; size < 0 || uint64(size) != want {
		return nil, damaged("has %d bytes instead of %d", size, want)
	}
	// The file is as long as the header says, so this allocates a small part
	// of what is on disk.
	p.fences = make([]uint64, 0, entry)
	for n := 1 + entry; uint64(len(p.fences)) < entry; n++ {
		if err := p.read(uint32(n), &buf); err != nil {
			return nil, err
		}
		for at := 0; at < pageFences && uint64(len(p.fences)) < entry; at++ {
			p.fences = append(p.fences, binary.BigEndian.Uint64(buf[at*fenceBytes:]))
		}
	}
	return p, nil
}

func (p *pageFile) parseHead(untrusted []byte, archive format.ArchiveID, object format.ObjectID) error {
	d := wire.NewDecoder(untrusted)
	if m := d.Bytes(len(pageMagic)); string(m) != pageMagic || d.U8() != pageVersion {
		d.Failf("is not that of a page file")
	}
	if string(d.Bytes(16)) != string(archive[:]) || string(d.Bytes(16)) != string(object[:]) {
		d.Failf("is that of another object")
	}
	p.head.level = d.U8()
	p.head.entries, p.head.packs = d.U32(), d.U32()
	d.Into(p.head.first[:])
	d.Into(p.head.last[:])
	if d.Err() == nil && (p.head.entries == 0 || compareIDs(&p.head.first, &p.head.last) > 0) {
		d.Failf("has an impossible range")
	}
	return d.Err()
}

// read reads and checks page n into buf.
func (p *pageFile) read(n uint32, buf *page) error {
	if _, err := p.file.ReadAt(buf[:], int64(n)*pageBytes); err != nil {
		return damaged("read page %d: %w", n, err)
	}
	if binary.BigEndian.Uint32(buf[pageBody:]) != p.sum.of(n, buf) {
		return damaged("page %d has a wrong checksum", n)
	}
	return nil
}

// readEntries reads entry page i, from 0, and says how many entries it holds.
func (p *pageFile) readEntries(i int, buf *page) (n int, err error) {
	if err := p.read(uint32(1+i), buf); err != nil {
		return 0, err
	}
	return min(pageEntries, int(p.head.entries)-i*pageEntries), nil
}

// readPacks reads pack page i, from 0, and says how many packs it holds.
func (p *pageFile) readPacks(i int, buf *page) (n int, err error) {
	entry, fence, _ := p.head.pages()
	if err := p.read(uint32(1+entry+fence)+uint32(i), buf); err != nil {
		return 0, err
	}
	return min(pagePacks, int(p.head.packs)-i*pagePacks), nil
}

// lookup finds id with one read, or more if ids begin alike. It uses buf.
func (p *pageFile) lookup(id *format.BlobID, buf *page) (Entry, bool, error) {
	if compareIDs(id, &p.head.first) < 0 || compareIDs(id, &p.head.last) > 0 {
		return Entry{}, false, nil
	}
	key := prefix(id)
	i := sort.Search(len(p.fences), func(i int) bool { return p.fences[i] > key })
	for i > 0 {
		i--
		n, err := p.readEntries(i, buf)
		if err != nil {
			return Entry{}, false, err
		}
		at := sort.Search(n, func(at int) bool {
			return string(buf[at*pageEntryBytes:at*pageEntryBytes+32]) >= string(id[:])
		})
		if at < n {
			if r := pageEntry(buf[at*pageEntryBytes:]); r.ID == *id {
				return r.Entry, true, nil
			}
		}
		// Only if the page begins with a greater id that starts alike may
		// the page before it hold the id.
		if at > 0 || p.fences[i] != key {
			break
		}
	}
	return Entry{}, false, nil
}
