package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/protocol"
)

var (
	yearsSeed  = flag.Uint64("years-seed", 1, "the seed of the model test of years")
	yearsSteps = flag.Int("years-steps", 36, "how many operations the model test of years does on each kind of storage")
)

// Years of two archives and two hosts: backups, prunes, deletes, renames, tags,
// new keys, copies, in any order, some of them killed or out of room at any
// request, with hosts that forget; beside a model that is a few maps. After every
// step both archives list what the model has, and whatever is restored is what
// it was.
func TestYears(t *testing.T) {
	t.Parallel()
	onEachGround(t, func(t *testing.T, g *ground) {
		y := newYears(t, g, *yearsSeed+uint64(len(g.kind)))
		defer func() {
			if t.Failed() {
				for i, line := range y.log {
					t.Logf("step %d: %s", i, line)
				}
			}
		}()
		for step := range *yearsSteps {
			y.step()
			if t.Failed() {
				return
			}
			if step%12 == 11 {
				y.checkpoint()
			}
		}
		y.end()
	})
}

const yearsVolumes = 3

// A years is the model and what it is compared with.
type years struct {
	t        *testing.T
	g        *ground
	random   *rand.Rand
	volumes  []*cow
	held     [yearsVolumes][]byte // what they hold now
	hosts    []*world
	archives []*yearsArchive
	keys     int // that were made
	names    int
	log      []string
}

// A yearsArchive is one archive, and what it has.
type yearsArchive struct {
	dir  string
	have yearsState
}

// A yearsState is what an archive has.
type yearsState struct {
	next     uint64 // number of the next session
	sessions map[uint64]map[int][]byte
	tags     map[uint64][]string
	names    [yearsVolumes]string
	key      string // the file
}

func (s yearsState) clone() yearsState {
	c := s
	c.sessions, c.tags = map[uint64]map[int][]byte{}, map[uint64][]string{}
	for seq, volumes := range s.sessions {
		c.sessions[seq] = maps.Clone(volumes)
	}
	for seq, tags := range s.tags {
		c.tags[seq] = slices.Clone(tags)
	}
	return c
}

// drop takes a volume out of a session, and the session if nothing is left.
func (s *yearsState) drop(seq uint64, volume int) {
	delete(s.sessions[seq], volume)
	if len(s.sessions[seq]) == 0 {
		delete(s.sessions, seq)
		delete(s.tags, seq)
	}
}

func (s *yearsState) seqs() []uint64 { return slices.Sorted(maps.Keys(s.sessions)) }

// String is how list has it.
func (s *yearsState) String() string {
	var b strings.Builder
	for _, seq := range s.seqs() {
		var names []string
		for v := range s.sessions[seq] {
			names = append(names, s.names[v])
		}
		slices.Sort(names)
		fmt.Fprintf(&b, "#%d %v %v\n", seq, names, s.tags[seq])
	}
	return b.String()
}

func newYears(t *testing.T, g *ground, seed uint64) *years {
	w := newWorldOf(t, build{static: true})
	y := &years{t: t, g: g, random: rand.New(rand.NewPCG(seed, 7))}
	y.hosts = []*world{w, w.other("second")}
	if os.Geteuid() == 0 && !g.thin() {
		y.hosts[1] = w.onHost("second")
	}
	for i := range yearsVolumes {
		y.volumes = append(y.volumes, g.volume(fmt.Sprintf("v%d", i), 2<<20, fmt.Sprintf("random:1M:%d", i+1), "text:256K:5"))
		y.held[i] = readFile(t, y.volumes[i].path)
	}
	for i := range 2 {
		a := &yearsArchive{dir: w.path(fmt.Sprintf("archive-%d", i)), have: yearsState{
			next: 1, sessions: map[uint64]map[int][]byte{}, tags: map[uint64][]string{}, key: y.newKey(w),
		}}
		for v := range a.have.names {
			a.have.names[v] = fmt.Sprintf("v%d", v)
		}
		y.at(0, a).ok("init", "--chunk-size", "64K", "--keyfile", a.have.key)
		y.archives = append(y.archives, a)
	}
	return y
}

