package protocol_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pinion/protocol"
	"pinion/protocol/wire"
)

func TestNames(t *testing.T) {
	hex32 := "0123456789abcdef0123456789abcdef"
	good := []string{
		"head/000000000001", "head/000000000010", "head/999999999999", "roots/000000000001-" + hex32, "roots/999999999999-" + hex32,
		"index/" + hex32, "packs/01/" + hex32,
	}
	for _, n := range good {
		if err := protocol.CheckName(n); err != nil {
			t.Errorf("CheckName(%q) = %v", n, err)
		}
	}
	bad := []string{
		"", ".", "..", "/", "head", "head/", "head/000000000000", "head/1", "head/00000000001", "head/0000000000001", "head/-00000000001", "head/+00000000001", "head/00000000001x", "head/000000000001/", "head/ 00000000001", "Head/000000000001",
		"head/1000000000000", "head/18446744073709551617", "head/10000000000000000000", "head/99999999999999999999999", "./head/000000000001",
		"roots/", "roots/000000000001", "roots/000000000001-", "roots/000000000000-" + hex32, "roots/1-" + hex32, "roots/-" + hex32, "roots/000000000001-" + hex32[1:], "roots/000000000001-" + hex32 + "0",
		"roots/000000000001--" + hex32[1:], "roots/000000000001-" + strings.ToUpper(hex32), "roots/1000000000000-" + hex32, "roots/000000000001_" + hex32,
		"index", "index/", "index/" + hex32[1:], "index/" + hex32 + "0", "index/" + strings.ToUpper(hex32), "index//" + hex32[1:],
		"index/../" + hex32[:29], "index/" + hex32 + "/", "index/" + hex32[:31] + "g", "packs/" + hex32, "packs/02/" + hex32,
		"packs/01//" + hex32[1:], "packs/0/" + hex32, "packs/01/" + hex32[:31], "tmp/" + hex32, "lock.use", "index/" + hex32[:31] + "\x00",
		"index/" + hex32[:31] + "\n", "../head/000000000001", strings.Repeat("a", 100000),
		"root", "root.1", "keys/" + hex32, "trash/2026-11-30/packs/01/" + hex32, "parity/01/" + hex32, "sums/" + hex32, "lease/" + hex32,
		"policy", "README.txt",
	}
	for _, n := range bad {
		if err := protocol.CheckName(n); !errors.Is(err, protocol.ErrName) {
			t.Errorf("CheckName(%.50q) = %v", n, err)
		} else if len(err.Error()) > 300 {
			t.Errorf("CheckName of %d bytes gives a message of %d", len(n), len(err.Error()))
		}
	}
	id := [16]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}
	got := []string{
		protocol.HeadName(1), protocol.HeadName(10), protocol.HeadName(protocol.MaxGeneration),
		protocol.RootName(1, id), protocol.RootName(protocol.MaxGeneration, id), protocol.IndexName(id), protocol.PackName(id),
	}
	if !reflect.DeepEqual(got, good) {
		t.Errorf("names are %q, want %q", got, good)
	}
	for _, n := range []string{"head/000000000001", good[3], "index", "packs/01/"} {
		if id, ok := protocol.ParseID(n); ok {
			t.Errorf("%q has the id %x", n, id)
		}
	}
	for _, p := range []string{"", "h", "head", "roots", "packs", "packs/0/", "packs/0g/", "packs/AA/", "packs/01", "packs/001/", "tmp/", "root", "keys/", strings.Repeat("p", 100000)} {
		if err := protocol.CheckPrefix(p); !errors.Is(err, protocol.ErrName) {
			t.Errorf("CheckPrefix(%.50q) = %v", p, err)
		}
	}
	for i := range protocol.InventoryRows {
		if err := protocol.CheckPrefix(protocol.InventoryPrefix(i)); err != nil {
			t.Error(err)
		}
	}
}

// TestLongestName: MaxName bounds buffers, so it must be the longest one.
func TestLongestName(t *testing.T) {
	if n := len(protocol.RootName(protocol.MaxGeneration, [16]byte{})); n != protocol.MaxName {
		t.Errorf("a root's name has %d bytes, MaxName is %d", n, protocol.MaxName)
	}
}

