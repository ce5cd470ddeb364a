package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// maxHostileMemory bounds what a hostile store can make pinion hold, in bytes,
// with the race detector's own part.
const maxHostileMemory = 400 << 20

// Sizes of the archive that is attacked. Chunks don't compress and are stored as
// they are, so where they lie in the packs can be told from the format's page.
const (
	hostileChunk  = 64 << 10
	hostileSealed = hostileChunk + 41 // with its nonce, method and tag
	hostileHeader = 8                 // of every object
)

// A victim is an archive that is attacked: two volumes, two sessions.
type victim struct {
	*world
	whole snapshot
	// v1 and v2 are what the volume v was in sessions #1 and #2.
	v1, v2 string
	// data are the packs of chunks in the order of the sessions, meta the
	// packs of metadata. slot, root and index are the other objects.
	data, meta, index []string
	slot, root        string
}

// newVictim makes an archive for one way of building the programs.
func newVictim(t *testing.T, b build) *victim {
	t.Helper()
	w := newWorldOf(t, b)
	w.env = append(w.env, quickRaces)
	w.ok("init", "--chunk-size", "64K", "--compression", "none")
	v := &victim{world: w, v1: w.image("v.1", "random:1M:1"), root: filepath.Join(w.store, "root"), slot: w.under("keys/")[0]}
	image := copyFile(t, v.v1, w.path("v.img"))
	other := w.image("w.img", "random:100000:2")
	v.backUp("v=file:"+image, "w=file:"+other)
	overwrite(t, image, hostileChunk, "random:256K:3")
	overwrite(t, other, 0, "random:1000:4")
	v.v2 = image
	v.backUp("v=file:"+image, "w=file:"+other)
	w.image("v.3", "random:1M:6", "text:1M:7") // for the next backup
	v.index = w.under("index/")
	slices.Sort(v.index)
	if err := os.RemoveAll(w.cache); err != nil { // what is cached is not asked for
		t.Fatal(err)
	}
	if err := os.Mkdir(w.path("out"), 0o700); err != nil {
		t.Fatal(err)
	}
	v.whole = w.save()
	return v
}

// backUp makes a session and notes its packs: the larger is of chunks.
func (v *victim) backUp(sources ...string) {
	v.t.Helper()
	known := v.under("packs/")
	v.ok(append([]string{"backup"}, sources...)...)
	var fresh []string
	for _, path := range v.under("packs/") {
		if !slices.Contains(known, path) {
			fresh = append(fresh, path)
		}
	}
	if len(fresh) != 2 {
		v.t.Fatalf("a backup made the packs %q", fresh)
	}
	if len(readFile(v.t, fresh[0])) < len(readFile(v.t, fresh[1])) {
		fresh[0], fresh[1] = fresh[1], fresh[0]
	}
	v.data, v.meta = append(v.data, fresh[0]), append(v.meta, fresh[1])
}

// at is the victim for a subtest.
func (v *victim) at(t *testing.T) *victim {
	w := *v.world
	w.t = t
	c := *v
	c.world = &w
	return &c
}

// object is the name of an object's file.
func (v *victim) object(path string) string {
	name, err := filepath.Rel(v.store, path)
	if err != nil {
		v.t.Fatal(err)
	}
	return name
}

// objects are all objects that the archive needs.
func (v *victim) objects() []string {
	return slices.Concat([]string{v.root, v.slot}, v.index, v.data, v.meta)
}

// attacked are the commands that a damaged archive gets.
var attacked = map[string][]string{
	"list":     {"list"},
	"restore":  {"restore", "v", "--to", "out/v"},
	"in-place": {"restore", "v", "--in-place", "--to", "out/v"},
	"old":      {"restore", "v", "--session", "#1", "--to", "out/v"},
	"verify":   {"verify", "--all-sessions"},
	"check":    {"check", "--read-data=100"},
	"backup":   {"backup", "v=file:v.3"},
}

