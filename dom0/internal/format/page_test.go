package format_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

const pagePath = "../../../docs/format.md"

// boundRows are the page's table of bounds.
func boundRows() string {
	var s strings.Builder
	s.WriteString("| bound | name in the source | value |\n| --- | --- | ---: |\n")
	for _, b := range []struct {
		text, name string
		value      int
	}{
		{"least chunk size", "MinChunkSize", format.MinChunkSize},
		{"largest chunk size", "MaxChunkSize", format.MaxChunkSize},
		{"chunk size, unless `init` is told otherwise", "DefaultChunkSize", format.DefaultChunkSize},
		{"plaintext of a metadata blob", "MaxMetadata", format.MaxMetadata},
		{"sealed blob", "MaxSealedBlob", format.MaxSealedBlob},
		{"a pack is closed at", "PackTarget", format.PackTarget},
		{"pack", "MaxPack", format.MaxPack},
		{"blobs in a pack", "MaxPackBlobs", format.MaxPackBlobs},
		{"packs in a store", "MaxPacks", format.MaxPacks},
		{"sealed table of contents", "MaxSealedTOC", format.MaxSealedTOC},
		{"index object", "MaxIndexObject", format.MaxIndexObject},
		{"index objects of a root", "MaxIndexObjects", format.MaxIndexObjects},
		{"root", "MaxRoot", format.MaxRoot},
		{"key slots", "MaxKeySlots", format.MaxKeySlots},
		{"volumes of an archive, or of a session", "MaxVolumes", format.MaxVolumes},
		{"name of a volume", "MaxName", format.MaxName},
		{"qubes of an archive, or of a session", "MaxQubes", format.MaxQubes},
		{"name of a qube", "MaxQubeName", format.MaxQubeName},
		{"name or line in a qube's configuration", "MaxQubeKey", format.MaxQubeKey},
		{"value in a qube's configuration", "MaxQubeValue", format.MaxQubeValue},
		{"entries of each list of a qube's configuration", "MaxQubeItems", format.MaxQubeItems},
		{"tags of a session", "MaxTags", format.MaxTags},
		{"name of a tag", "MaxTagName", format.MaxTagName},
		{"text of a tag", "MaxTagText", format.MaxTagText},
		{"name of a host", "MaxHost", format.MaxHost},
		{"words of a command in a lock note", "MaxCommand", format.MaxCommand},
		{"abbreviation of a zone", "MaxZone", format.MaxZone},
		{"children of a node", "Fanout", format.Fanout},
		{"height of a volume's tree", "MaxTreeLevel", format.MaxTreeLevel},
		{"predecessors of a root", "MaxPredecessors", format.MaxPredecessors},
		{"size of a volume", "MaxVolumeSize", format.MaxVolumeSize},
	} {
		fmt.Fprintf(&s, "| %s | `%s` | %s |\n", b.text, b.name, commas(b.value))
	}
	return s.String()
}