// TestFullRequestsFit: the limits of requests are such that the largest one
// is still one frame.
func TestFullRequestsFit(t *testing.T) {
	longest := protocol.RootName(protocol.MaxGeneration, [16]byte{})
	ranges := make([]protocol.Range, protocol.MaxRanges)
	names := make([]string, protocol.MaxDeletes)
	for i := range names {
		names[i] = longest
	}
	largest := []protocol.Appender{
		protocol.Get{Name: longest, Ranges: ranges},
		protocol.Punch{Name: longest, Ranges: ranges},
		protocol.Delete{Names: names},
		protocol.ErrorReply{Code: 1, Text: strings.Repeat("x", protocol.MaxText)},
	}
	extensions := []wire.Extension{{Data: make([]byte, protocol.MaxExtensions-2-2-4)}}
	heads := make([]uint64, protocol.MaxHeads)
	for i := range heads {
		heads[i] = uint64(len(heads) - i)
	}
	for _, tt := range []struct {
		m protocol.Appender
		n int
	}{
		{protocol.Hello{Extensions: extensions}, protocol.MaxHello},
		{protocol.Hello{}, protocol.MinHello},
		{protocol.HelloReply{Heads: heads, Extensions: extensions}, protocol.MaxHelloReply},
		{protocol.Committed{Heads: heads}, protocol.MaxCommitted},
		{new(protocol.Inventory), protocol.InventorySize},
		{protocol.ErrorReply{Text: strings.Repeat("x", 2*protocol.MaxText)}, protocol.MaxErrorReply},
	} {
		if n := len(tt.m.Append(nil)); n != tt.n {
			t.Errorf("%T has %d bytes, want %d", tt.m, n, tt.n)
		}
		largest = append(largest, tt.m)
	}
	for _, m := range largest {
		if n := len(m.Append(nil)); n > protocol.MaxPayload {
			t.Errorf("%T has %d bytes", m, n)
		}
	}
}

// fullHeader is that of a frame that is as long as one may be.
func fullHeader() []byte {
	return protocol.AppendHeader(nil, protocol.Header{Type: protocol.TypeData, ID: 9, Len: protocol.MaxPayload})
}

// refusedHeaders are headers of frames that aren't taken, by what is wrong with them.
func refusedHeaders() map[string][]byte {
	good := fullHeader()
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	return map[string][]byte{
		"empty": {}, "short": good[:11], "long": append(bytes.Clone(good), 0),
		"type 0": change(0, 0), "unknown type": change(0, 0x0f), "type 255": change(0, 255),
		"pad 1": change(1, 1), "pad 2": change(2, 1), "pad 3": change(3, 1),
		"huge": change(8, 0xff), "one more": change(11, good[11]+1),
	}
}

