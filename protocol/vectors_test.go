package protocol_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"pinion/protocol"
	"pinion/protocol/vectortest"
)

const shipped = "../docs/vectors/protocol"

// readerOf is who checks a structure of the manifest: a whole frame with a
// message, or what docs/vectors.md says of it.
func readerOf(structure string) func([]byte) error {
	switch structure {
	case "frame header":
		return func(b []byte) error { _, err := protocol.ParseHeader(b); return err }
	case "part list":
		return func(b []byte) error { return protocol.EachPart(b, func(protocol.Part) error { return nil }) }
	case "answer":
		return func(b []byte) error {
			if !bytes.Equal(b, answer()) {
				return fmt.Errorf("it is not what answers the token")
			}
			return nil
		}
	}
	v := vectorOf(structure)
	return func(b []byte) error {
		h, err := protocol.ParseHeader(b[:min(len(b), protocol.HeaderSize)])
		if err != nil {
			return err
		}
		if h.Type != v.typ || h.Len != len(b)-protocol.HeaderSize {
			return fmt.Errorf("a frame of type %d with %d bytes", h.Type, h.Len)
		}
		_, err = v.parse(b[protocol.HeaderSize:])
		return err
	}
}

// allVectors are the golden vectors, and what is refused.
func allVectors() []vectortest.Vector {
	taken := func(name, structure string, b []byte) vectortest.Vector {
		return vectortest.Vector{Name: name, Structure: structure, Valid: true, Bytes: b}
	}
	refused := func(structure, why string, b []byte) vectortest.Vector {
		return vectortest.Vector{Name: structure + "--" + why, Structure: structure, Why: why, Bytes: b}
	}
	list := partList()
	all := []vectortest.Vector{
		taken("frame header", "frame header", fullHeader()),
		taken("part list", "part list", list),
		taken("answer", "answer", answer()),
		refused("answer", "another token", append(answer()[:len(answer())-1], 0)),
	}
	for _, v := range vectors() {
		all = append(all, taken(v.name, v.name, protocol.AppendFrame(nil, v.typ, v.id, v.msg)))
		if v.typ == protocol.TypeData {
			continue
		}
		b := v.msg.Append(nil)
		all = append(all, refused(v.name, "a byte too many", protocol.AppendFrame(nil, v.typ, v.id, data(append(bytes.Clone(b), 0)))))
		if len(b) > 0 {
			all = append(all, refused(v.name, "a byte too few", protocol.AppendFrame(nil, v.typ, v.id, data(b[:len(b)-1]))))
		}
	}
	for why, r := range refusedMessages() {
		v := vectorOf(r.message)
		all = append(all, refused(r.message, why, protocol.AppendFrame(nil, v.typ, v.id, data(r.in))))
	}
	for why, b := range refusedHeaders() {
		all = append(all, refused("frame header", why, b))
	}
	for why, b := range refusedParts() {
		all = append(all, refused("part list", why, b))
	}
	return all
}

// TestVectorsShipped compares the vectors with those that are shipped.
func TestVectorsShipped(t *testing.T) {
	vectortest.Ship(t, *update, shipped, "messages", allVectors())
}

// TestVectors reads what is shipped, and nothing else.
func TestVectors(t *testing.T) {
	valid := 0
	for _, v := range vectortest.Read(t, shipped) {
		err := readerOf(v.Structure)(v.Flipped())
		if v.Valid {
			valid++
		}
		if v.Valid != (err == nil) {
			t.Errorf("%s: valid is %v, and it is read with %v", v.Name, v.Valid, err)
		} else if err != nil && strings.Contains(err.Error(), "PARTLY") {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
	if valid < len(vectors()) {
		t.Errorf("%d vectors are valid", valid)
	}
}
