package reflink

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

// TestSnapshotIsTheSource: in content, size and what isn't data, whatever is
// still in the page cache; read-only; and Data names what there is.
func TestSnapshotIsTheSource(t *testing.T) {
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		im := newImage(t, dir, 40*mib+77)
		im.write(1, 5*mib, 300_000)
		im.write(2, 40*mib, 77)
		want, err := os.ReadFile(im.path)
		if err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		b := im.snap()
		im.write(3, 5*mib, 4096) // not in it any more
		if b.Kind != source.Reflink || b.Pool != im.pool.ID() || b.Size != 40*mib+77 || b.Taken.Before(started) || b.Taken.After(time.Now()) {
			t.Errorf("base %+v", b)
		}
		if want := fmt.Sprintf("%s/.pinion/%s.%s.1.disk.img", dir, owner, volume); b.Name != want {
			t.Errorf("name %s, want %s", b.Name, want)
		}
		for path, mode := range map[string]os.FileMode{b.Name: 0o400, filepath.Dir(b.Name): os.ModeDir | 0o700} {
			if info, err := os.Stat(path); err != nil || info.Mode() != mode {
				t.Errorf("%s has mode %v, want %v (%v)", path, info.Mode(), mode, err)
			}
		}
		v, err := im.pool.Open(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		got, err := io.ReadAll(io.NewSectionReader(v, 0, v.Size()))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("the snapshot isn't the source (%v)", err)
		}
		c, err := im.pool.Compare(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var data []source.Range
		if err := c.Data(context.Background(), b, func(r source.Range) error { data = append(data, r); return nil }); err != nil {
			t.Fatal(err)
		}
		if !contains(data, 5*mib, 5*mib+300_000) || !contains(data, 40*mib, 40*mib+77) || contains(data, 20*mib, 21*mib) || len(data) != 2 {
			t.Errorf("data %v", data)
		}
		if same, err := c.Unchanged(context.Background(), im.source(), b); same || err != nil {
			t.Errorf("unchanged: %v, %v", same, err)
		}
	})
}

// TestCheckFinds: everything that may have become of a snapshot.
func TestCheckFinds(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct {
		name, want string
		change     func(b *source.Base)
	}{
		{"nothing", "", func(*source.Base) {}},
		{"read", "", func(b *source.Base) { _, err := os.ReadFile(b.Name); must(err) }},
		{"removed", "it is gone", func(b *source.Base) { must(os.Remove(b.Name)) }},
		{"directory removed", "it is gone", func(b *source.Base) { must(os.RemoveAll(filepath.Dir(b.Name))) }},
		{"written to", "it was written to", func(b *source.Base) { overwrite(t, b.Name) }},
		{"written to, with its time set back", "it was written to", func(b *source.Base) {
			info, err := os.Stat(b.Name)
			must(err)
			overwrite(t, b.Name)
			must(os.Chtimes(b.Name, info.ModTime(), info.ModTime()))
		}},
		{"shortened", "it was written to", func(b *source.Base) { must(os.Truncate(b.Name, 4096)) }},
		{"replaced by a copy", "another file has its name", func(b *source.Base) {
			testenv.Run(t, "cp", "--preserve=all", "--reflink=always", b.Name, b.Name+".copy")
			must(os.Rename(b.Name+".copy", b.Name))
		}},
		{"replaced by a link", "another file has its name", func(b *source.Base) {
			must(os.Rename(b.Name, b.Name+".moved"))
			must(os.Symlink(b.Name+".moved", b.Name))
		}},
		{"replaced by a directory", "another file has its name", func(b *source.Base) {
			must(os.Remove(b.Name))
			must(os.Mkdir(b.Name, 0o700))
		}},
		{"another generation", "another file has its name", func(b *source.Base) { b.Identity["generation"] = "1" }},
		{"nothing known", "another file has its name", func(b *source.Base) { b.Identity = nil }},
		{"of another pool", "it was made in other storage", func(b *source.Base) { b.Pool = "reflink:0" }},
		{"of another kind", "it was made in other storage", func(b *source.Base) { b.Kind = source.LVMThin }},
	}
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		ctx := context.Background()
		for i, c := range cases {
			im := openImage(t, create(t, filepath.Join(dir, fmt.Sprint(i, ".img")), mib))
			im.write(1, 0, 100_000)
			b := throughJSON(t, im.snap())
			good := im.snap()
			c.change(b)
			err := im.pool.Check(ctx, b)
			if c.want == "" {
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				continue
			}
			if err == nil || err.Error() != c.want {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
			if v, err := im.pool.Open(ctx, b); err == nil {
				v.Close()
				t.Errorf("%s: it is opened", c.name)
			}
			for _, pair := range [][2]*source.Base{{b, good}, {good, b}} {
				if ranges, err := collect(im.pool, pair[0], pair[1]); err == nil {
					t.Errorf("%s: compared, with differences %v", c.name, ranges)
				}
			}
			must(os.RemoveAll(filepath.Dir(b.Name)))
		}
	})
}

