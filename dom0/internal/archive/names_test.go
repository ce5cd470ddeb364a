package archive_test

import (
	"os"
	"path/filepath"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// save backs up a volume of some bytes, in a domain unless that is empty.
func save(t *testing.T, p *archivetest.Place, name, domain string, change func(*archive.Options)) {
	t.Helper()
	a, err := p.Try(t, protocol.LockAppend, change)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	path := filepath.Join(t.TempDir(), "v")
	if err := os.WriteFile(path, chunk(uint64(len(name)), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	s := archivetest.Source(name, path)
	s.Domain = domain
	res, err := backup.Run(ctx, a, []backup.Source{s}, archivetest.Options(t))
	if err != nil || len(res.Failed) > 0 {
		t.Fatal(err, res.Failed)
	}
}

// edit changes what an archive says of its sessions.
func edit(t *testing.T, p *archivetest.Place, change func(a *archive.Archive, e *archive.Edit, put archive.PutMetadata)) {
	t.Helper()
	a := p.Open(t, protocol.LockAppend)
	defer a.Close()
	l, err := a.Listing(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w, err := a.NewWriter(ctx, a.Root().Compression, false)
	if err != nil {
		t.Fatal(err)
	}
	e := &archive.Edit{Entries: l.Entries, Table: l.Table}
	change(a, e, w.PutMetadata(ctx))
	next, err := e.Apply(ctx, a, w.PutMetadata(ctx))
	if err == nil {
		err = w.CommitEdit(ctx, next)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rename gives a volume another name.
func rename(t *testing.T, p *archivetest.Place, from, to string) {
	t.Helper()
	edit(t, p, func(_ *archive.Archive, e *archive.Edit, _ archive.PutMetadata) {
		for i := range e.Table.Volumes {
			if e.Table.Volumes[i].Name == from {
				e.Table.Volumes[i].Name = to
			}
		}
		archive.SortVolumes(e.Table)
	})
}

// tag gives the session with a number a tag.
func tag(t *testing.T, p *archivetest.Place, seq uint64, name string) {
	t.Helper()
	edit(t, p, func(_ *archive.Archive, e *archive.Edit, _ archive.PutMetadata) {
		for i := range e.Entries {
			if e.Entries[i].Seq == seq {
				e.Entries[i].Tags = append(e.Entries[i].Tags, format.Tag{Name: name})
			}
		}
	})
}

// loseNewest takes away the metadata pack that has a blob of the root, and its twin.
func loseNewest(t *testing.T, p *archivetest.Place, of func(*format.Root) format.BlobID) {
	t.Helper()
	a := p.Open(t, protocol.LockRead)
	id, ok, err := a.Locate(ctx, of(a.Root()))
	a.Close()
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	p.RemovePair(t, protocol.PackName(id))
	p.ForgetCache(t)
}

func table(r *format.Root) format.BlobID { return r.VolumeTable }

func list(r *format.Root) format.BlobID { return r.SessionTop }

// names are those of a table's volumes.
func names(t *format.VolumeTable) map[string]format.NamedVolume {
	m := map[string]format.NamedVolume{}
	for _, v := range t.Volumes {
		m[v.Name] = v
	}
	return m
}

// readTable reads the volume table.
func readTable(t *testing.T, p *archivetest.Place) *format.VolumeTable {
	t.Helper()
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	table, err := a.Volumes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// TestLostTable: where the volume table is lost and this host kept none, the newest
// name of each volume stays, and what has a domain; no domain's number is given twice.
func TestLostTable(t *testing.T) {
	p := archivetest.New(t).Init(t)
	save(t, p, "a", "mine", nil)
	save(t, p, "bb", "yours", nil)
	rename(t, p, "a", "z")
	save(t, p, "ccc", "mine", nil)
	loseNewest(t, p, table)
	p.Forget(t)
	repair(t, p, nil)
	got := readTable(t, p)
	if n := names(got); len(n) != 2 || n["z"].Domain != 1 || n["bb"].Domain != 2 || got.NextDomain != 3 || len(got.Domains) != 2 {
		t.Errorf("%+v", got)
	}
	save(t, p, "dddd", "theirs", nil)
	if v := names(readTable(t, p))["dddd"]; v.Domain != 3 {
		t.Errorf("domain %d is given once more", v.Domain)
	}
}

// TestDomainsOfRecords: where all tables are lost, the records say which numbers were
// given.
func TestDomainsOfRecords(t *testing.T) {
	p := archivetest.New(t).Init(t)
	a := p.Open(t, protocol.LockAppend)
	w, err := a.NewWriter(ctx, a.Root().Compression, false)
	if err != nil {
		t.Fatal(err)
	}
	record := &format.VolumeRecord{Volume: format.NewObjectID(), Domain: 7}
	if _, _, err := w.AddMetadata(ctx, format.BlobVolumeRecord, record.Append(nil)); err != nil {
		t.Fatal(err)
	}
	s := &format.Session{ID: format.NewObjectID(), Time: 1, Zone: "UTC", Host: "test"}
	if err := w.CommitSession(ctx, archive.Draft{Session: s, Table: &format.VolumeTable{}}, nil); err != nil {
		t.Fatal(err)
	}
	a.Close()
	p.Forget(t)
	repair(t, p, nil)
	save(t, p, "a", "mine", nil)
	if v := names(readTable(t, p))["a"]; v.Domain != 8 {
		t.Errorf("domain %d is given, and a record has 7", v.Domain)
	}
}

// TestDomainsAfterARollback: numbers that this host saw are not given again where an
// older root was accepted, or put back.
func TestDomainsAfterARollback(t *testing.T) {
	p := archivetest.New(t).Init(t)
	save(t, p, "a", "mine", nil)
	old := readRoot(t, p)
	save(t, p, "bb", "yours", nil)
	setRoot(t, p, old)
	save(t, p, "ccc", "theirs", allow)
	if v := names(readTable(t, p))["ccc"]; v.Domain != 3 {
		t.Errorf("domain %d is given once more", v.Domain)
	}
}

// TestRemovedVolumesStayAway: where the list is lost, of several versions of a session
// the one counts that was edited last; tags come from what is left of the list.
func TestRemovedVolumesStayAway(t *testing.T) {
	for what, forgets := range map[string]bool{"this host": false, "another host": true} {
		t.Run(what, func(t *testing.T) {
			p := archivetest.New(t).Init(t)
			const sessions = 6
			for range sessions {
				save(t, p, "a", "", nil)
			}
			tag(t, p, 2, "keep")
			edit(t, p, func(a *archive.Archive, e *archive.Edit, put archive.PutMetadata) {
				for i := range e.Entries {
					s, err := a.Session(ctx, e.Entries[i].Blob)
					if err != nil {
						t.Fatal(err)
					}
					s.Removed, s.Volumes = []format.ObjectID{s.Volumes[0].Volume}, nil
					s.Generation, s.Edits = a.NextGeneration(), s.Edits+1
					if e.Entries[i].Blob, err = put(format.BlobSession, s.Append(nil)); err != nil {
						t.Fatal(err)
					}
				}
			})
			tag(t, p, 3, "later")
			loseNewest(t, p, list)
			if forgets {
				p.Forget(t)
			}
			entries := repair(t, p, nil)
			if len(entries) != sessions {
				t.Fatalf("%+v", entries)
			}
			a := p.Open(t, protocol.LockRead)
			for _, e := range entries {
				s, err := a.Session(ctx, e.Blob)
				if err != nil || len(s.Volumes) > 0 {
					t.Errorf("#%d has %d volumes again, %v", e.Seq, len(s.Volumes), err)
				}
			}
			if len(entries[1].Tags) != 1 || len(entries[2].Tags) == 1 == forgets {
				t.Errorf("tags %v and %v", entries[1].Tags, entries[2].Tags)
			}
		})
	}
}

// TestHostKeepsWhatItLastSaw: names and tags that are lost come back as they were in
// the newest root that this host saw, whatever committed it.
func TestHostKeepsWhatItLastSaw(t *testing.T) {
	for what, last := range map[string]func(*testing.T, *archivetest.Place){
		"edits": func(*testing.T, *archivetest.Place) {},
		"a key": func(t *testing.T, p *archivetest.Place) {
			a := p.Open(t, protocol.LockAppend)
			defer a.Close()
			cost := crypt.Cost{Memory: format.MinArgonMemory, Passes: 1, Lanes: 1}
			if _, err := a.AddKey(ctx, crypt.Secret{Passphrase: []byte("another one")}, cost, ""); err != nil {
				t.Fatal(err)
			}
		},
		"another host, and this one lists": func(t *testing.T, p *archivetest.Place) {
			p.Forget(t)
			a := p.Open(t, protocol.LockRead)
			defer a.Close()
			if _, err := a.Listing(ctx); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			p := archivetest.New(t).Init(t)
			save(t, p, "a", "mine", nil)
			rename(t, p, "a", "z")
			tag(t, p, 1, "keep")
			last(t, p)
			loseNewest(t, p, list)
			loseTable := p.OpenBare(t, protocol.LockRead)
			if err := loseTable.LoadIndex(ctx); err != nil {
				t.Fatal(err)
			}
			if id, ok, err := loseTable.Locate(ctx, loseTable.Root().VolumeTable); err == nil && ok {
				p.RemovePair(t, protocol.PackName(id))
			}
			loseTable.Close()
			a := p.Open(t, protocol.LockRead)
			l, err := a.Listing(ctx)
			if err != nil || len(l.Entries) != 1 || len(l.Entries[0].Tags) != 1 || len(l.Found) > 0 {
				t.Fatalf("%+v, %v", l, err)
			}
			if n := names(l.Table); len(n) != 1 || n["z"].Domain != 1 || l.TableDamage == nil {
				t.Errorf("%+v, %v", l.Table, l.TableDamage)
			}
		})
	}
}

// TestFoundSessionsHaveNames: where a repair takes back sessions that were written for
// newer roots, what they have gets the names that newer tables gave it.
func TestFoundSessionsHaveNames(t *testing.T) {
	p := archivetest.New(t).Init(t)
	save(t, p, "a", "", nil)
	old := readRoot(t, p)
	save(t, p, "bb", "yours", nil)
	setRoot(t, p, old)
	p.Forget(t)
	if entries := repair(t, p, allow); len(entries) != 2 {
		t.Fatalf("%+v", entries)
	}
	if got := readTable(t, p); len(got.Volumes) != 2 || names(got)["bb"].Domain != 1 || got.NextDomain != 2 {
		t.Errorf("%+v", got)
	}
}
