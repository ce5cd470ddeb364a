package e2e

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/protocol"
)

// A wireRow is a misbehaviour of a helper: one of the proxy's faults, for each
// of some types of requests, under each of some commands.
type wireRow struct {
	fault    string
	n        int             // see proxyPlan
	at       int             // which request of its type; 0: every one
	types    []protocol.Type // none: all at once
	commands []string
	codes    []int // exit statuses, one of which has to come
	says     string
}

// What the rows are about. The commands read everything from the store: the
// cache is empty.
var (
	answered = []protocol.Type{
		protocol.TypeHello, protocol.TypeLock, protocol.TypeList, protocol.TypeGet, protocol.TypeGetWhole,
	}
	gets     = []protocol.Type{protocol.TypeGet}
	wholes   = []protocol.Type{protocol.TypeGetWhole}
	lists    = []protocol.Type{protocol.TypeList}
	puts     = []protocol.Type{protocol.TypePut}
	commits  = []protocol.Type{protocol.TypeCommit}
	notes    = []protocol.Type{protocol.TypeNote}
	listing  = []string{"list"}
	reading  = []string{"list", "restore", "in-place", "verify", "check"}
	restores = []string{"restore", "verify"}
	checking = []string{"check"}
	writing  = []string{"backup"}
)

const (
	broke  = "broke the protocol"
	ended  = "ended or closed its output"
	silent = "does not answer"
)