func (y *years) newKey(w *world) string {
	y.keys++
	path := w.path(fmt.Sprintf("key-%d", y.keys))
	writeFile(y.t, path, content(fmt.Sprintf("random:64:%d", 500+y.keys)))
	return path
}

// at is an archive as a host sees it.
func (y *years) at(host int, a *yearsArchive) *world {
	w := *y.hosts[host]
	w.store = a.dir
	return &w
}

func (y *years) did(format string, args ...any) { y.log = append(y.log, fmt.Sprintf(format, args...)) }

// step does one thing.
func (y *years) step() {
	host, a := y.random.IntN(len(y.hosts)), y.archives[y.random.IntN(len(y.archives))]
	next := a.have.clone()
	switch n := y.random.IntN(20); n {
	case 0, 1, 2, 3:
		y.change()
	case 4, 5, 6, 7, 8:
		y.perform(host, a, y.backup(&next), next)
	case 9, 10:
		y.perform(host, a, y.prune(&next), next)
	case 11:
		y.perform(host, a, y.keepLast(&next), next)
	case 12:
		v := y.random.IntN(yearsVolumes)
		for _, seq := range next.seqs() {
			next.drop(seq, v)
		}
		if next.String() != a.have.String() {
			y.perform(host, a, []string{"delete", a.have.names[v], "--yes"}, next)
		}
	case 13:
		y.perform(host, a, y.rename(&next), next)
	case 14:
		y.perform(host, a, y.tag(&next), next)
	case 15:
		next.key = y.newKey(y.hosts[0])
		y.perform(host, a, []string{"key", "change", "--new-keyfile", next.key}, next)
	case 16:
		y.copy(host, a)
	case 17:
		y.lose(host)
	default:
		y.restore(host, a)
	}
	for _, a := range y.archives {
		y.lists(a)
	}
}

// lists expects an archive to list what the model has.
func (y *years) lists(a *yearsArchive) {
	y.t.Helper()
	if got := y.listing(0, a, a.have.key); got != a.have.String() {
		y.t.Errorf("%s lists\n%swant\n%s", filepath.Base(a.dir), got, a.have.String())
	}
}

// listing is what an archive lists with a key: empty for one that doesn't open
// it.
func (y *years) listing(host int, a *yearsArchive, key string) string {
	y.t.Helper()
	r := y.at(host, a).run("list", "--json", "--keyfile", key)
	if r.code == 12 {
		return "no key"
	}
	r.expect(0)
	var b strings.Builder
	for _, s := range document[listDoc](r).Sessions {
		var names, tags []string
		for _, v := range s.Volumes {
			names = append(names, v.Name)
		}
		for _, tag := range s.Tags {
			tags = append(tags, tag.Name)
		}
		slices.Sort(names)
		fmt.Fprintf(&b, "#%d %v %v\n", s.Seq, names, tags)
	}
	return b.String()
}

// perform runs a command that makes next of what an archive has: undisturbed,
// killed, or out of room. Then it has the one or the other.
func (y *years) perform(host int, a *yearsArchive, args []string, next yearsState) {
	y.t.Helper()
	if args == nil {
		return
	}
	args = append(args, "--adopt", "--keyfile", a.have.key)
	w := y.at(host, a)
	plan := proxyPlan{}
	switch n := y.random.IntN(10); {
	case n < 2:
		row := killRows[y.random.IntN(len(killRows))]
		plan = proxyPlan{Fault: "kill-" + row.victim + "-" + row.when, At: 1 + y.random.IntN(30)}
		if row.when == "half" {
			plan.Type, plan.At = protocol.TypePut, 1+y.random.IntN(3)
		}
	case n == 2:
		kinds := []protocol.Type{protocol.TypePut, protocol.TypeCommit, protocol.TypeCompose, protocol.TypeDelete, protocol.TypePunch}
		plan = proxyPlan{Fault: "refuse", N: int(protocol.CodeFull), Type: kinds[y.random.IntN(len(kinds))], At: 1 + y.random.IntN(3)}
	}
	var r *result
	if plan.Fault == "" {
		if r = w.run(args...); strings.Contains(r.stderr, "which no list has") {
			y.takeIn(host, a)
			return
		}
		r.expect(0)
	} else {
		r = w.proxied(plan).run(args...)
	}
	y.did("host %d, %s: %v: %s %d: exit status %d", host, filepath.Base(a.dir), args, plan.Fault, plan.At, r.code)
	done := y.listing(0, a, next.key) == next.String()
	if !done && (r.code == 0 || y.listing(0, a, a.have.key) != a.have.String()) {
		y.t.Fatalf("%s\nleft\n%swhere it had\n%sand should have\n%s", r, y.listing(0, a, a.have.key), a.have.String(), next.String())
	}
	if done {
		old := a.have.key
		a.have = next
		if old != next.key && y.listing(0, a, old) != "no key" {
			y.t.Errorf("%s: the key that was replaced opens it", filepath.Base(a.dir))
		}
	}
}

