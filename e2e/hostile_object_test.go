package e2e

import (
	"bytes"
	"fmt"
	"maps"
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
	hostileSealed = hostileChunk + 51 // with its nonce, what precedes the content, and tag
	hostileHeader = 16                // of every object
	hostileMark   = 7                 // where its version stands
)

// A victim is an archive that is attacked: two volumes, two sessions.
type victim struct {
	*world
	whole snapshot
	// v1 and v2 are what the volume v was in sessions #1 and #2.
	v1, v2 string
	// data are the packs of chunks in the order of the sessions, meta the
	// packs of metadata, index the index objects, each with its twin, and roots
	// the newest root in its two places.
	data, roots []string
	meta, index [][2]string
}

// newVictim makes an archive for one way of building the programs.
func newVictim(t *testing.T, b build) *victim {
	t.Helper()
	w := newWorldOf(t, b)
	w.ok("init", "--chunk-size", "64K", "--compression", "none")
	v := &victim{world: w, v1: w.image("v.1", "random:1M:1")}
	image := copyFile(t, v.v1, w.path("v.img"))
	other := w.image("w.img", "random:100000:2")
	v.backUp("v=file:"+image, "w=file:"+other)
	overwrite(t, image, hostileChunk, "random:256K:3")
	overwrite(t, other, 0, "random:1000:4")
	v.v2 = image
	v.backUp("v=file:"+image, "w=file:"+other)
	w.image("v.3", "random:1M:6", "text:1M:7") // for the next backup
	v.index, v.roots = w.pairs("index/"), w.rootsOf(w.lastGeneration())
	if err := os.RemoveAll(w.cache); err != nil { // what is cached is not asked for
		t.Fatal(err)
	}
	if err := os.Mkdir(w.path("out"), 0o700); err != nil {
		t.Fatal(err)
	}
	v.whole = w.save()
	return v
}

// backUp makes a session and notes its packs.
func (v *victim) backUp(sources ...string) {
	v.t.Helper()
	singles, pairs := v.dataPacks(), v.pairs("packs/")
	v.ok(append([]string{"backup"}, sources...)...)
	data := slices.DeleteFunc(v.dataPacks(), func(path string) bool { return slices.Contains(singles, path) })
	meta := slices.DeleteFunc(v.pairs("packs/"), func(pair [2]string) bool { return slices.Contains(pairs, pair) })
	if len(data) != 1 || len(meta) != 1 {
		v.t.Fatalf("a backup made the packs %q and %q", data, meta)
	}
	v.data, v.meta = append(v.data, data...), append(v.meta, meta...)
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
	all := slices.Concat(v.roots, v.data)
	for _, pair := range slices.Concat(v.index, v.meta) {
		all = append(all, pair[:]...)
	}
	return all
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

// names expects that a failed command named one of the damaged objects: of what is
// there twice, either copy may be the one that was read last.
func (v *victim) names(what string, r *result, objects ...string) {
	v.t.Helper()
	found := func(object string) bool { return strings.Contains(r.stderr+r.stdout, object) }
	if r.code != 0 && !slices.ContainsFunc(objects, found) {
		v.t.Errorf("%s: %s\nwas to name %s", what, r, strings.Join(objects, " or "))
	}
}

// Bytes of every object are turned over: all of those that structure is made of,
// and a sample of the rest. check finds each; what is there twice costs nothing,
// and nothing that is restored is wrong.
func TestHostileFlippedBytes(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"roots", "index", "data", "meta"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			v := newVictim(t, build{static: true})
			switch part {
			case "roots":
				v.flipAll([]int{0}, 13, v.roots[0])
				v.flipAll([]int{0}, 13, v.roots[1])
				v.flipAll([]int{14}, 14, v.roots...)
			case "index":
				v.flipAll([]int{0}, 13, v.index[0][0])
				v.flipAll([]int{0}, 13, v.index[0][1])
				v.flipAll([]int{0}, 13, v.index[1][:]...)
			case "data":
				v.flipAll([]int{0, 13}, 13, v.data[0])
				v.flipAll([]int{0, 13}, 13, v.data[1])
			case "meta":
				v.flipAll([]int{0}, 13, v.meta[0][0])
				v.flipAll([]int{0}, 13, v.meta[1][1])
				v.flipAll([]int{0, 13}, 13, v.meta[1][:]...)
			}
		})
	}
}