// attack runs a command on what was made of the archive, and checks what holds
// whatever that was: an exit status out of codes, one line of error that is
// safe to show, bounded memory, and no wrong byte in a file.
func (v *victim) attack(on *world, what, command string, codes ...int) *result {
	v.t.Helper()
	before := content("random:70000:9")
	writeFile(v.t, v.path("out/v"), before)
	r := on.run(attacked[command]...)
	if !slices.Contains(codes, r.code) {
		v.t.Errorf("%s: %s\nwas to exit with one of %d", what, r, codes)
	}
	if r.maxRSS > maxHostileMemory {
		v.t.Errorf("%s: %s\ntook %d MiB of memory", what, r, r.maxRSS>>20)
	}
	v.readable(what, r)
	if names := files(v.t, v.path("out")); len(names) != 1 {
		v.t.Errorf("%s: %s\nleft %v", what, r, names)
	}
	is := readFile(v.t, v.path("out/v"))
	switch {
	case r.code != 0 || !strings.HasPrefix(attacked[command][0], "restore"):
		if !bytes.Equal(is, before) {
			v.t.Errorf("%s: %s\nchanged the file that was there", what, r)
		}
	case command == "old":
		if !bytes.Equal(is, readFile(v.t, v.v1)) {
			v.t.Errorf("%s: %s\nrestored wrong bytes", what, r)
		}
	case !bytes.Equal(is, readFile(v.t, v.v2)):
		v.t.Errorf("%s: %s\nrestored wrong bytes", what, r)
	}
	return r
}

// readable checks that messages are lines without anything that a terminal would
// obey, and that a failure is one of them.
func (v *victim) readable(what string, r *result) {
	v.t.Helper()
	errorLines := 0
	for _, line := range lines(r.stderr) {
		if strings.HasPrefix(line, "pinion: error: ") {
			errorLines++
		}
		if strings.HasSuffix(strings.TrimSpace(line), ":") {
			v.t.Errorf("%s: %s\nsays no reason", what, r)
		}
	}
	// list says so of each session that it can't show.
	if errorLines > 1 && r.args[0] != "list" || (errorLines > 0) != (r.code != 0) {
		v.t.Errorf("%s: %s\nwrote %d lines of error", what, r, errorLines)
	}
	for _, c := range r.stderr + r.stdout {
		if c < ' ' && c != '\n' || c == 0x7f || c == '\u202e' || c == '\ufffd' {
			v.t.Errorf("%s: %s\nwrote %q", what, r, c)
			return
		}
	}
}

// names expects that a failed command named an object.
func (v *victim) names(what string, r *result, object string) {
	v.t.Helper()
	if r.code != 0 && !strings.Contains(r.stderr+r.stdout, object) {
		v.t.Errorf("%s: %s\nwas to name %s", what, r, object)
	}
}

// Every byte of every small object, and a sample of every pack with all bytes
// of its structure, is turned over. check finds each; nothing that is restored is
// wrong.
func TestHostileFlippedBytes(t *testing.T) {
	for _, part := range []string{"root and slot", "index", "data", "meta"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			v := newVictim(t, build{static: true})
			objects := map[string][]string{"root and slot": {v.root, v.slot}, "index": v.index, "data": v.data, "meta": v.meta}[part]
			for _, path := range objects {
				v.flipAll(path)
			}
		})
	}
}

// flipAll turns over an object's bytes, one at a time.
func (v *victim) flipAll(path string) {
	v.t.Helper()
	name := v.object(path)
	isPack := strings.HasPrefix(name, "packs/")
	whole := readFile(v.t, path)
	for i, off := range flipOffsets(len(whole), isPack) {
		v.rewind(v.whole)
		replaceByte(v.t, path, int64(off))
		what := fmt.Sprintf("%s, byte %d of %d", name, off, len(whole))
		// A version that isn't known is no damage.
		newer := off == hostileHeader-1 || isPack && off == len(whole)-1
		command := []string{"list", "restore", "old", "verify", "in-place"}[i%5]
		switch {
		case newer && isPack: // blobs open whatever the versions around them
			v.attack(v.world, what, command, 0)
			v.attack(v.world, what, "check", 1).says(name, "newer")
		case newer:
			v.attack(v.world, what, command, 1).says("newer")
			v.attack(v.world, what, "check", 1).says("newer")
		case isPack:
			if i%3 == 0 {
				v.names(what, v.attack(v.world, what, command, 0, 13), name)
			}
			// What no session needs any more is not looked at.
			codes := []int{13}
			if slices.Contains(v.meta[:1], path) && off >= head && off < len(whole)-tail && v.run("verify", "--all-sessions", "-q").code == 0 {
				codes = append(codes, 0)
			}
			v.names(what, v.attack(v.world, what, "check", codes...), name)
		default:
			// All of them read it; one in turn shows it.
			command = []string{"check", "list", "restore", "verify", "old"}[i%5]
			v.names(what, v.attack(v.world, what, command, 13), name)
		}
		if v.t.Failed() {
			return
		}
	}
}

