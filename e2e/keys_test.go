package e2e

import (
	"bytes"
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
		ID, Kind, Label, Created, State string
		Opened                          bool
	}
	keysDoc      struct{ Keys []keyDoc }
	keyChangeDoc struct {
		Key     keyDoc
		Removed struct {
			ID     string
			Opened bool
		}
		KeptRoots int    `json:"kept_roots"`
		KeptUntil string `json:"kept_until"`
		Error     *errorDoc
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

// passFile makes a file with a passphrase.
func (w *world) passFile(name, pass string) string {
	w.t.Helper()
	path := w.path(name)
	writeFile(w.t, path, []byte(pass+"\n"))
	return path
}

// newestHead is the highest generation in head/, and the path of its root.
func (w *world) newestHead() (generation uint64, path string) {
	w.t.Helper()
	for _, p := range w.under(protocol.PrefixHead) {
		n, ok := protocol.ParseHead(protocol.PrefixHead + filepath.Base(p))
		if !ok {
			w.t.Fatalf("%s is not the name of a head", p)
		}
		if n > generation {
			generation, path = n, p
		}
	}
	return generation, path
}

// The clear part of a root, as docs/format.md has it.
const (
	clearAt      = 16 // behind the header, which ends with its length
	clearSlotsAt = 40 // in it: behind archive, branch and generation
)

// slotObjects are the key slots of the newest root.
func (w *world) slotObjects() (slots [][]byte) {
	w.t.Helper()
	_, path := w.newestHead()
	return slotsIn(readFile(w.t, path))
}

// slotsIn are the key slots in the clear part of a root.
func slotsIn(root []byte) (slots [][]byte) {
	b := root[clearAt+clearSlotsAt:]
	n := int(b[0])
	b = b[1:]
	for range n {
		size := int(binary.BigEndian.Uint16(b))
		slots, b = append(slots, b[2:2+size]), b[2+size:]
	}
	return slots
}

// junkRoot puts a root into the store that says that it is of this archive, with
// key slots for passphrases that no secret opens. Memory is in KiB.
func (w *world) junkRoot(generation uint64, slots int, memory, passes uint32) {
	w.t.Helper()
	_, path := w.newestHead()
	root := readFile(w.t, path)
	b := slices.Clone(root[:clearAt+clearSlotsAt])
	binary.BigEndian.PutUint64(b[clearAt+32:], generation)
	b = append(b, byte(slots))
	for i := range slots {
		slot := []byte{1, 0, 41, 1} // derivation, length of its parameters, lanes
		slot = binary.BigEndian.AppendUint32(slot, memory)
		slot = binary.BigEndian.AppendUint32(slot, passes)
		slot = append(slot, content(fmt.Sprintf("random:136:%d", 1000*generation+uint64(i)))...) // salt, nonce, key, commitment
		slot = append(slot, 0, 0)                                                                // no extensions
		sum := sha256.Sum256(slot)
		slot = append(slot, sum[:]...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(slot)))
		b = append(b, slot...)
	}
	binary.BigEndian.PutUint32(b[clearAt-4:], uint32(len(b)-clearAt))
	b = append(b, content(fmt.Sprintf("random:4136:%d", generation))...)
	sum := sha256.Sum256(b)
	for _, name := range []string{protocol.HeadName(generation), protocol.RootName(generation, [16]byte(sum[:16]))} {
		writeFile(w.t, filepath.Join(w.store, name), b)
	}
}

