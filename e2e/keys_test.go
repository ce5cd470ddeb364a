package e2e

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/protocol"
)

// The JSON documents of the key commands.
type (
	keyDoc struct {
		ID, Kind, Created, State string
		Opened                   bool
	}
	keysDoc struct {
		Keys         []keyDoc
		MoreUnlisted int `json:"more_unlisted"`
	}
	keyChangeDoc struct {
		Key     keyDoc
		Removed struct {
			ID              string
			Opened, Deleted bool
		}
		Error *errorDoc
	}
)

// keys are the keys of the archive, opened with a key file.
func (w *world) keys(keyFile string) []keyDoc {
	w.t.Helper()
	return document[keysDoc](w.ok("key", "list", "--json", "--keyfile", keyFile)).Keys
}

// keyFile makes a key file.
func (w *world) keyFile(name string, seed int) string {
	w.t.Helper()
	path := w.path(name)
	writeFile(w.t, path, content(fmt.Sprintf("random:40:%d", seed)))
	return path
}

// slotObjects are the names of all key slots in the store.
func (w *world) slotObjects() []string {
	var names []string
	for _, path := range w.under("keys/") {
		names = append(names, filepath.Base(path))
	}
	slices.Sort(names)
	return names
}

// junkSlots puts whole key slots into the store that no secret opens. kind is 1
// for passphrases, at the least cost that there is, and 2 for key files. Their
// ids come before all others.
func (w *world) junkSlots(n int, kind byte) {
	w.t.Helper()
	slot := readFile(w.t, w.under("keys/")[0])
	copy(slot[8:20], make([]byte, 12))
	if slot[8] = kind; kind == 1 {
		slot[9] = 1
		binary.BigEndian.PutUint32(slot[12:], 64<<10)
		binary.BigEndian.PutUint32(slot[16:], 1)
	}
	copy(slot[36:68], content("random:32:99")) // the salt
	for i := range n {
		binary.BigEndian.PutUint64(slot[20:], 0)
		binary.BigEndian.PutUint64(slot[28:], uint64(i+1))
		sum := sha256.Sum256(slot[:188])
		copy(slot[188:], sum[:])
		writeFile(w.t, filepath.Join(w.store, protocol.KeyName([16]byte(slot[20:36]))), slot)
	}
}

// A key's life: added, listed, changed, removed.
func TestKeys(t *testing.T) {
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	second, third := w.keyFile("second", 2), w.keyFile("third", 3)

	added := document[keyChangeDoc](w.ok("key", "add", "--json", "--new-keyfile", second))
	if added.Key.State != "live" || added.Key.Opened || added.Key.Kind != "key file" {
		t.Errorf("added %+v", added)
	}
	keys := w.keys(second)
	if len(keys) != 2 || keys[0].Opened || !keys[1].Opened || keys[1].ID != added.Key.ID || keys[0].State != "live" {
		t.Errorf("the keys are %+v", keys)
	}
	r := w.ok("key", "list", "--keyfile", second)
	r.prints("ID ", "KIND ", "CREATED ", "STATE", keys[0].ID[:8], "key file", "used just now", "live")
	for _, line := range lines(r.stdout) {
		if len(line) > 80 {
			t.Errorf("a line has %d columns: %s", len(line), line)
		}
	}

	changed := document[keyChangeDoc](w.ok("key", "change", "--json", "--keyfile", second, "--new-keyfile", third))
	if changed.Removed.ID != added.Key.ID || !changed.Removed.Opened || !changed.Removed.Deleted || changed.Key.ID == added.Key.ID {
		t.Errorf("changed %+v", changed)
	}
	w.exits(12, "list", "--keyfile", second).oneLine()
	w.ok("list", "--keyfile", third)
	w.ok("list")

	w.exits(1, "key", "remove", "00000000").oneLine().says("not found", "pinion key list")
	w.exits(2, "key", "remove", "xyz").oneLine()
	w.exits(2, "key", "remove").oneLine()
	first := keys[0].ID
	w.ok("key", "remove", first[:8]).says("used just now").prints("Removed key " + first[:8])
	w.exits(12, "list").oneLine()
	if got := w.slotObjects(); len(got) != 1 || got[0] != changed.Key.ID {
		t.Errorf("the store has the slots %v", got)
	}
	copies, err := filepath.Glob(w.state + "/archives/*/keys/*")
	if err != nil || len(copies) != 1 || filepath.Base(copies[0]) != changed.Key.ID {
		t.Errorf("this host has copies of %v: %v", copies, err)
	}
	w.exits(2, "key", "add", "--new-keyfile", "a", "--new-passfile", "b").oneLine().says("--new-passfile and --new-keyfile exclude each other")
	w.exits(1, "key", "add", "--keyfile", third, "--new-keyfile", w.path("gone")).oneLine()
	w.exits(1, "key", "add", "--keyfile", third, "--unattended").oneLine().says("--new-passfile")
	w.exits(1, "key", "add", "--keyfile", third, "--new-passcmd", "echo short").oneLine().says("at least 8 characters")
	if got := w.slotObjects(); len(got) != 1 {
		t.Errorf("the store has the slots %v", got)
	}
	w.ok("verify", "--keyfile", third)
	w.ok("check", "--keyfile", third)
	w.exits(2, "key").oneLine().says("which of its commands?")
}

