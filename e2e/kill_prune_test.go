package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/protocol"
)

// changeTypes are the requests that change a store.
var changeTypes = []protocol.Type{protocol.TypePut, protocol.TypeCommit, protocol.TypeCompose, protocol.TypeDelete, protocol.TypePunch}

// pruneSessions is how many sessions a pruneWorld has: enough small packs for
// them to be composed.
const pruneSessions = 18

// without are the sessions of a pruneWorld but for some.
func without(gone ...uint64) (seqs []uint64) {
	for seq := uint64(1); seq <= pruneSessions; seq++ {
		if !slices.Contains(gone, seq) {
			seqs = append(seqs, seq)
		}
	}
	return seqs
}

// pruneWorld is an archive of which sessions can go so that packs are deleted,
// punched, and composed.
func pruneWorld(t *testing.T) (w *world, like map[uint64]string) {
	t.Helper()
	w = newWorldOf(t, build{static: true})
	w.ok("init", "--chunk-size", "64K")
	image, other := w.image("v.img", "random:5M:1", "text:256K:2", "hole:1M"), w.image("o.img", "random:512K:9")
	like = map[uint64]string{}
	for i := range uint64(pruneSessions) {
		overwrite(t, image, int64(i)*192<<10, fmt.Sprintf("random:256K:%d", 20+i), fmt.Sprintf("text:128K:%d", 50+i))
		w.backup("v=file:"+image, "o=file:"+other)
		like[i+1] = copyFile(t, image, w.path(fmt.Sprintf("v.%d", i+1)))
	}
	return w, like
}

// A prune, delete, rename or tag that is killed at any request that changes the
// store leaves the old sessions or the new ones, every one of them whole, for
// whatever command comes next; and it can be run again.
func TestKillRowS01EveryRequestOfAChange_B5_B6(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		args  []string
		after []uint64 // the sessions when it is done
		needs []protocol.Type
		again int // what running it again ends with, if it was done
	}{
		{"prune", []string{"prune", "--session", "#1,#2"}, without(1, 2), changeTypes, 1},
		{"prune-rules", []string{"prune", "--keep-last", "1"}, []uint64{pruneSessions}, nil, 0},
		{"delete", []string{"delete", "o", "--yes"}, without(), nil, 1},
		{"rename", []string{"rename", "o", "other"}, without(), nil, 1},
		{"tag", []string{"tag", "add", "keep", "--session", "#4"}, without(), nil, 0},
	} {
		for _, row := range killRows {
			t.Run(c.name+"/"+row.victim+"-"+row.when, func(t *testing.T) {
				t.Parallel()
				w, like := pruneWorld(t)
				before := w.saveApart()
				types := changeTypes
				if row.when == "half" {
					types = []protocol.Type{protocol.TypePut}
				}
				proxied := w.proxied(proxyPlan{})
				log := filepath.Join(t.TempDir(), "log")
				proxied.planned(proxyPlan{Log: log}).ok(c.args...)
				for _, need := range c.needs {
					if count(events(t, log), "ok", need) == 0 {
						t.Fatalf("an undisturbed %s makes no request of type %v", c.name, need)
					}
				}
				types = slices.DeleteFunc(slices.Clone(types), func(k protocol.Type) bool { return count(events(t, log), "ok", k) == 0 })
				killAtEach(t, "kill-"+row.victim+"-"+row.when, types, func(plan proxyPlan) bool {
					plan.Log = filepath.Join(t.TempDir(), "log")
					w.rewindApart(before)
					r := proxied.planned(plan).run(c.args...)
					log := events(t, plan.Log)
					hit := count(log, "fault", 0) > 0
					if !hit {
						r.expect(0)
					}
					// Nothing but reading yet: what is there is whole.
					what := fmt.Sprintf("%s at request %d: ", plan.Fault, plan.At)
					w.ok("verify", "-q", "--all-sessions")
					seqs := w.seqs()
					done := slices.Equal(seqs, c.after)
					if !done && !slices.Equal(seqs, without()) {
						t.Fatalf("%s%s\nleft the sessions %v", what, r, seqs)
					}
					if r.code == 0 && !done {
						t.Fatalf("%s%s\nand the sessions are %v", what, r, seqs)
					}
					// Run again it ends, or says that there is nothing to do.
					if again := w.run(c.args...); again.code != 0 && again.code != c.again {
						t.Errorf("%s%s\nrun again", what, again)
					}
					if seqs = w.seqs(); !slices.Equal(seqs, c.after) {
						t.Errorf("%sin the end the sessions are %v", what, seqs)
					}
					d := w.backup("v=file:" + w.path("v.img"))
					if d.Volumes[0].NewChunks != 0 {
						t.Errorf("%sthe next backup sends %d chunks", what, d.Volumes[0].NewChunks)
					}
					w.ok("check", "-q", "--read-data")
					w.verifies(killedState{"v", fmt.Sprintf("#%d", c.after[0]), like[c.after[0]]})
					return hit && !t.Failed()
				})
			})
		}
	}
}

