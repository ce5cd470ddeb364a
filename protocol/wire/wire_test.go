package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"pinion/protocol/wire"
)

func TestFields(t *testing.T) {
	b := []byte{7}
	b = binary.BigEndian.AppendUint16(b, 0x0102)
	b = binary.BigEndian.AppendUint32(b, 0x03040506)
	b = binary.BigEndian.AppendUint64(b, 0x0708090a0b0c0d0e)
	b = wire.AppendBool(b, true)
	b = wire.AppendBool(b, false)
	b = wire.AppendText(b, "words")
	b = append(b, "raw"...)
	d := wire.NewDecoder(b)
	if got := d.U8(); got != 7 {
		t.Errorf("U8 is %d", got)
	}
	if got := d.U16(); got != 0x0102 {
		t.Errorf("U16 is %x", got)
	}
	if got := d.U32(); got != 0x03040506 {
		t.Errorf("U32 is %x", got)
	}
	if got := d.U64(); got != 0x0708090a0b0c0d0e {
		t.Errorf("U64 is %x", got)
	}
	if !d.Bool() || d.Bool() {
		t.Error("Bools are not true, false")
	}
	if got := d.Text(5); got != "words" {
		t.Errorf("Text is %q", got)
	}
	var raw [3]byte
	d.Into(raw[:])
	if string(raw[:]) != "raw" {
		t.Errorf("Into gave %q", raw)
	}
	if err := d.Finish(); err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	tests := map[string]struct {
		in   []byte
		read func(d *wire.Decoder)
		want error // nil: any
	}{
		"U8 of nothing":    {nil, func(d *wire.Decoder) { d.U8() }, wire.ErrShort},
		"U16 cut":          {[]byte{1}, func(d *wire.Decoder) { d.U16() }, wire.ErrShort},
		"U32 cut":          {[]byte{1, 2, 3}, func(d *wire.Decoder) { d.U32() }, wire.ErrShort},
		"U64 cut":          {[]byte{1, 2, 3, 4, 5, 6, 7}, func(d *wire.Decoder) { d.U64() }, wire.ErrShort},
		"negative length":  {[]byte{1}, func(d *wire.Decoder) { d.Bytes(-1) }, wire.ErrShort},
		"Into too much":    {[]byte{1}, func(d *wire.Decoder) { d.Into(make([]byte, 2)) }, wire.ErrShort},
		"left over":        {[]byte{1, 2}, func(d *wire.Decoder) { d.U8() }, wire.ErrTrailing},
		"odd bool":         {[]byte{2}, func(d *wire.Decoder) { d.Bool() }, nil},
		"text cut":         {[]byte{0, 4, 'a'}, func(d *wire.Decoder) { d.Text(10) }, wire.ErrShort},
		"text over limit":  {[]byte{0, 2, 'a', 'b'}, func(d *wire.Decoder) { d.Text(1) }, nil},
		"count over limit": {[]byte{0, 0, 0, 2, 1, 1}, func(d *wire.Decoder) { d.Count(1, 1) }, nil},
		"count over input": {[]byte{0, 0, 0, 3, 1, 1}, func(d *wire.Decoder) { d.Count(1, 9) }, wire.ErrShort},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := wire.NewDecoder(tt.in)
			tt.read(d)
			err := d.Finish()
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("error is %v, want %v", err, tt.want)
			}
		})
	}
}

func TestFirstErrorSticks(t *testing.T) {
	d := wire.NewDecoder([]byte{1, 2, 3})
	first := errors.New("first")
	d.Fail(first)
	d.Failf("second")
	if got := d.U8(); got != 0 {
		t.Errorf("a read after an error gave %d", got)
	}
	if got := d.Count(1, 9); got != 0 {
		t.Errorf("a count after an error is %d", got)
	}
	if d.Finish() != first || d.Err() != first {
		t.Errorf("error is %v", d.Err())
	}
}

// FuzzDecoder reads fields in an order that the fuzzer picks. Nothing may
// panic, and what was read must append to what was consumed.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5}, []byte("\x01\x00\x02\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x04\x01\x00\x02ab"))
	f.Add([]byte{5, 5, 5}, []byte("\x00\x00\xff\xff"))
	f.Fuzz(func(t *testing.T, order, in []byte) {
		d := wire.NewDecoder(in)
		var out []byte
		for _, o := range order {
			before := d.Len()
			var b []byte
			switch o % 6 {
			case 0:
				b = append(b, d.U8())
			case 1:
				b = binary.BigEndian.AppendUint16(b, d.U16())
			case 2:
				b = binary.BigEndian.AppendUint32(b, d.U32())
			case 3:
				b = binary.BigEndian.AppendUint64(b, d.U64())
			case 4:
				b = wire.AppendBool(b, d.Bool())
			case 5:
				b = wire.AppendText(b, d.Text(100))
			}
			if d.Err() != nil {
				return
			}
			if before-d.Len() != len(b) {
				t.Fatalf("field %d took %d bytes for %d", o%6, before-d.Len(), len(b))
			}
			out = append(out, b...)
		}
		if !bytes.HasPrefix(in, out) {
			t.Fatalf("read %x from %x", out, in)
		}
	})
}
