package backup_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// TestDomains: equal volumes of two domains are stored twice, and of one domain
// once; a volume that moves to another domain is read and stored in full; a number
// is never given to another name.
func TestDomains(t *testing.T) {
	p := archivetest.New(t).Init(t)
	content := make([]byte, 10*format.MinChunkSize)
	rand.NewChaCha8([32]byte{9}).Read(content)
	path := filepath.Join(t.TempDir(), "v")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	options := archivetest.Options(t)
	save := func(name, domain string) backup.Volume {
		a := p.Open(t, protocol.LockAppend)
		defer a.Close()
		s := archivetest.Source(name, path)
		s.Domain = domain
		res, err := backup.Run(context.Background(), a, []backup.Source{s}, options)
		if err != nil || len(res.Failed) > 0 {
			t.Fatal(err, res.Failed)
		}
		return res.Volumes[0]
	}
	for _, step := range []struct {
		name, domain string
		chunks       uint64
	}{
		{"a", "", 10}, {"b", "", 0}, {"c", "mine", 10}, {"d", "mine", 0}, {"e", "yours", 10},
		{"a", "mine", 0}, {"a", "third", 10}, {"a", "third", 0}, {"a", "", 0},
	} {
		v := save(step.name, step.domain)
		if v.NewChunks != step.chunks {
			t.Errorf("%s in domain %q: %d new chunks, want %d (%s)", step.name, step.domain, v.NewChunks, step.chunks, v.Why)
		}
	}
	for _, moved := range []bool{true, false} {
		if v := save("b", "mine"); v.Moved != moved {
			t.Errorf("it moved: %v", v.Moved)
		}
	}
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	table, err := a.Volumes(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := []format.NamedDomain{{Number: 1, Name: "mine"}, {Number: 2, Name: "yours"}, {Number: 3, Name: "third"}}
	if table.NextDomain != 4 || len(table.Domains) != 3 || table.Domains[0] != want[0] || table.Domains[1] != want[1] || table.Domains[2] != want[2] {
		t.Errorf("domains %+v, next %d", table.Domains, table.NextDomain)
	}
}

// TestStored: a volume without compression has sealed chunks of one length, whatever
// they hold.
func TestStored(t *testing.T) {
	p := archivetest.New(t).Init(t)
	path := filepath.Join(t.TempDir(), "v")
	if err := os.WriteFile(path, bytes.Repeat([]byte("squeeze me "), 20_000), 0o600); err != nil {
		t.Fatal(err)
	}
	stored := map[bool]int64{}
	for _, plain := range []bool{false, true} {
		a := p.Open(t, protocol.LockAppend)
		s := archivetest.Source("v", path)
		s.Stored, s.Domain = plain, map[bool]string{true: "plain"}[plain]
		o := archivetest.Options(t)
		o.Compression = format.Compression{Method: format.CompressZstd, Level: 1}
		res, err := backup.Run(context.Background(), a, []backup.Source{s}, o)
		if err != nil {
			t.Fatal(err)
		}
		stored[plain] = res.Volumes[0].Stored
		a.Close()
	}
	if stored[true] < 220_000 || stored[false] > 20_000 {
		t.Errorf("compressed it takes %d bytes, and without %d", stored[false], stored[true])
	}
}