// The last key is the last one that the root lists, whatever the store has.
func TestLastKeyCannotBeRemoved(t *testing.T) {
	w := archive(t)
	w.junkSlots(3, 2)
	id := w.keys(w.key)[0].ID
	for _, digits := range []string{id, id[:4], strings.ToUpper(id[:8])} {
		w.exits(1, "key", "remove", digits).oneLine().says("only key", "pinion key add")
	}
	w.ok("list")
	second := w.keyFile("second", 2)
	added := document[keyChangeDoc](w.ok("key", "add", "--json", "--new-keyfile", second))
	// The other one can't be read: then this one is as good as the last.
	path := filepath.Join(w.store, "keys", added.Key.ID)
	was := readFile(t, path)
	flip(t, path, 150)
	w.exits(13, "key", "remove", id).says("no other key slot is whole")
	for _, k := range w.keys(w.key) {
		if k.ID == added.Key.ID && (k.State != "damaged" || k.Kind != "key file") {
			t.Errorf("the damaged key is %+v", k)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if keys := w.keys(w.key); keys[1].State != "missing" {
		t.Errorf("the missing key is %+v", keys[1])
	}
	writeFile(t, path, was)
	w.ok("key", "remove", id)
	w.exits(1, "key", "remove", added.Key.ID, "--keyfile", second).says("only key")
	w.exits(1, "key", "remove", "00000000000000000000000000000001", "--keyfile", second).oneLine().says("none of the archive's keys")
}

// A removed key stays removed, although the store puts its slot back.
func TestRemovedSlotReplayed(t *testing.T) {
	w := archive(t)
	name := w.under("keys/")[0]
	kept := readFile(t, name)
	second := w.keyFile("second", 2)
	w.ok("key", "change", "--new-keyfile", second)
	if _, err := os.Stat(name); err == nil {
		t.Fatal("the old slot is still there")
	}
	writeFile(t, name, kept)
	for _, host := range []*world{w, w.other("fresh")} {
		host.exits(12, "list").oneLine().says("was removed")
		host.exits(12, "key", "list").oneLine()
		host.ok("list", "--keyfile", second)
	}
	id := filepath.Base(name)
	keys := w.keys(second)
	if len(keys) != 2 || keys[1].ID != id || keys[1].State != "unlisted" || keys[1].Opened {
		t.Errorf("the keys are %+v", keys)
	}
	w.ok("check", "--keyfile", second).says("root doesn't list", id[:8])
	w.ok("check", "--repair", "--keyfile", second).says("removed 1 key slot")
	if got := w.slotObjects(); slices.Contains(got, id) || len(got) != 1 {
		t.Errorf("the store has the slots %v", got)
	}
}

// A slot that the root doesn't list is named, does no harm, and goes with the
// next repair; a repair of an older state leaves it, since a newer one may list
// it.
func TestUnlistedSlot(t *testing.T) {
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	w.junkSlots(5, 2)
	w.ok("list")
	w.other("fresh").ok("list")
	r := w.ok("key", "list").says("--repair")
	if n := strings.Count(r.stdout, "not listed"); n != 5 {
		t.Errorf("%s\nwas to name 5 slots", r)
	}
	w.ok("check").says("00000000")
	a := w.storeWith("--append-only")
	a.ok("check", "--repair").says("root doesn't list")
	w.ok("check", "--repair", "--allow-rollback").says("root doesn't list")
	if got := w.slotObjects(); len(got) != 6 {
		t.Errorf("the store has the slots %v", got)
	}
	w.ok("check", "--repair").says("removed 5 key slots")
	if r := w.ok("check"); strings.Contains(r.stderr, "root doesn't list") {
		t.Errorf("%s\nand nothing is left", r)
	}
	w.restores("v", "latest", v)
}

// A store with ten thousand key slots can't make a command try them all: a host
// that knows the archive opens it as ever, and one that doesn't says that it has
// tried sixteen.
func TestTenThousandSlots(t *testing.T) {
	w := newWorldOf(t, build{static: true})
	pass := w.path("pass")
	writeFile(t, pass, []byte("correct horse\n"))
	w.ok("init", "--passfile", pass)
	w.junkSlots(10_000, 1)
	begin := time.Now()
	w.ok("list", "--passfile", pass)
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("opening took %v", took)
	}
	// Sixteen tries, and not one more.
	fresh := w.other("fresh")
	fresh.exits(13, "list", "--passfile", pass).oneLine().says("16", "were tried", "pinion key import")
	r := w.ok("key", "list", "--passfile", pass)
	r.prints("used just now", "9900 more")
	w.ok("check", "--passfile", pass).says("9992 others")
	w.ok("check", "--repair", "--passfile", pass).says("removed 10000 key slots")
	fresh.ok("list", "--passfile", pass)
}

// On a store that only appends a removed key's slot stays, and that is said;
// the key opens nothing all the same. However often a key is changed there, a
// host that knows the archive opens it, and another one can with a slot that was
// exported.
func TestKeysOfAnAppendOnlyStore(t *testing.T) {
	w := archive(t)
	a := w.storeWith("--append-only")
	key := w.key
	for i := range 20 {
		next := w.keyFile(fmt.Sprintf("key-%d", i), 100+i)
		r := a.ok("key", "change", "--json", "--keyfile", key, "--new-keyfile", next)
		if doc := document[keyChangeDoc](r); doc.Removed.Deleted {
			t.Fatalf("%s\nsays that the slot was deleted", r)
		}
		r.says("only appends")
		a.exits(12, "list", "--keyfile", key)
		key = next
	}
	if n := len(w.slotObjects()); n != 21 {
		t.Errorf("the store has %d slots", n)
	}
	a.ok("list", "--keyfile", key)
	a.ok("check", "--keyfile", key)
	exported := w.path("exported")
	a.ok("key", "export", exported, "--keyfile", key)
	fresh := a.other("fresh")
	fresh.ok("key", "import", exported, "--keyfile", key).prints("The store has the slot")
	fresh.ok("list", "--keyfile", key)
}

// An exported slot opens an archive whose store lost all of them, with its
// secret only, and on a host that never saw it.
func TestKeyExportAndImport(t *testing.T) {
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	second := w.keyFile("second", 2)
	w.ok("key", "add", "--new-keyfile", second)
	exported, other := w.path("exported"), w.path("other")
	w.ok("key", "export", exported).prints("Wrote the slot").says("it opens nothing")
	w.ok("key", "export", other, "--keyfile", second)
	info, err := os.Stat(exported)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != 220 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if !slices.ContainsFunc(w.under("keys/"), func(path string) bool { return string(readFile(t, path)) == string(readFile(t, exported)) }) {
		t.Error("the file is no slot of the store's")
	}
	was := readFile(t, other)
	w.exits(1, "key", "export", other).oneLine().says("is there already")
	if string(readFile(t, other)) != string(was) {
		t.Error("a file was overwritten")
	}
	w.exits(1, "key", "export", w.path("no/such/dir")).oneLine()
	w.exits(2, "key", "export").oneLine()

	w.removeAll("keys/")
	fresh := w.other("fresh")
	fresh.exits(13, "list").oneLine()
	fresh.exits(12, "key", "import", exported, "--keyfile", second).oneLine().says("the key slot in", exported)
	fresh.ok("key", "import", exported).prints("back into the store")
	fresh.ok("key", "import", exported).prints("The store has the slot")
	fresh.restores("v", "latest", v)
	fresh.exits(12, "list", "--keyfile", second)
	fresh.ok("key", "import", other, "--keyfile", second)
	fresh.ok("list", "--keyfile", second)
	fresh.ok("check")

	// By hand: the name is in the file.
	w.removeAll("keys/")
	b := readFile(t, exported)
	writeFile(t, filepath.Join(w.store, protocol.KeyName([16]byte(b[20:36]))), b)
	w.other("third").restores("v", "latest", v)
	w.ok("check", "--repair") // this host has a copy of the other one
	w.ok("list", "--keyfile", second)

	for name, bad := range map[string][]byte{"empty": nil, "cut": b[:200], "long": append(slices.Clone(b), 0), "text": []byte("hello"), "huge": make([]byte, 1<<20)} {
		path := w.path(name)
		writeFile(t, path, bad)
		w.exits(1, "key", "import", path).oneLine().says("holds no key slot")
	}
	w.exits(1, "key", "import", w.path("gone")).oneLine()
	// A slot that was removed doesn't come back.
	w.ok("key", "change", "--keyfile", second, "--new-keyfile", w.keyFile("third", 3))
	w.exits(12, "key", "import", other, "--keyfile", second).oneLine().says("was removed")
}

// A full store refuses a new key, with 15, and every key is as before.
func TestKeysInAFullStore(t *testing.T) {
	fs := mounted(t, "tmpfs", 4*mib)
	w := newWorld(t)
	w.store = filepath.Join(fs, "archive")
	w.ok("init")
	second := w.keyFile("second", 2)
	fill := filepath.Join(fs, "fill")
	run(t, "sh", "-c", "dd if=/dev/zero of="+fill+" bs=4k 2>/dev/null || true")
	before := w.slotObjects()
	for _, command := range []string{"add", "change"} {
		w.exits(15, "key", command, "--new-keyfile", second).oneLine().says("store keys/", "make room")
		w.ok("list")
		w.exits(12, "list", "--keyfile", second)
		if got := w.slotObjects(); !slices.Equal(got, before) {
			t.Errorf("after key %s the store has the slots %v", command, got)
		}
	}
	// Room for the slot, and none for the root that lists it.
	w.proxied(proxyPlan{}).planned(proxyPlan{Fault: "refuse", Type: protocol.TypeSwap, N: int(protocol.CodeNoSpace)}).
		exits(15, "key", "change", "--new-keyfile", second).oneLine()
	w.ok("list")
	w.exits(12, "list", "--keyfile", second)
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	w.ok("list")
	w.ok("key", "add", "--new-keyfile", second)
	w.ok("list", "--keyfile", second)
	w.ok("check")
}

// Keys are changed where this host may write, and nowhere else.
func TestKeysOfACopy(t *testing.T) {
	w := archive(t)
	second := w.keyFile("second", 2)
	x := *w
	x.store = w.path("copy")
	run(t, "cp", "-r", w.store, x.store)
	x.exits(16, "key", "add", "--new-keyfile", second).oneLine().says("--adopt")
	x.ok("key", "add", "--adopt", "--new-keyfile", second)
	x.ok("list", "--keyfile", second)
	w.exits(12, "list", "--keyfile", second)
	w.storeWith("--read-only").exits(1, "key", "add", "--new-keyfile", second).oneLine().says("read-only")
	held, mark := w.holding("file:" + w.image("v", "random:1M:1"))
	w.exits(11, "key", "remove", w.keys(w.key)[0].ID).oneLine()
	w.exits(11, "key", "add", "--new-keyfile", second).oneLine()
	_ = os.Remove(mark)
	w.wait(held).expect(0)
}
