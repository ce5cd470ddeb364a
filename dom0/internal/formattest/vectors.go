package formattest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pinion/protocol/vectortest"
)

// A Vector is bytes that every reader of the format takes, or refuses.
type Vector = vectortest.Vector

// Where things are, from the directory of a package under dom0/internal: the
// other reader, and the vectors that are shipped.
const (
	script  = "../../../e2e/recovery/recover.py"
	Shipped = "../../../docs/vectors/format"
)

// Sealed is a vector of the golden archive: of what opens with its keys.
func Sealed(name, structure string, b []byte) Vector {
	master := Master()
	return Vector{Name: name, Structure: structure, Valid: true, Bytes: b, Master: hex.EncodeToString(master[:]), Archive: Archive().String()}
}

// Ship compares the vectors of the package under test with those that are
// shipped, or writes them there if update is set, and gives them to the other
// reader.
func Ship(t *testing.T, update bool, part string, vectors []Vector) {
	t.Helper()
	vectortest.Ship(t, update, Shipped, part, vectors)
	CompareReaders(t, vectors)
}

// CompareReaders gives vectors to the reader in e2e/recovery, which has nothing
// in common with this program, and fails the test where it disagrees. It is
// skipped where Python isn't there.
func CompareReaders(t *testing.T, vectors []Vector) {
	t.Helper()
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
	OtherReader(t, dir)
}

// OtherReader has the reader in e2e/recovery check the vectors in a directory.
func OtherReader(t *testing.T, dir string) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 isn't there")
	}
	out, err := exec.Command(python, "-I", "-B", script, "--vectors", dir).CombinedOutput()
	if err != nil {
		t.Errorf("the reader in Python disagrees: %v\n%s", err, strings.TrimSpace(string(out)))
	}
}
