package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const vectorsPage = "docs/vectors.md"

// TestVectorsPageIsThatOfTheScript: the page has the structures that the script
// checks, and the members of the manifest that it reads.
func TestVectorsPageIsThatOfTheScript(t *testing.T) {
	t.Parallel()
	text, script := page(t, vectorsPage), page(t, "e2e/"+recoverScript)
	_, names, _ := strings.Cut(script, "\nVECTORS = {")
	names, _, _ = strings.Cut(names, "\n}")
	_, structures, _ := strings.Cut(text, "\n## Structures")
	words := func(text, pattern string) (found []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			found = append(found, m[1])
		}
		slices.Sort(found)
		return slices.Compact(found)
	}
	members := words(script, `\bv(?:\[|\.get\()"([a-z0-9]+)"`)
	members = append(members, "keyfile", "passphrase")
	for _, name := range members {
		if !strings.Contains(text, "`"+name+"`") && !strings.Contains(text, `"`+name+`"`) {
			t.Errorf("the page doesn't say what %q is in a manifest", name)
		}
	}
	want := words(names, `"([a-z ]+)": `)
	got := slices.DeleteFunc(words(structures, "`([a-z ]+)`"), func(name string) bool { return slices.Contains(members, name) && name != "recovery key" })
	if len(want) < 20 || !slices.Equal(got, want) {
		t.Errorf("the page has the structures\n%q\nthe script\n%q", got, want)
	}
}

// TestRecoveryChecksVectors: the script says which vectors it doesn't agree
// with, and why.
func TestRecoveryChecksVectors(t *testing.T) {
	t.Parallel()
	needRecovery(t)
	dir := t.TempDir()
	r := &recoverer{t: t, dir: dir}
	var vectors []map[string]any
	add := func(structure string, content []byte, valid bool, more map[string]any) {
		name := fmt.Sprint("vector ", len(vectors))
		v := map[string]any{"name": name, "file": fmt.Sprint(len(vectors)), "structure": structure, "valid": valid}
		for key, value := range more {
			v[key] = value
		}
		writeFile(t, filepath.Join(dir, v["file"].(string)), content)
		vectors = append(vectors, v)
	}
	check := func(code int, says ...string) {
		t.Helper()
		manifest, err := json.Marshal(vectors)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(dir, "MANIFEST"))
		writeFile(t, filepath.Join(dir, "MANIFEST"), manifest)
		r.script([]string{"--vectors", dir}).expect(code).says(says...)
	}
	removed := append([]byte{2}, bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, 9}, 1)...)
	removed = append(removed, 0, 0, 0, 1)
	removed = append(removed, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0, 0, 0, 0)
	area := []byte{0, 1, 0, 7, 0, 0, 0, 2, 0xab, 0xcd}
	needed := []byte{0, 1, 0xc0, 7, 0, 0, 0, 0}
	add("removed numbers", removed, true, map[string]any{"fields": []any{2, 9, 1, 4, 1 << 48}})
	add("removed numbers", append(bytes.Clone(removed), 0), false, nil)
	add("extension area", area, true, map[string]any{"number": 2, "fields": []any{1, 7, 2, "abcd"}})
	add("extension area", needed, false, map[string]any{"number": 2})
	add("recovery key", []byte(recoveryExample), true, nil)
	check(0)
	if t.Failed() {
		return
	}
	add("recovery key", []byte(recoveryExample[1:]), true, nil)
	add("removed numbers", removed, false, map[string]any{"why": "it isn't"})
	add("extension area", area, true, map[string]any{"number": 2, "fields": []any{1, 7, 2, "abce"}})
	add("extension area", needed, true, map[string]any{"number": 2})
	add("another structure", nil, false, nil)
	check(1, "vector 5: is refused: vector 5: is no recovery key", "vector 6: is taken, and was to be refused: it isn't",
		`vector 7: has the fields [1, 7, 2, "abcd"]`, "vector 8: is refused: vector 8: a newer version made it: session, extension 49159",
		"vector 9: is of a structure that this doesn't know", "5 of 10 vectors")
	writeFile(t, filepath.Join(dir, "none"), nil)
	vectors = []map[string]any{{"name": "no file"}}
	check(1, "its MANIFEST isn't as it has to be")
}
