package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a store sees tells neither how often a pattern occurs, nor where, nor in
// how many volumes, and nothing in it is readable.
func TestRowS11StoreSeesNothing(t *testing.T) {
	t.Parallel()
	// The same 3 MiB of distinct data each time.
	data := []string{"random:1M:1", "random:2M:2"}
	shapes := map[string]func(w *world) []string{
		"one volume": func(w *world) []string {
			return []string{"top-secret-name=file:" + w.image("v", data...)}
		},
		"a pattern at two offsets": func(w *world) []string {
			return []string{"top-secret-name=file:" + w.image("v", data[0], "hole:7M", data[0], data[1])}
		},
		"two equal volumes": func(w *world) []string {
			return []string{"top-secret-name=file:" + w.image("v", data...), "another-secret=file:" + w.image("u", data...)}
		},
		"two volumes that share": func(w *world) []string {
			return []string{"top-secret-name=file:" + w.image("v", data...), "another-secret=file:" + w.image("u", data[1])}
		},
	}
	var seen []string
	var kinds []string
	for shape, sources := range shapes {
		w := archive(t)
		began := time.Now()
		w.backup(append(sources(w), "--tag", "secret-tag,secret-text")...)
		// Large objects hold data: their sizes are all that there is to see.
		// The small ones differ by what a few hundred bytes of metadata do.
		var large []string
		objects := 0
		for name, size := range files(t, w.store) {
			if strings.HasPrefix(name, "packs/") || strings.HasPrefix(name, "index/") {
				objects++
			}
			if size > 64<<10 {
				large = append(large, fmt.Sprint(size))
			}
			if !regexp.MustCompile(`^(README\.txt|head/[0-9]{12}|roots/[0-9]{12}-[0-9a-f]{32}|lock\.(use|write)|index/[0-9a-f]{32}|packs/[0-9a-f]{2}/[0-9a-f]{32})$`).MatchString(name) {
				t.Errorf("%s: an object is called %s", shape, name)
			}
		}
		slices.Sort(large)
		seen = append(seen, fmt.Sprint(large, objects))
		kinds = append(kinds, shape)
		w.nothingInClear(began, "top-secret-name", "another-secret", "secret-tag", "secret-text", w.dir)
	}
	for i := range seen {
		if seen[i] != seen[0] {
			t.Errorf("%s looks like %s, %s like %s", kinds[i], seen[i], kinds[0], seen[0])
		}
	}
}

// nothingInClear looks for names, for the host and for times in all objects.
func (w *world) nothingInClear(began time.Time, names ...string) {
	w.t.Helper()
	if host, err := os.Hostname(); err == nil && len(host) > 3 {
		names = append(names, host)
	}
	for name := range files(w.t, w.store) {
		b := readFile(w.t, filepath.Join(w.store, name))
		for _, secret := range names {
			if bytes.Contains(b, []byte(secret)) {
				w.t.Errorf("%s holds %q in clear", name, secret)
			}
		}
		// The time now as seconds, milli- or nanoseconds, in either order of
		// bytes, at any offset. Random bytes of this amount meet the five or
		// more bytes that are compared about once in 10^4 tests.
		for off := 0; off+8 <= min(len(b), 64<<10); off++ {
			for _, n := range []uint64{binary.BigEndian.Uint64(b[off:]), binary.LittleEndian.Uint64(b[off:])} {
				for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Nanosecond} {
					from, to := uint64(began.UnixNano()/int64(unit)), uint64(time.Now().UnixNano()/int64(unit))
					if n >= from && n <= to {
						w.t.Errorf("%s holds the time in clear at %d", name, off)
					}
				}
			}
		}
	}
}

// What the program is called changes nothing; objects say what they are, and of
// what version.
func TestRowS16NamesAndVersions(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	dir := t.TempDir()
	run(t, "cp", filepath.Join(w.bin, "pinion"), filepath.Join(dir, "p2"))
	p2 := w.command("list", "--json")
	p2.Path = filepath.Join(dir, "p2")
	if out, err := p2.Output(); err != nil || !bytes.Contains(out, []byte(`"name":"v"`)) {
		t.Errorf("under another name: %v\n%s", err, out)
	}
	for prefix, kind := range map[string]string{"head/": "R", "roots/": "R", "packs/": "P", "index/": "I"} {
		for _, path := range w.under(prefix) {
			if b := readFile(t, path); string(b[:8]) != "PINION"+kind+"\x02" {
				t.Errorf("%s begins with %q", path, b[:8])
			}
		}
	}
	// Of a root that doesn't open nobody can tell whether it is newer. Below one
	// that opens another version is damage.
	for _, kind := range []struct {
		prefix string
		list   int
		says   string
	}{
		{"head/", 0, ""}, {"roots/", 0, ""}, {"", 13, "or of a newer version"},
		{"packs/", 0, ""}, {"index/", 0, "tables of contents"},
	} {
		x := w.other("newer" + strings.TrimSuffix(kind.prefix, "/"))
		x.store = filepath.Join(t.TempDir(), "store")
		run(t, "cp", "-a", w.store, x.store)
		for _, path := range x.under(kind.prefix) {
			if b := readFile(t, path); strings.HasPrefix(string(b), "PINION") {
				b[7]++
				writeFile(t, path, b)
			}
		}
		x.exits(kind.list, "list").says(kind.says)
		x.exits(13, "check")
	}
}

