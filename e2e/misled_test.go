package e2e

import (
	"os"
	"testing"
)

// A secret that a key has already makes no second key: to remove one of two such keys
// would close nothing.
func TestKeySecretThatIsThereAlready(t *testing.T) {
	t.Parallel()
	w := archive(t)
	pass := w.path("pass")
	writeFile(t, pass, []byte("correct horse battery\n"))
	w.ok("key", "add", "--new-passfile", pass)
	before := w.ok("key", "list").stdout
	for _, args := range [][]string{
		{"key", "add", "--new-passfile", pass}, {"key", "add", "--new-keyfile", w.key},
		{"key", "change", "--new-passfile", pass}, {"key", "change", "--new-keyfile", w.key},
	} {
		w.exits(1, args...).oneLine().says("has that secret already", "nothing was changed")
	}
	if now := w.ok("key", "list").stdout; now != before {
		t.Errorf("the keys were\n%s\nand are\n%s", before, now)
	}
	// A file that is no key file is not to be made anew in its place.
	short := w.path("short")
	writeFile(t, short, []byte("short"))
	w.exits(1, "list", "--keyfile", short).says("look for the right file")
}

// Where a disk isn't mounted, init makes nothing in its place.
func TestInitWhereADiskIsNotMounted(t *testing.T) {
	t.Parallel()
	w := archive(t)
	away := w.path("away")
	if err := os.Rename(w.store, away); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.exits(10, "init").oneLine().says("is the disk mounted?", "--allow-rollback")
	}
	if _, err := os.Lstat(w.store); !os.IsNotExist(err) {
		t.Errorf("something was made: %v", err)
	}
	if err := os.Mkdir(w.store, 0o700); err != nil {
		t.Fatal(err)
	}
	w.exits(10, "init").oneLine().says("is the disk mounted?")
	w.ok("init", "--allow-rollback")
}

// What has packs and no root is no empty place, with a key at hand or without.
func TestCopyOfAnArchiveWithoutRoots(t *testing.T) {
	t.Parallel()
	w := archive(t)
	w.backup("file:" + w.image("v", "random:300K:1"))
	for _, dir := range []string{"/head", "/roots"} {
		if err := os.RemoveAll(w.store + dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []*world{w, w.keyless()} {
		x.exits(13, "copy", "--to", "file:"+w.path("to")).oneLine().says("root: is missing", "check --repair")
	}
	w.other("reader").keyless().exits(10, "copy", "--to", "file:"+w.path("to")).oneLine().says("parts of one without its root")
}

// What is there twice and lost once is no loss of any session's.
func TestCheckSaysWhetherAnythingIsLost(t *testing.T) {
	t.Parallel()
	w := archive(t)
	w.backup("file:" + w.image("v", "random:300K:1"))
	for _, prefix := range []string{"index/", "packs/"} {
		t.Run(prefix, func(t *testing.T) {
			for _, path := range w.under(prefix) {
				whole := readFile(t, path)
				if len(whole) > 100<<10 {
					continue // data is there once
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				w.exits(13, "check").says("1 object of the archive can't be had; nothing that a session holds was found to be lost")
				w.ok("check", "--repair")
				w.ok("check", "-q")
			}
		})
	}
}