// A key's life: added, listed, changed, removed.
func TestKeys(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	second, third := w.keyFile("second", 2), w.keyFile("third", 3)

	added := document[keyChangeDoc](w.ok("key", "add", "--json", "--label", "the laptop's", "--new-keyfile", second))
	if added.Key.State != "live" || added.Key.Opened || added.Key.Kind != "key file" || added.Key.Label != "the laptop's" {
		t.Errorf("added %+v", added)
	}
	keys := w.keys(second)
	if len(keys) != 2 || keys[0].Opened || !keys[1].Opened || keys[1].ID != added.Key.ID || keys[0].State != "live" {
		t.Errorf("the keys are %+v", keys)
	}
	r := w.ok("key", "list", "--keyfile", second)
	r.prints("ID ", "KIND ", "LABEL ", "CREATED ", "STATE", keys[0].ID, "key file", "used just now", "the laptop's")
	for _, line := range lines(r.stdout) {
		if len(line) > 80 {
			t.Errorf("a line has %d columns: %s", len(line), line)
		}
	}

	changed := document[keyChangeDoc](w.ok("key", "change", "--json", "--keyfile", second, "--new-keyfile", third))
	if changed.Removed.ID != added.Key.ID || !changed.Removed.Opened || changed.Key.ID == added.Key.ID || changed.Key.Label != "the laptop's" ||
		changed.KeptRoots != 1 || !strings.HasPrefix(changed.KeptUntil, "20") {
		t.Errorf("changed %+v", changed)
	}
	w.exits(12, "list", "--keyfile", second).oneLine().says("was removed")
	w.ok("list", "--keyfile", third)
	w.ok("list")

	w.exits(1, "key", "remove", "00000000").oneLine().says("not found", "pinion key list")
	w.exits(2, "key", "remove", "xyz").oneLine()
	w.exits(2, "key", "remove").oneLine()
	first := keys[0].ID
	w.exits(1, "key", "remove", first[:8]).oneLine().says(first, "confirmation", "--yes")
	w.exits(1, "key", "remove", first[:8], "--unattended").oneLine().says("was not removed")
	w.ok("key", "remove", first[:4], "--yes").says("you removed the key you used").prints("Removed key "+first, "1 key left")
	w.exits(12, "list").oneLine()
	if got := w.keys(third); len(got) != 1 || got[0].ID != changed.Key.ID || len(w.slotObjects()) != 1 {
		t.Errorf("the archive has the keys %v", got)
	}
	w.exits(2, "key", "add", "--new-keyfile", "a", "--new-passfile", "b").oneLine().says("--new-passfile and --new-keyfile exclude each other")
	w.exits(1, "key", "add", "--keyfile", third, "--new-keyfile", w.path("gone")).oneLine()
	w.exits(1, "key", "add", "--keyfile", third, "--unattended").oneLine().says("--new-passfile")
	w.exits(1, "key", "add", "--keyfile", third, "--new-passcmd", "echo short").oneLine().says("at least 8 characters")
	w.exits(1, "key", "add", "--keyfile", third, "--new-passcmd", "head -c 1025 /dev/zero | tr '\\0' x").oneLine().says("1025 bytes")
	if got := w.slotObjects(); len(got) != 1 {
		t.Errorf("the archive has %d slots", len(got))
	}
	w.ok("verify", "--keyfile", third)
	w.ok("check", "--keyfile", third)
	w.exits(2, "key").oneLine().says("which of its commands?")
}

// The last key can't be removed.
func TestLastKeyCannotBeRemoved(t *testing.T) {
	t.Parallel()
	w := archive(t)
	id := w.keys(w.key)[0].ID
	for _, digits := range []string{id, id[:4], strings.ToUpper(id[:8])} {
		w.exits(1, "key", "remove", digits).oneLine().says("only key", "pinion key add")
	}
	w.ok("list")
	second := w.keyFile("second", 2)
	added := document[keyChangeDoc](w.ok("key", "add", "--json", "--new-keyfile", second))
	w.ok("key", "remove", id, "--keyfile", second)
	w.exits(1, "key", "remove", added.Key.ID, "--keyfile", second, "--yes").oneLine().says("only key")
	w.exits(1, "key", "remove", id, "--keyfile", second).oneLine().says("not found")
}

// An archive has at most sixteen keys, and nobody is asked for a seventeenth.
func TestSixteenKeys(t *testing.T) {
	t.Parallel()
	w := archive(t)
	for i := range 15 {
		w.ok("key", "add", "-q", "--new-keyfile", w.keyFile(fmt.Sprint("key-", i), 10+i))
	}
	w.exits(1, "key", "add", "--new-passcmd", "touch asked; echo correct horse").oneLine().says("at most 16 keys", "pinion key remove")
	if _, err := os.Stat(w.path("asked")); err == nil {
		t.Error("a secret was asked for")
	}
	w.ok("list", "--keyfile", w.path("key-14"))
	w.ok("key", "change", "--keyfile", w.path("key-14"), "--new-keyfile", w.keyFile("other", 99))
	if n := len(w.keys(w.key)); n != 16 {
		t.Errorf("%d keys", n)
	}
}

// A removed key stays removed, although older roots in the store still have its
// slot, and it opens none of these.
func TestRemovedKeyInOlderRoots(t *testing.T) {
	t.Parallel()
	w := archive(t)
	w.backup("file:" + w.image("v", "random:1M:1"))
	second := w.keyFile("second", 2)
	w.ok("key", "change", "--new-keyfile", second).says("2 older roots", "old secret", "prunes remove them by 20")
	for _, host := range []*world{w, w.other("fresh")} {
		host.exits(12, "list").oneLine().says("was removed")
		host.exits(12, "list", "--root", "2").oneLine().says("was removed")
		host.exits(12, "key", "list").oneLine()
		host.exits(12, "check", "--repair").oneLine()
		host.ok("list", "--keyfile", second)
		host.ok("list", "--root", "2", "--keyfile", second)
	}
	// A store that withholds what came after can't make this host believe it.
	_, newest := w.newestHead()
	root := readFile(t, newest)
	sum := sha256.Sum256(root)
	for _, path := range []string{newest, filepath.Join(w.store, protocol.RootName(3, [16]byte(sum[:16])))} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	w.exits(14, "list").oneLine().says("generation 2, and 3 was seen")
}

