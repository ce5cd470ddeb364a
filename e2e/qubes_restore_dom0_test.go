package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/protocol"
)

// tree is what is below a directory: the mode, and the content or where a link leads to, by path.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			text += " " + string(readFile(t, path)) + info.ModTime().UTC().Format(" 2006-01-02T15:04:05")
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + to
		}
		all[strings.TrimPrefix(path, dir)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// dom0Dirs are the directories that dom0 was restored to, by name.
func (q *qubesWorld) dom0Dirs(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob(q.dir + "/dom0-restore-*")
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// TestQubesRestoreDom0: dom0's files come back beside the live ones, as they were, and for nobody else to see.
func TestQubesRestoreDom0(t *testing.T) {
	t.Parallel()
	q := newQubesWorld(t, anyGround(), "4.3")
	home := q.files + "/home/user"
	writeFile(t, home+"/secret", []byte("of nobody's business"))
	writeFile(t, home+"/run me", []byte("#!/bin/sh\n"))
	for name, mode := range map[string]fs.FileMode{"secret": 0o600, "run me": 0o4755, "Documents": 0o1700} {
		set := mode.Perm()
		if mode&0o4000 != 0 {
			set |= fs.ModeSetuid
		}
		if mode&0o1000 != 0 {
			set |= fs.ModeSticky
		}
		if err := os.Chmod(home+"/"+name, set); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"away": "../../../../../../etc/shadow", "root": "/", "dangling": "nowhere"} {
		if err := os.Symlink(to, home+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(home+"/secret", time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	q.ok("init")
	q.ok("backup", "dom0", q.dom0Files())
	saved := tree(t, q.files)
	q.api.ForgetCalls()

	r := q.ok("restore", "dom0").prints("Restored dom0 of session #1 to " + q.dir + "/dom0-restore-")
	dirs := q.dom0Dirs(t)
	if len(dirs) != 1 {
		t.Fatalf("%s\nmade %q", r, dirs)
	}
	if info, err := os.Stat(dirs[0]); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("the directory is %v, %v", info, err)
	}
	got := tree(t, dirs[0]+q.files)
	// What wears a special bit is another's to run: it is not made here.
	for path, want := range saved {
		if strings.Contains(want, "#!/bin/sh") {
			want = strings.Replace(want, "urwxr-xr-x", "-rwxr-xr-x", 1)
			got[path] = strings.Replace(got[path], "urwxr-xr-x", "-rwxr-xr-x", 1)
		}
		// What is above a saved directory is made for the restore alone.
		if above := path == "" || path == "/home" || path == "/etc"; !above && got[path] != want {
			t.Errorf("%s is %q, want %q", path, got[path], want)
		}
	}
	if len(got) != len(saved) {
		t.Errorf("there are %d files, want %d", len(got), len(saved))
	}
	text := string(readFile(t, dirs[0]+"/dom0-settings.txt"))
	for _, line := range []string{"[global properties]", `default_template = "fedora-42-xfce"`, "[tags of dom0]"} {
		if !strings.Contains(text, line) {
			t.Errorf("the settings lack %q:\n%s", line, text)
		}
	}
	if now := tree(t, q.files); fmt.Sprint(now) != fmt.Sprint(saved) {
		t.Error("live files were changed")
	}
	if calls := q.api.Changes(); len(calls) > 0 {
		t.Errorf("restoring dom0 made the calls %v", calls)
	}

	// Others of the same second, halves, and what doesn't go.
	for i := range 30 {
		dir := q.dir + "/dom0-restore-" + time.Now().Add(time.Duration(i)*time.Second).UTC().Format("20060102T150405Z")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(q.files, q.dom0Dirs(t)[0]+"-2"); err != nil {
		t.Fatal(err)
	}
	halves := func(args ...string) (files, settings bool) {
		t.Helper()
		before := q.dom0Dirs(t)
		q.ok(append([]string{"restore", "dom0"}, args...)...)
		fresh := slices.DeleteFunc(q.dom0Dirs(t), func(d string) bool { return slices.Contains(before, d) })
		if len(fresh) != 1 {
			t.Fatalf("%v made %q", args, fresh)
		}
		return exists(fresh[0] + q.files), exists(fresh[0] + "/dom0-settings.txt")
	}
	if files, settings := halves(); !files || !settings {
		t.Error("a second one isn't whole")
	}
	if files, settings := halves("--settings-only"); files || !settings {
		t.Errorf("--settings-only: files %v, settings %v", files, settings)
	}
	if files, settings := halves("--data-only"); !files || settings {
		t.Errorf("--data-only: files %v, settings %v", files, settings)
	}
	if now := tree(t, q.files); fmt.Sprint(now) != fmt.Sprint(saved) {
		t.Error("live files were changed")
	}
	q.exits(2, "restore", "dom0", "--as", "dom1")
	homeless := *q.world
	homeless.env = append(slices.Clone(q.env), "HOME=")
	homeless.exits(1, "restore", "dom0").oneLine().says("no home directory", "set HOME")
}

// TestQubesRestoreDom0Stopped: what is cut short, or damaged, doesn't look like a whole restore, and stops no qube.
func TestQubesRestoreDom0Stopped(t *testing.T) {
	t.Parallel()
	q := small(t, anyGround(), build{static: true})
	writeFile(t, q.files+"/home/user/large", content("random:600K:1"))
	pack, _ := q.newest(t, func() { q.ok("backup", "dom0", q.dom0Files()) })
	live := tree(t, q.files)
	proxied := q.world.proxied(proxyPlan{})
	for n := 1; ; n += 2 {
		before := q.dom0Dirs(t)
		r := proxied.planned(proxyPlan{Fault: "interrupt-pinion", Type: protocol.TypeGet, At: n}).run("restore", "dom0")
		if r.code == 0 {
			break
		}
		r.expect(130)
		for _, dir := range q.dom0Dirs(t) {
			if !slices.Contains(before, dir) && !strings.HasSuffix(dir, ".part") {
				t.Errorf("%s\nleft %s", r, dir)
			}
		}
	}
	if dirs := slices.DeleteFunc(q.dom0Dirs(t), func(d string) bool { return strings.HasSuffix(d, ".part") }); len(dirs) != 1 {
		t.Errorf("there are %q", dirs)
	}

	lines, data := q.describe(t), q.contents(t)
	q.write(t, "work", "private", 0, "random:64K:2")
	flip(t, pack, 5000)
	before := q.dom0Dirs(t)
	r := q.exits(13, "restore", "dom0").clean()
	for _, dir := range q.dom0Dirs(t) {
		if !slices.Contains(before, dir) && !(strings.HasSuffix(dir, ".part") && strings.Contains(r.stderr, dir)) {
			t.Errorf("%s\nleft %s", r, dir)
		}
	}
	r, doc := q.restoreDoc(13, "--all", "--yes")
	r.clean()
	if len(doc.Qubes) != 4 || doc.Dom0Dir != "" {
		t.Errorf("%s", r)
	}
	sameContents(t, q.contents(t), data)
	sameQubes(t, q.describe(t), lines, machineOwn)
	flip(t, pack, 5000)
	// With --to on any machine: qubesd isn't asked.
	q.api.ForgetCalls()
	q.ok("restore", "dom0", "--to", q.path("elsewhere")).prints("Restored dom0 of session", q.path("elsewhere"))
	if got := tree(t, q.path("elsewhere")+q.files+"/home"); fmt.Sprint(got) != fmt.Sprint(tree(t, q.files+"/home")) {
		t.Error("--to has other files")
	}
	if calls := q.api.Calls(); len(calls) > 0 {
		t.Errorf("the calls are %v", calls)
	}
	_, doc = q.restoreDoc(0, "dom0")
	if got := tree(t, doc.Dom0Dir+q.files+"/home"); fmt.Sprint(got) != fmt.Sprint(tree(t, q.files+"/home")) {
		t.Errorf("%q has other files", doc.Dom0Dir)
	}
	if now := tree(t, q.files); fmt.Sprint(now) != fmt.Sprint(live) {
		t.Error("live files were changed")
	}
}

// TestQubesRestoreTo: with --to the name of a qube means its volumes, and nothing is asked of qubesd.
func TestQubesRestoreTo(t *testing.T) {
	t.Parallel()
	q := small(t, anyGround(), build{static: true})
	data := q.contents(t)
	q.api.ForgetCalls()
	to := q.path("out")
	q.ok("restore", "fedora", "--to", to).prints("fedora:private", "fedora:root")
	for _, name := range []string{"fedora:private", "fedora:root"} {
		sameBytes(t, name, readFile(t, to+"/"+name), data[name])
	}
	q.ok("restore", "work", "--to", q.path("work")) // a directory, too, of a qube with one volume
	sameBytes(t, "work", readFile(t, q.path("work/work:private")), data["work:private"])
	q.ok("restore", "work:private", "--to", q.path("work.img"))
	sameBytes(t, "work.img", readFile(t, q.path("work.img")), data["work:private"])
	q.ok("restore", "work", "--to", to) // a directory that is there
	sameBytes(t, "work:private", readFile(t, to+"/work:private"), data["work:private"])
	q.ok("restore", "fedora:root", "--to", q.path("root.img"))
	sameBytes(t, "root.img", readFile(t, q.path("root.img")), data["fedora:root"])
	q.ok("restore", "--all", "--to", q.path("all"))
	for name, b := range data {
		sameBytes(t, name, readFile(t, q.path("all")+"/"+name), b)
	}
	if q.exits(2, "restore", "fedora", "--to", q.path("work.img")).says("is a qube"); !bytes.Equal(readFile(t, q.path("work.img")), data["work:private"]) {
		t.Error("the file was changed")
	}
	for _, option := range []string{"--as=x", "--settings-only", "--data-only", "--skip-conflicting", "--rename-conflicting", "--pool=p", "--skip-prop=x"} {
		q.exits(2, "restore", "work", "--to", q.path("x"), option)
	}
	q.exits(1, "restore", "nobody", "--to", q.path("x")).oneLine().says("nobody")
	q.exits(2, "restore", "work:private").says("--to")
	q.exits(2, "restore", "work", "--in-place").says("--to")
	if calls := q.api.Changes(); len(calls) > 0 {
		t.Errorf("the calls are %v", calls)
	}
	// A device; too small is refused.
	needRoot(t)
	large := loop(t, makeImage(t, q.path("large"), "random:4M:1"))
	q.ok("restore", "work:private", "--to", large, "--yes")
	b := readAll(t, large)
	sameBytes(t, "a device", b[:len(data["work:private"])], data["work:private"])
	if len(bytes.Trim(b[len(data["work:private"]):], "\x00")) > 0 {
		t.Error("what is behind the volume isn't zeros")
	}
	little := loop(t, makeImage(t, q.path("little"), "random:1M:1"))
	q.exits(1, "restore", "work:private", "--to", little, "--yes").oneLine()
	sameBytes(t, "a device that is too small", readAll(t, little), content("random:1M:1"))
	// A machine that is not dom0 has no place for qubes, but for their volumes.
	elsewhere := *q.world
	elsewhere.env = []string{"PINION_QUBESD_SOCKET=" + q.path("no.sock")}
	elsewhere.exits(2, "restore", "work", "--yes").oneLine().says("not dom0 of Qubes OS", "--to")
	elsewhere.ok("restore", "work:private", "--to", q.path("elsewhere.img"))
	sameBytes(t, "elsewhere", readFile(t, q.path("elsewhere.img")), data["work:private"])
}

// TestQubesRestorePrints: tables of 80 columns, nothing with --quiet, and one document with --json.
func TestQubesRestorePrints(t *testing.T) {
	t.Parallel()
	q := newQubesWorld(t, anyGround(), "4.3")
	q.fill(t)
	q.ok("init")
	q.ok("backup", "--all", q.dom0Files())
	q.remove(t, "work", "mgmt", "win-legacy")
	r := q.ok("restore", "work", "win-legacy").narrow().clean()
	r.prints("QUBE", "SETTINGS", "PRIVATE", "ROOT", "win-legacy")
	q.remove(t, "work", "win-legacy")
	if r := q.ok("--quiet", "restore", "work", "dom0", "win-legacy"); r.stdout != "" || r.stderr != "" {
		t.Errorf("%s\nwas to print nothing", r)
	}
	if err := q.api.StartQube("vault"); err != nil {
		t.Fatal(err)
	}
	r = q.exits(3, "restore", "--all", "--yes").clean().says("vault is running")
	_, r.stdout, _ = strings.Cut(r.stdout, "\n") // which has the path of a directory of the test's
	r.narrow()
	r, doc := q.restoreDoc(3, "--all", "--yes")
	if len(doc.Qubes) != len(q.api.Qubes())-1 || len(doc.Volumes) < 10 || doc.Error == nil {
		t.Errorf("%s", r)
	}
	for _, d := range doc.Qubes {
		if d.Session == "" || d.Volumes == nil || d.Refused == nil || d.Notes == nil {
			t.Errorf("%+v", d)
		}
	}
	if r := q.exits(3, "--quiet", "restore", "--all", "--yes"); r.stdout != "" || !strings.Contains(r.stderr, "vault is running") {
		t.Errorf("%s\nwas to print the error only", r)
	}
}
