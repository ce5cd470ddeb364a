package reflink

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

// TestPowerLoss copies the disk under the file system, as it is, as soon as a
// snapshot was made: what is on that copy is what a power cut would have
// left.
func TestPowerLoss(t *testing.T) {
	testenv.NeedRoot(t)
	for _, kind := range []string{"btrfs", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			disk, dir := testenv.SparseFile(t, 320*mib), t.TempDir()
			testenv.Format(t, kind, disk)
			mount, umount := testenv.Tool(t, "mount", "mount"), testenv.Tool(t, "umount", "mount")
			testenv.Run(t, mount, "-o", "loop", disk, dir)
			im := newImage(t, dir, 64*mib)
			im.write(1, 0, 8<<20)
			older := im.snap()
			im.write(2, 3*mib, 100_000) // in no sync but what Snapshot does
			im.write(3, 50*mib, 4096)
			copyDisk(t, disk, disk+".before")
			newer := im.snap()
			copyDisk(t, disk, disk+".after")
			want, err := os.ReadFile(im.path)
			if err != nil {
				t.Fatal(err)
			}
			im.f.Close()
			testenv.Run(t, umount, dir)

			testenv.Run(t, mount, "-o", "loop", disk+".before", dir)
			ctx := context.Background()
			if err := im.pool.Check(ctx, older); err != nil {
				t.Errorf("the older snapshot: %v", err)
			}
			if err := im.pool.Check(ctx, newer); err == nil || err.Error() != "it is gone" {
				t.Errorf("a snapshot that is yet to be made: %v", err)
			}
			testenv.Run(t, umount, dir)

			testenv.Run(t, mount, "-o", "loop", disk+".after", dir)
			defer testenv.Run(t, umount, dir)
			checkAfter(t, im, older, newer, want)
		})
	}
}

// checkAfter sees that both snapshots are there, whole.
func checkAfter(t *testing.T, im *image, older, newer *source.Base, want []byte) {
	for _, b := range []*source.Base{older, newer} {
		if err := im.pool.Check(context.Background(), b); err != nil {
			t.Errorf("%s: %v", b.Name, err)
			return
		}
	}
	if got, err := os.ReadFile(newer.Name); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the snapshot has other bytes (%v)", err)
	}
	ranges, err := collect(im.pool, older, newer)
	if err != nil || len(ranges) != 2 || !contains(ranges, 3*mib, 3*mib+100_000) || !contains(ranges, 50*mib, 50*mib+4096) {
		t.Errorf("difference %v (%v)", ranges, err)
	}
}

// copyDisk copies a disk that is in use, as it was at one moment: it is copied
// until nothing was written to it meanwhile.
func copyDisk(t *testing.T, from, to string) {
	t.Helper()
	cp := testenv.Tool(t, "cp", "coreutils")
	testenv.Run(t, cp, "--sparse=always", from, to)
	for range 20 {
		again := to + ".again"
		testenv.Run(t, cp, "--sparse=always", from, again)
		same := exec.Command(testenv.Tool(t, "cmp", "diffutils"), "-s", to, again).Run() == nil
		if err := os.Rename(again, to); err != nil {
			t.Fatal(err)
		}
		if same {
			return
		}
	}
	t.Fatalf("%s never stands still", from)
}
