package archive_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/protocol"
)

var update = ft.UpdateFlag()

// sampleDir has the archive that a program of format version 2 wrote. Every
// later one must read it, so it is made once and never again; the test of the
// whole programs reads it.
const sampleDir = "../../../e2e/testdata/archives/v2"

// samplePassphrase opens the sample's second key slot.
const samplePassphrase = "a passphrase that everybody may know"

// sample is what expected.json says of the sample.
type sample struct {
	Archive    string          `json:"archive"`
	Passphrase string          `json:"passphrase"`
	Sessions   []sampleSession `json:"sessions"`
}

type sampleSession struct {
	Seq     uint64                  `json:"seq"`
	Time    string                  `json:"time"`
	Tags    []sampleTag             `json:"tags"`
	Volumes map[string]sampleVolume `json:"volumes"`
	Qubes   map[string]sampleQube   `json:"qubes,omitempty"`
}

type sampleQube struct {
	Class    string `json:"class"`
	Label    string `json:"label"`
	Template string `json:"template"`
}

type sampleTag struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

type sampleVolume struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// TestMakeSample makes the sample archive if it is asked for and isn't there.
// The name of the host goes into it, so that has to be "sample":
//
//	unshare --uts sh -c 'hostname sample && go test ./dom0/internal/archive -run TestMakeSample -update'
func TestMakeSample(t *testing.T) {
	if !toBeMade(t, sampleDir) {
		return
	}
	p := archivetest.New(t).Init(t)
	want := sample{Passphrase: samplePassphrase}
	images := t.TempDir()
	disk := append(append(append(chunk(1, 150_000), make([]byte, 400_000)...), prose(200_000)...), chunk(2, 7)...)
	home := append(prose(100_000), make([]byte, 65536)...)
	sources := func(volumes map[string][]byte) []backup.Source {
		var list []backup.Source
		for _, name := range []string{"disk", "home", "empty"} {
			if b, ok := volumes[name]; ok {
				path := filepath.Join(images, name)
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				list = append(list, archivetest.Source(name, path))
			}
		}
		return list
	}
	add := func(at time.Time, volumes map[string][]byte, tags ...format.Tag) {
		want.Sessions = append(want.Sessions, sampleBackup(t, p, sources(volumes), at, tags, nil))
	}
	day := time.Date(2026, 11, 22, 21, 0, 0, 0, time.FixedZone("CET", 3600))
	add(day, map[string][]byte{"disk": disk, "home": home})
	disk = append(disk, chunk(3, 90_000)...) // longer, and changed in two places
	copy(disk[70_000:], prose(1000))
	copy(disk[500_000:], chunk(4, 1000))
	add(day.Add(24*time.Hour), map[string][]byte{"disk": disk, "home": home, "empty": {}}, format.Tag{Name: "keep", Text: "before the move"})
	clear(disk[:70_000]) // shorter, and with a new hole
	add(day.Add(48*time.Hour), map[string][]byte{"disk": disk[:600_001]}, format.Tag{Name: "moved"}, format.Tag{Name: "ümlaut"})
	want.Archive = addPassphrase(t, p)
	writeSample(t, p, sampleDir, want)
}

// toBeMade says that a sample isn't there, and is to be made.
func toBeMade(t *testing.T, dir string) bool {
	t.Helper()
	if _, err := os.Stat(dir); err == nil {
		return false // it is read, by whole programs, in another test
	}
	if !*update {
		t.Fatalf("there is no sample archive in %s", dir)
	}
	if host, err := os.Hostname(); err != nil || host != "sample" {
		t.Fatalf("the host is called %q, %v", host, err)
	}
	return true
}

// prose is n bytes that compress.
func prose(n int) []byte {
	line := "Nothing is so small that it could not be left out of a backup.\n"
	return []byte(strings.Repeat(line, n/len(line)+1)[:n])
}

func sampleBackup(t *testing.T, p *archivetest.Place, sources []backup.Source, at time.Time, tags []format.Tag, qubes []backup.Qube) sampleSession {
	t.Helper()
	a := p.Open(t, protocol.LockAppend)
	defer a.Close()
	o := archivetest.Options(t)
	o.Tags, o.Now, o.Qubes = tags, at, qubes
	res, err := backup.Run(ctx, a, sources, o)
	if err != nil || len(res.Failed) > 0 {
		t.Fatal(err, res.Failed)
	}
	s := sampleSession{Seq: res.Session.Seq, Time: at.UTC().Format(time.RFC3339), Tags: []sampleTag{}, Volumes: map[string]sampleVolume{}}
	for _, tag := range tags {
		s.Tags = append(s.Tags, sampleTag(tag))
	}
	if len(qubes) > 0 {
		s.Qubes = map[string]sampleQube{}
	}
	for _, q := range qubes {
		s.Qubes[q.Name] = sampleQube{q.Config.Class, q.Config.Label, q.Config.Template}
	}
	for _, src := range sources {
		b, err := os.ReadFile(src.Source.Path)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		s.Volumes[src.Name] = sampleVolume{Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}
	}
	return s
}

// addPassphrase gives the archive a second key slot, and returns its id.
func addPassphrase(t *testing.T, p *archivetest.Place) string {
	t.Helper()
	slot := newSlot(t, p, crypt.Secret{Passphrase: []byte(samplePassphrase)})
	forgeNext(t, p, func(r *format.Root) {
		r.Slots = append(r.Slots, slot)
		r.SlotInfo = append(r.SlotInfo, format.SlotInfo{Label: "everybody", Created: r.Written})
		r.HostID = ft.ID(0x40)
	})
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	return a.Root().Archive.String()
}

func writeSample(t *testing.T, p *archivetest.Place, dir string, want sample) {
	t.Helper()
	store := filepath.Join(dir, "store")
	if err := os.MkdirAll(store, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{protocol.PrefixHead, protocol.PrefixRoots, protocol.PrefixPacks, protocol.PrefixIndex} {
		for _, object := range p.Objects(t, prefix) {
			b, err := os.ReadFile(p.Path(object))
			path := filepath.Join(store, filepath.FromSlash(object))
			if err == nil {
				err = os.MkdirAll(filepath.Dir(path), 0o755)
			}
			if err == nil {
				err = os.WriteFile(path, b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	text, err := json.MarshalIndent(want, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"expected.json": append(text, '\n'), "key": p.Key} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSamplePassphrase opens the sample through its other slot.
func TestSamplePassphrase(t *testing.T) {
	p := archivetest.New(t)
	if err := os.CopyFS(p.Dir, os.DirFS(filepath.Join(sampleDir, "store"))); err != nil {
		t.Fatal(err)
	}
	opens(t, p, 3, func(o *archive.Options) {
		o.Secret = func(context.Context) (crypt.Secret, error) {
			return crypt.Secret{Passphrase: []byte(samplePassphrase)}, nil
		}
	})
}
