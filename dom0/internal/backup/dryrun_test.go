package backup_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// foretold runs a dry run through a reading connection and then the backup,
// and holds the one against the other. It returns how many bytes were sent,
// and how many were the most.
func foretold(t *testing.T, p *archivetest.Place, o backup.Options, sources ...backup.Source) (res *backup.Result, sent, most int64) {
	t.Helper()
	before := len(p.Objects(t, ""))
	a := p.Open(t, protocol.LockRead)
	f, err := backup.DryRun(ctx, a, sources, o)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if now := len(p.Objects(t, "")); now != before {
		t.Errorf("a dry run left %d objects where %d were", now, before)
	}
	a = p.Open(t, protocol.LockAppend)
	defer a.Close()
	if res, err = backup.Run(ctx, a, sources, o); err != nil {
		t.Fatal(err)
	}
	if len(f.Volumes) != len(res.Volumes) || len(f.Failed) != len(res.Failed) {
		t.Fatalf("foretold %+v, done %+v", f, res)
	}
	for i, v := range res.Volumes {
		told := f.Volumes[i]
		if told.Name != v.Name || told.Size != v.Size || told.Kind != v.Kind || told.Mode != v.Mode || told.Why != v.Why ||
			told.Live != v.Live || told.Read != v.Read || told.Changed != v.Changed || told.NewChunks != 0 || told.Stored != 0 {
			t.Errorf("foretold %+v, done %+v", told, v)
		}
	}
	if sent = a.Store().Sent(); sent > f.Sent {
		t.Errorf("sent %d bytes, foretold at most %d", sent, f.Sent)
	}
	return res, sent, f.Sent
}

// TestDryRun tells beforehand what each of a few sessions reads, and bounds
// what it sends, closely where nothing can be compressed.
func TestDryRun(t *testing.T) {
	p := archivetest.New(t).Init(t)
	o := archivetest.Options(t)
	holes, letters := filepath.Join(t.TempDir(), "holes"), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if err := os.WriteFile(holes, image("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(holes, 100*chunkSize+1); err != nil {
		t.Fatal(err)
	}
	missing := archivetest.Source("missing", filepath.Join(t.TempDir(), "none"))
	full, sparse := archivetest.Source("full", file(t, image(letters))), archivetest.Source("sparse", holes)
	res, sent, most := foretold(t, p, o, full, sparse, missing)
	if v := res.Volumes[1]; v.Read != chunkSize || v.Mode != format.ModeFull {
		t.Errorf("%+v", v)
	}
	if most > sent*11/10+16<<10 {
		t.Errorf("%d bytes were sent, and foretold were %d", sent, most)
	}
	o.Tags, o.Verify = []format.Tag{{Name: "tag", Text: "text"}}, true
	res, sent, _ = foretold(t, p, o, sparse, full)
	if sent > 4*chunkSize || res.Volumes[0].Mode != format.ModeScan {
		t.Errorf("%d bytes were sent for nothing new: %+v", sent, res)
	}
}

// TestDryRunOfNothing names what fails, and is no error: that is Run's.
func TestDryRunOfNothing(t *testing.T) {
	p := archivetest.New(t).Init(t)
	f, err := backup.DryRun(ctx, p.Open(t, protocol.LockRead), []backup.Source{archivetest.Source("missing", "/nowhere/at/all")}, archivetest.Options(t))
	if err != nil || len(f.Failed) != 1 || !reflect.DeepEqual(f.Volumes, []backup.Volume(nil)) || f.Sent != 0 {
		t.Errorf("%+v, %v", f, err)
	}
}