// takeIn follows the hint of a prune that found a session of a killed backup: a repair
// takes it in, and then it goes by its number.
func (y *years) takeIn(host int, a *yearsArchive) {
	y.t.Helper()
	w, key := y.at(host, a), []string{"--adopt", "--keyfile", a.have.key}
	w.ok(append([]string{"check", "-q", "--repair"}, key...)...)
	for _, s := range document[listDoc](w.ok("list", "--json", "--keyfile", a.have.key)).Sessions {
		if _, known := a.have.sessions[s.Seq]; !known {
			w.ok(append([]string{"prune", "-q", "--session", fmt.Sprintf("#%d", s.Seq)}, key...)...)
			a.have.next = max(a.have.next, s.Seq+1)
		}
	}
	y.did("host %d, %s: what a killed backup left is taken in and removed", host, filepath.Base(a.dir))
}

func (y *years) change() {
	v := y.random.IntN(yearsVolumes)
	off := y.random.Int64N(int64(len(y.held[v])))
	part := fmt.Sprintf("random:%d:%d", min(1+y.random.Int64N(200<<10), int64(len(y.held[v]))-off), y.random.IntN(40))
	y.volumes[v].write(off, part)
	y.held[v] = readFile(y.t, y.volumes[v].path)
	y.did("v%d: %s at %d", v, part, off)
}

func (y *years) backup(next *yearsState) []string {
	args := []string{"backup", "-q"}
	held := map[int][]byte{}
	for v, c := range y.volumes {
		if y.random.IntN(3) > 0 {
			held[v] = y.held[v]
			args = append(args, next.names[v]+"="+strings.SplitN(c.source, "=", 2)[1])
		}
	}
	if len(held) == 0 {
		return nil
	}
	next.sessions[next.next] = held
	next.next++
	return args
}

// prune removes a range, whole or one volume of it.
func (y *years) prune(next *yearsState) []string {
	seqs := next.seqs()
	if len(seqs) == 0 {
		return nil
	}
	i := y.random.IntN(len(seqs))
	j := min(len(seqs)-1, i+y.random.IntN(3))
	args := []string{"prune", "-q", "--session", fmt.Sprintf("#%d,#%d", seqs[i], seqs[j])}
	only := -1
	if y.random.IntN(2) == 0 {
		only = y.random.IntN(yearsVolumes)
		args = append(args, next.names[only])
	}
	before := next.String()
	for _, seq := range seqs[i : j+1] {
		for v := range yearsVolumes {
			if only < 0 || v == only {
				next.drop(seq, v)
			}
		}
	}
	if next.String() == before {
		return nil // the command would say that there is nothing
	}
	return args
}

func (y *years) keepLast(next *yearsState) []string {
	n := 1 + y.random.IntN(4)
	for v := range yearsVolumes {
		seqs := slices.DeleteFunc(next.seqs(), func(seq uint64) bool { return next.sessions[seq][v] == nil })
		for _, seq := range seqs[:max(0, len(seqs)-n)] {
			next.drop(seq, v)
		}
	}
	return []string{"prune", "-q", "--keep-last", fmt.Sprint(n)}
}