var wireRows = []wireRow{
	// Frames that are none.
	{fault: "cut", types: answered, commands: restores, codes: []int{1}, says: ended},
	{fault: "cut-header", types: answered, commands: listing, codes: []int{1}, says: ended},
	{fault: "end", types: answered, commands: listing, codes: []int{1}, says: ended},
	{fault: "garbage", types: answered, commands: restores, codes: []int{1}, says: broke},
	{fault: "unknown-type", types: answered, commands: listing, codes: []int{1}, says: broke},
	{fault: "request-type", types: answered, commands: listing, codes: []int{1}, says: broke},
	{fault: "reserved", types: answered, commands: listing, codes: []int{1}, says: broke},
	{fault: "huge-frame", types: answered, commands: restores, codes: []int{1}, says: broke},
	{fault: "huge-ok", types: answered, commands: listing, codes: []int{1}, says: broke},
	{fault: "alive-odd", types: answered, commands: listing, codes: []int{1}, says: broke},
	{fault: "repeat", types: answered, commands: listing, codes: []int{1}, says: broke},
	{fault: "wrong-id", types: answered, commands: listing, codes: []int{1}, says: broke},
	{fault: "cut", types: puts, commands: writing, codes: []int{1}, says: ended},
	{fault: "garbage", types: puts, commands: writing, codes: []int{1}, says: broke},
	{fault: "wrong-id", types: puts, commands: writing, codes: []int{1}, says: broke},
	{fault: "too-much", types: puts, commands: writing, codes: []int{1}, says: broke},

	// Too much, too little.
	{fault: "too-much", types: []protocol.Type{protocol.TypeGet, protocol.TypeGetWhole, protocol.TypeList}, commands: reading, codes: []int{1}, says: broke},
	{fault: "endless", types: []protocol.Type{protocol.TypeGet, protocol.TypeGetWhole, protocol.TypeList}, commands: restores, codes: []int{1}, says: broke},
	{fault: "too-little", types: []protocol.Type{protocol.TypeGet, protocol.TypeGetWhole}, commands: reading, codes: []int{1}, says: broke},
	{fault: "too-little", n: 1, types: []protocol.Type{protocol.TypeGet}, commands: reading, codes: []int{1}, says: broke},
	{fault: "no-data", types: []protocol.Type{protocol.TypeGet, protocol.TypeGetWhole}, commands: reading, codes: []int{1}, says: broke},
	{fault: "empty-data", types: answered[1:], commands: listing, codes: []int{1}, says: broke},

	// The right number of wrong bytes.
	{fault: "flip", n: 200, types: gets, commands: reading, codes: []int{13}},
	{fault: "flip", n: 3, at: 2, types: gets, commands: []string{"restore", "verify", "check"}, codes: []int{0, 13}},
	{fault: "flip", n: 100, types: wholes, commands: reading, codes: []int{13}},
	{fault: "flip", n: 100, at: 1, types: wholes, commands: reading, codes: []int{0, 13}, says: "head/"},
	{fault: "flip", n: 100, at: 2, types: wholes, commands: reading, codes: []int{0, 13}},
	{fault: "flip", n: 100, at: 3, types: wholes, commands: reading, codes: []int{0, 13}},
	{fault: "flip", n: 100, at: 4, types: wholes, commands: restores, codes: []int{0}},
	{fault: "flip-ok", n: 5, types: []protocol.Type{protocol.TypeGet, protocol.TypeGetWhole, protocol.TypeHello}, commands: listing, codes: []int{0, 1}},
	{fault: "flip-ok", n: 1, types: lists, commands: checking, codes: []int{1, 13}},
	{fault: "repeat-last", types: gets, commands: restores, codes: []int{13}},

	// Another order: of answers it is allowed, of their content it is not.
	{fault: "late", types: answered[1:], commands: append(reading, "backup"), codes: []int{0}},
	{fault: "exchange", types: gets, commands: restores, codes: []int{0, 1, 13}},

	// Nothing, for too long.
	{fault: "drop", types: answered, commands: listing, codes: []int{1}, says: silent},
	{fault: "silence", types: answered, commands: listing, codes: []int{1}, says: silent},
	{fault: "silence", types: puts, commands: writing, codes: []int{1}, says: silent},
	{fault: "alive", types: gets, commands: listing, codes: []int{1}, says: silent},
	{fault: "deaf", types: puts, commands: writing, codes: []int{1}, says: silent},
	{fault: "chatter", types: gets, at: 1, commands: []string{"restore"}, codes: []int{0}},

	// The hello.
	{fault: "hello-noise", n: 60_000, commands: []string{"list", "backup"}, codes: []int{0}, says: "before its helper answered"},
	{fault: "hello-noise", n: 70_000, commands: listing, codes: []int{1}, says: broke},
	{fault: "hello-token", commands: listing, codes: []int{1}, says: silent},
	{fault: "hello-cut", commands: listing, codes: []int{1}, says: ended},
	{fault: "hello-endless", commands: listing, codes: []int{1}, says: broke},
	{fault: "hello-version", commands: listing, codes: []int{1}, says: broke},
	{fault: "hello-zero", commands: listing, codes: []int{1}, says: broke},
	{fault: "hello-twice", commands: listing, codes: []int{1}, says: broke},
	{fault: "hello-small", commands: reading, codes: []int{0}},
	{fault: "hello-small", commands: writing, codes: []int{1}, says: "too large"},
	{fault: "hello-one", commands: append(reading, "backup"), codes: []int{0}},
	{fault: "hello-large", commands: append(reading, "backup"), codes: []int{0}},

	// Refusals.
	{fault: "refuse", n: int(protocol.CodeFull), types: puts, at: 1, commands: writing, codes: []int{15}, says: "full"},
	{fault: "refuse", n: int(protocol.CodeFull), types: puts, at: 2, commands: writing, codes: []int{15}, says: "full"},
	{fault: "refuse", n: int(protocol.CodeFull), types: puts, at: 3, commands: writing, codes: []int{15}, says: "full"},
	{fault: "refuse", n: int(protocol.CodeFull), types: commits, commands: writing, codes: []int{15}, says: "full"},
	{fault: "refuse", n: int(protocol.CodeConflict), types: commits, commands: writing, codes: []int{1}, says: "another command committed"},
	{fault: "refuse", n: int(protocol.CodeReadOnly), types: puts, commands: writing, codes: []int{1}},
	{fault: "refuse", n: int(protocol.CodeExists), types: puts, commands: writing, codes: []int{1}},
	{fault: "refuse", n: int(protocol.CodeFailed), types: puts, commands: writing, codes: []int{1}},
	{fault: "refuse", n: int(protocol.CodeMissing), types: []protocol.Type{protocol.TypeGet, protocol.TypeGetWhole}, commands: reading, codes: []int{13}},
	{fault: "refuse", n: int(protocol.CodeFailed), types: gets, commands: reading, codes: []int{13}},
	{fault: "refuse", n: int(protocol.CodeTooLarge), types: wholes, commands: listing, codes: []int{13}},
	{fault: "refuse", n: 200, types: []protocol.Type{protocol.TypeLock, protocol.TypeList}, commands: listing, codes: []int{1}, says: "unknown code 200"},
	{fault: "refuse", n: 200, types: []protocol.Type{protocol.TypeGet, protocol.TypeGetWhole}, commands: listing, codes: []int{13}, says: "code 200"},
	{fault: "refuse-mute", n: int(protocol.CodeFailed), types: answered[1:], commands: restores, codes: []int{1, 13}},
	{fault: "refuse-rude", n: int(protocol.CodeFailed), types: answered[1:], commands: restores, codes: []int{1, 13}},
	{fault: "refuse-rude", n: int(protocol.CodeFull), types: puts, commands: writing, codes: []int{15}},
	{fault: "refuse-long", types: answered[1:], commands: listing, codes: []int{1}, says: broke},

	// Notes, which are nothing that a backup needs.
	{fault: "refuse", n: int(protocol.CodeFull), types: notes, commands: writing, codes: []int{0}},
	{fault: "refuse-rude", n: int(protocol.CodeFailed), types: notes, commands: writing, codes: []int{0}},
	{fault: "refuse", n: 200, types: notes, commands: writing, codes: []int{0}},
	{fault: "garbage", types: notes, commands: writing, codes: []int{1}, says: broke},
	{fault: "huge-ok", types: notes, commands: writing, codes: []int{1}, says: broke},
	{fault: "too-much", types: notes, commands: writing, codes: []int{1}, says: broke},
	{fault: "end", types: notes, commands: writing, codes: []int{1}, says: ended},
	{fault: "drop", types: notes, commands: writing, codes: []int{1}, says: silent},

	// Lists.
	{fault: "list-order", types: lists, commands: checking, codes: []int{1, 13}},
	{fault: "list-twice", types: lists, commands: checking, codes: []int{1}, says: broke},
	{fault: "list-name", types: lists, commands: checking, codes: []int{1}, says: broke},
	{fault: "list-huge", types: lists, at: 2, commands: checking, codes: []int{0, 13}},
	{fault: "list-empty", types: lists, at: 3, commands: checking, codes: []int{0, 13}},
	{fault: "list-flood", types: lists, commands: checking, codes: []int{1}, says: broke},
	{fault: "list-more", types: lists, commands: checking, codes: []int{1}, says: broke},
	{fault: "list-nothing", types: lists, commands: checking, codes: []int{10}},
	{fault: "list-nothing", types: lists, at: 3, commands: checking, codes: []int{0, 13}},
}

