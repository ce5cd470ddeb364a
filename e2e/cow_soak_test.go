package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pinion/e2e/umltest"
)

var (
	soakSeed  = flag.Uint64("soak-seed", 0, "run the soak test with this seed; 0: one of the clock's")
	soakSteps = flag.Int("soak-steps", 40, "how many operations the soak test does on each kind of storage")
)

// Random operations on volumes of every kind of storage, backed up to two
// archives, killed now and then. Whatever happened, what a session gives back
// is what dd copied at that moment.
func TestCowSoak(t *testing.T) {
	t.Parallel()
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	onEachGround(t, func(t *testing.T, g *ground) {
		t.Parallel()
		steps := *soakSteps
		if g.thin() && !umltest.All() {
			steps /= 3
		}
		newSoak(t, g, seed).run(steps)
	})
}

// A soak is two archives, some volumes, and what sessions have to give back.
type soak struct {
	t        *testing.T
	g        *ground
	random   *rand.Rand
	seed     uint64
	log      []string
	archives [2]*world
	volumes  []*cow
	kept     [2][]keptState
	n        int
}

// A keptState is what a volume was in a session.
type keptState struct {
	volume  string
	session uint64
	copy    string
}

// soakLargest bounds a volume, in bytes.
const soakLargest = 24 << 20

func newSoak(t *testing.T, g *ground, seed uint64) *soak {
	w := cowWorld(t)
	second := *w
	second.store = w.path("second")
	second.ok("init", "--chunk-size", "1M")
	s := &soak{t: t, g: g, random: rand.New(rand.NewPCG(seed, 2)), seed: seed, archives: [2]*world{w, &second}}
	s.add()
	s.add()
	return s
}

var soakOperations = []struct {
	name string
	do   func(*soak)
}{
	{"write", (*soak).write}, {"write", (*soak).write}, {"write", (*soak).write}, {"write", (*soak).write},
	{"discard", (*soak).discard}, {"resize", (*soak).resize},
	{"clone", (*soak).clone}, {"add", (*soak).add},
	{"backup", (*soak).backUp}, {"backup", (*soak).backUp}, {"backup", (*soak).backUp}, {"backup", (*soak).backUp},
	{"killed backup", (*soak).killed}, {"killed backup", (*soak).killed},
	{"monitor", (*soak).monitor}, {"monitor", (*soak).monitor},
	{"restore", (*soak).restore}, {"restore", (*soak).restore},
	{"look", (*soak).look},
}

func (s *soak) run(steps int) {
	defer func() {
		if s.t.Failed() {
			s.t.Logf("go test ./e2e -run %s -soak-seed %d -soak-steps %d", s.t.Name(), s.seed, steps)
			s.t.Log("steps:\n" + strings.Join(s.log, "\n"))
		}
	}()
	for range steps {
		op := soakOperations[s.random.IntN(len(soakOperations))]
		s.did("%s", op.name)
		op.do(s)
		if s.t.Failed() {
			return
		}
	}
	for i := range s.archives {
		s.backUpTo(i, s.volumes)
		for _, k := range s.kept[i] {
			s.archives[i].restores(k.volume, fmt.Sprintf("#%d", k.session), k.copy)
		}
		s.archives[i].ok("verify", "-q", "--all-sessions")
	}
	// One base for each volume, and nothing else, is left behind.
	if n := len(s.g.snapshots()); s.g.tracks() && n != len(s.volumes) {
		s.t.Errorf("%d volumes have %d snapshots", len(s.volumes), n)
	}
}

func (s *soak) did(format string, args ...any) { s.log = append(s.log, fmt.Sprintf(format, args...)) }

func (s *soak) any() *cow { return s.volumes[s.random.IntN(len(s.volumes))] }

// size is a random size of a volume; volume groups have extents of 4 MiB.
func (s *soak) size() int64 {
	if s.g.thin() {
		return (1 + s.random.Int64N(soakLargest>>22)) << 22
	}
	return s.random.Int64N(soakLargest)
}

func (s *soak) add() {
	if len(s.volumes) == 5 {
		return
	}
	s.n++
	s.volumes = append(s.volumes, s.g.volume(fmt.Sprintf("v%d", s.n), s.size()))
	s.write()
}

