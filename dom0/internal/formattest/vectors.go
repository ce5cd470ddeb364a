package formattest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A Vector is bytes that every reader of the format takes, or refuses: a line of
// the manifest that docs/vectors.md describes.
type Vector struct {
	Name       string `json:"name"`
	File       string `json:"file"`
	Structure  string `json:"structure"`
	Valid      bool   `json:"valid"`
	Why        string `json:"why,omitempty"`
	Master     string `json:"master,omitempty"`
	Archive    string `json:"archive,omitempty"`
	Object     string `json:"object,omitempty"`
	Type       int    `json:"type,omitempty"`
	ID         string `json:"id,omitempty"`
	Slots      int    `json:"slots,omitempty"`
	KeyFile    string `json:"keyfile,omitempty"`
	Passphrase string `json:"passphrase,omitempty"`

	Bytes []byte `json:"-"`
}

// script is the other reader, from the directory of a package under dom0/internal.
const script = "../../../e2e/recovery/recover.py"

// CompareReaders gives vectors to the reader in e2e/recovery, which has nothing
// in common with this program, and fails the test where it disagrees. It is
// skipped where Python isn't there.
func CompareReaders(t *testing.T, vectors []Vector) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 isn't there")
	}
	dir := t.TempDir()
	for i := range vectors {
		v := &vectors[i]
		v.File = fmt.Sprintf("%04d", i)
		if err := os.WriteFile(filepath.Join(dir, v.File), v.Bytes, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	manifest, err := json.Marshal(vectors)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "MANIFEST"), manifest, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(python, "-I", "-B", script, "--vectors", dir).CombinedOutput()
	if err != nil {
		t.Errorf("the reader in Python disagrees: %v\n%s", err, strings.TrimSpace(string(out)))
	}
}
