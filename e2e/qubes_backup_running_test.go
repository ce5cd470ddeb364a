package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"pinion/e2e/qubesd"
)

// A running qube is saved as it was before its start, and that is said; with --live as it is, while it goes on writing.
func TestQubesBackupRowS04Running(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			q := newSmallQubes(t, kind, []string{"work"})
			before := q.committed(t, "work", "private")
			q.starts(t, "work")
			q.writes(t, "work", "private", 1<<20, "random:300K:1")

			r := q.ok("backup", "work")
			said := regexp.MustCompile(`(?m)^pinion: work is running: saved state of \d{4}-\d\d-\d\d \d\d:\d\d \(\d+ min ago\)$`)
			if !said.MatchString(r.stderr) {
				t.Errorf("%s\nwas to say how old the saved state is", r)
			}
			q.holds(t, "work:private", "latest", before)
			doc := document[qubesBackupDoc](q.ok("--json", "backup", "work"))
			saved, err := time.Parse(time.RFC3339Nano, doc.Qubes[0].SavedState)
			if age := time.Since(saved); err != nil || !doc.Qubes[0].Running || age < 0 || age > time.Hour {
				t.Errorf("%+v, %v", doc.Qubes, err)
			}
			if mode, live := doc.saved(t, "work:private"); live || mode != "unchanged" {
				t.Errorf("the committed state is %s, live %v", mode, live)
			}
			if r := q.ok("--quiet", "backup", "work"); r.stdout+r.stderr != "" {
				t.Errorf("%s\nwas to be quiet", r)
			}

			// A qube that holds still: its live state is known.
			live := readAll(t, q.api.Live("work", "private"))
			doc = document[qubesBackupDoc](q.ok("--json", "backup", "work", "--live"))
			if mode, live := doc.saved(t, "work:private"); !live || mode != "delta" || !doc.Qubes[0].Running || doc.Qubes[0].SavedState != "" {
				t.Errorf("%+v", doc)
			}
			q.holds(t, "work:private", "latest", live)
			q.ok("backup", "work", "--live").says("work is running: saved as it is now, as after a power failure")

			// And back: no path from one state to the other is taken for unchanged.
			q.ok("backup", "work")
			q.holds(t, "work:private", "latest", before)
			q.stops(t, "work")
			r = q.ok("backup", "work")
			if bytes.Contains([]byte(r.stderr), []byte("running")) {
				t.Errorf("%s\nsays that a halted qube runs", r)
			}
			q.holds(t, "work:private", "latest", live)
			q.ok("verify", "--all-sessions")
		})
	}
}

