package protocol_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/protocol"
	"pinion/protocol/wire"
)

var update = flag.Bool("update", false, "write the golden vectors")

// A vector is one golden frame.
type vector struct {
	name  string
	typ   protocol.Type
	id    uint32
	msg   protocol.Appender
	parse func([]byte) (any, error)
}

// parser makes a Parse function one for any message.
func parser[M any](parse func([]byte) (M, error)) func([]byte) (any, error) {
	return func(b []byte) (any, error) {
		m, err := parse(b)
		if err != nil && !reflect.ValueOf(m).IsZero() {
			return nil, fmt.Errorf("PARTLY FILLED %+v with %w", m, err)
		}
		return m, err
	}
}

const (
	packA = "packs/a0/a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"
	packB = "packs/b0/b0b1b2b3b4b5b6b7b8b9babbbcbdbebf"
	headA = "head/000000001742"
	rootA = "roots/000000001742-000102030405060708090a0b0c0d0e0f"
	index = "index/f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
)

func token() (t [protocol.TokenSize]byte) {
	for i := range t {
		t[i] = byte(0x20 + i)
	}
	return t
}

// inventory is one with something in three of its rows.
func inventory() *protocol.Inventory {
	v := &protocol.Inventory{Age: 90 * time.Second}
	var sums [protocol.InventoryRows]protocol.InventorySum
	sums[0xa0].Add([16]byte{0xa0, 0xa1}, 1000)
	sums[0xa0].Add([16]byte{0xa0, 0xa2}, 16<<20)
	sums[0xff].Add([16]byte{0xff}, 5)
	sums[256].Add([16]byte{0xf0, 0xf1}, 100)
	for i := range v.Rows {
		v.Rows[i] = sums[i].Row()
	}
	return v
}

// data is a message of any bytes, for data frames.
type data []byte

func (d data) Append(b []byte) []byte { return append(b, d...) }

func parseData(b []byte) (data, error) { return data(b), nil }

// partList is a compose's part list with a part of each kind.
func partList() data {
	l := protocol.AppendCopy(nil, packB, protocol.Range{Off: 4096, Len: 1000})
	return data(protocol.AppendLiteral(l, []byte("literal")))
}

func vectors() []vector {
	ranges := []protocol.Range{{Off: 0, Len: 10}, {Off: 1 << 20, Len: 65536}}
	parseNothing := func(b []byte) (data, error) {
		if len(b) > 0 {
			return nil, fmt.Errorf("%d bytes", len(b))
		}
		return data{}, nil
	}
	return []vector{
		{"hello", protocol.TypeHello, 0, protocol.Hello{
			Min: 2, Max: 2, Token: token(), Create: true, Extensions: []wire.Extension{{Tag: 0x3f01, Data: []byte("later")}},
		}, parser(protocol.ParseHello)},
		{"lock", protocol.TypeLock, 1, protocol.Lock{Mode: protocol.LockAppend}, parser(protocol.ParseLock)},
		{"put", protocol.TypePut, 2, protocol.Put{Name: packA, Size: 5}, parser(protocol.ParsePut)},
		{"data", protocol.TypeData, 2, data("bytes"), parser(parseData)},
		{"get", protocol.TypeGet, 3, protocol.Get{Name: packA, Ranges: ranges}, parser(protocol.ParseGet)},
		{"get-whole", protocol.TypeGetWhole, 4, protocol.GetWhole{Name: headA, Max: protocol.MaxRoot}, parser(protocol.ParseGetWhole)},
		{"list", protocol.TypeList, 5, protocol.List{Prefix: protocol.PrefixPacks, After: packA, Max: 1000}, parser(protocol.ParseList)},
		{"delete", protocol.TypeDelete, 6, protocol.Delete{Keep: true, Names: []string{index, rootA}}, parser(protocol.ParseDelete)},
		{"commit", protocol.TypeCommit, 7, protocol.Commit{Generation: 1742, Size: 500}, parser(protocol.ParseCommit)},
		{"punch", protocol.TypePunch, 9, protocol.Punch{Name: packA, Ranges: ranges[1:]}, parser(protocol.ParsePunch)},
		{"compose", protocol.TypeCompose, 10, protocol.Compose{Name: packA, Size: 1007, ListLen: uint32(len(partList()))}, parser(protocol.ParseCompose)},
		{"compose-parts", protocol.TypeData, 10, partList(), parser(parseData)},
		{"usage", protocol.TypeUsage, 11, data{}, parser(parseNothing)},
		{"note", protocol.TypeNote, 12, protocol.Note{Note: []byte("a sealed note")}, parser(protocol.ParseNote)},
		{"holder", protocol.TypeHolder, 13, data{}, parser(parseNothing)},
		{"inventory", protocol.TypeInventory, 14, data{}, parser(parseNothing)},
		{"hello-reply", protocol.TypeHelloReply, 0, protocol.HelloReply{
			Version: 2, Capabilities: protocol.CanPunch | protocol.CanCompose, Created: true, MaxObject: protocol.MaxObject,
			MaxOutstanding: protocol.MaxOutstanding, MaxRanges: protocol.MaxRanges, Free: 1 << 30, Total: 1 << 40,
			Heads: []uint64{1742, 1741, 1739}, Extensions: []wire.Extension{{Tag: 0x3f01, Data: []byte("later")}},
		}, parser(protocol.ParseHelloReply)},
		{"alive", protocol.TypeAlive, 0, data{}, parser(parseNothing)},
		{"entry", protocol.TypeEntry, 5, protocol.Entry{Size: 16 << 20, Name: packB}, parser(protocol.ParseEntry)},
		{"ok", protocol.TypeOK, 2, data{}, parser(parseNothing)},
		{"ok-get", protocol.TypeOK, 3, protocol.Total{Bytes: 65546}, parser(protocol.ParseTotal)},
		{"ok-list", protocol.TypeOK, 5, protocol.ListDone{Count: 1, More: true}, parser(protocol.ParseListDone)},
		{"ok-usage", protocol.TypeOK, 11, protocol.Usage{Used: 123456, Free: 1 << 30, Total: 1 << 40}, parser(protocol.ParseUsage)},
		{"ok-holder", protocol.TypeOK, 13, protocol.Holder{Held: protocol.HeldByWriter, Seconds: 90, Note: []byte("a sealed note")}, parser(protocol.ParseHolder)},
		{"ok-holder-readers", protocol.TypeOK, 13, protocol.Holder{Held: protocol.HeldByReaders}, parser(protocol.ParseHolder)},
		{"ok-commit", protocol.TypeOK, 7, protocol.Committed{Heads: []uint64{1742, 1741}}, parser(protocol.ParseCommitted)},
		{"ok-inventory", protocol.TypeOK, 14, inventory(), parser(protocol.ParseInventory)},
		{"error", protocol.TypeError, 3, protocol.ErrorReply{Code: protocol.CodeMissing, Text: "no such object"}, parser(protocol.ParseErrorReply)},
		{"error-unreadable", protocol.TypeError, 4, protocol.ErrorReply{
			Code: protocol.CodeUnreadable, Class: protocol.ClassIO, Text: "input/output error",
		}, parser(protocol.ParseErrorReply)},
	}
}