// flipAll turns over the bytes of an object, one at a time, or the same ones of
// several. It gets the exit statuses of commands that read, and that of check.
func (v *victim) flipAll(reads []int, checks int, paths ...string) {
	v.t.Helper()
	var names []string
	for _, path := range paths {
		names = append(names, v.object(path))
	}
	size := len(readFile(v.t, paths[0]))
	for i, off := range flipOffsets(size) {
		v.rewind(v.whole)
		for _, path := range paths {
			replaceByte(v.t, path, int64(off))
		}
		what := fmt.Sprintf("%s, byte %d of %d", strings.Join(names, " and "), off, size)
		if i%3 == 0 {
			command := []string{"list", "restore", "old", "verify", "in-place"}[i/3%5]
			v.names(what, v.attack(v.world, what, command, reads...), names...)
		}
		v.names(what, v.attack(v.world, what, "check", checks), names...)
		if v.t.Failed() {
			return
		}
	}
}

// The structure at the ends of an object, in bytes: the header and the beginning of
// what is sealed first; the end of what is sealed last, and a pack's trailer.
const head, tail = hostileHeader + 24 + 11, 16 + 4

// flipOffsets are the bytes to turn over: all of the header, and of the rest, which
// has the clear part of a root, those that a step meets. verify.TestEveryByte has more.
func flipOffsets(size int) (offsets []int) {
	for off := range size {
		if off < hostileHeader || off < head && off%5 == 0 || off >= size-tail && off%3 == 0 || off < 300 && off%41 == 0 || off%max(1, size/8) == 0 {
			offsets = append(offsets, off)
		}
	}
	return offsets
}

// Objects are cut, made longer, emptied, taken away, exchanged, and replaced by
// those of another archive that the same key opens.
func TestHostileReplacedObjects(t *testing.T) {
	t.Parallel()
	v := newVictim(t, build{})
	stranger := newVictim(t, build{})
	try := oneOf(2)
	for i, path := range v.objects() {
		v.rewind(v.whole)
		name, whole := v.object(path), readFile(t, path)
		forms := map[string][]byte{
			"longer": append(slices.Clone(whole), 0), "gone": nil, "of another archive": readFile(t, stranger.objects()[i]),
		}
		for _, n := range []int{0, hostileHeader, len(whole) / 2, len(whole) - 1} {
			forms[fmt.Sprintf("cut to %d bytes", n)] = whole[:n:n]
		}
		for _, other := range v.objects() {
			if b := readFile(t, other); !bytes.Equal(b, whole) && v.object(other)[:4] == name[:4] {
				forms["replaced by "+v.object(other)] = b
			}
		}
		commands := []string{"list", "restore", "old", "verify", "in-place"}
		n := 0
		for _, form := range slices.Sorted(maps.Keys(forms)) {
			if !try() {
				continue
			}
			b := forms[form]
			v.rewind(v.whole)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if b != nil {
				writeFile(t, path, b)
			}
			what := name + " " + form
			codes := []int{0}
			if slices.Contains(v.data, path) {
				codes = []int{0, 13}
			}
			v.names(what, v.attack(v.world, what, commands[n%len(commands)], codes...), name)
			code := 13
			if form == "gone" && path == v.roots[0] { // as a commit that was killed leaves it
				code = 0
			}
			v.names(what, v.attack(v.world, what, "check", code), name)
			n++
		}
	}
}