// Onto a copy of which a hundredth differs, only that is fetched and written,
// and what the file shares with its sibling on the disk stays shared.
func TestRowS17SparseRestore(t *testing.T) {
	t.Parallel()
	dir := mounted(t, "btrfs", 1<<30)
	w := worldIn(t, dir, programs(t, build{}))
	w.ok("init")
	const size, changed = 100 * mib, mib
	v := w.image("v", "random:100M:1")
	w.backup("file:" + v)
	sibling := w.path("sibling")
	run(t, "cp", "--reflink=always", v, sibling)
	overwrite(t, sibling, 10*mib, "random:512K:2")
	overwrite(t, sibling, 70*mib+chunk, "random:512K:3")
	doc := document[restoreDoc](w.ok("restore", "v", "--to", sibling, "--sparse", "--json"))
	if got := doc.Volumes[0]; got.Written != changed || got.Fetched > changed*12/10 {
		t.Errorf("of %d changed bytes: %+v", changed, got)
	}
	same(t, sibling, v)
	run(t, "sync", "-f", sibling)
	if shared := sharedBytes(t, sibling); shared < size*98/100 {
		t.Errorf("of %d bytes only %d are still shared", size, shared)
	}
	before, err := os.Stat(sibling)
	if err != nil {
		t.Fatal(err)
	}
	doc = document[restoreDoc](w.ok("restore", "v", "--to", sibling, "--sparse", "--json"))
	if got := doc.Volumes[0]; got.Written != 0 || got.Fetched != 0 {
		t.Errorf("onto the same: %+v", got)
	}
	if after, err := os.Stat(sibling); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("a file that was right already was written to: %v", err)
	}
}

