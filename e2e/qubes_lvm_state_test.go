package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"pinion/e2e/qubesd"
	"pinion/e2e/umltest"
)

// chunkBytes is the archives' chunk size.
const chunkBytes = 128 << 10

// difference expects that a volume is a difference that reads, and saves, no
// more than a number of chunks.
func difference(t testing.TB, v qubesVolumeDoc, chunks int64) {
	t.Helper()
	if want := map[bool]string{true: "unchanged", false: "delta"}[chunks == 0]; v.Mode != want {
		t.Errorf("%s is %s, not %s: %s", v.Name, v.Mode, want, v.Why)
	}
	if v.ReadBytes > chunks*chunkBytes || v.NewChunks > uint64(chunks) {
		t.Errorf("%s: %d bytes read, %d new chunks, %d at most", v.Name, v.ReadBytes, v.NewChunks, chunks)
	}
}

// runs writes into a running qube.
func (q *qubesWorld) runs(t testing.TB, qube string, offset int64, part string) {
	t.Helper()
	if err := q.api.Write(qube, "private", offset, content(part)); err != nil {
		t.Fatal(err)
	}
}

func (q *qubesWorld) startQube(t testing.TB, qube string) {
	t.Helper()
	if err := q.api.StartQube(qube); err != nil {
		t.Fatal(err)
	}
}

func (q *qubesWorld) stopQube(t testing.TB, qube string) {
	t.Helper()
	if err := q.api.StopQube(qube); err != nil {
		t.Fatal(err)
	}
}

// TestQubesLVMRunning saves the committed state of a running qube, its live
// one, the committed one again, and what it left when it stopped: each time
// only what differs is read, though the volume is another device each time.
func TestQubesLVMRunning(t *testing.T) {
	t.Parallel()
	q := newLVMQubes(t, "work", "work-private")
	const volume = "work:private"
	committed, live := device("work", "private"), device("work", "private-snap")
	listing := func() (all string) {
		for _, call := range []string{"admin.vm.volume.Info", "admin.vm.volume.ListSnapshots"} {
			all += q.api.Must(t, call, "private", "work", "") + q.api.Must(t, call, "private", "work-private", "")
		}
		return all + q.api.Must(t, "admin.vm.volume.List", "", "work", "")
	}
	was := listing()
	q.back(t, "work", "work-private")
	if is := listing(); is != was {
		t.Errorf("after a backup, qubesd says %q of volumes, and before %q", is, was)
	}
	q.saves(t, volume, readAll(t, committed))
	q.startQube(t, "work")
	q.runs(t, "work", 1<<20, "random:64K:1")
	r := q.ok("--json", "backup", "work").says("work is running: saved state of ")
	difference(t, document[qubesBackupDoc](r).volume(t, volume), 0)
	q.stopQube(t, "work")
	q.startQube(t, "work")
	q.runs(t, "work", 2<<20, "random:64K:2")
	since := newestBack(t, "work")
	r = q.ok("--json", "backup", "work").says("work is running: saved state of "+since.Format("2006-01-02 15:04")+" (", " ago)")
	doc := document[qubesBackupDoc](r)
	if at, err := time.Parse(time.RFC3339Nano, doc.Qubes[0].SavedState); err != nil || !at.Equal(since) || !doc.Qubes[0].Running {
		t.Errorf("%+v is of %v", doc.Qubes[0], since)
	}
	check := func(what string, v qubesVolumeDoc, isLive bool, from string, chunks int64) {
		t.Helper()
		if difference(t, v, chunks); v.Live != isLive {
			t.Errorf("%s: %+v", what, v)
		}
		q.saves(t, volume, readAll(t, from))
		oneBase(t, "vm-work-private", "vm-work-private-private")
	}
	check("committed", doc.volume(t, volume), false, committed, 1)
	check("live", q.back(t, "--live", "work").volume(t, volume), true, live, 1)
	check("the same, live", q.back(t, "--live", "work").volume(t, volume), true, live, 0)
	check("committed again", q.back(t, "work").volume(t, volume), false, committed, 1)
	q.runs(t, "work", 0, "random:64K:3")
	q.stopQube(t, "work")
	check("what it left", q.back(t, "work").volume(t, volume), false, committed, 2)
	// Older states that share blocks with the base are discarded and removed.
	for i := range 3 {
		q.startQube(t, "work")
		q.runs(t, "work", int64(i)<<20, "random:64K:"+strconv.Itoa(10+i))
		q.stopQube(t, "work")
	}
	check("after three more", q.back(t, "work").volume(t, volume), false, committed, 3)
	q.ok("verify", "--all-sessions")
}

