package protocol

import (
	"encoding/binary"
	"fmt"
	"strings"

	"pinion/protocol/wire"
)

// helloCreate is the bit of a hello's flags that asks for the directory.
const helloCreate = 1

// Hello is the first frame of a connection.
type Hello struct {
	Min, Max uint16          // versions that the client speaks
	Token    [TokenSize]byte // random; the helper repeats it after the magic
	Create   bool            // make the archive's directory if it is missing

	// Extensions are what later versions add. Those that a helper doesn't
	// know, it passes over, but for those that are wire.NeededToRead.
	Extensions []wire.Extension
}

// The lengths of a hello's payload: without an extension, and at most. A
// helper refuses what can't be one before it waits for it.
const (
	MinHello = 2 + 2 + TokenSize + 1 + 2
	MaxHello = MinHello - 2 + MaxExtensions
)

// Append appends the payload of h to b.
func (h Hello) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, h.Min)
	b = binary.BigEndian.AppendUint16(b, h.Max)
	b = append(b, h.Token[:]...)
	b = wire.AppendBool(b, h.Create)
	return wire.AppendExtensions(b, h.Extensions)
}

// ParseHello parses the payload of a hello. The data of its extensions points
// into untrusted.
func ParseHello(untrusted []byte) (Hello, error) {
	d := wire.NewDecoder(untrusted)
	h := Hello{Min: d.U16(), Max: d.U16()}
	d.Into(h.Token[:])
	untrustedFlags := d.U8()
	if untrustedFlags&^helloCreate != 0 {
		d.Failf("has unknown flags 0x%02x", untrustedFlags)
	}
	h.Create = untrustedFlags&helloCreate != 0
	h.Extensions = d.Extensions(MaxExtensions)
	if h.Min > h.Max {
		d.Failf("offers versions %d to %d", h.Min, h.Max)
	}
	return checked(d, "hello", h)
}

// Lock asks for a lock. Its OK is empty.
type Lock struct{ Mode LockMode }

// Append appends the payload of l to b.
func (l Lock) Append(b []byte) []byte { return append(b, byte(l.Mode)) }

// ParseLock parses the payload of a lock.
func ParseLock(untrusted []byte) (Lock, error) {
	d := wire.NewDecoder(untrusted)
	l := Lock{Mode: LockMode(d.U8())}
	if l.Mode < LockRead || l.Mode > LockExclusive {
		d.Failf("has an unknown %s", l.Mode)
	}
	return checked(d, "lock", l)
}

// Put announces a new object. Size bytes follow in data frames of the same
// id. Its OK is empty.
type Put struct {
	Name string
	Size uint64 // 0 to MaxObject
}

// Append appends the payload of p to b.
func (p Put) Append(b []byte) []byte {
	b = wire.AppendText(b, p.Name)
	return binary.BigEndian.AppendUint64(b, p.Size)
}

// ParsePut parses the payload of a put.
func ParsePut(untrusted []byte) (Put, error) {
	d := wire.NewDecoder(untrusted)
	p := Put{Name: name(d), Size: objectSize(d)}
	return checked(d, "put", p)
}

// A Range is a run of bytes of an object.
type Range struct {
	Off uint64
	Len uint32 // at least 1; Off+Len is at most MaxObject
}

// rangeSize is the length of an encoded Range.
const rangeSize = 12

// Get asks for ranges of an object. They come back one after the other, in
// the order asked for, as one run of bytes cut into data frames; then an OK
// that carries a Total.
type Get struct {
	Name   string
	Ranges []Range // 1 to MaxRanges
}

// Append appends the payload of g to b.
func (g Get) Append(b []byte) []byte {
	return appendRanges(wire.AppendText(b, g.Name), g.Ranges)
}

// ParseGet parses the payload of a get.
func ParseGet(untrusted []byte) (Get, error) {
	d := wire.NewDecoder(untrusted)
	g := Get{Name: name(d), Ranges: ranges(d)}
	return checked(d, "get", g)
}

// GetWhole asks for all of an object of which the client doesn't know the
// size. It comes back in data frames, then an OK that carries a Total. A
// larger object than Max gives CodeTooLarge.
type GetWhole struct {
	Name string
	Max  uint32 // bytes, at most MaxObject
}

// Append appends the payload of g to b.
func (g GetWhole) Append(b []byte) []byte {
	return binary.BigEndian.AppendUint32(wire.AppendText(b, g.Name), g.Max)
}

// ParseGetWhole parses the payload of a get-whole.
func ParseGetWhole(untrusted []byte) (GetWhole, error) {
	d := wire.NewDecoder(untrusted)
	g := GetWhole{Name: name(d), Max: d.U32()}
	if g.Max > MaxObject {
		d.Failf("allows %d bytes where %d are the most", g.Max, MaxObject)
	}
	return checked(d, "get-whole", g)
}

// List asks for the names that begin with Prefix and come after After in the
// order of their bytes, at most Max of them. They come back as entries, in
// that order, then an OK that carries a ListDone.
type List struct {
	Prefix string // one of the prefixes
	After  string // empty, or a name with that prefix
	Max    uint32 // 1 to MaxListed
}

// Append appends the payload of l to b.
func (l List) Append(b []byte) []byte {
	b = wire.AppendText(b, l.Prefix)
	b = wire.AppendText(b, l.After)
	return binary.BigEndian.AppendUint32(b, l.Max)
}

