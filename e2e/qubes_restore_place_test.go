package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/e2e/qubesd"
)

// modeOf is how a backup read a volume, and how much of it, and what was new.
func (q *qubesWorld) modeOf(t testing.TB, r *result, name string) (mode string, read int64, chunks uint64) {
	t.Helper()
	for _, v := range document[qubesBackupDoc](r).Volumes {
		if v.Name == name {
			return v.Mode, v.ReadBytes, v.NewChunks
		}
	}
	t.Fatalf("%s\nhas no volume %s", r, name)
	return "", 0, 0
}

// TestQubesRestoreInPlace: what a volume held stays as its previous revision, and settings of since then go.
func TestQubesRestoreInPlace(t *testing.T) {
	t.Parallel()
	onPlainAndXFS(t, func(t *testing.T, kind string) {
		q := newQubesWorld(t, kind, "4.3")
		q.rich(t)
		q.ok("init")
		q.ok("backup", "work")
		want, data := q.of(t, "work"), q.private(t, "work")

		for name, value := range map[string]string{"vcpus": "9", "qrexec_timeout": "77", "netvm": "", "include_in_backups": "False", "label": "red"} {
			q.must(t, "admin.vm.property.Set", name, "work", value)
		}
		q.must(t, "admin.vm.property.Reset", "maxmem", "work", "")
		q.must(t, "admin.vm.feature.Set", "since", "work", "1")
		q.must(t, "admin.vm.feature.Remove", "service.cups", "work", "")
		q.must(t, "admin.vm.tag.Set", "since", "work", "")
		q.must(t, "admin.vm.firewall.Set", "", "work", "action=accept\n")
		q.must(t, "admin.vm.notes.Set", "", "work", "others")
		q.must(t, "admin.vm.device.block.Assign", "sys-usb+sdb:*", "work",
			"device_id='*' port_id='sdb' devclass='block' backend_domain='sys-usb' mode='manual' frontend_domain='work'")
		q.write(t, "work", "private", 1<<20, "random:90K:41")
		previous := q.private(t, "work")
		r := q.ok("restore", "work", "--yes").says("is no longer assigned")
		sameLines(t, "work", q.of(t, "work"), want)
		sameBytes(t, "work", q.private(t, "work"), data)
		if kind != "lvmthin" {
			revisions, err := filepath.Glob(q.system + "/appvms/work/private.img.*@*Z")
			if err != nil || len(revisions) != 1 {
				t.Fatalf("%s\nleft the revisions %v, %v", r, revisions, err)
			}
			sameBytes(t, "the previous revision", readAll(t, revisions[0]), previous)
		}
		if got := q.must(t, "admin.vm.volume.ListSnapshots", "private", "work", ""); strings.Count(got, "\n") != 1 {
			t.Errorf("there are the revisions %q", got)
		}
		// One that keeps none keeps this one.
		q.must(t, "admin.vm.volume.Set.revisions_to_keep", "private", "work", "0")
		q.write(t, "work", "private", 1<<20, "random:90K:42")
		q.ok("restore", "work", "--yes", "--data-only").says("kept no revisions and keeps one now")
		if got := q.must(t, "admin.vm.volume.ListSnapshots", "private", "work", ""); strings.Count(got, "\n") != 1 {
			t.Errorf("there are the revisions %q", got)
		}
		q.noLeftovers(t)
	})
}

// TestQubesRestoreSkipProp: properties that are to be left alone are, new or not.
func TestQubesRestoreSkipProp(t *testing.T) {
	t.Parallel()
	q := newQubesWorld(t, anyGround(), "4.3")
	q.rich(t)
	q.ok("init")
	q.ok("backup", "work")
	q.must(t, "admin.vm.property.Set", "vcpus", "work", "9")
	q.must(t, "admin.vm.property.Set", "qrexec_timeout", "work", "77")
	q.must(t, "admin.vm.property.Set", "memory", "work", "444")
	q.ok("restore", "work", "--yes", "--settings-only", "--skip-prop", "vcpus", "--skip-prop", "qrexec_timeout")
	now := q.of(t, "work")
	for _, line := range []string{"property vcpus=9", "property qrexec_timeout=77", "property memory=700"} {
		if !slices.Contains(now, line) {
			t.Errorf("work lacks %q: %q", line, now)
		}
	}
	q.ok("restore", "work", "--as", "other", "--skip-prop", "netvm", "--skip-prop", "vcpus")
	for _, line := range q.of(t, "other") {
		if strings.HasPrefix(line, "property netvm") || strings.HasPrefix(line, "property vcpus") {
			t.Errorf("other has %q", line)
		}
	}
}