// The structure at the ends of a pack, in bytes: the header and the beginning of
// the first blob; the end of the sealed table, and the trailer.
const head, tail = hostileHeader + 24 + 1 + 4, 12 + 40 + 13 + 40

// flipOffsets are the bytes to turn over: all, or for a pack all of its ends and
// 200 spread over it.
func flipOffsets(size int, sample bool) (offsets []int) {
	for off := range size {
		if !sample || off < head || off >= size-tail || off%max(1, size/200) == 0 {
			offsets = append(offsets, off)
		}
	}
	return offsets
}

// Objects are cut, made longer, emptied, taken away, exchanged, and replaced by
// those of another archive that the same key opens.
func TestHostileReplacedObjects(t *testing.T) {
	v := newVictim(t, build{})
	stranger := newVictim(t, build{})
	for i, path := range v.objects() {
		v.rewind(v.whole)
		name, whole := v.object(path), readFile(t, path)
		forms := map[string][]byte{
			"longer": append(slices.Clone(whole), 0), "gone": nil, "of another archive": readFile(t, stranger.objects()[i]),
		}
		for _, n := range []int{0, 8, len(whole) / 2, len(whole) - 1} {
			forms[fmt.Sprintf("cut to %d bytes", n)] = whole[:n:n]
		}
		for _, other := range v.objects() {
			if other != path && filepath.Dir(v.object(other))[:1] == filepath.Dir(name)[:1] {
				forms["replaced by "+v.object(other)] = readFile(t, other)
			}
		}
		commands := []string{"list", "restore", "old", "verify", "in-place"}
		n := 0
		for form, b := range forms {
			v.rewind(v.whole)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if b != nil {
				writeFile(t, path, b)
			}
			what := name + " " + form
			codes := []int{13}
			if strings.HasPrefix(name, "packs/") {
				codes = []int{0, 13}
			}
			r := v.attack(v.world, what, commands[n%len(commands)], codes...)
			if form != "gone" || name == "root" {
				v.names(what, r, name)
			}
			v.attack(v.world, what, "check", 13)
			n++
		}
	}
}

// check lists everything that is wrong, not the first; with the blobs of one
// pack, the table of another, a pack that is gone and a header damaged at once.
func TestHostileCheckListsAllDamage(t *testing.T) {
	v := newVictim(t, build{})
	v.backUp("x=file:" + v.image("x.img", "random:1M:5"))
	replaceByte(t, v.data[0], hostileHeader+5*hostileSealed+1000)
	replaceByte(t, v.data[1], -20)
	if err := os.Remove(v.data[2]); err != nil {
		t.Fatal(err)
	}
	replaceByte(t, v.meta[0], 2)
	r := v.exits(13, "check", "--read-data=100", "--json")
	doc := document[damageDoc](r)
	for _, path := range slices.Concat(v.data, v.meta[:1]) {
		id := filepath.Base(path)
		if !slices.ContainsFunc(doc.Damage, func(d damageRange) bool { return strings.Contains(d.Object, id) }) {
			t.Errorf("%s\ndoes not name %s", r, v.object(path))
		}
	}
	// The chunk is in both sessions of v.
	for _, session := range []uint64{1, 2} {
		if !slices.ContainsFunc(doc.Damage, func(d damageRange) bool {
			return d.Volume == "v" && d.Session == session && d.Offset == 5*hostileChunk && d.Length == hostileChunk
		}) {
			t.Errorf("%s\ndoes not list the damaged chunk of session #%d", r, session)
		}
	}
}

