// Package vectortest keeps the vectors that are shipped, docs/vectors, and the
// golden vectors that tests have the same.
//
// It owns the form of their manifests, which docs/vectors.md describes. It
// promises that a set of vectors that a test calls its own is on disk exactly as
// the test has it, no vector more and none less. It is used by tests only, and
// knows nothing of what the bytes mean.
package vectortest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A Vector is bytes that every reader takes, or refuses: a line of a manifest.
type Vector struct {
	Name       string `json:"name"`
	File       string `json:"file"`
	Structure  string `json:"structure"`
	Valid      bool   `json:"valid"`
	Why        string `json:"why,omitempty"`
	Flip       []int  `json:"flip,omitempty"` // offsets of bytes of the file whose lowest bit is inverted
	Master     string `json:"master,omitempty"`
	Archive    string `json:"archive,omitempty"`
	Object     string `json:"object,omitempty"`
	Type       int    `json:"type,omitempty"`
	ID         string `json:"id,omitempty"`
	Domain     *int   `json:"domain,omitempty"` // nil: any
	Most       int    `json:"most,omitempty"`
	BLAKE3     bool   `json:"blake3,omitempty"`
	Slots      int    `json:"slots,omitempty"`
	Number     int    `json:"number,omitempty"`
	Entry      bool   `json:"entry,omitempty"`
	KeyFile    string `json:"keyfile,omitempty"`
	Passphrase string `json:"passphrase,omitempty"`
	Fields     []any  `json:"fields,omitempty"`

	Bytes []byte `json:"-"` // of the file
}

// Flipped are the vector's bytes: those of the file, with the bits inverted that
// it names.
func (v *Vector) Flipped() []byte {
	b := bytes.Clone(v.Bytes)
	for _, at := range v.Flip {
		b[at] ^= 1
	}
	return b
}

// MaxShipped bounds the file of a vector that is shipped, in bytes: a larger one
// shows nothing but that it is too large.
const MaxShipped = 64 << 10

// Ship compares vectors with those in dir whose names begin with part and a
// slash, or puts them there if update is set. It gives them their names in the
// manifest and those of their files. Vectors that are too large stay here.
func Ship(t testing.TB, update bool, dir, part string, vectors []Vector) {
	t.Helper()
	rows, files := layOut(t, part, vectors)
	if update {
		write(t, dir, part, rows, files)
	}
	shipped := ownRows(t, readManifest(t, dir), part)
	for name, row := range rows {
		if shipped[name] != row {
			t.Errorf("%s has of %s\n%s\nwant (go test -update writes it)\n%s", dir, name, shipped[name], row)
		}
	}
	for name := range shipped {
		if rows[name] == "" {
			t.Errorf("%s has %s, which no test has", dir, name)
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, part, "*"))
	if err != nil || len(found) != len(files) {
		t.Errorf("%s has %d files, want %d (%v)", filepath.Join(dir, part), len(found), len(files), err)
	}
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s in %s isn't as the tests have it (%v)", name, dir, err)
		}
	}
}

// layOut gives the lines of the manifest by name, and the files by theirs.
// Vectors with the same bytes share a file.
func layOut(t testing.TB, part string, vectors []Vector) (rows map[string]string, files map[string][]byte) {
	t.Helper()
	rows, files = map[string]string{}, map[string][]byte{}
	sorted := slices.Clone(vectors)
	for i := range sorted {
		sorted[i].Name = part + "/" + fileName(sorted[i].Name)
	}
	slices.SortStableFunc(sorted, func(a, b Vector) int { return cmp.Compare(a.Name, b.Name) })
	fileOf := map[string]string{}
	for _, v := range sorted {
		if len(v.Bytes) > MaxShipped {
			continue
		}
		file := fileOf[string(v.Bytes)]
		if file == "" {
			file = v.Name
			fileOf[string(v.Bytes)], files[file] = file, v.Bytes
		}
		v.File = file
		row, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if rows[v.Name] != "" {
			t.Fatalf("two vectors are called %s", v.Name)
		}
		rows[v.Name] = string(row)
	}
	return rows, files
}

// fileName makes a name one of a file: lower-case letters, digits and dashes.
func fileName(name string) string {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
	return strings.Join(words, "-")
}

func manifestPath(dir string) string { return filepath.Join(dir, "MANIFEST") }

// readManifest gives the lines of a directory's manifest that have a vector.
func readManifest(t testing.TB, dir string) []string {
	t.Helper()
	text, err := os.ReadFile(manifestPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	return splitManifest(string(text))
}

func splitManifest(text string) (rows []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, ",\n"); strings.HasPrefix(line, "{") {
			rows = append(rows, line)
		}
	}
	return rows
}

// ownRows are the lines of the vectors of a part, by name.
func ownRows(t testing.TB, all []string, part string) map[string]string {
	t.Helper()
	own := map[string]string{}
	for _, row := range all {
		if name := nameOf(t, row); strings.HasPrefix(name, part+"/") {
			own[name] = row
		}
	}
	return own
}

func nameOf(t testing.TB, row string) string {
	t.Helper()
	var v Vector
	if err := json.Unmarshal([]byte(row), &v); err != nil {
		t.Fatalf("%v: %s", err, row)
	}
	return v.Name
}

// write puts a part in the place of what there was of it. Tests of several
// packages may do this at once, each with its own part.
func write(t testing.TB, dir, part string, rows map[string]string, files map[string][]byte) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.RemoveAll(filepath.Join(dir, part)))
	must(os.MkdirAll(filepath.Join(dir, part), 0o755))
	for name, b := range files {
		must(os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	f, err := os.OpenFile(manifestPath(dir), os.O_RDWR|os.O_CREATE, 0o644)
	must(err)
	defer f.Close()
	must(syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	text, err := os.ReadFile(manifestPath(dir))
	must(err)
	var all []string
	for _, row := range splitManifest(string(text)) {
		if !strings.HasPrefix(nameOf(t, row), part+"/") {
			all = append(all, row)
		}
	}
	for _, row := range rows {
		all = append(all, row)
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Compare(nameOf(t, a), nameOf(t, b)) })
	must(os.WriteFile(manifestPath(dir), []byte("[\n"+strings.Join(all, ",\n")+"\n]\n"), 0o644))
}

// Read gives all vectors of a directory, with their bytes. It fails the test if a
// file of the directory belongs to none.
func Read(t testing.TB, dir string) []Vector {
	t.Helper()
	text, err := os.ReadFile(manifestPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	var all []Vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatalf("%s: %v", manifestPath(dir), err)
	}
	named := map[string]bool{"MANIFEST": true}
	for i := range all {
		v := &all[i]
		if v.Bytes, err = os.ReadFile(filepath.Join(dir, v.File)); err != nil {
			t.Fatal(err)
		}
		named[v.File] = true
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if name, _ := filepath.Rel(dir, path); err == nil && !d.IsDir() && !named[name] {
			err = fmt.Errorf("%s is in no manifest", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return all
}
