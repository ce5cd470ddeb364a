package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A copy of the directory, by whatever program, is a working archive: it is read
// as it is, and written to after --adopt, under a branch of its own.
func TestCopiesByOtherPrograms(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1", "hole:1M", "text:300K:2")
	w.backup("file:" + v)
	was := copyFile(t, v, w.path("was"))
	overwrite(t, v, 0, "random:200K:3")
	w.backup("file:" + v)
	tools := map[string]string{
		"cp":   `cp -a "$1" "$2"`,
		"tar":  `mkdir "$2" && tar -C "$1" -cf - . | tar -C "$2" -xf -`,
		"bare": `mkdir "$2" && cp -r "$1/head" "$1/roots" "$1/packs" "$1/index" "$2"`,
	}
	if _, err := exec.LookPath("rsync"); err == nil {
		tools["rsync"] = `rsync -a "$1/" "$2"`
	}
	for name, script := range tools {
		t.Run(name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "copy")
			run(t, "/bin/sh", "-c", script, "sh", w.store, to)
			for host, c := range map[string]*world{"same": w.at(to), "other": w.other(name).at(to)} {
				if n := len(c.list().Sessions); n != 2 {
					t.Errorf("%s host: the copy has %d sessions", host, n)
				}
				c.ok("verify", "-q", "--all-sessions")
				c.ok("check", "-q")
				c.restores("v", "latest", v)
				c.restores("v", "#1", was)
			}
			c := w.at(to)
			c.exits(16, "backup", "file:"+v).oneLine().says("is a copy of the archive at", "--adopt")
			before := c.list().Archive
			c.ok("backup", "--adopt", "file:"+v)
			c.ok("backup", "file:"+v)
			after := c.list().Archive
			if after.ID != before.ID || after.Branch == before.Branch || after.Branch == w.list().Archive.Branch {
				t.Errorf("the copy is of branch %s, and was of %s", after.Branch, before.Branch)
			}
			w.ok("list", "-q")
			w.ok("backup", "-q", "file:"+v, "--dry-run")
		})
	}
}

// A copy made by another program while a backup commits: with the roots first it
// is the older state, whole. With the roots last, packs may be missing, which
// check tells, and copying once more mends.
func TestCopiesByOtherProgramsWhileABackupRuns(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	was := copyFile(t, v, w.path("was"))
	first, last := w.path("root-first"), w.path("root-last")
	rest := func(to string) { run(t, "cp", "-a", w.store+"/packs", w.store+"/index", to) }
	roots := func(to string) { run(t, "cp", "-a", w.store+"/head", w.store+"/roots", to) }
	for _, dir := range []string{first, last} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	roots(first)
	rest(last)
	overwrite(t, v, 0, "random:512K:2")
	w.backup("file:" + v)
	rest(first)
	roots(last)

	c := w.other("first").at(first)
	if n := len(c.list().Sessions); n != 1 {
		t.Errorf("root first: %d sessions", n)
	}
	c.ok("verify", "-q", "--all-sessions")
	c.ok("check", "-q")
	c.restores("v", "latest", was)

	c = w.other("last").at(last)
	c.exits(13, "check").prints("damaged: index/", "is missing")
	rest(last)
	c.ok("check", "-q", "--read-data")
	c.restores("v", "latest", v)
}