// TestQubesRestoreIsPaired: after a restore, of an old session too, the next backup reads what has changed since and
// nothing else, and what it saves is right.
func TestQubesRestoreIsPaired(t *testing.T) {
	t.Parallel()
	for _, kind := range qubesGrounds() {
		if kind == "plain" {
			continue // there is no telling what changed
		}
		t.Run(kind, func(t *testing.T) {
			q := small(t, kind, build{})
			first := q.private(t, "work")
			q.write(t, "work", "private", 2<<20, "random:300K:51")
			second := q.private(t, "work")
			q.ok("backup", "work")

			delta := func(what, volume string, most int64, chunks uint64) *result {
				t.Helper()
				qube, _, _ := strings.Cut(volume, ":")
				b := q.ok("--json", "backup", qube)
				mode, read, fresh := q.modeOf(t, b, volume)
				if mode != "delta" && mode != "unchanged" || read > most || fresh != chunks {
					t.Errorf("%s: a %s of %d bytes with %d new chunks, want at most %d and %d\n%s", what, mode, read, fresh, most, chunks, b)
				}
				return b
			}
			again := func(what, volume string, want []byte) {
				t.Helper()
				qube, _, _ := strings.Cut(volume, ":")
				q.ok("restore", qube, "--as", "again")
				sameBytes(t, what, q.private(t, "again"), want)
				q.remove(t, "again")
			}
			const chunk = 128 << 10
			// An old session, in place: what differs between it and the newest one may be read.
			q.ok("restore", "work", "--yes", ofSession(1))
			delta("in place", "work:private", 5*chunk, 0)
			again("in place", "work:private", first)
			// And a newer one over that.
			q.ok("restore", "work", "--yes", ofSession(2))
			delta("newer", "work:private", 5*chunk, 0)
			again("newer", "work:private", second)
			// A new qube.
			q.remove(t, "work")
			q.ok("restore", "work", ofSession(1))
			delta("new", "work:private", 5*chunk, 0)
			// It is started and writes in between.
			q.ok("restore", "work", "--yes", ofSession(2))
			if err := q.api.StartQube("work"); err != nil {
				t.Fatal(err)
			}
			if err := q.api.Write("work", "private", 1<<20, content("random:4K:52")); err != nil {
				t.Fatal(err)
			}
			if err := q.api.StopQube("work"); err != nil {
				t.Fatal(err)
			}
			written := q.private(t, "work")
			delta("written", "work:private", 6*chunk, 1)
			again("written", "work:private", written)
			if string(written[1<<20:1<<20+4096]) != string(content("random:4K:52")) || string(written[2<<20:]) != string(second[2<<20:]) {
				t.Error("what was written is not there")
			}
			// Under another name it is another volume: all of it is known to the archive.
			q.ok("restore", "work", "--as", "work2", ofSession(1))
			b := q.ok("--json", "backup", "work2")
			if mode, read, fresh := q.modeOf(t, b, "work2:private"); fresh != 0 {
				t.Errorf("as another: a %s of %d bytes with %d new chunks", mode, read, fresh)
			}
			again("as another", "work2:private", first)
			q.write(t, "work2", "private", 4096, "random:4K:53")
			delta("as another, again", "work2:private", 2*chunk, 1)
			again("as another, again", "work2:private", q.private(t, "work2"))
			q.ok("verify", "--all-sessions")
		})
	}
}

// TestQubesRestoreSizes: a volume is made as large as it was, never smaller than it is, and what is left over is zeros.
func TestQubesRestoreSizes(t *testing.T) {
	t.Parallel()
	onPlainAndXFS(t, func(t *testing.T, kind string) {
		q := small(t, kind, build{})
		unit := int64(512)
		if kind == "lvmthin" {
			unit = 4 << 20 // an extent
		}
		up := func(n int64) int64 { return (n + unit - 1) / unit * unit }
		resize := func(size int64) {
			t.Helper()
			q.must(t, "admin.vm.volume.Resize", "private", "work", fmt.Sprint(size))
		}
		resize(up(5<<20 + 3*512))
		large := int64(len(q.private(t, "work")))
		q.write(t, "work", "private", large-1000, "random:1000:61")
		grown := q.private(t, "work")
		q.ok("backup", "work") // 2

		// Larger than a new one.
		q.remove(t, "work")
		q.ok("restore", "work", ofSession(2))
		sameBytes(t, "larger than a new one", q.private(t, "work"), grown)
		// Larger than the one that is here.
		q.remove(t, "work")
		q.ok("restore", "work", ofSession(1))
		old := q.private(t, "work")
		if int64(len(old)) >= large {
			t.Fatalf("the old one has %d bytes", len(old))
		}
		q.ok("restore", "work", "--yes", ofSession(2))
		sameBytes(t, "larger than the one here", q.private(t, "work"), grown)
		// Smaller than the one that is here: the rest is zeros.
		r, doc := q.restoreDoc(0, "work", "--yes", ofSession(1))
		r.says("keeps its size of")
		if notes := doc.of(t, "work").Notes; len(notes) != 1 || !strings.Contains(notes[0], "keeps its size of") {
			t.Errorf("the notes are %q", notes)
		}
		sameBytes(t, "smaller than the one here", q.private(t, "work"), append(slices.Clone(old), make([]byte, large-int64(len(old)))...))
		// And that is what the next backup has.
		q.ok("backup", "work")
		q.ok("restore", "work", "--as", "other")
		sameBytes(t, "backed up again", q.private(t, "other"), q.private(t, "work"))
		q.noLeftovers(t)
	})
}