// newestBack is the time in the name of the newest older state.
func newestBack(t testing.TB, qube string) (newest time.Time) {
	t.Helper()
	for _, name := range volumes(t, "vm-"+qube+"-private-*-back") {
		digits := strings.TrimSuffix(strings.TrimPrefix(name, "vm-"+qube+"-private-"), "-back")
		seconds, err := strconv.ParseInt(digits, 10, 64)
		if at := time.Unix(seconds, 0).UTC(); err == nil && at.After(newest) {
			newest = at
		}
	}
	if newest.IsZero() {
		t.Fatalf("%s has no older state", qube)
	}
	return newest
}

// TestQubesLVMWithoutRevisions: a qube that writes into its only state is
// saved while it is halted, or on request; while it runs, it is left out and
// named, and the others are saved.
func TestQubesLVMWithoutRevisions(t *testing.T) {
	t.Parallel()
	q := newLVMQubes(t, "direct", "other")
	const volume = "direct:private"
	path := device("direct", "private")
	q.api.Must(t, "admin.vm.volume.Set.revisions_to_keep", "private", "direct", "-1")
	q.back(t, "direct", "other")
	q.startQube(t, "direct")
	q.runs(t, "direct", 1<<20, "random:64K:1")
	if exists(path + "-snap") {
		t.Fatal("there is a live state beside it")
	}
	r := q.exits(3, "--json", "backup", "direct", "other").says("direct: ", "revisions_to_keep is -1")
	if doc := document[qubesBackupDoc](r); len(doc.Failed) != 1 || doc.Failed[0].Name != "direct" || len(doc.Volumes) != 1 {
		t.Errorf("%+v", doc)
	}
	q.exits(1, "backup", "direct").says("revisions_to_keep is -1")
	v := q.back(t, "--live", "direct").volume(t, volume)
	if difference(t, v, 1); !v.Live {
		t.Errorf("%+v", v)
	}
	q.saves(t, volume, readAll(t, path))
	q.runs(t, "direct", 2<<20, "random:64K:2")
	q.stopQube(t, "direct")
	v = q.back(t, "direct").volume(t, volume)
	if difference(t, v, 1); v.Live {
		t.Errorf("%+v", v)
	}
	q.saves(t, volume, readAll(t, path))
	// It is started right before its snapshot is made.
	g, gated := newGate(q)
	q.write(t, "direct", "private", 0, "random:64K:3")
	started := false
	g.at = func(moment string) {
		if moment == "before lvcreate" && !started {
			started = true
			q.startQube(t, "direct")
		}
	}
	gated.exits(3, "backup", "direct", "other").says("the qube was started meanwhile")
	q.stopQube(t, "direct")
	difference(t, q.back(t, "direct").volume(t, volume), 1)
	oneBase(t, "vm-direct-private", "vm-other-private")
}

// TestQubesLVMRowS04TwoPools saves two qubes in one session that are in two
// pools, thin volumes and files of btrfs, both running, as committed and as
// live; and a restore of a running qube changes nothing.
func TestQubesLVMRowS04TwoPools(t *testing.T) {
	t.Parallel()
	umltest.Only(t)
	dir := mounted(t, "btrfs", 512<<20)
	q := lvmQubes(t, newQubesGround(t, "lvmthin"), []qubesd.Pool{{Name: "disk", Driver: "file-reflink", DirPath: dir, Revisions: 1}}, "work")
	q.make(t, "mail", "disk")
	q.back(t, "work", "mail")
	for i, qube := range []string{"work", "mail"} {
		q.startQube(t, qube)
		q.runs(t, qube, 1<<20, "random:64K:"+strconv.Itoa(i))
	}
	r := q.ok("--json", "backup", "work", "mail").says("work is running: saved state of ", "mail is running: saved state ")
	doc := document[qubesBackupDoc](r)
	seq := doc.Session.Seq
	for _, qube := range []string{"work", "mail"} {
		if v := doc.volume(t, qube+":private"); v.Live || v.Mode != "unchanged" && v.Mode != "delta" || v.NewChunks != 0 {
			t.Errorf("%+v", v)
		}
		q.saves(t, qube+":private", readAll(t, q.api.Committed(qube, "private")))
	}
	doc = q.back(t, "--live", "work", "mail")
	if doc.Session.Seq != seq+1 || len(doc.Volumes) != 2 {
		t.Errorf("%+v is not one session", doc)
	}
	for _, qube := range []string{"work", "mail"} {
		if v := doc.volume(t, qube+":private"); !v.Live || v.Mode != "delta" {
			t.Errorf("%+v", v)
		}
		live := q.api.Live(qube, "private")
		if !strings.Contains(live, "-snap") && !strings.Contains(live, "-dirty") {
			t.Errorf("%s is live", live)
		}
		was := readAll(t, live)
		q.saves(t, qube+":private", was)
		q.exits(1, "restore", qube, "--session", "#1", "--yes").says(qube + " is running and was not touched")
		if sum(readAll(t, live)) != sum(was) {
			t.Errorf("the restore of %s, which runs, changed it", qube)
		}
	}
}