func overwrite(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 5); err != nil {
		t.Fatal(err)
	}
}

// throughJSON does to a base what local state does.
func throughJSON(t *testing.T, b *source.Base) *source.Base {
	t.Helper()
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	back := new(source.Base)
	if err := json.Unmarshal(text, back); err != nil {
		t.Fatal(err)
	}
	return back
}

// TestNoCowFlagFollowsTheSource: both ways, from where new files get it or
// not.
func TestNoCowFlagFollowsTheSource(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", 512*mib)
	plain := newImage(t, dir, mib)
	plain.write(1, 0, 4096)
	path := create(t, filepath.Join(dir, "nocow.img"), 0)
	setNoCow(t, path)
	nocow := openImage(t, path)
	nocow.write(2, 0, 1<<20)
	for range 2 {
		for im, want := range map[*image]bool{plain: false, nocow: true} {
			b := im.snap()
			flags, err := unix.IoctlGetUint32(int(open(t, b.Name).Fd()), unix.FS_IOC_GETFLAGS)
			if err != nil || flags&source.NoCowFlag != 0 != want {
				t.Errorf("%s: flags %#x (%v)", b.Name, flags, err)
			}
			im.next += 10
		}
		setNoCow(t, filepath.Join(dir, dirName))
		plain.next, nocow.next = plain.next+1, nocow.next+1
	}
}

