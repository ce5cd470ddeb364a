package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// What can't be read now may be whole: no repair does without it, nothing of it is
// dropped, and once it can be read all is as it was.
func TestRepairBesideWhatCantBeReadNow(t *testing.T) {
	t.Parallel()
	needRoot(t)
	w := archive(t)
	v := w.image("v", "random:300K:1")
	w.backup("file:" + v)
	overwrite(t, v, 0, "random:128K:2")
	w.backup("file:" + v)
	x := w.asNobody(t)
	run(t, "chown", "-R", "65534", w.store)
	x.ok("check", "--read-data", "--adopt")
	var objects []string
	for _, prefix := range []string{"packs/", "roots/", "head/"} {
		for _, path := range w.under(prefix) {
			if prefix != "packs/" || !exists(twinOf(t, path)) { // of a pair, one is made anew from the other
				objects = append(objects, path)
			}
		}
	}
	before := digest(t, w.store)
	for _, path := range objects {
		name, err := filepath.Rel(w.store, path)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			x := *x
			x.t = t
			if err := os.Chmod(path, 0); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{
				{"check", "--repair", "--read-data"}, {"check", "--repair", "--read-data", "--drop-damaged"},
			} {
				r := x.run(append(args, "--adopt")...)
				if r.code == 0 {
					t.Errorf("%s\nended with 0 beside %s", r, name)
				}
			}
			if err := os.Chmod(path, 0o600); err != nil {
				t.Fatal(err)
			}
			if now := digest(t, w.store); fmt.Sprint(now) != fmt.Sprint(before) {
				t.Errorf("the store has changed")
			}
		})
	}
	x.ok("verify", "--all-sessions")
	x.ok("check", "--read-data")
}
