package protocol

import (
	"encoding/binary"
	"fmt"
)

// A Header is what stands before a frame's payload.
type Header struct {
	Type Type
	ID   uint32 // of the request that the frame belongs to; 0 before and beside requests
	Len  int    // of the payload, in bytes, 0 to MaxPayload
}

// AppendHeader appends the HeaderSize bytes of h to b.
func AppendHeader(b []byte, h Header) []byte {
	b = append(b, byte(h.Type), 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, h.ID)
	return binary.BigEndian.AppendUint32(b, uint32(h.Len))
}

// ParseHeader parses the header of a frame. The type that it returns is one
// of this package's and the length is in bounds.
func ParseHeader(untrusted []byte) (Header, error) {
	if len(untrusted) != HeaderSize {
		return Header{}, fmt.Errorf("frame header of %d bytes where %d are due", len(untrusted), HeaderSize)
	}
	untrustedType := Type(untrusted[0])
	if !untrustedType.known() {
		return Header{}, fmt.Errorf("frame of an unknown %s", untrustedType)
	}
	if untrusted[1]|untrusted[2]|untrusted[3] != 0 {
		return Header{}, fmt.Errorf("frame header has %x where zeros are due", untrusted[1:4])
	}
	untrustedLen := binary.BigEndian.Uint32(untrusted[8:])
	if untrustedLen > MaxPayload {
		return Header{}, fmt.Errorf("frame with a payload of %d bytes where %d are the most", untrustedLen, MaxPayload)
	}
	return Header{Type: untrustedType, ID: binary.BigEndian.Uint32(untrusted[4:]), Len: int(untrustedLen)}, nil
}

// An Appender is a message that can be a frame's payload.
type Appender interface {
	Append(b []byte) []byte
}

// AppendFrame appends a whole frame with m as its payload, or an empty one if
// m is nil, to b. It panics if the payload is longer than MaxPayload: callers
// keep to the limits of requests, and then it fits.
func AppendFrame(b []byte, t Type, id uint32, m Appender) []byte {
	start := len(b)
	b = AppendHeader(b, Header{Type: t, ID: id})
	if m != nil {
		b = m.Append(b)
	}
	n := len(b) - start - HeaderSize
	if n > MaxPayload {
		panic(fmt.Sprintf("protocol: %s with a payload of %d bytes", t, n))
	}
	binary.BigEndian.PutUint32(b[start+8:], uint32(n))
	return b
}
