package prune

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tree"
	"pinion/dom0/internal/verify"
	"pinion/protocol"
)

// diesEnv makes the test binary a helper that dies after so many answers;
// helperEnv is where the real one is.
const (
	diesEnv   = "PINION_TEST_DIES"
	helperEnv = "PINION_TEST_HELPER"
	realEnv   = "PINION_TEST_REAL_HELPER"
)

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(diesEnv)); err == nil {
		os.Exit(dies(n))
	}
	// Each starts some twenty helpers. The command line may ask for more.
	if err := flag.Set("rapid.checks", "40"); err != nil {
		panic(err)
	}
	os.Exit(archivetest.Main(m))
}

// dies is a helper that is killed after about so many answers.
func dies(answers int) int {
	cmd := exec.Command(os.Getenv(realEnv), os.Args[1:]...)
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return 1
	}
	defer cmd.Wait()
	buf := make([]byte, 64<<10)
	for ; answers > 0; answers-- {
		n, err := out.Read(buf)
		if _, writeErr := os.Stdout.Write(buf[:n]); err != nil || writeErr != nil {
			return 0
		}
	}
	cmd.Process.Kill()
	return 1
}

var ctx = context.Background()

const chunkSize = format.MinChunkSize

// chunk is a chunk of random bytes, the same for the same letter, and a hole for a dot.
func chunk(letter rune) []byte {
	b := make([]byte, chunkSize)
	if letter != '.' {
		var key [32]byte
		binary.BigEndian.PutUint32(key[:], uint32(letter))
		rand.NewChaCha8(key).Read(b)
	}
	return b
}

func image(letters string) []byte {
	var b bytes.Buffer
	for _, l := range letters {
		b.Write(chunk(l))
	}
	return b.Bytes()
}

// session backs volumes up, given as names and letters, and returns its number.
func session(t testing.TB, p *archivetest.Place, volumes map[string]string) uint64 {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pinion-test-")
	if err != nil {
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	var sources []backup.Source
	for _, name := range slices.Sorted(maps.Keys(volumes)) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, image(volumes[name]), 0o600); err != nil {
			t.Fatal(err)
		}
		sources = append(sources, archivetest.Source(name, path))
	}
	a := p.Open(t, protocol.LockAppend)
	defer a.Close()
	res, err := backup.Run(ctx, a, sources, archivetest.Options(t))
	if err != nil || len(res.Failed) > 0 {
		t.Fatal(err, res.Failed)
	}
	return res.Session.Seq
}