// sharedBytes is how much of a file lies in extents that another file has too.
func sharedBytes(t testing.TB, path string) (sum int64) {
	t.Helper()
	for _, line := range lines(run(t, tool(t, "filefrag", "e2fsprogs"), "-v", "-b1", path)) {
		f := strings.Split(line, ":")
		if len(f) >= 5 && strings.Contains(f[len(f)-1], "shared") {
			n, err := strconv.ParseInt(strings.TrimSpace(f[3]), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}

// bareRoot is an empty system with nothing but the two programs and an archive
// of two sessions in it, and a directory w that is anybody's.
func bareRoot(t *testing.T) (root string, was, is []byte) {
	needRoot(t)
	root = t.TempDir()
	bin := programs(t, build{static: true})
	w := worldIn(t, t.TempDir(), bin)
	w.ok("init")
	v := w.image("v", "text:1M:1", "hole:3M", "random:1M:2")
	was = readFile(t, v)
	w.backup("file:" + v)
	overwrite(t, v, 0, "random:256K:3")
	is = readFile(t, v)
	w.backup("file:" + v)
	for _, dir := range []string{"bin", "tmp", "w"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "cp", filepath.Join(bin, "pinion"), filepath.Join(bin, "pinion-store"), root+"/bin")
	run(t, "cp", "-a", w.store, root+"/w/store")
	run(t, "cp", w.key, root+"/w/key")
	run(t, "chown", "-R", fmt.Sprint(nobody), root+"/w")
	forEverybody(t, root)
	return root, was, is
}

// bare runs pinion in such a system as a user that is nobody.
func bare(t *testing.T, root string, code int, args ...string) string {
	t.Helper()
	cmd := exec.Command("/bin/pinion", append(args, "--keyfile", "/w/key", "--dest", "file:/w/store")...)
	cmd.Dir = "/w"
	cmd.Env = []string{"PATH=/bin", "HOME=/w"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		t.Fatalf("pinion %s: %v\n%s", args, err, &stderr)
	}
	return stdout.String()
}

// The archive, the key and the two programs are all that it takes to get data
// back: no root, no state, no other file of the system, not even /proc.
func TestRowS19RestoreOnABareMachine(t *testing.T) {
	t.Parallel()
	root, was, is := bareRoot(t)
	if out := bare(t, root, 0, "list"); !strings.Contains(out, "#2") {
		t.Errorf("list printed %s", out)
	}
	expect := func(path string, want []byte) {
		t.Helper()
		if got := readFile(t, filepath.Join(root, path)); !bytes.Equal(got, want) {
			t.Errorf("%s is not what was backed up", path)
		}
	}
	bare(t, root, 0, "restore", "v", "--to", "./v.img")
	expect("/w/v.img", is)
	bare(t, root, 0, "verify", "--all-sessions")
	// To another host's archive nothing is written by mistake.
	bare(t, root, 16, "backup", "file:/w/v.img")
	// The same from an archive that can't be written, whoever asks.
	mount(t, root+"/w/store", "--bind", root+"/w/store")
	run(t, "mount", "-o", "remount,bind,ro", root+"/w/store")
	bare(t, root, 0, "restore", "v", "--session", "#1", "--to", "./v1.img")
	expect("/w/v1.img", was)
	bare(t, root, 0, "check")
}

// Neither program needs a place for temporary files: everything works where
// the whole system but the archive, the state and the target is read-only.
func TestRowS31ReadOnlySystem(t *testing.T) {
	t.Parallel()
	root, _, is := bareRoot(t)
	system := t.TempDir()
	forEverybody(t, system)
	mount(t, system, "--bind", root)
	run(t, "mount", "-o", "remount,bind,ro", system)
	mount(t, system+"/w", "--bind", root+"/w")
	bare(t, system, 0, "restore", "v", "--to", "/w/v.img")
	if got := readFile(t, root+"/w/v.img"); !bytes.Equal(got, is) {
		t.Error("the restored file is not what was backed up")
	}
	bare(t, system, 0, "backup", "--adopt", "v=file:/w/v.img")
	bare(t, system, 0, "check", "--repair")
	bare(t, system, 0, "verify", "--all-sessions")
	if n := len(files(t, root+"/tmp")); n > 0 {
		t.Errorf("/tmp has %d files", n)
	}
}

// Watched at work, neither program makes a file outside of the archive, the
// state, the cache and the target.
func TestRowS31NoTemporaryFiles(t *testing.T) {
	t.Parallel()
	strace := tool(t, "strace", "strace")
	w := newWorldOf(t, build{static: true})
	v := w.image("v", "random:20M:1", "text:4M:2")
	trace := w.path("trace")
	if err := os.Mkdir(w.path("to"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"init"}, {"backup", "--verify", "file:" + v}, {"list"}, {"verify"}, {"check", "--repair"},
		{"restore", "v", "--to", w.path("to/v")}, {"restore", "v", "--to", w.path("to/v"), "--in-place"},
	} {
		cmd := w.command(args...)
		cmd.Args = append([]string{
			"strace", "-f", "-qq", "-o", trace, "-e", "trace=open,openat,creat,mkdir,mkdirat,mknod,mknodat,symlink,symlinkat,link,linkat,memfd_create",
			cmd.Path,
		}, cmd.Args[1:]...)
		cmd.Path = strace
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args, err, out)
		}
		made := 0
		for _, line := range lines(string(readFile(t, trace))) {
			if strings.Contains(line, "open") && !strings.Contains(line, "O_CREAT") && !strings.Contains(line, "O_TMPFILE") {
				continue
			}
			path := regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`).FindStringSubmatch(line)
			if path == nil || !filepath.IsAbs(path[1]) {
				// The helper, and a restore for its target, open a directory
				// and name files relative to it.
				made++
				if path != nil && strings.Contains(path[1], "..") {
					t.Errorf("%s: %s", args, line)
				}
				continue
			}
			made++
			inside := false
			for _, dir := range []string{w.store, w.state, w.cache, w.path("to")} {
				inside = inside || path[1] == dir || strings.HasPrefix(path[1], dir+"/")
			}
			// A directory that is there already is not made.
			if !inside && !strings.Contains(line, "EEXIST") {
				t.Errorf("%s: %s", args, line)
			}
		}
		if made == 0 && args[0] != "list" && args[0] != "verify" {
			t.Errorf("%s: the trace shows no file being made", args)
		}
	}
}

// What a killed run leaves is gone after one more command.
func TestRowS31NothingStrayAfterAKill(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:40M:1")
	w.ok("backup", "file:"+v)
	before := files(t, w.state)
	overwrite(t, v, 0, "random:40M:7")
	for _, victim := range []string{"pinion", "helper"} {
		// In the middle of the second pack.
		x := w.usesStandIn("killer", fmt.Sprint("PINION_E2E_BYTES=", 25*mib), "PINION_E2E_VICTIM="+victim)
		if r := x.run("backup", "file:"+v); r.code == 0 {
			t.Fatalf("%s\nwas to be stopped", r)
		}
		w.ok("backup", "file:"+v)
		w.strays()
		overwrite(t, v, 0, "random:40M:2")
	}
	partial := w.path("restored")
	r := w.usesStandIn("hold-get", "PINION_E2E_HOLD="+w.path("held")).start("restore", "v", "--to", partial)
	appears(t, w.path("held"))
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.wait(r)
	if _, err := os.Stat(partial); err == nil {
		t.Error("a killed restore left a file that looks finished")
	}
	w.ok("restore", "v", "--to", partial)
	same(t, partial, v)
	for name := range files(t, w.dir) {
		if strings.Contains(name, "partial") || strings.Contains(name, ".tmp") {
			t.Errorf("%s was left", name)
		}
	}
	if after := files(t, w.state); len(after) != len(before) {
		t.Errorf("state was %v, is %v", before, after)
	}
}
