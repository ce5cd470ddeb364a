package protocol_test

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	"pinion/protocol"
	"pinion/protocol/wire"
)

// FuzzMessages gives any bytes to the parser of any message. What is taken
// must append to the same bytes; what isn't must leave nothing behind.
func FuzzMessages(f *testing.F) {
	all := vectors()
	for i, v := range all {
		f.Add(uint8(i), v.msg.Append(nil))
	}
	f.Add(uint8(5), []byte("\x00\x06head/1\x00\x00\x0f\xff"))
	f.Add(uint8(0), protocol.Hello{Max: 2, Extensions: []wire.Extension{{Tag: 1}, {Tag: 0xc001, Data: make([]byte, 100)}}}.Append(nil))
	f.Fuzz(func(t *testing.T, which uint8, in []byte) {
		v := all[int(which)%len(all)]
		if len(in) > protocol.MaxPayload {
			return
		}
		m, err := v.parse(in)
		if err != nil {
			if strings.Contains(err.Error(), "PARTLY") {
				t.Fatal(err)
			}
			return
		}
		if got := m.(protocol.Appender).Append(nil); !bytes.Equal(got, in) {
			t.Fatalf("%s: %x became %+v became %x", v.name, in, m, got)
		}
	})
}

// FuzzHeader does the same with frame headers.
func FuzzHeader(f *testing.F) {
	for _, v := range vectors() {
		f.Add(protocol.AppendFrame(nil, v.typ, v.id, v.msg)[:protocol.HeaderSize])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := protocol.ParseHeader(in)
		if err != nil {
			return
		}
		if h.Len > protocol.MaxPayload {
			t.Fatalf("length %d", h.Len)
		}
		if got := protocol.AppendHeader(nil, h); !bytes.Equal(got, in) {
			t.Fatalf("%x became %+v became %x", in, h, got)
		}
	})
}

// FuzzParts does the same with part lists.
func FuzzParts(f *testing.F) {
	f.Add([]byte(partList()))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff})
	f.Add(protocol.AppendCopy(protocol.AppendLiteral(nil, []byte{0}), headA, protocol.Range{Len: 1}))
	f.Add(append([]byte(partList()), 0))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out []byte
		err := protocol.EachPart(in, func(p protocol.Part) error {
			if p.Source != "" {
				out = protocol.AppendCopy(out, p.Source, p.Range)
			} else {
				out = protocol.AppendLiteral(out, p.Literal)
			}
			return nil
		})
		if err == nil && !bytes.Equal(out, in) {
			t.Fatalf("%x became %x", in, out)
		}
		if !bytes.HasPrefix(in, out) {
			t.Fatalf("%x gave %x", in, out)
		}
	})
}

// FuzzNames: a name that is taken stays inside the archive's directory.
func FuzzNames(f *testing.F) {
	for _, n := range []string{
		headA, rootA, packA, index, "head/999999999999", "head/9223372036854775808", "roots/000000000001-", "../../etc/passwd", "packs/../head/000000000001",
		"trash/2026-01-01/head/000000000001", "parity/00/" + packA, "sums/x", "lease/x", "policy", "README.txt",
	} {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, n string) {
		if protocol.CheckName(n) != nil {
			return
		}
		if len(n) > protocol.MaxName || strings.Contains(n, "..") || strings.HasPrefix(n, "/") || strings.ContainsRune(n, 0) {
			t.Fatalf("%q was taken", n)
		}
		back := ""
		if g, ok := protocol.ParseHead(n); ok {
			back = protocol.HeadName(g)
		} else if g, sum, ok := protocol.ParseRootName(n); ok {
			back = protocol.RootName(g, sum)
		} else if id, ok := protocol.ParseID(n); ok && n[0] == 'p' {
			back = protocol.PackName(id)
		} else if ok {
			back = protocol.IndexName(id)
		}
		if back != n {
			t.Fatalf("%q became %q", n, back)
		}
	})
}

// TestAllocations: counts that lie must not make a parser reserve more than
// its input could hold.
func TestAllocations(t *testing.T) {
	name := protocol.Put{Name: packA}.Append(nil)[:2+len(packA)]
	inputs := []struct {
		parse func([]byte) (any, error)
		in    []byte
	}{
		{parser(protocol.ParseGet), append(bytes.Clone(name), 0xff, 0xff, 0xff, 0xff)},
		{parser(protocol.ParsePunch), append(bytes.Clone(name), 0, 0, 0x10, 0)},
		{parser(protocol.ParseDelete), []byte{0, 0, 0, 3, 0xe8}},
		{parser(protocol.ParseErrorReply), []byte{1, 0, 0xff, 0xff}},
		{parser(protocol.ParseCommitted), []byte{3, 0xe8, 0}},
		{parser(protocol.ParseHello), append(make([]byte, 37), 0xff, 0xff, 0, 0)},
	}
	for i, in := range inputs {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 100 {
			if _, err := in.parse(in.in); err == nil {
				t.Fatalf("input %d was taken", i)
			}
		}
		runtime.ReadMemStats(&after)
		if per := (after.TotalAlloc - before.TotalAlloc) / 100; per > 4096 {
			t.Errorf("input %d of %d bytes made the parser allocate %d", i, len(in.in), per)
		}
	}
}