// Whatever a helper says, in whatever order, or doesn't say: an exit status and
// one line; no wrong byte in a file; bounded memory and time; and afterwards,
// with an honest helper, everything is there.
func TestHostileHelper(t *testing.T) {
	t.Parallel()
	v := newVictim(t, build{})
	patient := v.proxied(proxyPlan{})
	// The longest that a helper may be of no use is thirty times as long.
	impatient := *v.world
	impatient.bin = programs(t, build{timeout: 500 * time.Millisecond})
	hasty := impatient.proxied(proxyPlan{})
	try := oneOf(2)
	for _, row := range wireRows {
		types := row.types
		if len(types) == 0 {
			types = allTypes
		}
		proxied := patient
		if row.says == silent {
			proxied = hasty
		}
		for _, of := range types {
			for _, command := range row.commands {
				if !try() {
					continue
				}
				what := fmt.Sprintf("%s(%d) of %v %d", row.fault, row.n, of, row.at)
				v.rewind(v.whole)
				plan := proxyPlan{Fault: row.fault, N: row.n, Type: of, At: row.at}
				r := v.attack(proxied.planned(plan), what, command, row.codes...)
				if row.says != "" && r.code != 0 && !strings.Contains(r.stderr, row.says) {
					t.Errorf("%s: %s\nwas to say %q", what, r, row.says)
				}
				if r.took > time.Minute {
					t.Errorf("%s: %s\ntook %v", what, r, r.took)
				}
				if command == "backup" {
					v.completes(what)
				}
			}
		}
	}
	v.rewind(v.whole)
	v.ok("check", "-q", "--read-data=100")
}

