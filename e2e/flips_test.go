package e2e

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"
)

// named are the names of objects in what a program writes.
var named = regexp.MustCompile(`\b(head|roots|packs|index)/[0-9a-f][0-9a-f/-]*`)

// TestFlippedBitsAndEveryCommand: whichever bit of an object is flipped, each command
// does what it does with the whole archive, or names that object and no other. What
// is there twice, and a root whose other copy opens, costs nothing; a chunk costs
// what needs it. All bytes, one command each, are TestHostileFlippedBytes.
func TestFlippedBitsAndEveryCommand(t *testing.T) {
	t.Parallel()
	v := newVictim(t, build{static: true})
	random := rand.New(rand.NewPCG(4, 11))
	commands := [][]string{
		{"list"}, {"verify", "--all-sessions"}, {"check"}, {"restore", "v", "--session", "#1", "--to", "out/v"},
		{"backup", "--dry-run", "v=file:v.3"}, {"backup", "v=file:v.3"}, {"backup", "--verify", "v=file:" + v.v1},
	}
	for _, path := range []string{v.roots[0], v.roots[1], v.index[0][0], v.index[1][1], v.meta[1][0], v.meta[0][1], v.data[0]} {
		object, size := v.object(path), int64(len(readFile(t, path)))
		for _, off := range []int64{hostileMark, hostileHeader + random.Int64N(size-hostileHeader)} {
			for _, args := range commands {
				v.rewind(v.whole)
				b := readFile(t, path)
				b[off] ^= 1 << random.IntN(8)
				replaceFile(t, path, b)
				what := fmt.Sprintf("%s, byte %d of %d", object, off, size)
				r := v.run(args...)
				costs := r.code == 13 && (path == v.data[0] || args[0] == "check")
				if r.code != 0 && !costs {
					t.Errorf("%s: %s\nwas to succeed", what, r)
				}
				found := named.FindAllString(r.stdout+r.stderr, -1)
				for _, name := range found {
					if name != object {
						t.Errorf("%s: %s\nnames %s", what, r, name)
					}
				}
				if r.code != 0 && len(found) == 0 {
					t.Errorf("%s: %s\nnames nothing", what, r)
				}
				v.readable(what, r)
			}
		}
	}
}
