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
	modelSeeds = flag.Int("model-seeds", 6, "how many seeds the model test runs with, from 1")
	modelSeed  = flag.Uint64("model-seed", 0, "run the model test with this seed only")
	modelSteps = flag.Int("model-steps", 40, "how many operations the model test does with each seed")
)

// Random operations on an archive, and the same ones on plain maps. What a
// session held is what a restore of it gives, whatever happened in between; a
// seed that fails says what it did. (Names of objects are random, so that what is
// damaged is not quite the same each time.)
func TestModel(t *testing.T) {
	t.Parallel()
	seeds := make([]uint64, *modelSeeds)
	for i := range seeds {
		seeds[i] = uint64(i) + 1
	}
	if *modelSeed > 0 {
		seeds = []uint64{*modelSeed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			newModel(t, seed).run(*modelSteps)
		})
	}
}

// Bounds of a model's volumes, in bytes.
const (
	modelChunk   = 64 << 10
	modelLargest = 2 << 20
)

// A model is an archive and what it has to hold.
type model struct {
	*world
	proxied *world
	random  *rand.Rand
	log     []string // what was done, for a failure's message

	// volumes is what each volume holds now, sessions what each held in a
	// session, by its number. Slices are never changed.
	volumes  map[string][]byte
	sessions map[uint64]map[string][]byte
	// lost are sessions from which a pack was taken away: what is left of
	// them may be refused, but never wrong.
	lost map[uint64]bool
	// killed is what backups that were killed would have made of a session's
	// number. A repair that finds neither the session list nor the session,
	// but what the killed run left, can't tell the two apart.
	killed map[uint64][]map[string][]byte
}

func newModel(t *testing.T, seed uint64) *model {
	w := newWorldOf(t, build{static: true})
	m := &model{
		world: w, random: rand.New(rand.NewPCG(seed, 1)),
		volumes: map[string][]byte{}, sessions: map[uint64]map[string][]byte{}, lost: map[uint64]bool{},
		killed: map[uint64][]map[string][]byte{},
	}
	m.proxied = w.proxied(proxyPlan{})
	for _, name := range []string{"a", "b", "c"} {
		m.volumes[name] = m.bytes(m.random.IntN(modelLargest))
		m.write(name)
	}
	w.ok("init", "--chunk-size", "64K")
	return m
}

// operations are what may happen, each as often as it stands here.
var operations = []struct {
	name string
	do   func(m *model)
}{
	{"change", (*model).change}, {"change", (*model).change}, {"change", (*model).change}, {"change", (*model).change},
	{"backup", (*model).backUp}, {"backup", (*model).backUp}, {"backup", (*model).backUp},
	{"killed backup", (*model).killedBackup}, {"killed backup", (*model).killedBackup},
	{"restore", (*model).restore}, {"restore", (*model).restore}, {"restore", (*model).restore},
	{"restore in place", (*model).restoreInPlace}, {"restore in place", (*model).restoreInPlace},
	{"lose the cache", (*model).loseCache},
	{"lose the memory", (*model).loseState},
	{"damage and repair", (*model).damage}, {"damage and repair", (*model).damage},
	{"lose a pack", (*model).losePack},
	{"read elsewhere", (*model).readElsewhere},
}

func (m *model) run(steps int) {
	defer func() {
		if m.t.Failed() {
			for i, line := range m.log {
				m.t.Logf("step %d: %s", i, line)
			}
		}
	}()
	for range steps {
		op := operations[m.random.IntN(len(operations))]
		m.did("%s", op.name)
		op.do(m)
		m.listed()
		if m.t.Failed() {
			return
		}
	}
	m.did("the end")
	m.backUpAll()
	for _, seq := range m.seqs() {
		for _, name := range slices.Sorted(maps.Keys(m.sessions[seq])) {
			m.restoreOf(seq, name, false)
		}
	}
	m.checks()
}