func TestHeaderRefused(t *testing.T) {
	if _, err := protocol.ParseHeader(fullHeader()); err != nil {
		t.Fatal(err)
	}
	for name, b := range refusedHeaders() {
		if h, err := protocol.ParseHeader(b); err == nil || h != (protocol.Header{}) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

// A refused is a message that isn't taken: of which sort, by its vector's name,
// and the payload.
type refused struct {
	message string
	in      []byte
}

// refusedMessages are messages that aren't taken, by what is wrong with them.
func refusedMessages() map[string]refused {
	u32 := binary.BigEndian.AppendUint32
	u64 := binary.BigEndian.AppendUint64
	name := func(n string) []byte { return wire.AppendText(nil, n) }
	ranges := func(rs ...protocol.Range) []byte { return protocol.Get{Name: packA, Ranges: rs}.Append(nil) }
	return map[string]refused{
		"hello, versions upside down": {"hello", protocol.Hello{Min: 2, Max: 1}.Append(nil)},
		"hello, unknown flag":         {"hello", append(protocol.Hello{}.Append(nil)[:36], 2)},
		"lock of mode 0":              {"lock", []byte{0}},
		"lock of mode 4":              {"lock", []byte{4}},
		"note of nothing":             {"note", protocol.Note{}.Append(nil)},
		"note too long":               {"note", protocol.Note{Note: make([]byte, protocol.MaxNote+1)}.Append(nil)},
		"holder of kind 3":            {"ok-holder", append([]byte{3}, make([]byte, 10)...)},
		"holder, note too long":       {"ok-holder", protocol.Holder{Held: protocol.HeldByWriter, Note: make([]byte, protocol.MaxNote+1)}.Append(nil)},
		"holder, readers with a note": {"ok-holder", protocol.Holder{Held: protocol.HeldByReaders, Note: []byte("x")}.Append(nil)},
		"holder, an age of no note":   {"ok-holder", protocol.Holder{Held: protocol.HeldByWriter, Seconds: 1}.Append(nil)},
		"holder with bytes behind":    {"ok-holder", append(protocol.Holder{}.Append(nil), 0)},
		"put of a bad name":           {"put", u64(name("../x"), 1)},
		"put too large":               {"put", u64(name(packA), protocol.MaxObject+1)},
		"put of 2^63":                 {"put", u64(name(packA), 1<<63)},
		"get of nothing":              {"get", ranges()},
		"get of an empty range":       {"get", ranges(protocol.Range{Off: 1})},
		"get beyond all":              {"get", ranges(protocol.Range{Off: protocol.MaxObject, Len: 1})},
		"get that wraps":              {"get", ranges(protocol.Range{Off: 1<<64 - 1, Len: 2})},
		"get of too many":             {"get", ranges(make([]protocol.Range, protocol.MaxRanges+1)...)},
		"get with a lying count":      {"get", u32(name(packA), 4000)},
		"get-whole of too much":       {"get-whole", u32(name(packA), protocol.MaxObject+1)},
		"list of an odd prefix":       {"list", protocol.List{Prefix: "packs/a0", Max: 1}.Append(nil)},
		"list after a stranger":       {"list", protocol.List{Prefix: "packs/", After: headA, Max: 1}.Append(nil)},
		"list after no name":          {"list", protocol.List{Prefix: "packs/", After: "packs/", Max: 1}.Append(nil)},
		"list of none":                {"list", protocol.List{Prefix: "packs/"}.Append(nil)},
		"list of too many":            {"list", protocol.List{Prefix: "packs/", Max: protocol.MaxListed + 1}.Append(nil)},
		"list after another pack":     {"list", protocol.List{Prefix: "packs/b0/", After: packA, Max: 1}.Append(nil)},
		"delete of nothing":           {"delete", u32([]byte{0}, 0)},
		"delete with unknown flags":   {"delete", append([]byte{2}, protocol.Delete{Names: []string{packA}}.Append(nil)[1:]...)},
		"delete of a bad name":        {"delete", protocol.Delete{Names: []string{packA, "x"}}.Append(nil)},
		"commit of nothing":           {"commit", protocol.Commit{Generation: 1}.Append(nil)},
		"commit of too much":          {"commit", protocol.Commit{Generation: 1, Size: protocol.MaxRoot + 1}.Append(nil)},
		"commit of generation 0":      {"commit", protocol.Commit{Size: 1}.Append(nil)},
		"commit of generation 2^63":   {"commit", protocol.Commit{Generation: 1 << 63, Size: 1}.Append(nil)},
		"heads that ascend":           {"ok-commit", protocol.Committed{Heads: []uint64{1, 2}}.Append(nil)},
		"the same head twice":         {"ok-commit", protocol.Committed{Heads: []uint64{2, 2}}.Append(nil)},
		"head 0":                      {"ok-commit", protocol.Committed{Heads: []uint64{1, 0}}.Append(nil)},
		"head 2^63":                   {"ok-commit", protocol.Committed{Heads: []uint64{1 << 63}}.Append(nil)},
		"too many heads":              {"ok-commit", protocol.Committed{Heads: manyHeads()}.Append(nil)},
		"hello with long extensions":  {"hello", protocol.Hello{Extensions: []wire.Extension{{Data: make([]byte, protocol.MaxExtensions-7)}}}.Append(nil)},
		"an inventory of nothing":     {"ok-inventory", (&protocol.Inventory{Rows: [protocol.InventoryRows]protocol.InventoryRow{{Bytes: 1}}}).Append(nil)},
		"an error with a class":       {"error", protocol.ErrorReply{Code: protocol.CodeMissing, Class: protocol.ClassIO}.Append(nil)},
		"unreadable without a class":  {"error", protocol.ErrorReply{Code: protocol.CodeUnreadable}.Append(nil)},
		"compose of nothing":          {"compose", protocol.Compose{Name: packA, ListLen: 1}.Append(nil)},
		"compose without parts":       {"compose", protocol.Compose{Name: packA, Size: 1}.Append(nil)},
		"compose of too many parts":   {"compose", protocol.Compose{Name: packA, Size: 1, ListLen: protocol.MaxComposeList + 1}.Append(nil)},
		"hello reply without window":  {"hello-reply", protocol.HelloReply{MaxRanges: 1}.Append(nil)},
		"hello reply without ranges":  {"hello-reply", protocol.HelloReply{MaxOutstanding: 1}.Append(nil)},
		"entry with a bad name":       {"entry", protocol.Entry{Name: "x"}.Append(nil)},
		"error with code 0":           {"error", protocol.ErrorReply{Text: "x"}.Append(nil)},
		"error with a long text":      {"error", wire.AppendText([]byte{1, 0}, strings.Repeat("x", protocol.MaxText+1))},
	}
}

// vectorOf is the golden vector with that name.
func vectorOf(name string) vector {
	all := vectors()
	return all[slices.IndexFunc(all, func(v vector) bool { return v.name == name })]
}

func TestMessagesRefused(t *testing.T) {
	for what, tt := range refusedMessages() {
		if m, err := vectorOf(tt.message).parse(tt.in); err == nil {
			t.Errorf("%s was taken: %+v", what, m)
		} else if strings.Contains(err.Error(), "PARTLY") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, v := range vectors() {
		if v.typ == protocol.TypeData {
			continue
		}
		b := v.msg.Append(nil)
		if m, err := v.parse(append(bytes.Clone(b), 0)); err == nil {
			t.Errorf("%s with a byte too many was taken: %+v", v.name, m)
		}
		for n := range b {
			if m, err := v.parse(b[:n]); err == nil {
				t.Errorf("%s cut to %d bytes was taken: %+v", v.name, n, m)
			}
		}
	}
}

// manyHeads are one more than there may be.
func manyHeads() []uint64 {
	heads := make([]uint64, protocol.MaxHeads+1)
	for i := range heads {
		heads[i] = uint64(len(heads) - i)
	}
	return heads
}

// TestUnknownCodes: what a later helper says is passed on.
func TestUnknownCodes(t *testing.T) {
	for _, want := range []protocol.ErrorReply{{Code: 99}, {Code: 99, Class: 7}, {Code: protocol.CodeUnreadable, Class: 9}} {
		if e, err := protocol.ParseErrorReply(want.Append(nil)); e != want || err != nil {
			t.Errorf("%+v became %+v, %v", want, e, err)
		}
	}
}

func TestErrorTextIsCut(t *testing.T) {
	b := protocol.ErrorReply{Code: 1, Text: strings.Repeat("x", 100000)}.Append(nil)
	e, err := protocol.ParseErrorReply(b)
	if err != nil || len(e.Text) != protocol.MaxText {
		t.Errorf("text of %d bytes, %v", len(e.Text), err)
	}
}

func TestParts(t *testing.T) {
	var parts []protocol.Part
	collect := func(p protocol.Part) error {
		parts = append(parts, p)
		return nil
	}
	if err := protocol.EachPart(partList(), collect); err != nil {
		t.Fatal(err)
	}
	want := []protocol.Part{
		{Source: packB, Range: protocol.Range{Off: 4096, Len: 1000}},
		{Literal: []byte("literal")},
	}
	if !reflect.DeepEqual(parts, want) {
		t.Errorf("parts are %+v", parts)
	}
	if parts[0].Len() != 1000 || parts[1].Len() != 7 {
		t.Errorf("lengths are %d and %d", parts[0].Len(), parts[1].Len())
	}
	stop := errors.New("stop")
	if err := protocol.EachPart(partList(), func(protocol.Part) error { return stop }); err != stop {
		t.Errorf("the caller's error came back as %v", err)
	}
	for name, list := range refusedParts() {
		if err := protocol.EachPart(list, collect); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// refusedParts are part lists that aren't taken, by what is wrong with them.
func refusedParts() map[string][]byte {
	return map[string][]byte{
		"unknown kind":    {2},
		"bad name":        protocol.AppendCopy(nil, "head/x", protocol.Range{Len: 1}),
		"empty range":     protocol.AppendCopy(nil, packA, protocol.Range{}),
		"empty literal":   protocol.AppendLiteral(nil, nil),
		"literal cut":     protocol.AppendLiteral(nil, []byte("abc"))[:7],
		"literal of 4 GB": {1, 0xff, 0xff, 0xff, 0xff},
		"copy cut":        protocol.AppendCopy(nil, packA, protocol.Range{Len: 1})[:20],
	}
}

func TestWords(t *testing.T) {
	seen := map[string]bool{}
	word := func(s string, known bool) {
		if seen[s] || s == "" || known == strings.ContainsAny(s, "0123456789") {
			t.Errorf("the word %q is taken twice, or empty, or a number", s)
		}
		seen[s] = true
	}
	for _, v := range vectors() {
		if s := v.typ.String(); !seen[s] {
			word(s, true)
		}
	}
	word(protocol.Type(0).String(), false)
	for c := protocol.CodeMissing; c <= protocol.CodeUnreadable; c++ {
		word(c.String(), true)
	}
	word(protocol.Code(200).String(), false)
	for c := protocol.ClassNone; c <= protocol.ClassOther; c++ {
		word(c.String(), true)
	}
	word(protocol.Class(200).String(), false)
	for m := protocol.LockRead; m <= protocol.LockExclusive; m++ {
		word(m.String(), true)
	}
	word(protocol.LockMode(9).String(), false)
}
