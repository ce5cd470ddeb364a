package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
)

// sampleDoc is what an archive that was checked in should hold.
type sampleDoc struct {
	Archive, Passphrase string
	Sessions            []struct {
		Seq     uint64
		Time    string
		Tags    []struct{ Name, Text string }
		Volumes map[string]struct {
			Size   int64
			SHA256 string
		}
		Qubes map[string]struct{ Class, Label, Template string }
	}
}

// TestSampleArchives: every archive that an earlier version wrote is read by
// this one, byte for byte, and can be written to.
func TestSampleArchives(t *testing.T) {
	t.Parallel()
	samples, err := filepath.Glob("testdata/archives/v*")
	if err != nil || len(samples) == 0 {
		t.Fatal(samples, err)
	}
	for _, sample := range samples {
		t.Run(filepath.Base(sample), func(t *testing.T) {
			var want sampleDoc
			if err := json.Unmarshal(readFile(t, filepath.Join(sample, "expected.json")), &want); err != nil {
				t.Fatal(err)
			}
			w := newWorld(t)
			if err := os.CopyFS(w.store, os.DirFS(filepath.Join(sample, "store"))); err != nil {
				t.Fatal(err)
			}
			writeFile(t, w.key, readFile(t, filepath.Join(sample, "key")))
			checkSample(t, w, want)

			pass := w.other("passphrase")
			writeFile(t, w.path("passphrase"), []byte(want.Passphrase+"\n"))
			if got := document[listDoc](pass.ok("list", "--json", "--passfile", w.path("passphrase"))); len(got.Sessions) != len(want.Sessions) {
				t.Errorf("with the passphrase %d sessions are listed", len(got.Sessions))
			}

			w.exits(16, "backup", "file:"+w.image("new", "random:200000:5"))
			w.backup("--adopt", "file:"+w.path("new"))
			w.restores("new", "latest", w.path("new"))
			w.ok("check", "--read-data=100")
			checkSample(t, w, want)
		})
	}
}

// checkSample compares lists, contents and checks with what is expected.
func checkSample(t *testing.T, w *world, want sampleDoc) {
	t.Helper()
	got := w.list()
	if got.Archive.ID != want.Archive || len(got.Sessions) < len(want.Sessions) {
		t.Fatalf("archive %s with %d sessions, want %s with %d", got.Archive.ID, len(got.Sessions), want.Archive, len(want.Sessions))
	}
	for i, s := range want.Sessions {
		g := got.Sessions[i]
		if g.Seq != s.Seq || g.Time != s.Time || !reflect.DeepEqual(g.Tags, s.Tags) || len(g.Volumes) != len(s.Volumes) {
			t.Errorf("session %+v, want %+v", g, s)
		}
		checkSampleQubes(t, w, s.Seq, s.Qubes)
		for _, v := range g.Volumes {
			x, ok := s.Volumes[v.Name]
			if !ok || x.Size != v.Size {
				t.Errorf("#%d has %q with %d bytes, want %d", s.Seq, v.Name, v.Size, x.Size)
			}
			to := filepath.Join(t.TempDir(), "restored")
			w.ok("restore", v.Name, "--session", "#"+strconv.FormatUint(s.Seq, 10), "--to", to)
			sum := sha256.Sum256(readFile(t, to))
			if hex.EncodeToString(sum[:]) != x.SHA256 {
				t.Errorf("#%d: %q came back as other bytes", s.Seq, v.Name)
			}
		}
	}
	w.ok("verify", "--all-sessions")
	w.ok("check", "--read-data=100")
}

// checkSampleQubes compares the qubes of a session.
func checkSampleQubes(t *testing.T, w *world, seq uint64, want map[string]struct{ Class, Label, Template string }) {
	t.Helper()
	got := document[qubesListDoc](w.ok("--json", "list", "--session", "#"+strconv.FormatUint(seq, 10))).Sessions[0].Qubes
	if len(got) != len(want) {
		t.Errorf("#%d has %d qubes, want %d", seq, len(got), len(want))
	}
	for _, q := range got {
		if x, ok := want[q.Name]; !ok || x.Class != q.Class || x.Label != q.Label || x.Template != q.Template {
			t.Errorf("#%d has the qube %+v, want %+v", seq, q, x)
		}
	}
}
