package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/e2e/umltest"
)

// A ground is storage that a test's volumes are on. The same tests run on all
// of them: files here, logical volumes inside User Mode Linux.
type ground struct {
	t    testing.TB
	kind string // "plain", "btrfs", "xfs", "lvmthin"
	dir  string // of files
	pool string // VG/POOL of thin volumes
}

// tracks says that the storage can tell what changed.
func (g *ground) tracks() bool { return g.kind != "plain" }

// thin says that volumes are thin logical volumes.
func (g *ground) thin() bool { return g.kind == "lvmthin" }

// word is what status calls the storage.
func (g *ground) word() string {
	if g.kind == "btrfs" || g.kind == "xfs" {
		return "reflink"
	}
	return g.kind
}

// onEachGround runs a test on every kind of storage that this machine has:
// inside User Mode Linux that is a thin pool, outside all the others.
func onEachGround(t *testing.T, test func(t *testing.T, g *ground)) {
	onGrounds(t, []string{"plain", "btrfs", "xfs"}, test)
}

// onTrackingGrounds leaves out the plain one.
func onTrackingGrounds(t *testing.T, test func(t *testing.T, g *ground)) {
	onGrounds(t, []string{"btrfs", "xfs"}, test)
}

func onGrounds(t *testing.T, outside []string, test func(t *testing.T, g *ground)) {
	if umltest.Inside() {
		outside = []string{"lvmthin"}
	}
	for _, kind := range outside {
		t.Run(kind, func(t *testing.T) { test(t, newGround(t, kind)) })
	}
}

// groundSize is the size of a ground's storage in bytes; only what is written
// takes room.
const groundSize = 4 << 30

func newGround(t testing.TB, kind string) *ground {
	t.Helper()
	g := &ground{t: t, kind: kind}
	switch kind {
	case "plain":
		g.dir = t.TempDir()
	case "lvmthin":
		if !slices.ContainsFunc(quickOnThinPools, func(name string) bool { return strings.HasPrefix(t.Name(), name) }) {
			umltest.Long(t)
		}
		g.pool = thinPool(t, "64k")
	default:
		g.dir = mounted(t, kind, groundSize)
	}
	return g
}

// quickOnThinPools are run on a thin pool however slow the machine is.
var quickOnThinPools = []string{"TestCowLVMUnchangedNeedsNoSnapshot", "TestStorageMonitorAndStatus"}

// vg is the volume group of all tests inside User Mode Linux.
const vg = "ground"

// pools counts thin pools, so that each has its own name.
var pools struct {
	sync.Mutex
	n int
}

// thinPool makes a thin pool with chunks of the given size.
func thinPool(t testing.TB, chunk string) string {
	t.Helper()
	pools.Lock()
	defer pools.Unlock()
	if pools.n == 0 {
		run(t, "vgcreate", "-q", vg, umltest.Disk(0))
	}
	pools.n++
	pool := fmt.Sprintf("%s/pool-%d", vg, pools.n)
	run(t, "lvcreate", "-q", "-Zy", "--type", "thin-pool", "-L", "1536M", "--poolmetadatasize", "16M", "-c", chunk, "-n", filepath.Base(pool), vg)
	t.Cleanup(func() { run(t, "lvremove", "-q", "-f", pool) })
	return pool
}

// A cow is a volume on a ground.
type cow struct {
	g      *ground
	name   string
	path   string
	source string // as the command line has it
}

// volume makes a volume of size bytes, all of them holes, and writes parts.
func (g *ground) volume(name string, size int64, parts ...string) *cow {
	g.t.Helper()
	c := g.named(name)
	if g.thin() {
		run(g.t, "lvcreate", "-q", "-V", fmt.Sprintf("%db", size), "-T", g.pool, "-n", name)
	} else {
		makeImage(g.t, c.path, fmt.Sprintf("hole:%d", size))
	}
	if len(parts) > 0 {
		c.write(0, parts...)
	}
	return c
}