func (s *soak) sizeOf(c *cow) int64 {
	f, err := os.Open(c.path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	n, err := f.Seek(0, 2)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// somewhere is a range of a volume.
func (s *soak) somewhere(c *cow) (off, length int64) {
	size := s.sizeOf(c)
	if size == 0 {
		return 0, 0
	}
	off = s.random.Int64N(size)
	return off, min(size-off, 1+s.random.Int64N(1<<(10+s.random.IntN(12))))
}

func (s *soak) write() {
	c := s.any()
	for range 1 + s.random.IntN(5) {
		off, length := s.somewhere(c)
		kind := []string{"random", "random", "text", "zero"}[s.random.IntN(4)]
		if length > 0 {
			c.write(off, fmt.Sprintf("%s:%d:%d", kind, length, s.random.IntN(50)))
		}
	}
}

func (s *soak) discard() {
	c := s.any()
	off, length := s.somewhere(c)
	off, length = off&^4095, length&^4095
	if length > 0 {
		c.discard(off, length)
	}
}

func (s *soak) resize() { s.any().resize(s.size()) }

func (s *soak) clone() {
	if !s.g.tracks() || len(s.volumes) == 5 {
		return
	}
	s.n++
	s.volumes = append(s.volumes, s.any().clone(fmt.Sprintf("v%d", s.n)))
}

func (s *soak) monitor() {
	if s.g.tracks() {
		s.archives[0].ok("monitor")
	}
}

// some are one or all volumes.
func (s *soak) some() []*cow {
	if s.random.IntN(2) == 0 {
		return s.volumes
	}
	return []*cow{s.any()}
}

func (s *soak) backUp() { s.backUpTo(s.random.IntN(2), s.some()) }

func (s *soak) backUpTo(i int, volumes []*cow) {
	var sources []string
	for _, c := range volumes {
		sources = append(sources, c.source)
	}
	doc := s.archives[i].backup(sources...)
	s.did("session #%d of archive %d: %+v", doc.Session.Seq, i, doc.Volumes)
	for _, c := range volumes {
		s.kept[i] = append(s.kept[i], keptState{c.name, doc.Session.Seq, c.copy()})
	}
}

// killed kills a backup after a moment.
func (s *soak) killed() {
	c := s.any()
	r := s.archives[s.random.IntN(2)].start("backup", c.source)
	time.Sleep(time.Duration(s.random.IntN(300)) * time.Millisecond)
	r.cmd.Process.Kill()
	r.cmd.Wait()
}

// restore brings a volume back to a session, in place, and anew beside it.
func (s *soak) restore() {
	i := s.random.IntN(2)
	if len(s.kept[i]) == 0 {
		return
	}
	k := s.kept[i][s.random.IntN(len(s.kept[i]))]
	session := fmt.Sprintf("#%d", k.session)
	if !s.g.thin() && s.random.IntN(2) == 0 {
		s.restoreOver(i, k, session)
		return
	}
	to := filepath.Join(s.t.TempDir(), "to")
	s.archives[i].ok("restore", k.volume, "--session", session, "--to", to)
	same(s.t, to, k.copy)
}

func (s *soak) restoreOver(i int, k keptState, session string) {
	for _, c := range s.volumes {
		if c.name != k.volume {
			continue
		}
		args := []string{"restore", k.volume, "--session", session, "--to", c.path, "--yes"}
		switch s.random.IntN(4) {
		case 0:
			args = append(args, "--in-place")
		case 1:
			if s.g.tracks() {
				args = append(args, "--from-snapshot")
			}
		case 2:
			if s.g.tracks() {
				args = append(args, "--from-snapshot", "--trust-snapshot")
			}
		}
		s.did("%v", args)
		r := s.archives[i].run(args...)
		if strings.Contains(r.stderr, "no base snapshot") {
			return // nothing to restore from, and said so
		}
		r.expect(0)
		same(s.t, c.path, k.copy)
	}
}

// look reads what has to be readable at any time.
func (s *soak) look() {
	w := s.archives[s.random.IntN(2)]
	w.ok("status")
	w.ok("list")
	w.ok("check", "-q")
}