// A prune that was killed between its commit and the end of its
// deletes frees the rest later; and no backup takes up packs that it was about
// to free, not even one with holes in it.
func TestPruneKilledBeforeItFreed(t *testing.T) {
	t.Parallel()
	for _, kind := range []protocol.Type{protocol.TypeDelete, protocol.TypePunch} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			w, _ := pruneWorld(t)
			undisturbed := w.saveApart()
			w.prune("--session", "#1,#2")
			least := w.disk("packs")
			w.rewindApart(undisturbed)
			w.proxied(proxyPlan{Fault: "kill-pinion-before", Type: kind, At: 1}).run("prune", "--session", "#1,#2").expect(137)
			if got := w.seqs(); !slices.Equal(got, without(1, 2)) {
				t.Fatalf("sessions %v", got)
			}
			// Some of what is to be freed was: a hole in a pack that no index names.
			killed := w.disk("packs")
			if killed <= least {
				t.Fatalf("%d bytes are left, and %d after an undisturbed prune", killed, least)
			}
			// The next backup looks for packs that were left: here the old ones are.
			markUnclean(t, w)
			v := w.image("v.img", "random:5M:1", "text:256K:2", "hole:1M") // as session #1 had most of it
			d := w.backup("v=file:" + v)
			w.ok("check", "--read-data")
			w.restores("v", "latest", v)
			if d.Volumes[0].Mode != "scan" {
				t.Errorf("%+v", d)
			}
			again := w.prune("--session", fmt.Sprintf("#%d", d.Session.Seq))
			if rest := w.disk("packs"); rest > least+64<<10 {
				t.Errorf("%d bytes are left, %d after an undisturbed prune: %+v", rest, least, again)
			}
			w.ok("check", "--read-data")
			w.ok("verify", "--all-sessions")
		})
	}
}

// Every write of a prune meets a full disk: it ends with 15, the sessions are as
// they were, the garbage is gone, and it works when there is room.
func TestPruneOnAFullStore(t *testing.T) {
	t.Parallel()
	w, like := pruneWorld(t)
	before := w.saveApart()
	objects := len(w.under("packs/"))
	proxied := w.proxied(proxyPlan{})
	// Every put of a run, and of the run again with all that room.
	w.rewindApart(before)
	proxied.planned(proxyPlan{Fault: "refuse", N: int(protocol.CodeFull), Type: protocol.TypePut}).exits(15, "prune", "--session", "#1,#2")
	if n := len(w.seqs()); n != pruneSessions {
		t.Errorf("%d sessions are left", n)
	}
	w.ok("verify", "-q", "--all-sessions")
	for _, kind := range []protocol.Type{protocol.TypePut, protocol.TypeCommit, protocol.TypeCompose, protocol.TypeDelete, protocol.TypePunch} {
		for at := 1; ; at++ {
			w.rewindApart(before)
			log := filepath.Join(t.TempDir(), "log")
			r := proxied.planned(proxyPlan{Fault: "refuse", N: int(protocol.CodeFull), Type: kind, At: at, Log: log}).run("prune", "--session", "#1,#2")
			if count(events(t, log), "fault", 0) == 0 {
				if at == 1 {
					t.Errorf("a prune makes no request of type %v", kind)
				}
				break
			}
			what := fmt.Sprintf("%v %d: ", kind, at)
			w.ok("verify", "-q", "--all-sessions")
			switch kind {
			case protocol.TypePut, protocol.TypeCommit:
				if r.code == 0 { // with room that was made, by what was no longer needed
					r.says("the store is full: ")
					break
				}
				r.expect(15).says("make room")
				if second(events(t, log)) { // the root's second copy: the session list is cut by then
					if got := w.seqs(); !slices.Equal(got, without(1, 2)) {
						t.Errorf("%ssessions %v", what, got)
					}
					break
				}
				if n := len(w.seqs()); n != pruneSessions {
					t.Errorf("%s%d sessions are left", what, n)
				}
				if n := len(w.under("packs/")); kind == protocol.TypePut && n != objects {
					t.Errorf("%s%d packs, there were %d", what, n, objects)
				}
			case protocol.TypeCompose:
				r.expect(0).says("has no room to put packs together")
			default:
				r.expect(15).says("not all of their room is free yet")
			}
			w.run("prune", "--session", "#1,#2")
			if got := w.seqs(); !slices.Equal(got, without(1, 2)) {
				t.Errorf("%ssessions %v", what, got)
			}
			w.ok("check", "-q", "--read-data")
			w.verifies(killedState{"v", "#4", like[4]})
		}
	}
}