// Which slots are tried: those of the two newest roots, of the oldest, and of the
// one that --root names. A secret that none of them has is wrong.
func TestSlotsThatAreTried(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, build{static: true})
	first, second, third := w.passFile("first", "secret one"), w.passFile("second", "secret two"), w.passFile("third", "secret three")
	v := w.image("v", "random:100K:1")
	w.ok("init", "--passfile", first)                                      // 1
	w.ok("key", "change", "--passfile", first, "--new-passfile", second)   // 2
	w.ok("key", "change", "--passfile", second, "--new-passfile", third)   // 3
	w.ok("backup", "--passfile", third, "file:"+v)                         // 4
	w.exits(12, "list", "--passfile", first).oneLine().says("was removed") // the oldest
	r := w.exits(12, "list", "--passfile", second).oneLine()               // none of them
	if strings.Contains(r.stderr, "removed") {
		t.Errorf("%s\nknows a key that nothing was tried on", r)
	}
	w.exits(12, "list", "--passfile", second, "--root", "2").oneLine().says("was removed")
	w.ok("list", "--passfile", third, "--root", "2")
	// A key file costs nothing, so it is tried on all.
	key := w.keyFile("key", 5)
	w.ok("key", "add", "--passfile", third, "--new-keyfile", key)
	w.ok("key", "remove", w.keys(key)[1].ID, "--passfile", third)
	for range 3 {
		w.ok("backup", "--passfile", third, "file:"+v)
	}
	w.exits(12, "list", "--keyfile", key).oneLine().says("was removed")
}

// A passphrase that is wrong costs one derivation on an honest archive, whatever
// its history is. What a store makes up costs nothing unless it was asked for, and
// then no more than a command may spend.
func TestJunkRootsWithExpensiveSlots(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, build{static: true})
	pass, wrong := w.passFile("pass", "correct horse"), w.passFile("wrong", "incorrect horse")
	w.ok("init", "--passfile", pass)
	v := w.image("v", "random:100K:1")
	w.ok("backup", "--passfile", pass, "file:"+v)
	w.ok("backup", "--passfile", pass, "file:"+v)
	tried := func(r *result) int { return strings.Count(r.stderr, "trying key slot") }
	if r := w.exits(12, "list", "--passfile", wrong).oneLine(); tried(r) != 0 {
		t.Errorf("%s\ntried more than one slot", r)
	}
	exported := w.path("exported")
	w.ok("key", "export", exported, "--passfile", pass)

	generation, _ := w.newestHead()
	for i := range uint64(3) {
		w.junkRoot(generation+1+i, 16, 2<<20, 2) // 4 GiB·passes each
	}
	for _, host := range []*world{w, w.other("fresh")} {
		if r := host.ok("list", "--passfile", pass).says("generation", "is used"); tried(r) != 0 || r.took > time.Minute {
			t.Errorf("%s\ntried what nobody asked for", r)
		}
		if r := host.exits(12, "list", "--passfile", wrong).oneLine().says("--slow-key"); tried(r) != 0 {
			t.Errorf("%s\ntried what nobody asked for", r)
		}
	}
	if r := w.ok("list", "--passfile", pass, "--key-export", exported); tried(r) != 0 {
		t.Errorf("%s\ntried other slots than the export's", r)
	}
	// Usual ones are tried, within the bound of a command: then the export helps.
	for i := range uint64(2) {
		w.junkRoot(generation+4+i, 16, 64<<10, 1)
	}
	if r := w.exits(12, "list", "--passfile", wrong); tried(r) < 30 || tried(r) > 40 {
		t.Errorf("%s\ntried %d slots", r, tried(r))
	}
	w.ok("list", "--passfile", pass)
	w.ok("list", "--passfile", pass, "--key-export", exported)
	w.ok("backup", "--passfile", pass, "file:"+v)
	w.exits(13, "check", "--passfile", pass).prints("does not authenticate")
}

