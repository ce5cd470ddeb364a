package e2e

import (
	"path/filepath"
	"testing"

	"pinion/e2e/qubesd"
)

// TestQubesRestoreFilePool: a pool that keeps no older state says so before a volume is written over, and no snapshot is
// made of what is never compared.
func TestQubesRestoreFilePool(t *testing.T) {
	t.Parallel()
	q := newQubesWorldOf(t, anyGround(), qubesd.R43, build{static: true}, qubesd.Options{
		Kernels: []string{"6.6.77-1.fc37"},
		Pools:   []qubesd.Pool{{Name: "varlibqubes", Driver: "file", Revisions: 1}, {Name: "linux-kernel", Driver: "linux-kernel"}},
	})
	q.small(t)
	q.write(t, "work", "private", 0, "random:1M:1")
	q.ok("init")
	q.ok("backup", "work")
	want := q.volume(t, "work", "private")
	q.write(t, "work", "private", 0, "random:1M:2")
	const warning = "work:private: its pool varlibqubes keeps no older state of it: what it holds now will be gone"
	if q.exits(1, "--unattended", "restore", "work").says(warning); string(q.volume(t, "work", "private")) == string(want) {
		t.Error("it was written over without a yes")
	}
	q.ok("restore", "work", "--yes").says(warning)
	sameBytes(t, "work:private", q.volume(t, "work", "private"), want)
	if left, err := filepath.Glob(q.system + "/.pinion/*"); err != nil || len(left) > 0 {
		t.Errorf("snapshots %q, %v", left, err)
	}
}
