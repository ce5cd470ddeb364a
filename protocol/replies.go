package protocol

import (
	"encoding/binary"

	"pinion/protocol/wire"
)

// HelloReply is the first frame of the helper, after the magic and the token.
// Its numbers are claims of the helper's; a client clamps them to its own
// limits.
type HelloReply struct {
	Version        uint16 // chosen by the helper from the client's offer
	Capabilities   Capabilities
	Created        bool   // the helper made the archive's directory just now
	MaxObject      uint64 // largest object that the helper takes, bytes
	MaxOutstanding uint16 // most requests without a reply, at least 1
	MaxRanges      uint16 // most ranges in a get or punch, at least 1
	Free, Total    uint64 // bytes where the archive lives

	// Heads are the generations that have a head, descending: the highest
	// MaxHeads of them.
	Heads []uint64
	// Extensions are what later versions add. Those that a client doesn't
	// know, it passes over, but for those that are wire.NeededToRead.
	Extensions []wire.Extension
}

// MaxHelloReply is the longest payload of a hello reply, in bytes.
const MaxHelloReply = 35 + 2 + 8*MaxHeads + MaxExtensions

// Append appends the payload of h to b.
func (h HelloReply) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, h.Version)
	b = binary.BigEndian.AppendUint32(b, uint32(h.Capabilities))
	b = wire.AppendBool(b, h.Created)
	b = binary.BigEndian.AppendUint64(b, h.MaxObject)
	b = binary.BigEndian.AppendUint16(b, h.MaxOutstanding)
	b = binary.BigEndian.AppendUint16(b, h.MaxRanges)
	b = binary.BigEndian.AppendUint64(b, h.Free)
	b = binary.BigEndian.AppendUint64(b, h.Total)
	b = appendHeads(b, h.Heads)
	return wire.AppendExtensions(b, h.Extensions)
}

// ParseHelloReply parses the payload of a hello reply. The data of its
// extensions points into untrusted.
func ParseHelloReply(untrusted []byte) (HelloReply, error) {
	d := wire.NewDecoder(untrusted)
	h := HelloReply{
		Version:        d.U16(),
		Capabilities:   Capabilities(d.U32()),
		Created:        d.Bool(),
		MaxObject:      d.U64(),
		MaxOutstanding: d.U16(),
		MaxRanges:      d.U16(),
		Free:           d.U64(),
		Total:          d.U64(),
		Heads:          heads(d),
		Extensions:     d.Extensions(MaxExtensions),
	}
	if h.MaxOutstanding < 1 || h.MaxRanges < 1 {
		d.Failf("allows %d requests and %d ranges", h.MaxOutstanding, h.MaxRanges)
	}
	return checked(d, "hello reply", h)
}

// appendHeads appends how many heads there are, and their generations.
func appendHeads(b []byte, heads []uint64) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(heads)))
	for _, g := range heads {
		b = binary.BigEndian.AppendUint64(b, g)
	}
	return b
}

// heads takes a list of heads, which descends strictly. An empty one is nil.
func heads(d *wire.Decoder) []uint64 {
	n := int(d.U16())
	switch {
	case d.Err() != nil || n == 0:
		return nil
	case n > MaxHeads:
		d.Failf("counts %d heads where %d are the most", n, MaxHeads)
		return nil
	case 8*n > d.Len():
		d.Fail(wire.ErrShort)
		return nil
	}
	hs := make([]uint64, 0, n)
	for range n {
		g := generation(d)
		if len(hs) > 0 && g >= hs[len(hs)-1] {
			d.Failf("has the head %d after %d", g, hs[len(hs)-1])
		}
		hs = append(hs, g)
	}
	return hs
}

// Committed is what the OK of a commit carries.
type Committed struct {
	// Heads are the generations that had a head after the commit, descending:
	// the highest MaxHeads of them.
	Heads []uint64
}

// MaxCommitted is the longest payload of the OK of a commit, in bytes.
const MaxCommitted = 2 + 8*MaxHeads

// Append appends the payload of c to b.
func (c Committed) Append(b []byte) []byte { return appendHeads(b, c.Heads) }

