package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Another archive, an older root, or one that went another way, in the place of
// what was seen is told apart; each can be accepted.
func TestHostileReplayAndForks(t *testing.T) {
	t.Parallel()
	v := newVictim(t, build{})
	gone := func(v *victim) {
		if err := os.RemoveAll(v.store); err != nil {
			v.t.Fatal(err)
		}
	}
	stranger := newVictim(t, build{})
	for name, play := range map[string]func(v *victim){
		"older root": func(v *victim) { v.backTo(v.lastGeneration() - 1) },
		"first root": func(v *victim) { v.backTo(1) },
		"another archive": func(v *victim) {
			gone(v)
			cloneTree(v.t, stranger.store, v.store, false)
		},
		// The same host and place, with its memory lost in between, made
		// another root of the generation that was seen, and then one more.
		"fork":            func(v *victim) { v.fork(1) },
		"fork that grows": func(v *victim) { v.fork(2) },
	} {
		t.Run(name, func(t *testing.T) {
			v := v.at(t)
			v.rewind(v.whole)
			play(v)
			for _, command := range []string{"list", "verify", "check", "backup"} {
				v.attack(v.world, name, command, 14)
			}
			v.exits(14, "check", "--repair").oneLine()
			v.exits(14, "restore", "v", "--to", v.path("out/v")).oneLine()
			// A host that knows nothing can't tell.
			v.other("other-"+strings.ReplaceAll(name, " ", "-")).ok("list", "-q")
			v.ok("list", "-q", "--allow-rollback")
			v.ok("list", "-q")
			v.ok("backup", "v=file:"+v.v1)
			v.verifies(killedState{"v", "latest", v.v1})
			v.ok("check", "-q", "--read-data=100")
		})
	}
	t.Run("nothing", func(t *testing.T) {
		v := v.at(t)
		v.rewind(v.whole)
		gone(v)
		if err := os.Mkdir(v.store, 0o700); err != nil {
			t.Fatal(err)
		}
		v.attack(v.world, "no objects", "list", 10)
		v.other("fresh").exits(10, "list")
	})
}

// fork makes the archive go another way than the one that was seen, in n steps
// from the root before it.
func (v *victim) fork(n int) {
	v.t.Helper()
	v.backTo(v.lastGeneration() - 1)
	forgetful := v.other(fmt.Sprint("forgetful", n))
	for i := range n {
		forgetful.ok("backup", "w=file:"+v.image("fork.img", fmt.Sprintf("random:100000:%d", 20+i)))
	}
}