// A salvaged file is right wherever it is not listed, and what is listed are
// exactly the chunks that can't be had.
func TestHostileSalvageListsExactlyWhatIsLost(t *testing.T) {
	v := newVictim(t, build{})
	for _, chunk := range []int64{6, 7, 10} { // of session #1; #2 shares them
		replaceByte(t, v.data[0], hostileHeader+chunk*hostileSealed+chunk)
	}
	want := []damageRange{
		{Volume: "v", Session: 2, Offset: 6 * hostileChunk, Length: 2 * hostileChunk},
		{Volume: "v", Session: 2, Offset: 10 * hostileChunk, Length: hostileChunk},
	}
	held := content("random:1M:8")
	for _, inPlace := range []bool{false, true} {
		to := filepath.Join(t.TempDir(), "v")
		args := []string{"restore", "v", "--salvage", "--json", "--to", to}
		lost := make([]byte, len(held))
		if inPlace {
			args, lost = append(args, "--in-place"), held
			writeFile(t, to, held)
		}
		r := v.exits(13, args...)
		var got []damageRange
		for _, d := range document[restoreDoc](r).Damage {
			if d.Object != v.object(v.data[0]) || d.Reason == "" {
				t.Errorf("%s\nblames %s", r, d.Object)
			}
			d.Object, d.Reason = "", ""
			got = append(got, d)
		}
		if len(got) > 1 && got[0].Offset+got[0].Length == got[1].Offset { // told apart by their reasons
			got = append([]damageRange{{"v", 2, got[0].Offset, got[0].Length + got[1].Length, "", ""}}, got[2:]...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s\nwas to list %v", r, want)
		}
		expected := readFile(t, v.v2)
		for _, d := range want {
			copy(expected[d.Offset:d.Offset+d.Length], lost[d.Offset:])
		}
		if !bytes.Equal(readFile(t, to), expected) {
			t.Errorf("%s\nwrote other bytes than what is whole", r)
		}
	}
}

// check --repair gives back what can be made anew, from packs and from what
// this host remembers.
func TestHostileRepair(t *testing.T) {
	remove := func(path string) func(v *victim) {
		return func(v *victim) {
			if err := os.Remove(path); err != nil {
				v.t.Fatal(err)
			}
		}
	}
	v := newVictim(t, build{})
	spoil := func(path string) func(v *victim) { return func(v *victim) { replaceByte(v.t, path, -5) } }
	noIndex := func(v *victim) { v.removeAll("index/") }
	for name, damage := range map[string][]func(v *victim){
		"index gone":       {noIndex},
		"index damaged":    {spoil(v.index[0])},
		"table damaged":    {spoil(v.data[0])},
		"tables damaged":   {spoil(v.data[0]), spoil(v.data[1]), spoil(v.meta[0]), spoil(v.meta[1])},
		"slot gone":        {remove(v.slot)},
		"slot damaged":     {spoil(v.slot)},
		"root gone":        {remove(v.root)},
		"root damaged":     {spoil(v.root)},
		"all but the data": {remove(v.slot), spoil(v.root), noIndex},
	} {
		t.Run(name, func(t *testing.T) {
			v := v.at(t)
			v.rewind(v.whole)
			for _, d := range damage {
				d(v)
			}
			v.attack(v.world, name, "check", 13)
			v.ok("check", "--repair", "-q")
			if err := os.RemoveAll(v.cache); err != nil {
				t.Fatal(err)
			}
			v.attack(v.world, name, "check", 0)
			v.attack(v.world, name, "old", 0)
			v.attack(v.world, name, "restore", 0)
			// Another host, which remembers nothing, finds it whole as well.
			v.other(strings.ReplaceAll(name, " ", "-")).ok("verify", "--all-sessions", "-q")
			v.ok("backup", "v=file:"+v.v1)
		})
	}
}

// What was damaged, and was sent again, is not found in its old place by a later
// repair, whether that has the index to go by or not.
func TestHostileRepairKeepsWhatWasHealed(t *testing.T) {
	v := newVictim(t, build{})
	for chunk := range int64(12) { // in either order of the packs' names, some of a pair would be met first
		replaceByte(t, v.data[0], hostileHeader+chunk*hostileSealed+100)
	}
	replaceByte(t, v.meta[1], hostileHeader+100) // a tree node of #2
	v.exits(13, "check", "--repair", "--read-data=100", "-q")
	v.ok("backup", "v=file:"+v.v1)
	v.ok("backup", "v=file:"+v.v2)
	healed := v.save()
	for name, damage := range map[string]func(){
		"slot":  func() { replaceByte(t, v.slot, -5) },
		"index": func() { v.removeAll("index/") },
	} {
		v.rewind(healed)
		damage()
		v.ok("check", "--repair", "-q")
		if r := v.run("verify", "--all-sessions"); r.code != 0 {
			t.Errorf("%s lost: %s\nwas to succeed", name, r)
		}
	}
}

// A repair never takes for damage what a newer version may have written.
func TestHostileRepairLeavesNewerObjectsAlone(t *testing.T) {
	v := newVictim(t, build{})
	for _, path := range v.objects() {
		v.rewind(v.whole)
		b := readFile(t, path)
		b[hostileHeader-1]++
		replaceFile(t, path, b)
		before := digest(t, v.store)
		v.exits(1, "check", "--repair").says("newer")
		if digest(t, v.store) != before {
			t.Errorf("a repair changed the store beside a newer %s", v.object(path))
		}
	}
}
