package protocol

import (
	"encoding/binary"
	"fmt"

	"pinion/protocol/wire"
)

// Compose makes a new object out of ranges of others and literal bytes. The
// encoded part list, ListLen bytes, follows in data frames of the same id.
// Its OK is empty.
type Compose struct {
	Name    string
	Size    uint64 // of the new object, 1 to MaxObject: the lengths of all parts
	ListLen uint32 // 1 to MaxComposeList
}

// Append appends the payload of c to b.
func (c Compose) Append(b []byte) []byte {
	b = wire.AppendText(b, c.Name)
	b = binary.BigEndian.AppendUint64(b, c.Size)
	return binary.BigEndian.AppendUint32(b, c.ListLen)
}

// ParseCompose parses the payload of a compose.
func ParseCompose(untrusted []byte) (Compose, error) {
	d := wire.NewDecoder(untrusted)
	c := Compose{Name: name(d), Size: objectSize(d), ListLen: d.U32()}
	if c.Size == 0 {
		d.Failf("makes an empty object")
	}
	if c.ListLen < 1 || c.ListLen > MaxComposeList {
		d.Failf("has a part list of %d bytes where 1 to %d are allowed", c.ListLen, MaxComposeList)
	}
	return checked(d, "compose", c)
}

// The kinds of parts.
const (
	partCopy    = 0
	partLiteral = 1
)

// A Part is one piece of an object that is being composed: a range of another
// object, or literal bytes.
type Part struct {
	Source  string // object to copy from; empty if the part is literal
	Range   Range  // of Source
	Literal []byte // points into the part list; nil if the part is a copy
}

// Len is how many bytes of the new object the part makes.
func (p Part) Len() int {
	if p.Source == "" {
		return len(p.Literal)
	}
	return int(p.Range.Len)
}

// AppendCopy appends a part that copies r of the object source to a part list.
func AppendCopy(list []byte, source string, r Range) []byte {
	list = wire.AppendText(append(list, partCopy), source)
	list = binary.BigEndian.AppendUint64(list, r.Off)
	return binary.BigEndian.AppendUint32(list, r.Len)
}

// AppendLiteral appends a part made of literal, which must not be empty, to a
// part list.
func AppendLiteral(list, literal []byte) []byte {
	list = binary.BigEndian.AppendUint32(append(list, partLiteral), uint32(len(literal)))
	return append(list, literal...)
}

// EachPart calls fn for every part of an encoded part list, in order. It
// stops at the first error of fn's and returns it. It holds no more than one
// part, so a list costs no more memory than its bytes. A caller that must not
// start on a list with a mistake in it goes through it twice.
func EachPart(untrustedList []byte, fn func(Part) error) error {
	d := wire.NewDecoder(untrustedList)
	for n := 0; d.Len() > 0; n++ {
		p := part(d)
		if err := d.Err(); err != nil {
			return fmt.Errorf("part %d: %w", n, err)
		}
		if err := fn(p); err != nil {
			return err
		}
	}
	return nil
}

// part takes one part and checks it.
func part(d *wire.Decoder) Part {
	switch untrustedKind := d.U8(); untrustedKind {
	case partCopy:
		p := Part{Source: name(d), Range: Range{Off: d.U64(), Len: d.U32()}}
		if err := CheckRange(p.Range); err != nil {
			d.Fail(err)
		}
		return p
	case partLiteral:
		untrustedLen := d.U32()
		if untrustedLen == 0 || untrustedLen > MaxComposeList {
			d.Failf("has %d literal bytes where 1 to %d are allowed", untrustedLen, MaxComposeList)
			return Part{}
		}
		return Part{Literal: d.Bytes(int(untrustedLen))}
	default:
		d.Failf("is of the unknown kind %d", untrustedKind)
		return Part{}
	}
}
