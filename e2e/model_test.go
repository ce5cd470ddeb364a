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
	"syscall"
	"testing"
	"time"
)

var (
	modelSeeds = flag.Int("model.seeds", 2, "how many random histories TestModel goes through")
	modelSteps = flag.Int("model.steps", 60, "how many operations each of them has")
)

// A model is what an archive should hold, in memory: the volumes as they are on
// this host, and as they were in each session.
type model struct {
	*world
	t       *testing.T
	r       *rand.Rand
	volumes map[string][]byte
	// sessions are by sequence number. A session in which data was damaged
	// may have lost some of it: it restores exactly, or not at all.
	sessions map[uint64]map[string][]byte
	doubtful map[uint64]bool
	said     []string // what was done, for messages
}

// Random histories of backups, restores, changes, kills, lost caches, states,
// index objects and packs: whatever the order, every session gives back what
// the model says it holds.
func TestModel(t *testing.T) {
	for seed := range *modelSeeds {
		t.Run(fmt.Sprint("seed-", seed), func(t *testing.T) {
			t.Parallel()
			m := &model{
				world: archive(t, "--chunk-size", "64K"), t: t, r: rand.New(rand.NewPCG(uint64(seed), 1)),
				volumes: map[string][]byte{}, sessions: map[uint64]map[string][]byte{}, doubtful: map[uint64]bool{},
			}
			for _, name := range []string{"a", "b", "c"} {
				m.volumes[name] = m.random(m.r.IntN(2 << 20))
			}
			defer func() {
				if t.Failed() {
					t.Log("history:", strings.Join(m.said, " · "))
				}
			}()
			for range *modelSteps {
				m.step()
			}
			m.checkAll()
		})
	}
}

func (m *model) say(format string, args ...any) { m.said = append(m.said, fmt.Sprintf(format, args...)) }

func (m *model) random(n int) []byte {
	b := make([]byte, n)
	random := rand.NewChaCha8([32]byte{byte(m.r.Uint32()), byte(m.r.Uint32()), byte(m.r.Uint32())})
	random.Read(b)
	return b
}

// step does one operation, likely ones more often.
func (m *model) step() {
	switch n := m.r.IntN(20); {
	case n < 6:
		m.change()
	case n < 11:
		m.save()
	case n < 13:
		m.restoreOne(false)
	case n < 15:
		m.restoreOne(true)
	case n < 16:
		m.killedBackup()
	case n < 17:
		m.say("lose cache")
		m.remove(m.cache)
	case n < 18:
		m.say("lose state")
		m.remove(m.state)
	case n < 19:
		m.loseIndex()
	default:
		m.losePack()
	}
}

func (m *model) remove(path string) {
	if err := os.RemoveAll(path); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) removeObject(path string) {
	if err := os.Remove(path); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) pick() string {
	names := slices.Sorted(maps.Keys(m.volumes))
	return names[m.r.IntN(len(names))]
}

// change does something to a volume's content or size.
func (m *model) change() {
	name := m.pick()
	v := bytes.Clone(m.volumes[name])
	switch m.r.IntN(6) {
	case 0: // grow
		v = append(v, m.random(m.r.IntN(300_000))...)
	case 1: // grow by a hole
		v = append(v, make([]byte, m.r.IntN(300_000))...)
	case 2: // shrink
		v = v[:m.r.IntN(len(v)+1)]
	case 3: // what another volume has
		v = bytes.Clone(m.volumes[m.pick()])
	default:
		if len(v) > 0 {
			at := m.r.IntN(len(v))
			copy(v[at:], m.random(m.r.IntN(200_000)))
		}
	}
	m.volumes[name] = v
	m.say("change %s to %d bytes", name, len(v))
}

// sources writes some volumes to files and returns what a backup is told, and
// the session that it should make.
func (m *model) sources() (args []string, session map[string][]byte) {
	session = map[string][]byte{}
	for name, v := range m.volumes {
		if len(session) == 0 || m.r.IntN(2) == 0 {
			writeFile(m.t, m.path(name), v)
			args = append(args, "file:"+m.path(name))
			session[name] = bytes.Clone(v)
		}
	}
	return args, session
}

func (m *model) save() {
	args, session := m.sources()
	doc := m.backup(args...)
	m.say("back up %d volumes as #%d", len(session), doc.Session.Seq)
	if m.sessions[doc.Session.Seq] != nil {
		m.t.Fatalf("session #%d was made twice", doc.Session.Seq)
	}
	m.sessions[doc.Session.Seq] = session
}

