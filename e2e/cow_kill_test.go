package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The kill matrix of the tracker, on real storage: pinion is killed at its
// system calls or, inside User Mode Linux, before and after each command that
// it gives to LVM and device-mapper. After each kill the next backup is right,
// and all sessions give back what dd copied.

// killCalls are the system calls that a step of the tracker ends with.
var killCalls = []string{"ioctl", "renameat", "unlinkat", "fsync", "fchmod", "flock"}

func TestCowKillAtEverySystemCall(t *testing.T) {
	t.Parallel()
	tool(t, "strace", "strace")
	onTrackingGrounds(t, func(t *testing.T, g *ground) {
		if g.thin() {
			t.Skip("there it is killed at every command")
		}
		t.Parallel()
		k := newCowKills(t, g)
		for _, call := range killCalls {
			for at := 1; at <= 30; at = at*3/2 + 1 {
				what := fmt.Sprintf("%s %d", call, at)
				inject := fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, at)
				if !k.round(what, []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e", inject}) {
					break
				}
			}
		}
		k.end()
	})
}

func TestCowKillAtEveryCommand(t *testing.T) {
	t.Parallel()
	g := insideOnly(t)
	k := newCowKills(t, g)
	for _, when := range []string{"before", "after"} {
		for at := 1; ; at++ {
			if at > 60 {
				t.Fatal("a backup gives no end of commands")
			}
			k.wrap(when, at)
			if !k.round(fmt.Sprintf("%s command %d", when, at), nil) {
				t.Logf("%s each of %d commands", when, at-1)
				break
			}
			if g.heldRoot() != "-" {
				t.Errorf("%s command %d: the metadata snapshot was left behind", when, at)
			}
		}
	}
	k.end()
}

// cowKills is a volume that is backed up to two archives, and killed.
type cowKills struct {
	t       *testing.T
	g       *ground
	w       *world
	second  *world
	killing *world
	c       *cow
	kept    []keptState
	n       int
	killed  int
}

func newCowKills(t *testing.T, g *ground) *cowKills {
	w := cowWorld(t)
	second := *w
	second.store = w.path("second")
	second.ok("init")
	k := &cowKills{t: t, g: g, w: w, second: &second, killing: w}
	k.c = g.volume("v", 16<<20, "random:4M:1")
	k.keep(w.backup(k.c.source))
	second.backup(k.c.source)
	return k
}

func (k *cowKills) keep(doc backupDoc) {
	k.kept = append(k.kept, keptState{"v", doc.Session.Seq, k.c.copy()})
}

// round changes the volume, kills a backup or a monitor, and looks. It returns
// false if there was nothing to be killed at.
func (k *cowKills) round(what string, prefix []string) bool {
	k.t.Helper()
	k.n++
	k.c.write(int64(k.n%7)<<20, fmt.Sprintf("random:70000:%d", 100+k.n))
	args := []string{"backup", k.c.source}
	if k.n%3 == 0 {
		args = []string{"monitor"}
	}
	cmd := k.killing.command(args...)
	if len(prefix) > 0 {
		path, rest := tool(k.t, prefix[0], prefix[0]), append(prefix[1:], cmd.Path)
		cmd.Path, cmd.Args = path, append(append([]string{prefix[0]}, rest...), cmd.Args[1:]...)
	}
	said, err := cmd.CombinedOutput()
	if err == nil && args[0] == "backup" {
		return false
	}
	// What is followed are pinion's threads, and its helper with them: that one
	// may be who dies.
	if err != nil && !strings.Contains(err.Error(), "killed") && !strings.Contains(string(said), "signal: killed") {
		k.t.Fatalf("%s: %v\n%s", what, err, said)
	}
	if err != nil {
		k.killed++
	}
	if k.n%2 == 0 {
		k.c.write(8<<20+int64(k.n%5)<<18, fmt.Sprintf("random:70000:%d", 500+k.n))
	}
	doc := k.w.backup(k.c.source)
	k.keep(doc)
	k.w.restores("v", fmt.Sprintf("#%d", doc.Session.Seq), k.c.path)
	if v := doc.one(k.t); v.ReadBytes > 2<<20 {
		k.t.Errorf("%s: %+v", what, v)
	}
	if k.n%4 == 0 {
		k.second.backup(k.c.source)
		k.second.restores("v", "latest", k.c.path)
	}
	if n := len(k.g.snapshots()); n != 1 {
		k.t.Errorf("%s: there are %d snapshots: %v", what, n, k.g.snapshots())
	}
	return !k.t.Failed()
}

func (k *cowKills) end() {
	k.t.Helper()
	if k.killed < 10 {
		k.t.Errorf("only %d runs were killed", k.killed)
	}
	for _, s := range k.kept {
		k.w.restores(s.volume, fmt.Sprintf("#%d", s.session), s.copy)
	}
	k.w.ok("verify", "-q", "--all-sessions")
	k.t.Logf("%d runs were killed", k.killed)
}

// commands are what pinion runs for LVM.
var commands = []string{"lvm", "lvs", "vgs", "lvcreate", "lvremove", "lvchange", "dmsetup", "thin_delta"}

// wrap puts programs in the way that count the commands and kill who gave one.
func (k *cowKills) wrap(when string, at int) {
	k.t.Helper()
	dir := k.t.TempDir()
	count := filepath.Join(dir, "count")
	for _, name := range commands {
		if !hasProgram(name) {
			continue
		}
		if when == "after" && name == "lvs" {
			continue // it changes nothing: that is before the next one
		}
		script := fmt.Sprintf(`#!/bin/sh
n=$(cat %[1]s 2>/dev/null || echo 0)
n=$((n + 1))
echo $n >%[1]s
[ %[2]s = before ] && [ $n = %[3]d ] && kill -9 $PPID && exit 1
%[4]s "$@"
s=$?
[ %[2]s = after ] && [ $n = %[3]d ] && kill -9 $PPID
exit $s
`, count, when, at, tool(k.t, name, "lvm2"))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			k.t.Fatal(err)
		}
	}
	killing := *k.w
	killing.env = append([]string{}, k.w.env...)
	killing.env = append(killing.env, "PATH="+dir+":"+k.w.bin+":/usr/bin:/bin:/usr/sbin:/sbin")
	k.killing = &killing
}