// A store that only appends keeps the slots of removed keys, and that is said; the
// keys open nothing all the same.
func TestKeysOfAnAppendOnlyStore(t *testing.T) {
	t.Parallel()
	w := archive(t)
	a := w.storeWith("--append-only")
	key := w.key
	for i := range 8 {
		next := w.keyFile(fmt.Sprintf("key-%d", i), 100+i)
		r := a.ok("key", "change", "--json", "--keyfile", key, "--new-keyfile", next).says("for ever")
		if doc := document[keyChangeDoc](r); doc.KeptRoots != 1 || doc.KeptUntil != "" {
			t.Fatalf("%s\nwas to say that one root keeps the slot for ever", r)
		}
		a.exits(12, "list", "--keyfile", key)
		key = next
	}
	for _, host := range []*world{a, a.other("fresh")} {
		host.ok("list", "--keyfile", key)
		host.exits(12, "list", "--keyfile", w.path("key-3")).says("was removed")
	}
	a.ok("check", "--keyfile", key)
}

// An export opens the archive with its slots alone, and gives keys back that the
// archive no longer has.
func TestKeyExportAndImport(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	second := w.keyFile("second", 2)
	w.ok("key", "add", "--new-keyfile", second)
	keys := w.keys(w.key)
	exported := w.path("exported")
	w.ok("key", "export", exported, "--keyfile", second).prints("Wrote 2 key slots").says("opens nothing without")
	was := readFile(t, exported)
	info, err := os.Stat(exported)
	if err != nil || info.Mode().Perm() != 0o600 || len(slotsIn(was)) != 2 || !bytes.Equal(slotsIn(was)[1], w.slotObjects()[1]) {
		t.Errorf("the file is %v, %v", info, err)
	}
	w.exits(1, "key", "export", exported).oneLine().says("exists already")
	if string(readFile(t, exported)) != string(was) {
		t.Error("a file was overwritten")
	}
	w.exits(1, "key", "export", w.path("no/such/dir")).oneLine()
	w.exits(2, "key", "export").oneLine()

	fresh := w.other("fresh")
	for _, key := range []string{w.key, second} {
		fresh.ok("list", "--key-export", exported, "--keyfile", key)
	}
	fresh.exits(12, "list", "--key-export", exported, "--keyfile", w.keyFile("wrong", 9)).oneLine()

	w.ok("key", "import", exported).prints("nothing to do")
	w.ok("key", "remove", keys[1].ID)
	w.exits(12, "list", "--key-export", exported, "--keyfile", second).oneLine().says("was removed", "key import")
	w.ok("list", "--key-export", exported)
	w.exits(12, "key", "import", exported, "--keyfile", second)
	doc := document[struct{ Keys []keyDoc }](w.ok("key", "import", exported, "--json"))
	if len(doc.Keys) != 1 || doc.Keys[0].ID != keys[1].ID || doc.Keys[0].State != "live" {
		t.Errorf("imported %+v", doc)
	}
	fresh.ok("list", "--keyfile", second)
	w.ok("check")

	stranger := archive(t)
	theirs := stranger.path("exported")
	stranger.ok("key", "export", theirs)
	changed := slices.Clone(was)
	changed[len(changed)-1] ^= 1
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": was[:200], "long": append(slices.Clone(was), 0), "text": []byte("hello"), "huge": make([]byte, 1<<20), "changed": changed,
		"another archive's": readFile(t, theirs),
	} {
		path := w.path(name)
		writeFile(t, path, bad)
		w.exits(1, "key", "import", path).oneLine().says("is not a key export of this archive")
		if r := w.run("list", "--key-export", path); name == "empty" || name == "cut" || name == "text" || name == "huge" {
			r.expect(1).oneLine().says("is not a key export")
		}
	}
	w.exits(1, "key", "import", w.path("gone")).oneLine()
	w.exits(1, "list", "--key-export", w.path("gone")).oneLine().says("--key-export")
}

// A full store refuses a new key, with 15, and every key is as before.
func TestKeysInAFullStore(t *testing.T) {
	t.Parallel()
	fs := mounted(t, "tmpfs", 4*mib)
	w := newWorld(t)
	w.store = filepath.Join(fs, "archive")
	w.ok("init")
	second := w.keyFile("second", 2)
	fill := filepath.Join(fs, "fill")
	run(t, "sh", "-c", "dd if=/dev/zero of="+fill+" bs=4k 2>/dev/null || true")
	for _, command := range []string{"add", "change"} {
		w.exits(15, "key", command, "--new-keyfile", second).oneLine().says("commit generation 2", "make room")
		w.ok("list")
		w.exits(12, "list", "--keyfile", second)
	}
	w.proxied(proxyPlan{}).planned(proxyPlan{Fault: "refuse", Type: protocol.TypeCommit, N: int(protocol.CodeFull)}).
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
	t.Parallel()
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
	w.exits(11, "key", "add", "--new-keyfile", second).oneLine()
	_ = os.Remove(mark)
	w.wait(held).expect(0)
}
