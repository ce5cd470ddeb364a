package backup_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/qubevol"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/testenv"
)

// A qubeImage is a volume of a qube in a pool of files that share blocks, which
// is started and stopped as qubesd does it.
type qubeImage struct {
	t    *testing.T
	path string // without a suffix
}

func (q *qubeImage) committed() string { return q.path + ".img" }
func (q *qubeImage) dirty() string     { return q.path + "-dirty.img" }

// start makes the file that the qube writes to.
func (q *qubeImage) start() {
	q.t.Helper()
	f, err := os.Open(q.committed())
	if err != nil {
		q.t.Fatal(err)
	}
	defer f.Close()
	clone(q.t, f, q.dirty())
}

// write writes a chunk as the running qube.
func (q *qubeImage) write(chunk int64, seed byte) {
	q.t.Helper()
	f, err := os.OpenFile(q.dirty(), os.O_RDWR, 0)
	if err != nil {
		q.t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, chunkSize)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	if _, err := f.WriteAt(b, chunk*chunkSize); err != nil {
		q.t.Fatal(err)
	}
}

// stop makes the file that the qube wrote to the image.
func (q *qubeImage) stop() {
	q.t.Helper()
	if err := os.Rename(q.dirty(), q.committed()); err != nil {
		q.t.Fatal(err)
	}
}

// TestStates backs up the committed and the running state of a volume in turns:
// each session is what that state held, and a difference from the one before,
// whichever state that was of.
func TestStates(t *testing.T) {
	for kind, size := range map[string]int64{"btrfs": 200 << 20, "xfs": 320 << 20} {
		t.Run(kind, func(t *testing.T) {
			dir := testenv.Mount(t, kind, size)
			q := &qubeImage{t, filepath.Join(dir, "appvms", "work-1", "private")}
			if err := os.MkdirAll(filepath.Dir(q.path), 0o700); err != nil {
				t.Fatal(err)
			}
			first := make([]byte, 8<<20)
			rand.NewChaCha8([32]byte{1}).Read(first)
			if err := os.WriteFile(q.committed(), first, 0o600); err != nil {
				t.Fatal(err)
			}
			place, o := archivetest.New(t).Init(t), archivetest.Options(t)
			finder := &qubevol.Finder{Find: (&find.Finder{StateDir: t.TempDir()}).Locator}
			state := "Halted"
			// back backs up the state, which a file holds, and says how much
			// is read of it, in chunks.
			back := func(live bool, holds string, mode format.Mode, chunks int64) {
				t.Helper()
				vm := admin.VM{Name: "work-1", Class: "AppVM", State: state}
				info := admin.VolumeInfo{Pool: "p", VID: "appvms/work-1/private", SaveOnStop: true, Revisions: 1}
				p, err := finder.Volume(ctx, vm, "private", info, map[string]string{"driver": "file-reflink", "dir_path": dir}, live)
				if err != nil || p.Live != (live && state != "Halted") || p.Source.Kind != source.Reflink {
					t.Fatalf("%+v, %v", p, err)
				}
				want, err := os.ReadFile(holds)
				if err != nil {
					t.Fatal(err)
				}
				res, err := run(t, place, o, backup.Source{Name: "work-1:private", Source: p.Source})
				if err != nil || res.Untracked != nil {
					t.Fatal(err, res.Untracked)
				}
				if v := res.Volumes[0]; v.Mode != mode || v.Read != chunks*chunkSize {
					t.Errorf("%+v, not %v of %d chunks", v, mode, chunks)
				}
				if !bytes.Equal(content(t, place, res.Session.Volumes[0]), want) {
					t.Error("the session is not what the state holds")
				}
			}
			back(false, q.committed(), format.ModeFull, int64(len(first))/chunkSize)
			q.start()
			state = "Running"
			back(true, q.dirty(), format.ModeUnchanged, 0) // the qube has not written
			q.write(3, 2)
			q.write(90, 3)
			back(true, q.dirty(), format.ModeDelta, 2)
			back(false, q.committed(), format.ModeDelta, 2) // what was there before
			q.write(5, 4)
			back(true, q.dirty(), format.ModeDelta, 3) // all that the qube wrote
			q.write(6, 5)
			q.stop()
			state = "Halted"
			back(true, q.committed(), format.ModeDelta, 1) // what it wrote since is committed
			q.start()
			state = "Running"
			back(false, q.committed(), format.ModeUnchanged, 0)
			if err := unix.Truncate(q.dirty(), int64(len(first))+chunkSize); err != nil {
				t.Fatal(err)
			}
			q.write(int64(len(first))/chunkSize, 6)
			back(true, q.dirty(), format.ModeDelta, 1)
			back(false, q.committed(), format.ModeDelta, 0) // it is smaller
			q.stop()
			state = "Halted"
			back(false, q.committed(), format.ModeDelta, 1)
			left, err := filepath.Glob(filepath.Join(dir, ".pinion", "*"))
			if err != nil || len(left) != 1 {
				t.Errorf("snapshots %q are kept of one volume (%v)", left, err)
			}
			if in, err := os.ReadDir(filepath.Dir(q.path)); err != nil || len(in) != 1 {
				t.Errorf("the qube's directory has %v (%v)", in, err)
			}
		})
	}
}