// check lists everything that is wrong, not the first; with the blobs of one
// pack, the table of another, a pack that is gone and a header damaged at once.
func TestHostileCheckListsAllDamage(t *testing.T) {
	t.Parallel()
	v := newVictim(t, build{})
	v.backUp("x=file:" + v.image("x.img", "random:1M:5"))
	replaceByte(t, v.data[0], hostileHeader+5*hostileSealed+1000)
	replaceByte(t, v.data[1], -20)
	if err := os.Remove(v.data[2]); err != nil {
		t.Fatal(err)
	}
	v.spoilBoth(v.meta[0][0], 2)
	r := v.exits(13, "check", "--read-data=100", "--json")
	doc := document[damageDoc](r)
	for _, path := range slices.Concat(v.data, v.meta[0][:]) {
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
	t.Parallel()
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
	t.Parallel()
	remove := func(path string) func(v *victim) {
		return func(v *victim) {
			if err := os.Remove(path); err != nil {
				v.t.Fatal(err)
			}
		}
	}
	v := newVictim(t, build{})
	spoil := func(paths ...string) func(v *victim) {
		return func(v *victim) {
			for _, path := range paths {
				replaceByte(v.t, path, -5)
			}
		}
	}
	noIndex := func(v *victim) { v.removeAll("index/") }
	for name, c := range map[string]struct {
		check  int
		damage []func(v *victim)
	}{
		"index gone":            {13, []func(v *victim){noIndex}},
		"index object damaged":  {13, []func(v *victim){spoil(v.index[0][0])}},
		"index damaged":         {13, []func(v *victim){spoil(v.index[0][:]...)}},
		"table damaged":         {13, []func(v *victim){spoil(v.data[0])}},
		"tables damaged":        {13, []func(v *victim){spoil(v.data...), spoil(v.meta[0][:]...), spoil(v.meta[1][:]...)}},
		"metadata gone":         {13, []func(v *victim){remove(v.meta[0][0]), remove(v.meta[1][1])}},
		"root gone":             {0, []func(v *victim){remove(v.roots[0])}},
		"other root gone":       {13, []func(v *victim){remove(v.roots[1])}},
		"root damaged":          {13, []func(v *victim){spoil(v.roots[1])}},
		"roots damaged":         {14, []func(v *victim){spoil(v.roots...)}},
		"all roots damaged":     {13, []func(v *victim){spoil(v.rootsOf()...)}},
		"all but packs damaged": {14, []func(v *victim){spoil(v.roots...), noIndex}},
	} {
		t.Run(name, func(t *testing.T) {
			v := v.at(t)
			v.rewind(v.whole)
			for _, d := range c.damage {
				d(v)
			}
			v.attack(v.world, name, "check", c.check)
			v.ok("check", "--repair", "-q")
			if err := os.RemoveAll(v.cache); err != nil {
				t.Fatal(err)
			}
			// What is left of a root that is damaged stays damaged, and was told of.
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
	t.Parallel()
	v := newVictim(t, build{})
	for chunk := range int64(12) { // in either order of the packs' names, some of a pair would be met first
		replaceByte(t, v.data[0], hostileHeader+chunk*hostileSealed+100)
	}
	v.spoilBoth(v.meta[1][0], hostileHeader+100) // a tree node of #2
	v.exits(13, "check", "--repair", "--read-data=100", "-q")
	v.ok("backup", "v=file:"+v.v1)
	v.ok("backup", "v=file:"+v.v2)
	healed := v.save()
	for name, damage := range map[string]func(){
		"root":  func() { v.spoilRoots(v.lastGeneration()) },
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

// A root that doesn't open may be one of a newer version: it is told, never
// removed or replaced, and its number isn't used again.
func TestHostileRepairLeavesNewerRootsAlone(t *testing.T) {
	t.Parallel()
	v := newVictim(t, build{})
	newest := v.lastGeneration()
	b := readFile(t, v.roots[0])
	b[hostileMark]++
	b[hostileHeader+39]++ // the generation in its clear part
	v.putRoot(newest+1, b)
	v.attack(v.world, "newer root", "list", 0).says("or of a newer version")
	v.attack(v.world, "newer root", "check", 13)
	v.run("check", "--repair")
	v.ok("backup", "v=file:"+v.v1)
	for _, path := range v.rootsOf(newest + 1) {
		if !bytes.Equal(readFile(t, path), b) {
			t.Errorf("%s was changed", path)
		}
	}
	if n := len(v.rootsOf(newest + 1)); n != 2 {
		t.Errorf("of the newer root %d objects are left", n)
	}
	if g := v.list().Archive.Generation; g <= newest+1 {
		t.Errorf("generation %d came after %d", g, newest+1)
	}
}
