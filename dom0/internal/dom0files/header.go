package dom0files

import (
	"strconv"
	"strings"
)

// A header is what stands before the content of an entry.
type header struct {
	name       string // a directory's ends with "/"
	link       string // target of a link
	typ        byte
	mode       uint32
	uid, gid   uint32
	size       int64
	mtime      int64
	attributes string // records of extended attributes
}

// What fits into the fields of a ustar header.
const (
	fieldName = 100
	maxOctal7 = 1<<21 - 1
	maxOctal  = 1<<33 - 1
)

// The name of an extended header. No tar uses it, so it is the same for all.
const extendedName = "././@PaxHeader"

// attributeKey is before the name of an extended attribute in its record: most
// programs that keep any use this one.
const attributeKey = "SCHILY.xattr."

// commentKey is the key of the record that fills a gap.
const commentKey = "comment"

// record returns "length key=value\n"; the length counts itself.
func record(key, value string) string {
	rest := len(key) + len(value) + 3
	n := rest + len(strconv.Itoa(rest))
	if len(strconv.Itoa(n)) > len(strconv.Itoa(rest)) {
		n = rest + len(strconv.Itoa(n))
	}
	return strconv.Itoa(n) + " " + key + "=" + value + "\n"
}

// minComment is the length of the shortest comment: "12 comment=\n" has none.
const minComment = 12

// comment returns a comment of length n, from minComment on. Every length
// can be had, as it is known before its digits are.
func comment(n int) string {
	digits := strconv.Itoa(n)
	return digits + " " + commentKey + "=" + strings.Repeat(" ", n-len(digits)-len(commentKey)-3) + "\n"
}

// records returns the records of what doesn't fit the fields.
func (h *header) records() string {
	var r string
	if len(h.name) > fieldName {
		r += record("path", h.name)
	}
	if len(h.link) > fieldName {
		r += record("linkpath", h.link)
	}
	if h.size > maxOctal {
		r += record("size", strconv.FormatInt(h.size, 10))
	}
	if h.uid > maxOctal7 {
		r += record("uid", strconv.FormatUint(uint64(h.uid), 10))
	}
	if h.gid > maxOctal7 {
		r += record("gid", strconv.FormatUint(uint64(h.gid), 10))
	}
	if h.mtime < 0 || h.mtime > maxOctal {
		r += record("mtime", strconv.FormatInt(h.mtime, 10))
	}
	return r + h.attributes
}

// length is the least number of bytes that the headers take.
func (h *header) length() int64 {
	r := h.records()
	if r == "" {
		return block
	}
	return 2*block + roundUp(int64(len(r)), block)
}

// fits says whether the headers can be of n bytes, a multiple of block.
func (h *header) fits(n int64) bool {
	return n == h.length() || n >= 3*block && n-2*block-int64(len(h.records())) >= minComment
}

// append appends the headers, n bytes, which fit.
func (h *header) append(b []byte, n int) []byte {
	if n > block {
		r := h.records()
		if int64(n) != h.length() {
			r += comment(n - 2*block - len(r))
		}
		x := header{name: extendedName, typ: 'x', mode: 0o644, size: int64(len(r))}
		b = x.ustar(b)
		b = append(b, r...)
		b = append(b, make([]byte, n-2*block-len(r))...)
	}
	return h.ustar(b)
}

// ustar appends the header of one block. What doesn't fit a field is cut there
// or zero, and in the records.
func (h *header) ustar(b []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, block)...)
	f := b[at:]
	copy(f[:fieldName], h.name)
	octal(f[100:108], int64(h.mode), 1<<12-1)
	octal(f[108:116], int64(h.uid), maxOctal7)
	octal(f[116:124], int64(h.gid), maxOctal7)
	octal(f[124:136], h.size, maxOctal)
	octal(f[136:148], h.mtime, maxOctal)
	copy(f[148:156], "        ") // as the sum counts it
	f[156] = h.typ
	copy(f[157:257], h.link)
	copy(f[257:265], "ustar\x0000")
	octal(f[329:337], 0, 0)
	octal(f[337:345], 0, 0)
	var sum int64
	for _, c := range f {
		sum += int64(c)
	}
	octal(f[148:155], sum, 1<<18-1)
	return b
}

// octal fills a field with digits and a NUL.
func octal(f []byte, n, most int64) {
	if n < 0 || n > most {
		n = 0
	}
	digits := strconv.FormatInt(n, 8)
	for i := range f[:len(f)-1] {
		f[i] = '0'
	}
	copy(f[len(f)-1-len(digits):], digits)
	f[len(f)-1] = 0
}