// dump is the form that golden files and the documentation have: rows of 16
// bytes.
func dump(b []byte) string {
	var s strings.Builder
	for row := range slices.Chunk(b, 16) {
		for i, c := range row {
			if i > 0 {
				s.WriteByte(' ')
			}
			fmt.Fprintf(&s, "%02x", c)
		}
		s.WriteByte('\n')
	}
	return s.String()
}

func golden(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answer is what a helper sends before its first frame.
func answer() []byte {
	tok := token()
	return append([]byte(protocol.Magic), tok[:]...)
}

func TestGolden(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	if want := len(vectors()) + 1; len(files) != want {
		t.Errorf("testdata has %d vectors, want %d", len(files), want)
	}
	if got := golden(t, "magic"); !bytes.Equal(got, answer()) {
		t.Errorf("magic is %x, want %x", answer(), got)
	}
	for _, v := range vectors() {
		t.Run(v.name, func(t *testing.T) {
			want := golden(t, v.name)
			if got := protocol.AppendFrame(nil, v.typ, v.id, v.msg); !bytes.Equal(got, want) {
				t.Errorf("frame is\n%swant\n%s", dump(got), dump(want))
			}
			h, err := protocol.ParseHeader(want[:protocol.HeaderSize])
			if err != nil {
				t.Fatal(err)
			}
			if wantH := (protocol.Header{Type: v.typ, ID: v.id, Len: len(want) - protocol.HeaderSize}); h != wantH {
				t.Errorf("header is %+v, want %+v", h, wantH)
			}
			m, err := v.parse(want[protocol.HeaderSize:])
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(m, any(v.msg)) {
				t.Errorf("parsed as %+v, want %+v", m, v.msg)
			}
		})
	}
}

func writeGolden(t *testing.T) {
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join("testdata", name+".hex"), []byte(dump(b)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("magic", answer())
	for _, v := range vectors() {
		write(v.name, protocol.AppendFrame(nil, v.typ, v.id, v.msg))
	}
}

// TestDocumentation compares the examples in the protocol's page with the
// golden vectors.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"magic"}
	for _, v := range vectors() {
		if v.name == "ok-inventory" {
			continue // 11 KB; its beginning is there
		}
		names = append(names, v.name)
	}
	if want := dump(golden(t, "ok-inventory"))[:4*16*3]; !strings.Contains(string(page), "<!-- example: ok-inventory, its beginning -->\n```\n"+want+"```\n") {
		t.Errorf("docs/protocol.md lacks the beginning of an inventory's ok\n%s", want)
	}
	for _, name := range names {
		want := "<!-- example: " + name + " -->\n```\n" + dump(golden(t, name)) + "```\n"
		if !strings.Contains(string(page), want) {
			t.Errorf("docs/protocol.md lacks the example\n%s", want)
		}
	}
	for _, limit := range []int{
		protocol.MaxFrame, protocol.MaxPayload, protocol.MaxNoise, protocol.MaxText, protocol.MaxObject, protocol.MaxRoot,
		protocol.MaxRanges, protocol.MaxDeletes, protocol.MaxListed, protocol.MaxComposeList, protocol.MaxOutstanding, protocol.KeptRoots, protocol.MaxNote,
		protocol.MaxHeads, protocol.MaxExtensions, protocol.InventorySize, protocol.InventoryRows, protocol.MinRate,
	} {
		if !strings.Contains(string(page), " "+commas(limit)+" ") {
			t.Errorf("docs/protocol.md does not name the limit %s", commas(limit))
		}
	}
}

// commas writes n with a comma before every three digits.
func commas(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