// What --live saves while the qube writes is one moment of it: of numbers that the qube counts up in place after place,
// never a later one without all earlier ones.
func TestQubesBackupRowS04LiveWriter(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", []string{"work"})
	q.starts(t, "work")
	stop, stopped := make(chan struct{}), make(chan error, 1)
	const places, apart = 16, 180 << 10
	f, err := os.OpenFile(q.api.Live("work", "private"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	go func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			for p := range places {
				if _, err := f.WriteAt([]byte{byte(n >> 16), byte(n >> 8), byte(n)}, int64(p*apart)); err != nil {
					stopped <- err
					return
				}
			}
		}
	}()
	for range 3 {
		doc := document[qubesBackupDoc](q.ok("--json", "backup", "work", "--live"))
		if _, live := doc.saved(t, "work:private"); !live {
			t.Errorf("%+v", doc)
		}
		b := q.restored(t, "work:private", "latest")
		last := 1 << 30
		for p := range places {
			at := b[p*apart:]
			n := int(at[0])<<16 | int(at[1])<<8 | int(at[2])
			// A reader between two bytes of one write sees a carry: one is allowed to be that.
			if n > last {
				t.Fatalf("place %d has %d after %d: no moment was like that", p, n, last)
			}
			last = n
		}
		if first := int(b[0])<<16 | int(b[1])<<8 | int(b[2]); first-last > 1 {
			t.Fatalf("the first place has %d and the last one %d", first, last)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	q.ok("verify", "--all-sessions")
}

// Qubes in pools on several kinds of storage land in one session; one in a pool that nobody knows fails by name, one
// whose pool has no state to read while it runs fails with a hint, and neither costs the others anything.
func TestQubesBackupRowS04Pools(t *testing.T) {
	t.Parallel()
	btrfs, plain := mounted(t, "btrfs", groundSize), t.TempDir()
	q := newSmallQubes(t, "xfs", []string{"work"},
		qubesd.Pool{Name: "second", Driver: "file-reflink", DirPath: filepath.Join(btrfs, "pool"), Revisions: 1},
		qubesd.Pool{Name: "old", Driver: "file", DirPath: filepath.Join(plain, "pool"), Revisions: 1},
		qubesd.Pool{Name: "odd", Driver: "callback", DirPath: filepath.Join(plain, "odd"), Revisions: 1})
	for name, pool := range map[string]string{"photos": "second", "letters": "old", "strange": "odd"} {
		q.add(t, "StandaloneVM", name, "", pool)
		q.write(t, name, "private", 0, "random:500K:9")
	}
	want := q.contents(t)
	r := q.exits(3, "backup", "work", "photos", "letters", "strange")
	r.says("strange: ", `has the driver "callback"`, "1 of ")
	q.inSession(t, "work", "photos", "letters")
	for _, name := range []string{"work:private", "photos:private", "photos:root", "letters:private", "letters:root"} {
		q.holds(t, name, "latest", want[name])
	}

	q.starts(t, "letters")
	q.starts(t, "photos")
	r = q.exits(3, "backup", "work", "photos", "letters")
	r.says("letters: ", "the qube runs, and writes into the volume that would be read", "photos is running: saved state of")
	q.inSession(t, "work", "photos")
	q.exits(3, "backup", "--live", "work", "letters").says("the qube runs, and writes into the volume", "hint: shut the qube down")
	q.exits(1, "backup", "letters").says("shut the qube down, and back it up then")
	q.stops(t, "letters")
	q.ok("backup", "letters")
	q.holds(t, "letters:private", "latest", q.committed(t, "letters", "private"))
	q.ok("verify", "--all-sessions")
}

// A qube that writes into the very state that is to be saved, since it keeps no other, is refused while it runs.
func TestQubesBackupNoRevisions(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", []string{"work", "other"})
	q.api.Must(t, "admin.vm.volume.Set.revisions_to_keep", "private", "work", "-1")
	halted := q.committed(t, "work", "private")
	q.ok("backup", "work")
	q.holds(t, "work:private", "latest", halted)
	q.starts(t, "work")
	q.writes(t, "work", "private", 4096, "random:64K:5")
	live := readAll(t, q.api.Live("work", "private"))
	r := q.exits(3, "backup", "work", "other")
	r.says("error: work: volume private: the qube runs and keeps no state", "revisions_to_keep is -1", "1 of 2")
	q.inSession(t, "other")
	q.exits(1, "backup", "work").says("--live saves the state of the running qube, or shut it down first")
	doc := document[qubesBackupDoc](q.ok("--json", "backup", "--live", "work"))
	if _, live := doc.saved(t, "work:private"); !live {
		t.Errorf("%+v", doc)
	}
	q.holds(t, "work:private", "latest", live)
	q.stops(t, "work")
	q.ok("backup", "work")
	q.holds(t, "work:private", "latest", live)
}

// After a power failure what was committed is saved, and said to be; what the crash has left is saved on request.
func TestQubesBackupAfterCrash(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"plain", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			q := newSmallQubes(t, kind, []string{"work"})
			committed := q.committed(t, "work", "private")
			q.starts(t, "work")
			q.writes(t, "work", "private", 1<<20, "random:100K:4")
			left := readAll(t, q.api.Live("work", "private"))
			if err := q.api.LosePower(); err != nil {
				t.Fatal(err)
			}
			q.ok("backup", "work").says("work:private: the qube did not shut down cleanly; the state from before its last start is saved")
			q.holds(t, "work:private", "latest", committed)
			if kind == "plain" {
				q.exits(1, "backup", "work", "--live")
				return
			}
			r := q.ok("backup", "work", "--live")
			r.says("did not shut down cleanly")
			if bytes.Contains([]byte(r.stderr), []byte("is running")) {
				t.Errorf("%s\nsays that it runs", r)
			}
			q.holds(t, "work:private", "latest", left)
		})
	}
}