// second reports whether the fault met the second copy of a root.
func second(all []proxyEvent) bool {
	return slices.ContainsFunc(all, func(e proxyEvent) bool {
		return e.Event == "fault" && strings.HasPrefix(e.Name, protocol.PrefixRoots)
	})
}

// A repair after a prune reads what is in doubt, and not the whole archive; and
// what it takes in again of what was removed, the next prune removes for good.
func TestRepairAfterAPrune(t *testing.T) {
	t.Parallel()
	w, like := pruneWorld(t)
	w.prune("--session", "#1,#2")
	least := w.disk("packs")
	var large, bad string
	for _, path := range w.under("packs/") {
		if onDisk(t, path) > 2<<20 {
			large = path
		} else {
			bad = path
		}
	}
	if large == "" || bad == "" {
		t.Fatalf("packs %v", w.under("packs/"))
	}
	replaceByte(t, bad, -40) // its table of contents
	d := document[damageDoc](w.ok("check", "--repair", "--json"))
	if d.ReadBytes > 3<<20 {
		t.Errorf("a repair read %d bytes", d.ReadBytes)
	}
	w.ok("check", "--read-data")
	w.verifies(killedState{"v", "#4", like[4]})
	w.prune("--session", "#3")
	if now := w.disk("packs"); now > least+128<<10 {
		t.Errorf("%d bytes are left, %d were before", now, least)
	}
	w.ok("check", "--read-data")
	w.ok("verify", "--all-sessions")
}

// What another host's prune had not yet freed when it died, this host's frees.
func TestPruneFreesWhatAnotherHostLeft(t *testing.T) {
	t.Parallel()
	w, _ := pruneWorld(t)
	before := w.saveApart()
	w.prune("--session", "#1,#2")
	least := w.disk("packs")
	w.rewindApart(before)
	other := w.onHost("other")
	other.ok("list")
	w.ok("list")
	w.proxied(proxyPlan{Fault: "kill-pinion-before", Type: protocol.TypePunch, At: 1}).run("prune", "--session", "#1,#2").expect(137)
	if w.disk("packs") <= least {
		t.Fatal("nothing was left to free")
	}
	other.ok("prune", "--keep-last", "99", "--adopt")
	if now := w.disk("packs"); now > least+64<<10 {
		t.Errorf("%d bytes are left, %d after an undisturbed prune", now, least)
	}
	other.ok("check", "--read-data")
}

// What a prune that was killed before its commit has left is garbage: a dry run
// says so, as the run then does it.
func TestDryRunAfterAKilledPrune(t *testing.T) {
	t.Parallel()
	w, _ := pruneWorld(t)
	w.proxied(proxyPlan{Fault: "kill-pinion-before", Type: protocol.TypeCommit, At: 1}).run("prune", "--session", "#1,#2").expect(137)
	before := w.disk("packs")
	said := w.prune("--session", "#1,#2", "--dry-run")
	did := w.prune("--session", "#1,#2")
	back := before - w.disk("packs")
	if did.Freed < back-64<<10 || said.Freed < did.Freed-64<<10 || said.Freed > did.Freed+64<<10 {
		t.Errorf("said %d, did %d, and %d bytes came back", said.Freed, did.Freed, back)
	}
	w.ok("check", "--read-data")
}

// A backup that prunes by itself frees what a killed prune has left, also where
// no session is to go.
func TestAutopruneFreesWhatAKilledPruneLeft(t *testing.T) {
	t.Parallel()
	w, _ := pruneWorld(t)
	before := w.saveApart()
	w.prune("--session", "#1,#2")
	least := w.disk("packs")
	w.rewindApart(before)
	w.proxied(proxyPlan{Fault: "kill-pinion-before", Type: protocol.TypePunch, At: 1}).run("prune", "--session", "#1,#2").expect(137)
	k := w.keeping("keep-last = 99", "autoprune = always")
	k.ok("backup", "v=file:"+w.path("v.img"))
	if now := w.disk("packs"); now > least+64<<10 {
		t.Errorf("%d bytes are left, %d after an undisturbed prune", now, least)
	}
	w.ok("check", "--read-data")
}

// What an archive says that it takes up is still so after a repair of one that
// was pruned.
func TestStoredAfterARepair(t *testing.T) {
	t.Parallel()
	w, _ := pruneWorld(t)
	w.prune("--session", "#1,#12")
	want := w.list().Archive.StoredBytes
	w.removeAll("index/")
	w.ok("check", "--repair", "-q")
	if got := w.list().Archive.StoredBytes; got > want+want/20 || got < want-want/20 {
		t.Errorf("%d bytes are said to be stored, %d before", got, want)
	}
	w.ok("check", "--read-data")
}