func (y *years) rename(next *yearsState) []string {
	v := y.random.IntN(yearsVolumes)
	if !slices.ContainsFunc(next.seqs(), func(seq uint64) bool { return next.sessions[seq][v] != nil }) {
		return nil
	}
	y.names++
	old := next.names[v]
	next.names[v] = fmt.Sprintf("n%d", y.names)
	return []string{"rename", old, next.names[v]}
}

func (y *years) tag(next *yearsState) []string {
	seqs := next.seqs()
	if len(seqs) == 0 {
		return nil
	}
	seq := seqs[y.random.IntN(len(seqs))]
	at := []string{"--session", fmt.Sprintf("#%d", seq)}
	if tags := next.tags[seq]; len(tags) > 0 && y.random.IntN(2) == 0 {
		next.tags[seq] = tags[1:]
		return append([]string{"tag", "remove", tags[0]}, at...)
	}
	if len(next.tags[seq]) == 5 {
		return nil
	}
	y.names++
	name := fmt.Sprintf("t%d", y.names)
	next.tags[seq] = append(next.tags[seq], name)
	return append([]string{"tag", "add", name}, at...)
}

// copy copies an archive to a place of its own, and looks at what is there.
func (y *years) copy(host int, a *yearsArchive) {
	y.did("host %d: copy of %s", host, filepath.Base(a.dir))
	to := yearsArchive{dir: a.dir + "-copy", have: a.have}
	if err := os.RemoveAll(to.dir); err != nil {
		y.t.Fatal(err)
	}
	y.at(host, a).ok("copy", "--to", "file:"+to.dir, "--allow-rollback", "-q")
	fresh := y.at(host, &to).other(fmt.Sprintf("copy-%d", len(y.log)))
	if r := fresh.run("verify", "-q", "--all-sessions", "--keyfile", a.have.key); r.code != 0 && len(a.have.sessions) > 0 {
		y.t.Errorf("the copy: %s", r)
	}
	fresh.ok("check", "-q", "--keyfile", a.have.key)
}

// lose makes a host forget its cache, or all of its archives.
func (y *years) lose(host int) {
	w := y.hosts[host]
	dir := w.cache
	if y.random.IntN(3) == 0 {
		dir = w.state
	}
	y.did("host %d loses %s", host, filepath.Base(dir))
	if err := os.RemoveAll(dir); err != nil {
		y.t.Fatal(err)
	}
}

func (y *years) restore(host int, a *yearsArchive) {
	seqs := a.have.seqs()
	if len(seqs) == 0 {
		return
	}
	seq := seqs[y.random.IntN(len(seqs))]
	for v, want := range a.have.sessions[seq] {
		y.restores(host, a, seq, v, want)
		return
	}
}

func (y *years) restores(host int, a *yearsArchive, seq uint64, v int, want []byte) {
	y.t.Helper()
	w := y.at(host, a)
	to := w.path("restored")
	w.ok("restore", "-q", a.have.names[v], "--session", fmt.Sprintf("#%d", seq), "--to", to, "--keyfile", a.have.key)
	if !bytes.Equal(readFile(y.t, to), want) {
		y.t.Errorf("%s: %s of session #%d is something else", filepath.Base(a.dir), a.have.names[v], seq)
	}
}

// checkpoint finds both archives whole.
func (y *years) checkpoint() {
	for i, a := range y.archives {
		w := y.at(y.random.IntN(len(y.hosts)), a)
		y.did("checkpoint of %d", i)
		w.ok("check", "-q", "--read-data", "--keyfile", a.have.key)
		if len(a.have.sessions) > 0 {
			w.ok("verify", "-q", "--all-sessions", "--keyfile", a.have.key)
		}
	}
}

// end restores everything.
func (y *years) end() {
	y.checkpoint()
	for _, a := range y.archives {
		for _, seq := range a.have.seqs() {
			for v, want := range a.have.sessions[seq] {
				y.restores(0, a, seq, v, want)
			}
		}
	}
}
