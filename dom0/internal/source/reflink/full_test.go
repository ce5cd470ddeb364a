package reflink

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

// TestFullReplaces: the reserve refuses first snapshots, and none that takes
// the place of one that holds the space.
func TestFullReplaces(t *testing.T) {
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		ctx := context.Background()
		im := newImage(t, dir, 256*mib)
		other := openImage(t, create(t, filepath.Join(dir, "other.img"), mib))
		im.write(1, 0, 100<<20)
		old := im.snap()
		im.write(2, 0, 100<<20) // the snapshot alone holds the first ones now
		im.sync()
		free := func() float64 {
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Fatal(err)
			}
			return 100 * float64(st.Bavail) / float64(st.Blocks)
		}
		was := free()
		var lines []string
		pool, why, err := Find(im.path, Options{WarnBelow: 100, RefuseBelow: was + 5, Warn: func(line string) { lines = append(lines, line) }})
		if err != nil || why != "" {
			t.Fatal(why, err)
		}
		want := func(im *image, serial uint64, replaces bool) source.Wanted {
			return source.Wanted{Source: im.source(), Label: source.Label{Owner: owner, Volume: volume, Serial: serial}, Replaces: replaces}
		}
		taken := pool.Snapshot(ctx, []source.Wanted{want(other, 10, false), want(im, 11, true)})
		if taken[0].Err == nil || !strings.Contains(taken[0].Err.Error(), "snapshots are made down to") {
			t.Errorf("a first one: %v", taken[0].Err)
		}
		if taken[1].Err != nil || len(lines) != 0 {
			t.Fatalf("one that replaces another: %v, warnings %q", taken[1].Err, lines)
		}
		if err := pool.Check(ctx, taken[1].Base); err != nil {
			t.Error(err)
		}
		if got := pool.Snapshot(ctx, []source.Wanted{want(im, 12, true)}); got[0].Err != nil || len(lines) != 1 || !strings.Contains(lines[0], "in place of older ones") {
			t.Errorf("alone: %v, warnings %q", got[0].Err, lines)
		}
		if err := pool.Drop(ctx, owner, old.Name); err != nil {
			t.Fatal(err)
		}
		// XFS frees what is removed a little later.
		now, until := free(), time.Now().Add(10*time.Second)
		for ; now < was+5 && time.Now().Before(until); now = free() {
			unix.Sync()
			time.Sleep(20 * time.Millisecond)
		}
		if now < was+5 {
			t.Errorf("%.1f %% are free, after %.1f %%", now, was)
		}
	})
}

// TestUnsure: a look that failed proves nothing about a snapshot, unlike what
// TestCheckFinds does to them.
func TestUnsure(t *testing.T) {
	im := newImage(t, testenv.Mount(t, "xfs", 512*mib), mib)
	b := im.snap()
	if err := overLimit(t, func() error { return im.pool.Check(context.Background(), b) }); !errors.Is(err, source.ErrUnsure) || !errors.Is(err, unix.EMFILE) {
		t.Errorf("without room for another open file: %v", err)
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	if err := im.pool.Check(done, b); !errors.Is(err, source.ErrUnsure) || !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if err := im.pool.Check(context.Background(), b); err != nil {
		t.Error(err)
	}
	overwrite(t, b.Name)
	if err := im.pool.Check(context.Background(), b); err == nil || errors.Is(err, source.ErrUnsure) {
		t.Errorf("written to: %v", err)
	}
}

// overLimit runs f while the process can open no file.
func overLimit(t *testing.T, f func() error) error {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
	}()
	return f()
}