// killedBackup kills pinion at some moment: there is a session or there is none.
func (m *model) killedBackup() {
	args, session := m.sources()
	cmd := m.command(append([]string{"backup"}, args...)...)
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	time.Sleep(time.Duration(m.r.IntN(120)) * time.Millisecond)
	_ = cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	_ = cmd.Wait()
	newest := uint64(0)
	for _, s := range m.list().Sessions {
		newest = max(newest, s.Seq)
	}
	m.say("kill a backup: newest is #%d", newest)
	if m.sessions[newest] == nil && newest > 0 {
		m.sessions[newest] = session
	}
}

// restoreOne restores a volume of a session, to a new file or in place of
// whatever another one is.
func (m *model) restoreOne(inPlace bool) {
	if len(m.sessions) == 0 {
		return
	}
	seqs := slices.Sorted(maps.Keys(m.sessions))
	seq := seqs[m.r.IntN(len(seqs))]
	names := slices.Sorted(maps.Keys(m.sessions[seq]))
	name := names[m.r.IntN(len(names))]
	to := filepath.Join(m.t.TempDir(), "to")
	args := []string{"restore", name, "--session", fmt.Sprint("#", seq), "--to", to}
	before := m.volumes[m.pick()]
	if inPlace {
		writeFile(m.t, to, before)
		args = append(args, "--in-place")
	}
	m.say("restore %s of #%d", name, seq)
	r := m.run(args...)
	if r.code == 13 && m.doubtful[seq] {
		if now, err := os.ReadFile(to); inPlace && (err != nil || !bytes.Equal(now, before)) {
			m.t.Fatal("damage in the store changed the file that was there")
		}
		return
	}
	r.expect(0)
	if !bytes.Equal(readFile(m.t, to), m.sessions[seq][name]) {
		m.t.Fatalf("%s of #%d is not what it was", name, seq)
	}
}

// loseIndex removes an index object, and the cache that could hide that.
func (m *model) loseIndex() {
	objects := m.under("index/")
	if len(objects) == 0 {
		return
	}
	m.say("lose an index object")
	m.removeObject(objects[m.r.IntN(len(objects))])
	m.remove(m.cache)
	m.ok("check", "--repair")
}

// losePack removes a pack or damages it, has it repaired as far as can be, and
// backs everything up again, which heals what is still here.
func (m *model) losePack() {
	packs := m.under("packs/")
	if len(packs) == 0 || len(m.sessions) == 0 {
		return
	}
	path := packs[m.r.IntN(len(packs))]
	if m.r.IntN(2) == 0 {
		m.say("lose %s", filepath.Base(path))
		m.removeObject(path)
	} else {
		m.say("damage %s", filepath.Base(path))
		flip(m.t, path, int64(m.r.IntN(len(readFile(m.t, path)))))
	}
	for seq := range m.sessions {
		m.doubtful[seq] = true
	}
	if r := m.run("check", "--read-data", "--repair"); r.code != 13 {
		r.expect(0)
	}
	left := map[uint64]bool{}
	for _, s := range m.readable() {
		left[s] = true
	}
	for seq := range m.sessions {
		if !left[seq] {
			delete(m.sessions, seq) // its own record was in that pack
		}
	}
	m.save()
}

// readable lists the sessions that can be listed.
func (m *model) readable() (seqs []uint64) {
	r := m.run("list", "--json")
	if r.code != 13 {
		r.expect(0)
	}
	for _, s := range document[listDoc](r).Sessions {
		seqs = append(seqs, s.Seq)
	}
	return seqs
}

// checkAll restores everything there is.
func (m *model) checkAll() {
	for seq, session := range m.sessions {
		for name, want := range session {
			to := filepath.Join(m.t.TempDir(), "to")
			r := m.run("restore", name, "--session", fmt.Sprint("#", seq), "--to", to)
			if r.code == 13 && m.doubtful[seq] {
				continue
			}
			r.expect(0)
			if !bytes.Equal(readFile(m.t, to), want) {
				m.t.Errorf("%s of #%d is not what it was", name, seq)
			}
		}
	}
	if len(m.doubtful) == 0 {
		m.ok("verify", "--all-sessions")
		m.ok("check", "--read-data")
	}
}
