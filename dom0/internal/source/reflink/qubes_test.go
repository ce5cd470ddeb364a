package reflink

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pinion/dom0/internal/source"
)

// TestQubesDirectories: snapshots of a qube's images lie beside the directories
// that have one directory for each qube, wherever the pool is.
func TestQubesDirectories(t *testing.T) {
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		for _, place := range []struct{ image, snapshots string }{
			{"var/lib/qubes/appvms/work/private.img", "var/lib/qubes/.pinion"},
			{"var/lib/qubes/vm-templates/fedora-42-xfce/root.img", "var/lib/qubes/.pinion"},
			{"var/lib/qubes/appvms/appvms/data.img", "var/lib/qubes/.pinion"},
			{"mnt/second-pool/appvms/a-private/private-dirty.img", "mnt/second-pool/.pinion"},
			{"appvms/work/private.img", ".pinion"}, // the pool is a file system of its own
			{"plain/private.img", "plain/.pinion"},
		} {
			path := filepath.Join(dir, place.image)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			create(t, path, mib)
			before, err := os.ReadDir(filepath.Dir(path))
			if err != nil {
				t.Fatal(err)
			}
			b := openImage(t, path).snap()
			if got := filepath.Dir(b.Name); got != filepath.Join(dir, place.snapshots) {
				t.Errorf("the snapshot of %s lies in %s", path, got)
			}
			if place.snapshots == "plain/.pinion" {
				continue
			}
			after, err := os.ReadDir(filepath.Dir(path))
			same := func(a, b os.DirEntry) bool { return a.Name() == b.Name() }
			if err != nil || !slices.EqualFunc(before, after, same) {
				t.Errorf("the qube's directory has %v, and before %v (%v)", after, before, err)
			}
		}
	})
}

// TestImageReplaced stops a qube between the finding of its image and the
// snapshot: what it wrote to becomes the image, by a rename.
func TestImageReplaced(t *testing.T) {
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		qube := filepath.Join(dir, "appvms", "work")
		if err := os.MkdirAll(qube, 0o700); err != nil {
			t.Fatal(err)
		}
		image, dirty := filepath.Join(qube, "private.img"), filepath.Join(qube, "private-dirty.img")
		create(t, image, mib)
		create(t, dirty, 2*mib)
		openImage(t, dirty).write(7, 0, 1<<20)
		left, err := os.ReadFile(dirty)
		if err != nil {
			t.Fatal(err)
		}
		committed := openImage(t, image)
		live := &source.Source{Locator: "file:" + image, Path: dirty, Kind: source.Reflink, Pool: committed.pool}
		label := source.Label{Owner: owner, Volume: volume, Serial: 1}
		take := func(s *source.Source) *source.Base {
			t.Helper()
			label.Serial++
			taken := committed.pool.Snapshot(t.Context(), []source.Wanted{{Source: s, Label: label}})[0]
			if taken.Err != nil {
				t.Fatal(taken.Err)
			}
			return taken.Base
		}
		before := take(committed.source())
		running := take(live)
		if err := os.Rename(dirty, image); err != nil {
			t.Fatal(err)
		}
		for _, b := range []*source.Base{running, take(committed.source()), take(live)} {
			got, err := os.ReadFile(b.Name)
			if err != nil || !bytes.Equal(got, left) {
				t.Errorf("%s is not what the qube has left (%v)", b.Name, err)
			}
			if err := committed.pool.Check(t.Context(), b); err != nil {
				t.Error(err)
			}
			if named, err := collect(committed.pool, before, b); err != nil || !contains(named, 0, mib) {
				t.Errorf("the difference is %v (%v)", named, err)
			}
			if named, err := collect(committed.pool, running, b); err != nil || len(named) > 0 {
				t.Errorf("what the qube wrote to and what it left differ in %v (%v)", named, err)
			}
		}
		gone := *live
		gone.Locator = "file:" + filepath.Join(qube, "none.img")
		if taken := committed.pool.Snapshot(t.Context(), []source.Wanted{{Source: &gone, Label: label}})[0]; taken.Err == nil {
			t.Error("neither state is there, and one was saved")
		}
	})
}