// completes expects that after a backup which a helper spoilt, or didn't, the
// archive is whole and the next one succeeds.
func (v *victim) completes(what string) {
	v.t.Helper()
	if r := v.run("check", "-q"); r.code != 0 {
		v.t.Errorf("after %s: %s\nwas to succeed", what, r)
	}
	v.ok("backup", "-q", "v=file:v.3")
	v.ok("verify", "-q", "--all-sessions")
	v.verifies(killedState{"v", "latest", v.path("v.3")})
	v.verifies(killedState{"v", "#2", v.v2})
}

// A helper that says yes and does nothing is found out: packs and index objects by the
// backup, the root by the next command.
func TestHostileHelperThatOnlyPretends(t *testing.T) {
	t.Parallel()
	v := newVictim(t, build{})
	proxied := v.proxied(proxyPlan{})
	changed := v.image("changed.img", "random:1M:40")
	for at, twice := range map[int]bool{1: false, 2: true, 3: true, 4: true, 5: true} { // data, metadata, its twin, index, its twin
		what := fmt.Sprintf("put %d", at)
		v.rewind(v.whole)
		lying := proxied.planned(proxyPlan{Fault: "pretend", Type: protocol.TypePut, At: at})
		if lying.run("backup", "--verify", "v=file:"+changed); !twice {
			v.ok("check", "-q")
		}
		v.rewind(v.whole)
		lying.exits(13, "backup", "v=file:"+changed).says("the session was made", "is missing")
		v.attack(v.world, what, "check", 13)
		if twice {
			v.verifies(killedState{"v", "latest", changed})
			v.ok("check", "--repair", "-q")
			v.ok("check", "-q")
			v.verifies(killedState{"v", "latest", changed})
		}
		v.verifies(killedState{"v", "#2", v.v2})
	}
	v.rewind(v.whole)
	// A head that isn't there has its second copy, which is enough; where that is
	// none either, the store has an older root than what was seen.
	proxied.planned(proxyPlan{Fault: "pretend", Type: protocol.TypeCommit}).ok("backup", "v=file:"+changed)
	v.attack(v.world, "commit", "list", 0)
	v.verifies(killedState{"v", "latest", changed})
	v.attack(v.world, "commit", "check", 13)
	v.ok("check", "--repair", "-q")
	v.ok("check", "-q")
	v.backTo(v.lastGeneration() - 1)
	v.attack(v.world, "commit", "list", 14).says("generation")
}

// A store that lists packs for ever is told apart from a large one, and costs no
// memory.
func TestHostileEndlessList(t *testing.T) {
	t.Parallel()
	v := newVictim(t, build{static: true})
	endless := v.proxied(proxyPlan{Fault: "list-endless", Type: protocol.TypeList})
	r := v.attack(endless, "endless list", "check", 1)
	r.says(broke)
	if r.maxRSS > 128<<20 {
		t.Errorf("%s\ntook %d MiB of memory", r, r.maxRSS>>20)
	}
}

// What a damaged store and a hostile helper make pinion say is JSON where that
// was asked for.
func TestHostileErrorsAreJSON(t *testing.T) {
	t.Parallel()
	v := newVictim(t, build{})
	rude := v.proxied(proxyPlan{Fault: "refuse-rude", N: int(protocol.CodeFailed), Type: protocol.TypeGet})
	r := rude.exits(13, "restore", "v", "--to", filepath.Join(t.TempDir(), "v"), "--json")
	if doc := document[restoreDoc](r); doc.Error == nil || doc.Error.Code != 13 || !strings.Contains(doc.Error.Message, "packs/") {
		t.Errorf("%s\nhas no error document", r)
	}
	if bytes.ContainsAny([]byte(r.stderr+r.stdout), "\x1b\x07\x00") {
		t.Errorf("%s\nwrote control characters", r)
	}
	if slices.ContainsFunc(lines(r.stderr), func(line string) bool { return !strings.HasPrefix(line, "{") }) {
		t.Errorf("%s\nwrote lines that are no JSON", r)
	}
}
