package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pinion/protocol"
)

// attacks is how many times in a row a hostile source is copied from.
var attacks = flag.Int("attacks", 8, "how many runs of copy a hostile source attacks")

// A source that shows its own older roots in turn takes nothing from a copy that is
// made without the key, and is found out every time by a host that knows the newest.
func TestCopyFromASourceThatReplays(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:200K:1")
	var states []string
	for i := range 8 {
		overwrite(t, v, 0, fmt.Sprintf("random:64K:%d", i+2))
		w.backup("file:" + v)
		states = append(states, copyTree(t, w.store))
	}
	honest := states[len(states)-1]
	to := w.path("copy")
	w.keyless().ok("copy", "--to", "file:"+to)
	root, was := highestRoot(t, to), digest(t, to)
	for i := range *attacks {
		putTree(t, states[i%(len(states)-1)], w.store)
		r := w.keyless().exits(14, "copy", "--to", "file:"+to)
		r.oneLine().says("and 9 was seen").silent("Nothing to copy")
		if i < 7 {
			w.exits(14, "copy", "--to", "file:"+to).oneLine().says("and 9 was seen")
		}
	}
	if highestRoot(t, to) != root || digest(t, to) != was {
		t.Errorf("the copy has changed: its highest root is %s", highestRoot(t, to))
	}
	w.opensOnANewMachine(to, 8, v)
	w.at(to).restores("v", "latest", v)

	putTree(t, honest, w.store)
	overwrite(t, v, 0, "random:64K:99")
	w.backup("file:" + v)
	w.keyless().ok("copy", "--to", "file:"+to)
	w.opensOnANewMachine(to, 9, v)
}

// A source that makes up roots, packs and index objects can make a copy grow, within
// bounds, and no more.
func TestCopyFromASourceThatMakesThingsUp(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:200K:1")
	w.backup("file:" + v)
	overwrite(t, v, 0, "random:64K:2")
	w.backup("file:" + v)
	to := w.path("copy")
	w.keyless().ok("copy", "--to", "file:"+to)
	honest := copyTree(t, w.store)
	for _, name := range []string{protocol.PackName([16]byte{1}), protocol.IndexName([16]byte{1}), protocol.RootName(7, [16]byte{1})} {
		path := filepath.Join(w.store, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, nil)
	}
	var planted []string
	for i := range *attacks {
		for _, name := range planted {
			if err := os.Remove(filepath.Join(w.store, name)); err != nil {
				t.Fatal(err)
			}
		}
		planted = w.plantJunk(uint64(1_000_000 * (i + 1)))
		r := w.keyless().exits(13, "copy", "--to", "file:"+to)
		r.prints("not copied: " + protocol.PackName([16]byte{1}))
	}
	w.opensOnANewMachine(to, 2, v)

	// An honest run goes on, without the key and with it.
	putTree(t, honest, w.store)
	overwrite(t, v, 0, "random:64K:3")
	w.backup("file:" + v)
	w.keyless().ok("copy", "--to", "file:"+to).says("it doesn't come from there")
	w.opensOnANewMachine(to, 3, v)
	w.ok("copy", "--to", "file:"+to, "--delete").prints(fmt.Sprintf("Removed %d objects", 2**attacks))
	w.opensOnANewMachine(to, 3, v)
}

// opensOnANewMachine expects that a machine that knows nothing but the key opens the
// copy at its newest session, and finds it whole.
func (w *world) opensOnANewMachine(to string, sessions int, like string) {
	w.t.Helper()
	c := w.other(filepath.Base(w.t.TempDir()) + fmt.Sprint(sessions)).at(to)
	for _, dir := range []string{c.state, c.cache} {
		if err := os.RemoveAll(dir); err != nil {
			w.t.Fatal(err)
		}
	}
	if n := len(c.list().Sessions); n != sessions {
		w.t.Errorf("the copy opens with %d sessions, not %d", n, sessions)
	}
	c.ok("verify", "-q", "--all-sessions")
	c.restores("v", "latest", like)
}

// plantJunk puts into the store as many roots as a copy takes at once, which look
// like the archive's and are of generations far above, and a pack and an index
// object.
func (w *world) plantJunk(generation uint64) (names []string) {
	w.t.Helper()
	root := readFile(w.t, filepath.Join(w.store, highestOwn(w.t, w.store)))
	clear := 16 + int(binary.BigEndian.Uint32(root[12:16]))
	plant := func(name string, b []byte) {
		path := filepath.Join(w.store, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			w.t.Fatal(err)
		}
		writeFile(w.t, path, b)
		names = append(names, name)
	}
	for i := range uint64(64) {
		junk := append([]byte{}, root...)
		binary.BigEndian.PutUint64(junk[16+32:], generation+i)
		rand.Read(junk[clear:])
		sum := sha256.Sum256(junk)
		plant(protocol.RootName(generation+i, [16]byte(sum[:16])), junk)
	}
	var id [16]byte
	rand.Read(id[:])
	junk := make([]byte, 20_000)
	rand.Read(junk)
	plant(protocol.PackName(id), junk)
	plant(protocol.IndexName(id), junk)
	return names
}

// highestOwn is the name of an archive's highest head, which nobody makes up here.
func highestOwn(t testing.TB, dir string) string {
	t.Helper()
	return highest(t, dir, func(name string) uint64 {
		g, _ := protocol.ParseHead(name)
		return g
	})
}
