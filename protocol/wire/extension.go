package wire

import "encoding/binary"

// An Extension is one entry of an extension area, in which a later version of
// a format adds to a structure what an earlier one passes over.
type Extension struct {
	Tag  uint16 // numbered per structure; the two highest bits are the class
	Data []byte
}

// An ExtensionClass says what becomes of an extension whose tag a program
// doesn't know: the two highest bits of the tag.
type ExtensionClass uint8

// The classes of extensions.
const (
	Keep          ExtensionClass = 0 // kept byte for byte
	DropOnChange  ExtensionClass = 1 // dropped when any other byte of the structure changes
	NeededToWrite ExtensionClass = 2 // who doesn't know it may read, and writes nothing
	NeededToRead  ExtensionClass = 3 // who doesn't know it refuses the structure as newer
)

// Class is the class of e.
func (e Extension) Class() ExtensionClass { return ExtensionClass(e.Tag >> 14) }

// extensionHeader is the length of what stands before an extension's data.
const extensionHeader = 2 + 4

// AppendExtensions appends an extension area: how many there are (2 bytes), and
// of each its tag (2), the length of its data (4), and the data. It panics
// unless the tags ascend, since no Decoder would take them.
func AppendExtensions(b []byte, x []Extension) []byte {
	if len(x) > 0xffff {
		panic("wire: too many extensions")
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(x)))
	for i, e := range x {
		if i > 0 && e.Tag <= x[i-1].Tag {
			panic("wire: tags of extensions don't ascend")
		}
		b = binary.BigEndian.AppendUint16(b, e.Tag)
		b = binary.BigEndian.AppendUint32(b, uint32(len(e.Data)))
		b = append(b, e.Data...)
	}
	return b
}

// Extensions takes an extension area of at most maxBytes bytes, its count
// included, whose tags ascend strictly. The data of the result points into the
// Decoder's input. An empty area gives nil.
func (d *Decoder) Extensions(maxBytes int) []Extension {
	before := d.Len()
	n := int(d.U16())
	room := min(before, maxBytes) - 2
	if d.err != nil {
		return nil
	}
	if n*extensionHeader > room {
		d.Failf("has %d extensions where %d bytes are left for them", n, max(0, room))
		return nil
	}
	if n == 0 {
		return nil
	}
	x := make([]Extension, 0, n)
	for range n {
		e := Extension{Tag: d.U16()}
		untrustedLen := d.U32()
		used := before - d.Len()
		switch {
		case d.err != nil:
			return nil
		case len(x) > 0 && e.Tag <= x[len(x)-1].Tag:
			d.Failf("has the extension 0x%04x after 0x%04x", e.Tag, x[len(x)-1].Tag)
			return nil
		case int64(untrustedLen) > int64(maxBytes-used):
			d.Failf("has extensions of more than %d bytes", maxBytes)
			return nil
		}
		if e.Data = d.Bytes(int(untrustedLen)); d.err != nil {
			return nil
		}
		x = append(x, e)
	}
	return x
}