// TestSnapshotAnswersEach: one that can't be made keeps no other from it, and
// leaves nothing.
func TestSnapshotAnswersEach(t *testing.T) {
	dir := testenv.Mount(t, "xfs", 512*mib)
	other := create(t, filepath.Join(testenv.Mount(t, "btrfs", 512*mib), "disk.img"), mib)
	ext4 := create(t, filepath.Join(testenv.Mount(t, "ext4", 64*mib), "disk.img"), mib)
	im := newImage(t, dir, mib)
	label := func(serial uint64) source.Label { return source.Label{Owner: owner, Volume: volume, Serial: serial} }
	at := func(path string) *source.Source { return &source.Source{Path: path, Kind: source.Reflink} }
	first := im.snap() // serial 1
	before := files(t, dir)
	taken := im.pool.Snapshot(context.Background(), []source.Wanted{
		{Source: at(filepath.Join(dir, "none.img")), Label: label(2)},
		{Source: at(other), Label: label(2)},
		{Source: at(ext4), Label: label(2)},
		{Source: im.source(), Label: label(1)},
		{Source: im.source(), Label: source.Label{Owner: "../evil0", Volume: volume}},
		{Source: im.source(), Label: label(2)},
	})
	for i, want := range []string{"no such file", "another file system", "ext4 shares no blocks", "file exists", "8 hex digits", ""} {
		got := taken[i]
		if want == "" && (got.Err != nil || im.pool.Check(context.Background(), got.Base) != nil) {
			t.Errorf("%d: %v", i, got.Err)
		}
		if want != "" && (got.Err == nil || got.Base != nil || !strings.Contains(got.Err.Error(), want)) {
			t.Errorf("%d: %+v, want %q", i, got, want)
		}
	}
	if after := files(t, dir); len(after) != len(before)+1 {
		t.Errorf("files %v, and before %v", after, before)
	}
	if err := im.pool.Check(context.Background(), first); err != nil {
		t.Errorf("the one whose name was asked for again: %v", err)
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	if got := im.pool.Snapshot(done, []source.Wanted{{Source: im.source(), Label: label(3)}}); got[0].Err == nil {
		t.Error("a snapshot is made for nobody")
	}
}

// TestOtherPeoplesDirectory: snapshots hold what qubes keep secret.
func TestOtherPeoplesDirectory(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"belongs to user":          func(dir string) error { return os.Chown(dir, 1234, -1) },
		"can be written by others": func(dir string) error { return os.Chmod(dir, 0o777) },
		"is not a directory": func(dir string) error {
			if err := os.Rename(dir, dir+"-moved"); err != nil {
				return err
			}
			return os.Symlink(dir+"-moved", dir)
		},
		"/.pinion is not a directory": func(dir string) error {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			return os.WriteFile(dir, nil, 0o600)
		},
	} {
		im := newImage(t, testenv.Mount(t, "btrfs", 512*mib), mib)
		if err := spoil(filepath.Dir(im.snap().Name)); err != nil {
			t.Fatal(err)
		}
		label := source.Label{Owner: owner, Volume: volume, Serial: 7}
		got := im.pool.Snapshot(context.Background(), []source.Wanted{{Source: im.source(), Label: label}})
		if got[0].Err == nil || !strings.Contains(got[0].Err.Error(), name) {
			t.Errorf("%s: %v", name, got[0].Err)
		}
		// Found so, the file is one that is only read.
		if pool, why, err := Find(im.path, Options{}); pool != nil || !strings.Contains(why, name) || !strings.Contains(why, "so no snapshot is kept there") || err != nil {
			t.Errorf("%s: %v, %q, %v", name, pool, why, err)
		}
	}
}

// TestReserve: a file system that is nearly full warns, then refuses.
func TestReserve(t *testing.T) {
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		im := newImage(t, dir, mib)
		var lines []string
		take := func(warn, refuse float64) error {
			t.Helper()
			pool, why, err := Find(im.path, Options{WarnBelow: warn, RefuseBelow: refuse, Warn: func(line string) { lines = append(lines, line) }})
			if err != nil || why != "" {
				t.Fatal(why, err)
			}
			im.next++
			label := source.Label{Owner: owner, Volume: volume, Serial: im.next}
			return pool.Snapshot(context.Background(), []source.Wanted{{Source: im.source(), Label: label}})[0].Err
		}
		if err := take(20, 10); err != nil || len(lines) != 0 {
			t.Errorf("empty: %v, %q", err, lines)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		filler := openImage(t, create(t, filepath.Join(dir, "fill"), 0))
		filler.fallocate(0, 0, int64(st.Bavail)*st.Bsize*3/4)
		filler.sync()
		if err := take(90, 10); err != nil || len(lines) != 1 || !strings.Contains(lines[0], "% of the file system of "+dir+" is free") {
			t.Errorf("nearly full: %v, %q", err, lines)
		}
		before := len(files(t, dir))
		if err := take(95, 90); err == nil || !strings.Contains(err.Error(), "snapshots are made down to 90 %") || len(files(t, dir)) != before {
			t.Errorf("full: %v", err)
		}
		if err := take(0, 0); err != nil || len(lines) != 1 {
			t.Errorf("without a reserve: %v, %q", err, lines)
		}
	})
}