// sizeRows are the page's worked sizes. Node, record and the like are stored:
// ids don't compress.
func sizeRows() string {
	const size, chunk = 1 << 30, format.DefaultChunkSize
	chunks := int(format.Chunks(size, chunk))
	sealedChunk := chunk + format.BlobOverhead
	packBytes, perPack := format.HeaderSize, 0
	for packBytes < format.PackTarget {
		packBytes += sealedChunk
		perPack++
	}
	packs := (chunks + perPack - 1) / perPack
	table := format.SealedTOCSize(perPack)
	packBytes += table + format.TrailerSize

	nodes, nodeBytes := 0, 0
	for left := chunks; left > 1; {
		full, rest := left/format.Fanout, left%format.Fanout
		nodes, nodeBytes = nodes+full, nodeBytes+full*sealedNode(format.Fanout)
		left = full
		if rest > 0 {
			nodes, nodeBytes = nodes+1, nodeBytes+sealedNode(rest)
			left++
		}
	}
	record := sealed(&format.VolumeRecord{Source: format.SourceFile})
	session := sealed(&format.Session{Zone: "UTC", Host: "dom0", Volumes: make([]format.SessionVolume, 1)})
	leaf := sealed(&format.SessionLeaf{Entries: make([]format.SessionEntry, 1)})
	names := sealed(&format.VolumeTable{Volumes: []format.NamedVolume{{Name: "work:private"}}})
	entries := chunks + nodes + 4
	index := format.HeaderSize + format.SealOverhead + 1 + 4 + 16*(packs+1) + 4 + 45*entries
	metaPack := format.HeaderSize + nodeBytes + record + session + leaf + names + format.SealedTOCSize(nodes+4) + format.TrailerSize
	root := format.HeaderSize + format.SealOverhead + len((&format.Root{
		Host: "dom0", Slots: make([]format.KeySlotRef, 1), Index: make([]format.IndexRef, 1), Predecessors: make([]format.RootHash, 1),
	}).Append(nil))
	total := packs*packBytes + metaPack + index + root

	var s strings.Builder
	row := func(what, bytes string) { fmt.Fprintf(&s, "| %s | %s |\n", what, bytes) }
	s.WriteString("| | bytes |\n| --- | ---: |\n")
	row("a chunk, sealed", commas(sealedChunk))
	row(fmt.Sprintf("a pack of %d chunks; its table of contents has %s, sealed", perPack, commas(table)), commas(packBytes))
	row(fmt.Sprintf("all %s chunks: %d packs", commas(chunks), packs), commas(packs*packBytes))
	row("a full node, sealed", commas(sealedNode(format.Fanout)))
	row(fmt.Sprintf("the tree: %d nodes on %d levels", nodes, format.TreeLevel(uint64(chunks))), commas(nodeBytes))
	row("volume record, session, session leaf, volume table, sealed", commas(record+session+leaf+names))
	row("the pack with those and the tree", commas(metaPack))
	row(fmt.Sprintf("the index object: %s entries", commas(entries)), commas(index))
	row("the root, with one key slot and one predecessor", commas(root))
	row(fmt.Sprintf("all of it: %.2f %% more than the volume", 100*float64(total-size)/size), commas(total))
	path := 2*sealedNode(format.Fanout) + sealedNode(chunks/format.Fanout/format.Fanout)
	s.WriteString(fmt.Sprintf("\nA later session in which one chunk has changed seals that chunk, %s bytes of nodes, and a record, a session, a leaf and its entry in the\n"+
		"index anew, whatever else the volume holds.\n", commas(path)))
	return s.String()
}

type appendable interface{ Append([]byte) []byte }

func sealed(v appendable) int { return len(v.Append(nil)) + format.BlobOverhead }

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

// parts are what the page has from the code, by the comment in front of it.
func parts(t *testing.T) map[string]string {
	t.Helper()
	p := map[string]string{"bounds": boundRows(), "sizes": sizeRows()}
	for _, v := range vectors() {
		if v.name == "key-slot-passphrase" || strings.HasPrefix(v.name, "volume-record-") {
			continue // one of each kind is enough on the page
		}
		p["example: "+v.name] = "```\n" + ft.Dump(ft.Read(t, v.name)) + "```\n"
	}
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
		if want[m[1]] == "" {
			t.Errorf("docs/format.md has %q, which nothing checks", m[1])
		}
	}
	for _, words := range []string{
		"exactly " + commas(format.KeySlotSize) + " bytes", "It has " + commas(len((&format.VolumeRecord{}).Append(nil))) + " bytes",
		commas(format.MinArgonMemory) + " to " + commas(format.MaxArgonMemory),
		commas(format.DefaultArgonMemory) + " KiB, " + commas(format.DefaultArgonTime) + " passes and " + commas(format.DefaultArgonLanes) + " lanes",
		fmt.Sprintf("Argon2: 1 to %d", format.MaxArgonThreads), fmt.Sprintf("Argon2: 1 to %d", format.MaxArgonTime),
		fmt.Sprintf("%d bytes more than\nthe plaintext", format.SealOverhead), fmt.Sprintf("costs %d bytes more", format.BlobOverhead),
		fmt.Sprintf("a sealed body of %d bytes, so it\nalways has %d bytes", format.LockNoteSize, format.HeaderSize+format.SealOverhead+format.LockNoteSize),
		fmt.Sprintf("| archive id ‖ type (1) ‖ blob id | %d |", format.BlobADSize),
		fmt.Sprintf("The root object has %d bytes", format.HeaderSize+format.SealOverhead+len((&format.Root{}).Append(nil))),
		"`pinion 1 blob id`", "`pinion 1 blob seal`", "`pinion 1 root seal`", "`pinion 1 index seal`", "`pinion 1 table of contents seal`", "`pinion 1 lock note seal`",
		"`pinion 1 key file`", "`commit`", "`pinion 1 host`",
	} {
		if !strings.Contains(page, words) {
			t.Errorf("docs/format.md doesn't say %q", words)
		}
	}
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
		if strings.HasPrefix(page[at[i][2]:at[i][3]], "sizes") && strings.HasPrefix(old, "\nA later session") {
			old = old[strings.Index(old, "anew, whatever else the volume holds.\n")+len("anew, whatever else the volume holds.\n"):]
		}
		page = page[:end] + parts[page[at[i][2]:at[i][3]]] + old
	}
	return page
}
