package format_test

import (
	"fmt"
	"go/ast"
	"go/constant"
	source "go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

const pagePath = "../../../docs/format.md"

// boundDoc is the comment of a bound: its name, what it bounds, and the reason.
var boundDoc = regexp.MustCompile(`^(\w+) (?:bounds|is) (.+?)\. (.+)$`)

// boundRows are the page's table of bounds: what limits.go says of each.
func boundRows(t *testing.T) string {
	t.Helper()
	files := token.NewFileSet()
	file, err := source.ParseFile(files, "limits.go", nil, source.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := (&types.Config{}).Check("format", files, []*ast.File{file}, nil)
	if err != nil {
		t.Fatalf("limits.go needs more than itself: %v", err)
	}
	var s strings.Builder
	s.WriteString("| bound | name in the source | value | reason |\n| --- | --- | ---: | --- |\n")
	for _, spec := range file.Decls[0].(*ast.GenDecl).Specs {
		v := spec.(*ast.ValueSpec)
		m := boundDoc.FindStringSubmatch(strings.Join(strings.Fields(v.Doc.Text()), " "))
		if m == nil || m[1] != v.Names[0].Name {
			t.Errorf("%s has no comment that says what it bounds, and why: %q", v.Names[0].Name, v.Doc.Text())
			continue
		}
		value, ok := constant.Int64Val(pkg.Scope().Lookup(m[1]).(*types.Const).Val())
		if !ok {
			t.Errorf("%s is no number", m[1])
		}
		fmt.Fprintf(&s, "| %s | `%s` | %s | %s |\n", m[2], m[1], commas(int(value)), m[3])
	}
	return s.String()
}

// sizeRows are the page's worked sizes. Node, record and the like are stored:
// ids don't compress.
func sizeRows() string {
	const size, chunk = 1 << 30, format.DefaultChunkSize
	chunks := int(format.Chunks(size, chunk))
	sealedChunk := chunk + format.BlobOverhead
	perPack := (format.PackTarget - format.HeaderSize + sealedChunk - 1) / sealedChunk
	packs := (chunks + perPack - 1) / perPack

	nodes, nodeBytes := 0, 0
	for left := chunks; left > 1; left = (left + format.Fanout - 1) / format.Fanout {
		full, rest := left/format.Fanout, left%format.Fanout
		nodes, nodeBytes = nodes+full, nodeBytes+full*sealedNode(format.Fanout)
		if rest > 0 {
			nodes, nodeBytes = nodes+1, nodeBytes+sealedNode(rest)
		}
	}
	record, names := sealed(&format.VolumeRecord{}), sealed(&format.VolumeTable{Volumes: []format.NamedVolume{{Name: "work:private"}}})
	session := sealed(&format.Session{Zone: "UTC", Host: "dom0", Volumes: make([]format.SessionVolume, 1)})
	leaf := sealed(&format.SessionLeaf{Entries: make([]format.SessionEntry, 1)})
	data := packs*packSize(0, 0) + chunks*sealedChunk + packs*(packSize(perPack, 0)-packSize(0, 0))
	meta := packSize(nodes+4, nodeBytes+record+session+leaf+names)
	index := indexSize(packs+1, chunks+nodes+4)
	root := rootSize()
	total := data + 2*meta + 2*index + 2*root

	path := 2*sealedNode(format.Fanout) + sealedNode(chunks/format.Fanout/format.Fanout)
	laterMeta := packSize(3+3, path+record+session+leaf)
	later := packSize(1, sealedChunk) + 2*laterMeta + 2*indexSize(2, 7) + 2*root

	var s strings.Builder
	row := func(what string, bytes int) { fmt.Fprintf(&s, "| %s | %s |\n", what, commas(bytes)) }
	s.WriteString("| | bytes |\n| --- | ---: |\n")
	row("a chunk, sealed", sealedChunk)
	row(fmt.Sprintf("a pack of %d chunks; its table of contents has %s, sealed", perPack, commas(format.SealedTOCSize(perPack))), packSize(perPack, perPack*sealedChunk))
	row(fmt.Sprintf("all %s chunks: %d packs", commas(chunks), packs), data)
	row("a full node, sealed", sealedNode(format.Fanout))
	row(fmt.Sprintf("the tree: %d nodes on %d levels", nodes, format.TreeLevel(uint64(chunks))), nodeBytes)
	row("volume record, session, session leaf, volume table, sealed", record+session+leaf+names)
	row("the pack with those and the tree", meta)
	row(fmt.Sprintf("the index object: %s entries", commas(chunks+nodes+4)), index)
	row("the root, with one key slot and one predecessor", root)
	row(fmt.Sprintf("all of it, with the twins and the root a second time: %.2f %% more than the volume", 100*float64(total-size)/size), total)
	row(fmt.Sprintf("a later session in which one chunk changed: its pack, a metadata pack with %s bytes of nodes, the index object, the root, and three of those again",
		commas(path)), later)
	return s.String()
}

// packSize is the length of a pack with blobs of so many bytes together.
func packSize(blobs, bytes int) int {
	return format.HeaderSize + bytes + format.SealedTOCSize(blobs) + format.TrailerSize
}

func indexSize(packs, entries int) int {
	return format.HeaderSize + len(format.Pad(make([]byte, 1+4+20*packs+4+45*entries))) + format.SealOverhead
}

func rootSize() int {
	c := format.Clear{Slots: [][]byte{slot(format.KDFArgon2id).Append(nil)}}
	r := &format.Root{
		Clear: c, Host: "dom0", SlotInfo: make([]format.SlotInfo, 1), Index: make([]format.IndexRun, 1), Predecessors: make([]format.RootHash, 1),
	}
	return format.HeaderSize + len(c.Append(nil)) + len(r.AppendBody(nil)) + format.SealOverhead
}

func sealed(v appender) int { return len(v.Append(nil)) + format.BlobOverhead }

func sealedNode(children int) int {
	n := &format.Node{Level: 1}
	for i := range children {
		n.Children[i] = ft.Blob(1)
	}
	return sealed(n)
}

// commas writes n with a comma before every three digits.
func commas(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// onPage are the golden vectors that the page shows: one of each kind is enough.
var onPage = []string{
	"clear-part", "key-slot-passphrase", "root", "key-export", "table-of-contents", "pack-trailer", "index-list", "tree-node", "volume-record-extended",
	"volume-table", "session-qubes", "session-leaf", "removed-numbers", "qube-config", "lock-note",
}

// parts are what the page has from the code, by the comment in front of it.
func parts(t *testing.T) map[string]string {
	t.Helper()
	p := map[string]string{"bounds": boundRows(t), "sizes": sizeRows()}
	for _, name := range onPage {
		p["example: "+name] = "```\n" + ft.Dump(ft.Read(t, name)) + "```\n"
	}
	for _, name := range []string{"id-chunk", "id-chunk-domain", "sealed-chunk", "sealed-root", "slot-passphrase"} {
		p["example: "+name] = "```\n" + ft.Dump(ft.ReadFile(t, "../crypt/testdata/"+name+".hex")) + "```\n"
	}
	body, err := os.ReadFile(filepath.Join(ft.Shipped, "index/golden")) // the package index has it, above this one
	if err != nil {
		t.Fatal(err)
	}
	p["example: index-body"] = "```\n" + ft.Dump(body) + "```\n"
	return p
}

var mark = regexp.MustCompile(`(?m)^<!-- ([^>]*) -->\n`)

// TestPage: the examples, bounds and sizes on the page are those of the code.
func TestPage(t *testing.T) {
	text, err := os.ReadFile(pagePath)
	if err != nil {
		t.Fatal(err)
	}
	page, want := string(text), parts(t)
	if *update {
		page = fillIn(page, want)
		if err := os.WriteFile(pagePath, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, part := range want {
		if n := strings.Count(page, "<!-- "+name+" -->\n"+part); n != 1 {
			t.Errorf("docs/format.md has this %d times behind %q:\n%s", n, name, part)
		}
	}
	for _, m := range mark.FindAllStringSubmatch(page, -1) {
		if want[m[1]] == "" && !strings.HasPrefix(m[1], "SPDX-License-Identifier: ") {
			t.Errorf("docs/format.md has %q, which nothing checks", m[1])
		}
	}
	for _, words := range pageWords() {
		if !strings.Contains(page, words) {
			t.Errorf("docs/format.md doesn't say %q", words)
		}
	}
}

// pageWords are what the page's text says of sizes and purposes.
func pageWords() []string {
	words := []string{
		"has " + commas(format.MinKeySlot) + " to " + commas(format.MaxKeySlot) + " bytes",
		commas(format.MinArgonMemory) + " to " + commas(format.MaxArgonMemory),
		"at most " + commas(format.MaxArgonWork) + " KiB·passes", "at most " + commas(format.MaxPassphrase) + " bytes",
		commas(format.DefaultArgonMemory) + " KiB, " + commas(format.DefaultArgonTime) + " passes and " + commas(format.DefaultArgonLanes) + " lanes",
		fmt.Sprintf("lanes, 1 to %d", format.MaxArgonThreads), fmt.Sprintf("passes, 1 to %d", format.MaxArgonTime),
		fmt.Sprintf("%d bytes more than\nthe plaintext", format.SealOverhead), fmt.Sprintf("costs %d bytes more", format.BlobOverhead),
		fmt.Sprintf("a sealed body of %d bytes, so it\nalways has %d bytes", format.LockNoteSize, format.HeaderSize+format.SealOverhead+format.LockNoteSize),
		commas(format.PackTarget) + " bytes or " + commas(format.MaxPackBlobs) + " blobs", commas(format.MaxMetadata) + " for metadata",
		"at most " + commas(format.MaxExtensions) + " bytes", "at most " + commas(format.MaxEntryExtensions),
	}
	for _, purpose := range []string{
		"blob id", "blob seal", "padding", "root", "index", "index list", "table of contents", "lock note", "key export", "host copy",
		"key file", "commitment", "host", "recovery key",
	} {
		words = append(words, "`pinion 2 "+purpose+"`")
	}
	for s := format.StructRoot; s <= format.StructKeyExport; s++ {
		words = append(words, fmt.Sprintf("| %d | %s |", s, s))
	}
	return words
}

// fillIn puts the parts behind their comments.
func fillIn(page string, parts map[string]string) string {
	at := mark.FindAllStringSubmatchIndex(page, -1)
	for i := len(at) - 1; i >= 0; i-- {
		end := at[i][1]
		old := page[end:]
		if cut := strings.Index(old, "\n\n"); strings.HasPrefix(old, "```") || strings.HasPrefix(old, "|") {
			old = old[cut+1:]
		}
		page = page[:end] + parts[page[at[i][2]:at[i][3]]] + old
	}
	return page
}
