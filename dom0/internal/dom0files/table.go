package dom0files

import "slices"

// The types of entries, as tar has them.
const (
	typeFile    = '0'
	typeLink    = '1'
	typeSymlink = '2'
	typeDir     = '5'
)

// noParent stands for the parent of a path of the list.
const noParent = ^uint32(0)

// An entry is a file, directory or link in the archive: what its header is made
// from, and what tells whether the file is still the one that was laid out.
type entry struct {
	off    int64  // of its first header in the volume
	size   int64  // bytes of content
	mtime  int64  // seconds
	ctime  int64  // nanoseconds; for comparing only
	ref    uint64 // inode; of a hard link the index of the file
	parent uint32 // index of the directory, or noParent
	text   uint32 // where the name is, and behind it the extra
	extra  uint32 // length of a symbolic link's target, else of attributes
	head   uint32 // bytes of headers before the content
	uid    uint32
	gid    uint32
	mode   uint16 // permissions, setuid, setgid, sticky
	name   uint16 // length of the name
	typ    byte
	sparse bool
}

// end is the offset behind the entry.
func (e *entry) end() int64 { return e.off + int64(e.head) + roundUp(e.size, block) }

// A table holds entries and their text, in pages, so that growing copies
// nothing.
type table struct {
	entries [][]entry
	n       int
	pages   [][]byte
}

// at returns the entry at an index.
func (t *table) at(i int) *entry { return &t.entries[i/entryPage][i%entryPage] }

// add appends an entry and returns its index.
func (t *table) add(e entry) uint32 {
	if t.n%entryPage == 0 {
		t.entries = append(t.entries, make([]entry, 0, entryPage))
	}
	last := &t.entries[len(t.entries)-1]
	*last = append(*last, e)
	t.n++
	return uint32(t.n - 1)
}

// put keeps name and extra, which fit a page, and returns where they are.
func (t *table) put(name, extra string) uint32 {
	if n := len(t.pages); n == 0 || len(t.pages[n-1])+len(name)+len(extra) > textPage {
		t.pages = append(t.pages, make([]byte, 0, textPage))
	}
	last := &t.pages[len(t.pages)-1]
	at := (len(t.pages)-1)*textPage + len(*last)
	*last = append(append(*last, name...), extra...)
	return uint32(at)
}

func (t *table) slice(at uint32, n int) []byte {
	page, in := t.pages[at/textPage], int(at%textPage)
	return page[in : in+n]
}

// path returns the name of an entry in the archive, without a final "/".
func (t *table) path(e *entry) string {
	var parts []*entry
	n := 0
	for {
		parts = append(parts, e)
		n += int(e.name) + 1
		if e.parent == noParent {
			break
		}
		e = t.at(int(e.parent))
	}
	p := make([]byte, 0, n)
	for i, part := range slices.Backward(parts) {
		p = append(p, t.slice(part.text, int(part.name))...)
		if i > 0 {
			p = append(p, '/')
		}
	}
	return string(p)
}

// extra returns the target of a symbolic link, or the records of extended
// attributes.
func (t *table) extra(e *entry) string {
	return string(t.slice(e.text+uint32(e.name), int(e.extra)))
}