func (g *ground) named(name string) *cow {
	if g.thin() {
		return &cow{g, name, "/dev/" + vg + "/" + name, name + "=lvm:" + vg + "/" + name}
	}
	path := filepath.Join(g.dir, name)
	return &cow{g, name, path, name + "=file:" + path}
}

// write writes parts from an offset on, and waits until the storage has them.
func (c *cow) write(off int64, parts ...string) {
	c.g.t.Helper()
	overwrite(c.g.t, c.path, off, parts...)
	c.sync()
}

func (c *cow) sync() {
	c.g.t.Helper()
	f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
	if err == nil {
		err = f.Sync()
		f.Close()
	}
	if err != nil {
		c.g.t.Fatal(err)
	}
}

// discard makes a hole.
func (c *cow) discard(off, length int64) {
	c.g.t.Helper()
	if c.g.thin() {
		run(c.g.t, "blkdiscard", "-o", fmt.Sprint(off), "-l", fmt.Sprint(length), c.path)
		return
	}
	f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
	if err != nil {
		c.g.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length); err != nil {
		c.g.t.Fatal(err)
	}
}

// resize changes the size.
func (c *cow) resize(size int64) {
	c.g.t.Helper()
	if c.g.thin() {
		run(c.g.t, "lvresize", "-q", "-f", "-L", fmt.Sprintf("%db", size), strings.TrimPrefix(c.path, "/dev/"))
		return
	}
	if err := os.Truncate(c.path, size); err != nil {
		c.g.t.Fatal(err)
	}
}

// copy is an independent copy of what the volume holds now, as dd makes it.
func (c *cow) copy() string {
	c.g.t.Helper()
	from, err := os.Open(c.path)
	if err != nil {
		c.g.t.Fatal(err)
	}
	defer from.Close()
	to, err := os.CreateTemp(c.g.t.TempDir(), "copy")
	if err != nil {
		c.g.t.Fatal(err)
	}
	defer to.Close()
	buf, off := make([]byte, 1<<20), int64(0)
	for {
		n, err := io.ReadFull(from, buf)
		// Only what isn't zeros is written, so that copies stay small.
		for at := 0; at < n; at += 4096 {
			block := buf[at:min(at+4096, n)]
			if strings.Trim(string(block), "\x00") == "" {
				continue
			}
			if _, err := to.WriteAt(block, off+int64(at)); err != nil {
				c.g.t.Fatal(err)
			}
		}
		off += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			c.g.t.Fatal(err)
		}
	}
	if err := to.Truncate(off); err != nil {
		c.g.t.Fatal(err)
	}
	return to.Name()
}

// clone makes another volume that shares all blocks with this one.
func (c *cow) clone(name string) *cow {
	c.g.t.Helper()
	d := c.g.named(name)
	if c.g.thin() {
		run(c.g.t, "lvcreate", "-q", "-kn", "-s", "-n", name, strings.TrimPrefix(c.path, "/dev/"))
	} else {
		run(c.g.t, "cp", "--reflink=always", c.path, d.path)
	}
	return d
}

// remove takes the volume away.
func (c *cow) remove() {
	c.g.t.Helper()
	if c.g.thin() {
		run(c.g.t, "lvremove", "-q", "-f", strings.TrimPrefix(c.path, "/dev/"))
	} else if err := os.Remove(c.path); err != nil {
		c.g.t.Fatal(err)
	}
}

// snapshots lists the snapshots that pinion has on the ground, as lvs or ls
// show them.
func (g *ground) snapshots() []string {
	g.t.Helper()
	if g.thin() {
		return strings.Fields(run(g.t, "lvs", "--noheadings", "-o", "lv_name", "@pinion"))
	}
	found, err := filepath.Glob(filepath.Join(g.dir, ".pinion", "*"))
	if err != nil {
		g.t.Fatal(err)
	}
	return found
}

// hasProgram reports whether a program is there.
func hasProgram(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}
