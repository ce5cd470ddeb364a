// Package wire reads and writes the fields that all of Pinion's byte formats
// are made of: big-endian integers, fixed byte strings, byte strings with a
// length in front, and extension areas.
//
// It owns nothing but the cursor. It promises that a Decoder never panics,
// never reads outside its input and never allocates more than a small multiple
// of its input; that the first error sticks; and that Finish refuses left-over bytes,
// so that parsing followed by marshalling gives back the same bytes. It never
// interprets a value.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrShort says that the input ended inside a field.
var ErrShort = errors.New("ends too early")

// ErrTrailing says that bytes are left after the last field.
var ErrTrailing = errors.New("has bytes after its end")

// A Decoder reads fields off the front of untrusted bytes. After the first
// error every further read gives zero values; Err and Finish report it. It is
// not safe for concurrent use.
type Decoder struct {
	untrusted []byte
	err       error
}

// NewDecoder reads from untrusted, which must not change meanwhile. Byte
// slices that the Decoder hands out point into it.
func NewDecoder(untrusted []byte) *Decoder { return &Decoder{untrusted: untrusted} }

// Fail makes err the Decoder's error unless it has one already.
func (d *Decoder) Fail(err error) {
	if d.err == nil {
		d.err = err
		d.untrusted = nil
	}
}

// Failf is Fail with a format.
func (d *Decoder) Failf(format string, args ...any) { d.Fail(fmt.Errorf(format, args...)) }

// Err is the first error, or nil.
func (d *Decoder) Err() error { return d.err }

// Len is the number of bytes not read yet.
func (d *Decoder) Len() int { return len(d.untrusted) }

// Finish is Err, or ErrTrailing when bytes are left.
func (d *Decoder) Finish() error {
	if d.err == nil && len(d.untrusted) > 0 {
		d.Fail(ErrTrailing)
	}
	return d.err
}

// Bytes takes the next n bytes, without copying them. A negative n, or one
// past the end, is an error and gives nil.
func (d *Decoder) Bytes(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || n > len(d.untrusted) {
		d.Fail(ErrShort)
		return nil
	}
	b := d.untrusted[:n:n]
	d.untrusted = d.untrusted[n:]
	return b
}

// Into fills dst from the next len(dst) bytes.
func (d *Decoder) Into(dst []byte) {
	if b := d.Bytes(len(dst)); b != nil {
		copy(dst, b)
	}
}

// U8 takes one byte.
func (d *Decoder) U8() uint8 {
	if b := d.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// U16 takes two bytes.
func (d *Decoder) U16() uint16 {
	if b := d.Bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// U32 takes four bytes.
func (d *Decoder) U32() uint32 {
	if b := d.Bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// U64 takes eight bytes.
func (d *Decoder) U64() uint64 {
	if b := d.Bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Bool takes one byte that must be 0 or 1.
func (d *Decoder) Bool() bool {
	switch d.U8() {
	case 0:
		return false
	case 1:
		return true
	}
	d.Failf("has a flag that is neither 0 nor 1")
	return false
}

// Count takes a 32-bit number of things that are at least size bytes each and
// of which there may be at most limit. A number that the rest of the input
// can't hold is an error, so the caller may allocate for it.
func (d *Decoder) Count(size, limit int) int {
	n := d.U32()
	if d.err != nil {
		return 0
	}
	if uint64(n) > uint64(limit) {
		d.Failf("counts %d things where %d are the most", n, limit)
		return 0
	}
	if uint64(n)*uint64(size) > uint64(len(d.untrusted)) {
		d.Fail(ErrShort)
		return 0
	}
	return int(n)
}

// Text takes a 16-bit length and as many bytes, at most limit.
func (d *Decoder) Text(limit int) string {
	n := int(d.U16())
	if n > limit {
		d.Failf("has a text of %d bytes where %d are the most", n, limit)
		return ""
	}
	return string(d.Bytes(n))
}

// AppendText appends a 16-bit length and s. It panics if s is longer than
// 65,535 bytes: callers bound their texts first.
func AppendText(b []byte, s string) []byte {
	if len(s) > 0xffff {
		panic("wire: text too long")
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// AppendBool appends 1 for true, 0 for false.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}