func (m *model) did(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

// bytes makes content: random, compressible, zeros, and chunks that were seen
// before.
func (m *model) bytes(n int) []byte {
	b := make([]byte, n)
	for off := 0; off < n; {
		end := min(n, off+1+m.random.IntN(4*modelChunk))
		switch m.random.IntN(4) {
		case 0: // zeros
		case 1:
			copy(b[off:end], bytes.Repeat([]byte{byte(m.random.IntN(256)), 7}, (end-off)/2+1))
		default:
			for i := off; i < end; i += 8 {
				v := m.random.Uint64()
				for k := i; k < min(end, i+8); k++ {
					b[k] = byte(v)
					v >>= 8
				}
			}
		}
		off = end
	}
	return b
}

// write brings a volume's file up to what the volume holds.
func (m *model) write(name string) {
	m.t.Helper()
	path := m.path(name + ".img")
	writeFile(m.t, path, m.volumes[name])
	if m.random.IntN(2) == 0 { // with holes or without is the same
		copyFile(m.t, path, path+".sparse")
		if err := os.Rename(path+".sparse", path); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *model) name() string { return string(rune('a' + m.random.IntN(len(m.volumes)))) }

func (m *model) change() {
	name := m.name()
	b := slices.Clone(m.volumes[name])
	how := m.random.IntN(6)
	switch {
	case how == 0:
		b = m.bytes(m.random.IntN(modelLargest))
	case how == 1:
		b = append(b, m.bytes(m.random.IntN(1+modelLargest-min(len(b), modelLargest)))...)
	case how == 2 && len(b) > 0:
		b = b[:m.random.IntN(len(b))]
	case how == 3: // another volume's content
		b = slices.Clone(m.volumes[m.name()])
	case len(b) > 0:
		for range 1 + m.random.IntN(5) {
			off := m.random.IntN(len(b))
			copy(b[off:], m.bytes(m.random.IntN(100_000)))
		}
	}
	m.volumes[name] = b
	m.did("%s has %d bytes (%d)", name, len(b), how)
	m.write(name)
}

// sources picks some volumes.
func (m *model) sources() (names, args []string) {
	for _, name := range slices.Sorted(maps.Keys(m.volumes)) {
		if m.random.IntN(3) > 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		names = []string{m.name()}
	}
	for _, name := range names {
		args = append(args, name+"=file:"+m.path(name+".img"))
	}
	return names, args
}

// held is what some volumes hold.
func (m *model) held(names []string) map[string][]byte {
	held := map[string][]byte{}
	for _, name := range names {
		held[name] = m.volumes[name]
	}
	return held
}

// made enters a session.
func (m *model) made(seq uint64, names []string) {
	m.sessions[seq] = m.held(names)
	m.did("session #%d of %v", seq, names)
}

func (m *model) backUp() {
	names, args := m.sources()
	m.made(m.world.backup(args...).Session.Seq, names)
}

func (m *model) backUpAll() {
	var args []string
	names := slices.Sorted(maps.Keys(m.volumes))
	for _, name := range names {
		args = append(args, name+"=file:"+m.path(name+".img"))
	}
	m.made(m.world.backup(args...).Session.Seq, names)
}

// killedBackup kills pinion or the helper at some request. Whether the session
// made it is for the archive to say, but it is there whole, or not at all.
func (m *model) killedBackup() {
	names, args := m.sources()
	row := killRows[m.random.IntN(len(killRows))]
	plan := proxyPlan{Fault: "kill-" + row.victim + "-" + row.when, At: 1 + m.random.IntN(16)}
	if row.when == "half" {
		plan.Type, plan.At = protocol.TypePut, 1+m.random.IntN(3)
	}
	before := m.newest()
	r := m.proxied.planned(plan).run(append([]string{"backup"}, args...)...)
	m.did("%s at %d: exit status %d", plan.Fault, plan.At, r.code)
	if after := m.newest(); after != before {
		m.made(after, names)
	} else if r.code == 0 {
		m.t.Errorf("%s\nmade no session", r)
	} else {
		seq := before + 1
		if made := m.seqs(); len(made) > 0 {
			seq = max(seq, made[len(made)-1]+1)
		}
		m.killed[seq] = append(m.killed[seq], m.held(names))
	}
	if len(m.lost) == 0 {
		m.checks()
	}
}

// newest is the number of the newest session that the archive lists.
func (m *model) newest() (seq uint64) {
	for _, s := range m.listing() {
		seq = max(seq, s)
	}
	return seq
}

// listing is the sessions that the archive lists.
func (m *model) listing() (seqs []uint64) {
	m.t.Helper()
	r := m.world.run("list", "--json")
	if r.code != 0 && (r.code != 13 || len(m.lost) == 0) {
		m.t.Fatalf("%s\nwas to succeed", r)
	}
	for _, s := range document[listDoc](r).Sessions {
		seqs = append(seqs, s.Seq)
	}
	return seqs
}

// listed expects the model's sessions in the archive, but for what was lost.
func (m *model) listed() {
	m.t.Helper()
	got := m.listing()
	for _, seq := range m.seqs() {
		if !slices.Contains(got, seq) && !m.lost[seq] {
			m.t.Errorf("session #%d is not listed: %d", seq, got)
		}
	}
	for _, seq := range got {
		if m.sessions[seq] == nil && m.killed[seq] == nil { // a repair may find one that wasn't acknowledged
			m.t.Errorf("session #%d is listed, and was never made", seq)
		}
	}
}

func (m *model) seqs() []uint64 { return slices.Sorted(maps.Keys(m.sessions)) }

// pick is a volume of a session; ok is false if there is none yet.
func (m *model) pick() (seq uint64, name string, ok bool) {
	seqs := m.seqs()
	if len(seqs) == 0 {
		return 0, "", false
	}
	seq = seqs[m.random.IntN(len(seqs))]
	names := slices.Sorted(maps.Keys(m.sessions[seq]))
	return seq, names[m.random.IntN(len(names))], true
}

func (m *model) restore() {
	if seq, name, ok := m.pick(); ok {
		m.restoreOf(seq, name, false)
	}
}

func (m *model) restoreInPlace() {
	if seq, name, ok := m.pick(); ok {
		m.restoreOf(seq, name, true)
	}
}

// restoreOf restores a volume, over one that was there if it is in place.
func (m *model) restoreOf(seq uint64, name string, inPlace bool) {
	m.t.Helper()
	to := filepath.Join(m.dir, "restored")
	var was []byte
	args := []string{"restore", name, "--session", fmt.Sprint("#", seq), "--to", to}
	if inPlace {
		was = m.volumes[m.name()]
		writeFile(m.t, to, was)
		args = append(args, "--in-place")
	} else if err := os.RemoveAll(to); err != nil {
		m.t.Fatal(err)
	}
	r := m.world.run(args...)
	if r.code != 0 {
		if !m.lost[seq] {
			m.t.Errorf("%s\nwas to succeed", r)
		}
		if _, err := os.Stat(to); err == nil && (!inPlace || !bytes.Equal(readFile(m.t, to), was)) {
			m.t.Errorf("%s\nleft something else than what was there", r)
		}
		return
	}
	is := readFile(m.t, to)
	right := bytes.Equal(is, m.sessions[seq][name])
	for _, held := range m.killed[seq] {
		b, ok := held[name]
		right = right || m.lost[seq] && ok && bytes.Equal(is, b)
	}
	if !right {
		m.t.Errorf("%s\nrestored wrong bytes", r)
	}
}

func (m *model) loseCache() {
	if err := os.RemoveAll(m.cache); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) loseState() {
	if err := os.RemoveAll(m.state); err != nil {
		m.t.Fatal(err)
	}
}

// readElsewhere reads the archive on a host that knows nothing of it.
func (m *model) readElsewhere() {
	o := m.other(fmt.Sprint(m.random.Uint32()))
	if r := o.run("verify", "-q", "--all-sessions"); r.code != 0 && len(m.lost) == 0 && len(m.sessions) > 0 {
		m.t.Errorf("%s\nwas to succeed", r)
	}
}

// damage spoils or takes away something that a repair can make anew.
func (m *model) damage() {
	m.world.run("list", "-q") // this host remembers what it will put back
	packs := m.under("packs/")
	slices.Sort(packs)
	targets := append(packs[:min(len(packs), 1+m.random.IntN(3))], m.rootsOf(m.lastGeneration())...)
	path := targets[m.random.IntN(len(targets))]
	switch {
	case m.random.IntN(4) == 0:
		m.did("no index")
		m.removeAll("index/")
	case slices.Contains(packs, path) || m.random.IntN(2) == 0:
		m.did("%s is spoilt", path)
		replaceByte(m.t, path, -5) // of a pack, in its trailer
	default:
		m.did("%s is gone", path)
		if err := os.Remove(path); err != nil {
			m.t.Fatal(err)
		}
	}
	r := m.world.run("check", "--repair", "-q")
	if r.code != 0 && len(m.lost) == 0 {
		m.t.Errorf("%s\nwas to succeed", r)
	}
}

// losePack takes a pack away for good. A repair notices, and what is backed up
// afterwards is whole again.
func (m *model) losePack() {
	packs := m.under("packs/")
	if len(packs) == 0 {
		return
	}
	slices.Sort(packs)
	path := packs[m.random.IntN(len(packs))]
	m.did("%s is lost", path)
	for seq := range m.sessions {
		m.lost[seq] = true
	}
	if err := os.Remove(path); err != nil {
		m.t.Fatal(err)
	}
	if r := m.world.run("check", "--repair", "-q"); r.code != 0 && r.code != 13 {
		m.t.Errorf("%s\nwas to succeed, or to list damage", r)
	}
	m.backUpAll()
	newest := m.newest()
	for name := range m.volumes {
		m.restoreOf(newest, name, false)
	}
}

// checks expects that nothing is wrong with the archive that isn't known.
func (m *model) checks() {
	m.t.Helper()
	r := m.world.run("check", "-q", "--read-data=100")
	if r.code != 0 && (r.code != 13 || len(m.lost) == 0 && !m.onlyRoots(r)) {
		m.t.Errorf("%s\nwas to succeed", r)
	}
}

// onlyRoots reports whether all damage is that of roots which damage spoilt: they
// are what they are, until the store lets go of them.
func (m *model) onlyRoots(r *result) bool {
	for _, line := range lines(r.stdout) {
		if strings.HasPrefix(line, "damaged: ") && !strings.HasPrefix(line, "damaged: head/") && !strings.HasPrefix(line, "damaged: roots/") {
			return false
		}
	}
	return true
}