// ParseCommitted parses the payload of the OK of a commit.
func ParseCommitted(untrusted []byte) (Committed, error) {
	d := wire.NewDecoder(untrusted)
	c := Committed{Heads: heads(d)}
	return checked(d, "ok", c)
}

// Entry is one object of a list.
type Entry struct {
	Size uint64 // bytes, as the store says
	Name string
}

// Append appends the payload of e to b.
func (e Entry) Append(b []byte) []byte {
	return wire.AppendText(binary.BigEndian.AppendUint64(b, e.Size), e.Name)
}

// ParseEntry parses the payload of an entry.
func ParseEntry(untrusted []byte) (Entry, error) {
	d := wire.NewDecoder(untrusted)
	e := Entry{Size: d.U64(), Name: name(d)}
	return checked(d, "entry", e)
}

// Total is what the OK of a get and a get-whole carries.
type Total struct {
	Bytes uint64 // of all data frames of this reply
}

// Append appends the payload of t to b.
func (t Total) Append(b []byte) []byte { return binary.BigEndian.AppendUint64(b, t.Bytes) }

// ParseTotal parses the payload of the OK of a get or a get-whole.
func ParseTotal(untrusted []byte) (Total, error) {
	d := wire.NewDecoder(untrusted)
	t := Total{Bytes: d.U64()}
	return checked(d, "ok", t)
}

// ListDone is what the OK of a list carries.
type ListDone struct {
	Count uint32 // entries before it
	More  bool   // the prefix has names after the last entry
}

// Append appends the payload of l to b.
func (l ListDone) Append(b []byte) []byte {
	return wire.AppendBool(binary.BigEndian.AppendUint32(b, l.Count), l.More)
}

// ParseListDone parses the payload of the OK of a list.
func ParseListDone(untrusted []byte) (ListDone, error) {
	d := wire.NewDecoder(untrusted)
	l := ListDone{Count: d.U32(), More: d.Bool()}
	return checked(d, "ok", l)
}

// Usage is what the OK of a usage carries.
type Usage struct {
	Used  uint64 // bytes that the archive's objects take up
	Free  uint64 // bytes that the archive may still grow by
	Total uint64 // bytes of the storage that the archive lives on
}

// Append appends the payload of u to b.
func (u Usage) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, u.Used)
	b = binary.BigEndian.AppendUint64(b, u.Free)
	return binary.BigEndian.AppendUint64(b, u.Total)
}

// ParseUsage parses the payload of the OK of a usage.
func ParseUsage(untrusted []byte) (Usage, error) {
	d := wire.NewDecoder(untrusted)
	u := Usage{Used: d.U64(), Free: d.U64(), Total: d.U64()}
	return checked(d, "ok", u)
}

// ErrorReply says why a request failed.
type ErrorReply struct {
	Code  Code
	Class Class  // of CodeUnreadable; else ClassNone
	Text  string // for a person; any bytes, at most MaxText
}

// MaxErrorReply is the longest payload of an error reply, in bytes.
const MaxErrorReply = 1 + 1 + 2 + MaxText

// Append appends the payload of e to b, with its text cut to MaxText.
func (e ErrorReply) Append(b []byte) []byte {
	b = append(b, byte(e.Code), byte(e.Class))
	return wire.AppendText(b, e.Text[:min(len(e.Text), MaxText)])
}

// ParseErrorReply parses the payload of an error reply. The code and the class
// may be ones that this package doesn't know.
func ParseErrorReply(untrusted []byte) (ErrorReply, error) {
	d := wire.NewDecoder(untrusted)
	e := ErrorReply{Code: Code(d.U8()), Class: Class(d.U8()), Text: d.Text(MaxText)}
	if e.Code == 0 {
		d.Failf("has the code 0")
	}
	if e.Code <= CodeUnreadable && (e.Code == CodeUnreadable) != (e.Class != ClassNone) {
		d.Failf("has the code %s with the class %s", e.Code, e.Class)
	}
	return checked(d, "error", e)
}
