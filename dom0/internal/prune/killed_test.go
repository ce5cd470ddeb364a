package prune

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/protocol"
)

var killedSeeds = flag.Uint64("killed-seeds", 4, "how many histories TestKilledModel makes")

// TestKilledModel: prunes that end anywhere, and backups and prunes after them.
// Either all that was to go is gone or nothing, and when one gets to its end,
// both of all that is there twice are, and nothing else.
func TestKilledModel(t *testing.T) {
	for seed := range *killedSeeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			p := archivetest.New(t).Init(t)
			want := map[uint64]map[string]string{}
			letters := func() string {
				b := make([]byte, 1+random.IntN(40))
				for i := range b {
					b[i] = "abcdefghij.."[random.IntN(12)]
				}
				return string(b)
			}
			for range 4 {
				for range 1 + random.IntN(3) {
					v := map[string]string{"disk": letters(), "home": letters()}
					want[session(t, p, v)] = v
				}
				want = killed(t, p, want, random)
				expect(t, p, want)
			}
			prunes(t, p, nil, Options{noPunch: random.IntN(2) == 0})
			expect(t, p, want)
			check(t, p)
		})
	}
}

// killed runs a prune whose helper dies somewhere, and returns what is there
// then: all of want, or all that the prune leaves of it.
func killed(t *testing.T, p *archivetest.Place, want map[uint64]map[string]string, random *rand.Rand) map[uint64]map[string]string {
	t.Helper()
	real := os.Getenv(helperEnv)
	t.Setenv(realEnv, real)
	t.Setenv(helperEnv, os.Args[0])
	t.Setenv(diesEnv, strconv.Itoa(20+random.IntN(45)))
	a, err := p.Try(t, protocol.LockExclusive, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(helperEnv, real)
	c := content(t, a)
	cuts, left := Cuts{}, map[uint64]map[string]string{}
	for _, s := range c.Sessions {
		left[s.Seq] = maps.Clone(want[s.Seq])
		switch random.IntN(3) {
		case 0:
			cuts[s.Seq] = &Cut{Whole: true}
			delete(left, s.Seq)
		case 1:
			v := c.Table.Volumes[random.IntN(len(c.Table.Volumes))]
			cuts[s.Seq] = &Cut{Volumes: map[format.ObjectID]bool{v.ID: true}}
			if delete(left[s.Seq], v.Name); len(left[s.Seq]) == 0 {
				delete(left, s.Seq)
			}
		}
	}
	o := Options{noPunch: random.IntN(2) == 0, noCompose: random.IntN(2) == 0, Phase: func(string) {}, Warn: func(string) {}}
	_, err = Run(ctx, a, c, cuts, o)
	t.Logf("ended with %v", err)
	a.Close()
	now := p.Open(t, protocol.LockRead)
	defer now.Close()
	entries, err := now.Sessions(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Sessions alone don't tell whether one has lost a volume.
	if now.Root().Generation == a.Root().Generation && len(entries) == len(want) {
		if table, err := now.Volumes(ctx); err != nil || len(table.Volumes) < len(c.Table.Volumes) {
			return left
		}
		for i, s := range content(t, now).Sessions {
			if len(s.Volumes) < len(c.Sessions[i].Volumes) {
				return left
			}
		}
		return want
	}
	return left
}

// randomCuts removes some of what there is, and from want.
func randomCuts(t testing.TB, rt *rapid.T, p *archivetest.Place, want map[uint64]map[string]string) Cuts {
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	c := content(t, a)
	cuts := Cuts{}
	for _, s := range c.Sessions {
		switch rapid.IntRange(0, 3).Draw(rt, "cut") {
		case 0:
			cuts[s.Seq] = &Cut{Whole: true}
			delete(want, s.Seq)
		case 1:
			id := rapid.SampledFrom(c.Table.Volumes).Draw(rt, "of")
			cuts[s.Seq] = &Cut{Volumes: map[format.ObjectID]bool{id.ID: true}}
			delete(want[s.Seq], id.Name)
			if len(want[s.Seq]) == 0 {
				delete(want, s.Seq)
			}
		}
	}
	return cuts
}

// TestSmallPacks: what many small backups leave is put together.
func TestSmallPacks(t *testing.T) {
	p := archivetest.New(t).Init(t)
	want := map[uint64]map[string]string{}
	for i := range 20 {
		v := map[string]string{"disk": fmt.Sprintf("abc%c", 'A'+i)}
		want[session(t, p, v)] = v
	}
	_, before := used(t, p)
	res := prunes(t, p, nil, Options{})
	_, after := used(t, p)
	// Of each three files two are twins.
	if res.Made != 2 || res.Composed != before*2/3 || after != 3 {
		t.Errorf("%d files of packs became %d: %+v", before, after, *res)
	}
	expect(t, p, want)
	check(t, p)
}

// TestSameBlobInTwoPacks: a blob that was stored again has one place after a
// prune, the newer one, and the room of the other comes back.
func TestSameBlobInTwoPacks(t *testing.T) {
	p := archivetest.New(t).Init(t)
	want := map[uint64]map[string]string{}
	for i := range 3 {
		v := map[string]string{"disk": fmt.Sprintf("abcdefgh%c", 'A'+i)}
		want[session(t, p, v)] = v
	}
	a := p.Open(t, protocol.LockAppend)
	c := content(t, a)
	w, err := a.NewWriter(ctx, archivetest.Params().Compression, false)
	if err != nil {
		t.Fatal(err)
	}
	renewed := map[format.BlobID]bool{}
	for _, s := range c.Sessions {
		id, _, err := w.RenewMetadata(ctx, format.BlobSession, s.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		renewed[id] = true
	}
	edit := archive.Edit{Entries: c.Entries, Table: c.Table}
	next, err := edit.Apply(ctx, a, w.PutMetadata(ctx))
	if err == nil {
		err = w.CommitEdit(ctx, next)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	count := func() (places, hidden int) {
		a := p.Open(t, protocol.LockRead)
		defer a.Close()
		if err := a.Places(ctx, func(e index.Entry, counts bool) error {
			if renewed[e.ID] {
				places++
			}
			if !counts {
				hidden++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return places, hidden
	}
	if places, hidden := count(); places != 6 || hidden < 3 {
		t.Fatalf("%d places, %d of them hidden", places, hidden)
	}
	prunes(t, p, nil, Options{})
	if places, hidden := count(); places != 3 || hidden != 0 {
		t.Errorf("%d places of 3 blobs, %d hidden", places, hidden)
	}
	expect(t, p, want)
	check(t, p)
}