func content(t testing.TB, a *archive.Archive) *Content {
	t.Helper()
	c := &Content{}
	var err error
	if c.Entries, err = a.Sessions(ctx, nil); err == nil {
		c.Table, err = a.Volumes(ctx)
	}
	if err == nil {
		var errs []error
		if c.Sessions, errs, err = a.ReadSessions(ctx, c.Entries); err == nil {
			for i, e := range errs {
				if e != nil {
					t.Logf("session #%d: %v", c.Entries[i].Seq, e)
				}
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// prunes runs a prune in a connection of its own.
func prunes(t testing.TB, p *archivetest.Place, cuts Cuts, o Options) *Result {
	t.Helper()
	lock := protocol.LockExclusive
	if o.DryRun {
		lock = protocol.LockRead
	}
	a := p.Open(t, lock)
	defer a.Close()
	o.Phase = func(string) {}
	o.Warn = func(text string) { t.Log(text) }
	res, err := Run(ctx, a, content(t, a), cuts, o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// whole cuts sessions away.
func whole(seqs ...uint64) Cuts {
	cuts := Cuts{}
	for _, seq := range seqs {
		cuts[seq] = &Cut{Whole: true}
	}
	return cuts
}

// used is what the packs take up on the disk, and how many there are.
func used(t testing.TB, p *archivetest.Place) (bytes int64, packs int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(p.Dir, "packs"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
			packs++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes, packs
}

// expect reads every session back and compares it with what it should be.
func expect(t testing.TB, p *archivetest.Place, want map[uint64]map[string]string) {
	t.Helper()
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	c := content(t, a)
	names := map[format.ObjectID]string{}
	for _, v := range c.Table.Volumes {
		names[v.ID] = v.Name
	}
	got := map[uint64]map[string]string{}
	for i, s := range c.Sessions {
		got[c.Entries[i].Seq] = map[string]string{}
		for _, v := range s.Volumes {
			letters := want[s.Seq][names[v.Volume]]
			if !bytes.Equal(readVolume(t, a, v.Record), image(letters)) {
				t.Errorf("session #%d: %s is not %q", s.Seq, names[v.Volume], letters)
			}
			got[s.Seq][names[v.Volume]] = letters
		}
	}
	if !maps.EqualFunc(got, want, maps.Equal[map[string]string, map[string]string]) {
		t.Errorf("the archive has %v, want %v", got, want)
	}
	numbers, err := a.RemovedNumbers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	removed := map[uint64]bool{}
	for _, r := range numbers.Ranges {
		for n := r.First; n <= r.Last; n++ {
			removed[n] = true
		}
	}
	for n := uint64(1); n < a.Root().NextSeq; n++ {
		if _, there := want[n]; there == removed[n] {
			t.Errorf("session #%d is there: %v, and removed on purpose: %v", n, there, removed[n])
		}
	}
	// Every name is one that a session needs.
	needed := map[string]bool{}
	for _, volumes := range want {
		for name := range volumes {
			needed[name] = true
		}
	}
	if len(needed) != len(c.Table.Volumes) {
		t.Errorf("%d names for %d volumes", len(c.Table.Volumes), len(needed))
	}
}

func readVolume(t testing.TB, a *archive.Archive, id format.BlobID) []byte {
	t.Helper()
	r, err := a.Record(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, r.Size)
	w := a.Walker()
	w.Entries = func(items []tree.Item) error {
		return a.FetchChunks(ctx, r.Domain, items, func(it tree.Item, plain []byte, err error) error {
			copy(b[int64(it.Index)*chunkSize:], plain)
			return err
		})
	}
	if err := a.WalkVolume(ctx, r, w); err != nil {
		t.Fatal(err)
	}
	return b
}

// check finds nothing wrong, reading all data.
func check(t testing.TB, p *archivetest.Place) {
	t.Helper()
	a := p.OpenBare(t, protocol.LockRead)
	defer a.Close()
	var list damage.List
	_, err := verify.Check(ctx, a, &list, verify.CheckOptions{
		ReadData: 100, Begin: func(string, int64) {}, Bytes: func(int64) {}, Warn: func(string) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	if found, _ := list.Ranges(); len(found) > 0 {
		t.Errorf("check finds %+v", found)
	}
	pairs(t, p)
}

// pairs finds of each metadata pack its twin, with the same blobs at the same
// places, and no other pack that isn't named.
func pairs(t testing.TB, p *archivetest.Place) {
	t.Helper()
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	data, metadata := archivetest.Packs(t, a)
	blobs := func(name string) []byte {
		b, err := os.ReadFile(p.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		toc := binary.BigEndian.Uint32(b[len(b)-format.TrailerSize:])
		return b[format.HeaderSize : len(b)-format.TrailerSize-int(toc)]
	}
	for _, name := range metadata {
		if twin := archivetest.Twin(t, name); !bytes.Equal(blobs(name), blobs(twin)) {
			t.Errorf("%s and its twin %s differ", name, twin)
		}
	}
	if n := len(p.Objects(t, protocol.PrefixPacks)); n != len(data)+2*len(metadata) {
		t.Errorf("%d files of packs, of which the index names %d and %d", n, len(data), len(metadata))
	}
	index, twins := p.Objects(t, protocol.PrefixIndex), 0
	for _, name := range index {
		if slices.Contains(index, archivetest.Twin(t, name)) {
			twins++
		}
	}
	if twins != len(index) {
		t.Errorf("%d of %d index objects have twins", twins, len(index))
	}
}

// TestPruneSessions: sessions go, others stay, and what a dry run says is what
// a run does and what the disk says.
func TestPruneSessions(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
	}{{"punch", Options{}}, {"compose", Options{noPunch: true}}, {"neither", Options{noPunch: true, noCompose: true}}, {"punch only", Options{noCompose: true}}} {
		t.Run(c.name, func(t *testing.T) {
			p := archivetest.New(t).Init(t)
			want := map[uint64]map[string]string{}
			for i := range 6 {
				letters := []rune("abcdefghijklmnopqrst")
				letters[i], letters[19-i] = rune('A'+i), rune('0'+i)
				v := map[string]string{"disk": string(letters), "home": "xyz" + string(letters[i])}
				want[session(t, p, v)] = v
			}
			before, _ := used(t, p)
			dry := c.o
			dry.DryRun = true
			said := prunes(t, p, whole(1, 2, 5), dry)
			if now, _ := used(t, p); now != before {
				t.Errorf("a dry run changed %d bytes to %d", before, now)
			}
			expect(t, p, want)
			did := prunes(t, p, whole(1, 2, 5), c.o)
			if *said != *did {
				t.Errorf("said %+v, did %+v", *said, *did)
			}
			for _, seq := range []uint64{1, 2, 5} {
				delete(want, seq)
			}
			expect(t, p, want)
			check(t, p)
			after, _ := used(t, p)
			// The run's own pack of metadata came on top.
			if back := before - after; back > did.Freed || back < did.Freed-5*blockBytes {
				t.Errorf("%d bytes came back, where %d were said to", back, did.Freed)
			}
			if c.o.noPunch == c.o.noCompose && !c.o.noPunch && did.Freed < 5*chunkSize {
				t.Errorf("only %d bytes came back: %+v", did.Freed, *did)
			}
			again := prunes(t, p, nil, c.o)
			if again.Freed != 0 && c.name != "compose" {
				t.Errorf("a second one frees %+v", *again)
			}
			expect(t, p, want)
			check(t, p)
		})
	}
}

// TestModel: backups and prunes in any order, with stores that can do more or
// less; every session that is kept is what it was.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := archivetest.New(t).Init(t)
		defer os.RemoveAll(p.Dir)
		want := map[uint64]map[string]string{}
		letters := rapid.StringOfN(rapid.RuneFrom([]rune("abcdefghij..")), 1, 40, -1)
		now := map[string]string{}
		for range rapid.IntRange(2, 7).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0, 1:
				name := rapid.SampledFrom([]string{"disk", "home", "root"}).Draw(rt, "volume")
				now[name] = letters.Draw(rt, "letters")
				want[session(t, p, now)] = maps.Clone(now)
			case 2:
				o := Options{noPunch: rapid.Bool().Draw(rt, "noPunch"), noCompose: rapid.Bool().Draw(rt, "noCompose")}
				cuts := randomCuts(t, rt, p, want)
				dry := o
				dry.DryRun = true
				said := prunes(t, p, cuts, dry)
				if did := prunes(t, p, cuts, o); *did != *said {
					rt.Fatalf("said %+v, did %+v", *said, *did)
				}
			case 3:
				if err := os.RemoveAll(p.Cache); err != nil {
					rt.Fatal(err)
				}
			}
			expect(t, p, want)
		}
		check(t, p)
		if t.Failed() {
			rt.Fatal("see above")
		}
	})
}
