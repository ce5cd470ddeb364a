package reflink

import (
	"context"
	"path/filepath"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

// TestHeld: what only the snapshot has, grows with what is written to the
// source.
func TestHeld(t *testing.T) {
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		im := newImage(t, dir, 64*mib)
		for i := range int64(32) { // extents of 1 MiB: btrfs frees whole ones only
			im.write(uint64(i), i*mib, 1<<20)
			im.sync()
		}
		b := im.snap()
		held := func(b *source.Base, want int64) {
			t.Helper()
			im.sync()
			got, err := (&comparison{im.pool}).Held(context.Background(), im.source(), b)
			if got != want || err != nil {
				t.Errorf("%d bytes are held, want %d (%v)", got, want, err)
			}
		}
		held(b, 0)
		im.write(2, 10*mib, 1<<20)
		held(b, mib)
		im.punch(20*mib, mib)
		held(b, 2*mib)
		second := im.snap()
		held(b, 2*mib)
		held(second, 0)
		if err := im.f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		held(second, mib) // the rest is shared with the first
	})
}

// TestKin: a copy finds whose copy it is.
func TestKin(t *testing.T) {
	eachFS(t, 512*mib, func(t *testing.T, dir string) {
		cp := testenv.Tool(t, "cp", "coreutils")
		bases := map[string]*source.Base{}
		var pool *Pool
		snap := func(name string, change func(*image)) {
			path := filepath.Join(dir, name)
			im := openImage(t, path)
			change(im)
			pool, bases[name] = im.pool, im.snap()
		}
		// Data in one place of a large file, in blocks of their own.
		scattered := func(seed uint64) func(*image) {
			return func(im *image) {
				for i := range int64(300) {
					im.write(seed+uint64(i), 100*mib+i*16*kib, 8192)
				}
			}
		}
		create(t, filepath.Join(dir, "a"), 10*gib)
		create(t, filepath.Join(dir, "b"), 10*gib)
		create(t, filepath.Join(dir, "hole"), 10*gib)
		snap("a", scattered(1000))
		snap("b", scattered(2000))
		snap("hole", func(*image) {})
		for _, copied := range []struct{ from, to string }{{"a", "copy of a"}, {"a", "hardly a"}, {"b", "short b"}} {
			testenv.Run(t, cp, "--reflink=always", filepath.Join(dir, copied.from), filepath.Join(dir, copied.to))
		}
		snap("copy of a", func(im *image) { im.write(1, 101*mib, 1<<20) })
		snap("hardly a", func(im *image) { scattered(3000)(im); im.cloneFrom("a", 100*mib, 64*kib) })
		snap("short b", func(im *image) {
			if err := im.f.Truncate(102 * mib); err != nil {
				t.Fatal(err)
			}
		})
		lost := *bases["a"]
		lost.Name += "x"
		kin := func(of string, want int, others ...*source.Base) {
			t.Helper()
			got, err := (&comparison{pool}).Kin(context.Background(), bases[of], others)
			if got != want || err != nil {
				t.Errorf("kin of %s: %d, want %d (%v)", of, got, want, err)
			}
		}
		kin("copy of a", 2, bases["b"], bases["hole"], bases["a"])
		kin("copy of a", 0, bases["a"], bases["hardly a"])
		kin("copy of a", -1, bases["b"], bases["hole"], &lost)
		kin("copy of a", -1)
		kin("hardly a", -1, bases["a"], bases["b"])
		kin("short b", 1, bases["a"], bases["b"])
		kin("b", 0, bases["short b"], bases["a"])
		kin("hole", -1, bases["a"], bases["b"])
	})
}
