package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRecoveryOfSamples: the script reads the archives of all versions, with
// and without qubes, by both of their key slots.
func TestRecoveryOfSamples(t *testing.T) {
	t.Parallel()
	needRecovery(t)
	samples, err := filepath.Glob("testdata/archives/v*")
	if err != nil || len(samples) == 0 {
		t.Fatal(samples, err)
	}
	for _, sample := range samples {
		var want sampleDoc
		if err := json.Unmarshal(readFile(t, filepath.Join(sample, "expected.json")), &want); err != nil {
			t.Fatal(err)
		}
		store, err := filepath.Abs(filepath.Join(sample, "store"))
		if err != nil {
			t.Fatal(err)
		}
		key := filepath.Join(filepath.Dir(store), "key")
		t.Run(filepath.Base(sample)+" by key file", func(t *testing.T) {
			recoverSample(t, &recoverer{t: t, dir: t.TempDir(), store: store, secret: []string{"--keyfile", key}}, want)
		})
		t.Run(filepath.Base(sample)+" by passphrase", func(t *testing.T) {
			needArgon2(t)
			pass := filepath.Join(t.TempDir(), "pass")
			writeFile(t, pass, []byte(want.Passphrase+"\n"))
			recoverSample(t, &recoverer{t: t, dir: t.TempDir(), store: store, secret: []string{"--passfile", pass}}, want)
		})
	}
}

func recoverSample(t *testing.T, r *recoverer, want sampleDoc) {
	t.Helper()
	listed := r.run(nil, "list").expect(0).stdout
	if n := strings.Count("\n"+listed, "\n#"); n != len(want.Sessions) {
		t.Errorf("%d sessions are listed, want %d:\n%s", n, len(want.Sessions), listed)
	}
	for _, s := range want.Sessions {
		for name, v := range s.Volumes {
			image := filepath.Join(r.dir, fmt.Sprint("image-", s.Seq, "-", name))
			r.run(nil, "restore", name, image, "--session", fmt.Sprint(s.Seq)).expect(0)
			b, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			if sum := sha256.Sum256(b); int64(len(b)) != v.Size || hex.EncodeToString(sum[:]) != v.SHA256 {
				t.Errorf("session %d: %q came back as other bytes", s.Seq, name)
			}
		}
	}
}