// TestQubesRestorePools: volumes go where they were, or where they are told to, or to the default pool, and that is said; a
// pool that has no room is refused before anything is changed.
func TestQubesRestorePools(t *testing.T) {
	t.Parallel()
	other := qubesd.Pool{Name: "big-disk", Driver: "file-reflink", DirPath: filepath.Join(t.TempDir(), "big"), Revisions: 1}
	q := newQubesWorldOf(t, "plain", qubesd.R43, build{}, qubesd.Options{Kernels: []string{"6.6.77-1.fc37"}, Pools: []qubesd.Pool{other}})
	q.small(t)
	q.must(t, "admin.vm.CreateInPool.AppVM", "fedora", "dom0", "name=safe label=blue pool:private=big-disk pool:volatile=big-disk")
	q.fill(t)
	q.ok("init")
	q.ok("backup", "--all", q.dom0Files())
	want, data := q.describe(t), q.contents(t)
	poolOf := func(q *qubesWorld, qube, volume string) string {
		t.Helper()
		pool, _, _ := strings.Cut(q.must(t, "admin.vm.volume.Info", volume, qube, ""), "\n")
		return strings.TrimPrefix(pool, "pool=")
	}
	// Nothing is changed where the command can't be done.
	q.api.ForgetCalls()
	for _, args := range [][]string{{"--all", "--pool", "nowhere"}, {"--all", "--pool", "linux-kernel"}, {"work", "--as", "x", "--pool", "no/../where"}} {
		q.exits(1, append([]string{"restore", "--yes"}, args...)...).oneLine().says("there is no storage pool")
	}
	info := q.must(t, "admin.pool.Info", "varlibqubes", "dom0", "")
	full := info[:strings.Index(info, "size=")] + "size=100000000\nusage=99990000\n"
	remove := q.api.Inject(qubesd.Fault{Method: "admin.pool.Info", Arg: "varlibqubes", Effect: qubesd.Garbage, Bytes: []byte("0\x00" + full)})
	for _, args := range [][]string{{"--all", "--yes"}, {"work", "--as", "x"}, {"safe", "--as", "x", "--pool", "varlibqubes"}} {
		q.exits(1, append([]string{"restore"}, args...)...).oneLine().says("the storage pool varlibqubes has room for 9.8 KiB, and")
	}
	if calls := q.api.Changes(); len(calls) > 0 {
		t.Errorf("the calls are %v", calls)
	}
	if dirs, _ := filepath.Glob(q.dir + "/dom0-restore-*"); len(dirs) > 0 {
		t.Errorf("dom0 was restored: %v", dirs)
	}
	q.ok("restore", "safe", "--as", "x") // there is room in its pool
	remove()
	sameLines(t, "x", q.of(t, "x"), want["safe"])
	if pool := poolOf(q, "x", "private"); pool != "big-disk" {
		t.Errorf("x is in the pool %s", pool)
	}
	// What qubesd doesn't tell, or tells nonsense of, refuses nothing.
	for _, text := range []string{"size=\nusage=\n", "size=-1\nusage=5\n", "size=1e3\nusage=9\n", ""} {
		remove := q.api.Inject(qubesd.Fault{Method: "admin.pool.Info", Arg: "varlibqubes", Effect: qubesd.Garbage,
			Bytes: []byte("0\x00" + info[:strings.Index(info, "size=")] + text)})
		q.ok("restore", "work", "--yes", "--data-only")
		remove()
	}
	// Another pool is asked for: new qubes go there, those that are here stay where they are.
	q.ok("restore", "work", "--as", "y", "--pool", "big-disk")
	if a, b := poolOf(q, "y", "private"), poolOf(q, "y", "root"); a != "big-disk" || b != "varlibqubes" {
		t.Errorf("y is in the pools %s and %s", a, b)
	}
	q.ok("restore", "work", "--yes", "--pool", "big-disk").says("its volumes stay in the pools that they are in")

	n := q.fresh(t, "plain", qubesd.R43)
	n.ok("restore", "--all").says("there is no pool big-disk here")
	sameContents(t, n.contents(t), data)
	sameQubes(t, n.describe(t), want, machineOwn)
	// All of a system in another pool: the roots of its qubes follow their template.
	m := q.fresh(t, "plain", qubesd.R43)
	m.api.Close()
	m.boot(t, newGround(t, "plain"), qubesd.Options{Dir: t.TempDir(), Release: qubesd.R43, Kernels: []string{"6.6.77-1.fc37"}, Pools: []qubesd.Pool{
		{Name: "varlibqubes", Driver: "file-reflink", Revisions: 1}, {Name: "linux-kernel", Driver: "linux-kernel"},
		{Name: "big-disk", Driver: "file-reflink", DirPath: filepath.Join(t.TempDir(), "big"), Revisions: 1}}})
	m.ok("restore", "--all", "--pool", "big-disk")
	sameContents(t, m.contents(t), data)
	sameQubes(t, m.describe(t), want, machineOwn)
}