// ParseList parses the payload of a list.
func ParseList(untrusted []byte) (List, error) {
	d := wire.NewDecoder(untrusted)
	l := List{Prefix: d.Text(MaxName), After: d.Text(MaxName), Max: d.U32()}
	if err := CheckPrefix(l.Prefix); err != nil {
		d.Fail(err)
	}
	if l.After != "" {
		if err := CheckName(l.After); err != nil {
			d.Fail(err)
		} else if !strings.HasPrefix(l.After, l.Prefix) {
			d.Failf("goes on after %q, which is not under %q", l.After, l.Prefix)
		}
	}
	if l.Max < 1 || l.Max > MaxListed {
		d.Failf("asks for %d entries where 1 to %d are allowed", l.Max, MaxListed)
	}
	return checked(d, "list", l)
}

// deleteKeep is the bit of a delete's flags that asks for objects to be kept.
const deleteKeep = 1

// Delete takes objects away. A name that isn't there is no error, so that a
// delete can be repeated. Its OK is empty.
type Delete struct {
	Keep  bool     // put them aside, out of the archive, and don't remove them
	Names []string // 1 to MaxDeletes
}

// Append appends the payload of m to b.
func (m Delete) Append(b []byte) []byte {
	b = wire.AppendBool(b, m.Keep)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.Names)))
	for _, n := range m.Names {
		b = wire.AppendText(b, n)
	}
	return b
}

// ParseDelete parses the payload of a delete.
func ParseDelete(untrusted []byte) (Delete, error) {
	d := wire.NewDecoder(untrusted)
	untrustedFlags := d.U8()
	if untrustedFlags&^deleteKeep != 0 {
		d.Failf("has unknown flags 0x%02x", untrustedFlags)
	}
	n := d.Count(2+len(PrefixHead)+1, MaxDeletes)
	if n == 0 {
		d.Failf("names nothing")
	}
	m := Delete{Keep: untrustedFlags&deleteKeep != 0, Names: make([]string, 0, n)}
	for range n {
		m.Names = append(m.Names, name(d))
	}
	return checked(d, "delete", m)
}

// Commit makes the head of a generation, which must not be there. Size bytes
// follow in data frames of the same id. Its OK carries a Committed.
type Commit struct {
	Generation uint64 // 1 to MaxGeneration
	Size       uint32 // 1 to MaxRoot
}

// Append appends the payload of c to b.
func (c Commit) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, c.Generation)
	return binary.BigEndian.AppendUint32(b, c.Size)
}

// ParseCommit parses the payload of a commit.
func ParseCommit(untrusted []byte) (Commit, error) {
	d := wire.NewDecoder(untrusted)
	c := Commit{Generation: generation(d), Size: d.U32()}
	if c.Size < 1 || c.Size > MaxRoot {
		d.Failf("has a root of %d bytes where 1 to %d are allowed", c.Size, MaxRoot)
	}
	return checked(d, "commit", c)
}

// Punch frees ranges of an object, which then read as zeros. Its OK is empty.
type Punch struct {
	Name   string
	Ranges []Range // 1 to MaxRanges
}

// Append appends the payload of p to b.
func (p Punch) Append(b []byte) []byte {
	return appendRanges(wire.AppendText(b, p.Name), p.Ranges)
}

// ParsePunch parses the payload of a punch.
func ParsePunch(untrusted []byte) (Punch, error) {
	d := wire.NewDecoder(untrusted)
	p := Punch{Name: name(d), Ranges: ranges(d)}
	return checked(d, "punch", p)
}

// generation takes a generation and checks it.
func generation(d *wire.Decoder) uint64 {
	untrusted := d.U64()
	if d.Err() == nil && (untrusted < 1 || untrusted > MaxGeneration) {
		d.Failf("has the generation %d where 1 to %d are allowed", untrusted, uint64(MaxGeneration))
		return 0
	}
	return untrusted
}

// name takes a name and checks it.
func name(d *wire.Decoder) string {
	untrusted := d.Text(MaxName)
	if d.Err() != nil {
		return ""
	}
	if err := CheckName(untrusted); err != nil {
		d.Fail(err)
		return ""
	}
	return untrusted
}

// objectSize takes an object's size and checks it.
func objectSize(d *wire.Decoder) uint64 {
	untrusted := d.U64()
	if untrusted > MaxObject {
		d.Failf("has a size of %d bytes where %d are the most", untrusted, MaxObject)
		return 0
	}
	return untrusted
}

func appendRanges(b []byte, rs []Range) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(rs)))
	for _, r := range rs {
		b = binary.BigEndian.AppendUint64(b, r.Off)
		b = binary.BigEndian.AppendUint32(b, r.Len)
	}
	return b
}

// ranges takes a list of ranges and checks it.
func ranges(d *wire.Decoder) []Range {
	n := d.Count(rangeSize, MaxRanges)
	if n == 0 {
		d.Failf("has no ranges")
	}
	rs := make([]Range, 0, n)
	for range n {
		r := Range{Off: d.U64(), Len: d.U32()}
		if err := CheckRange(r); err != nil {
			d.Fail(err)
		}
		rs = append(rs, r)
	}
	return rs
}

// CheckRange returns an error unless untrusted is a range that an object can
// have.
func CheckRange(untrusted Range) error {
	if untrusted.Len == 0 || untrusted.Off > MaxObject || uint64(untrusted.Len) > MaxObject-untrusted.Off {
		return fmt.Errorf("has the range of %d bytes at %d, which no object can have", untrusted.Len, untrusted.Off)
	}
	return nil
}

// checked ends a Parse function: m if all of the input was read and found
// good, else nothing of it.
func checked[M any](d *wire.Decoder, what string, m M) (M, error) {
	if err := d.Finish(); err != nil {
		var zero M
		return zero, fmt.Errorf("%s: %w", what, err)
	}
	return m, nil
}
