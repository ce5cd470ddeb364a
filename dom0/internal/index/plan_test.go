package index

import (
	"math/rand/v2"
	"testing"

	"pinion/dom0/internal/format"
)

// fakeRuns makes runs that hold no files, newest first.
func fakeRun(level uint8, entries uint64) *run {
	return &run{listed: format.IndexRun{Level: level, Entries: entries}}
}

func TestLevelFor(t *testing.T) {
	for _, c := range []struct {
		n    uint64
		want uint8
	}{{1, 0}, {512, 0}, {513, 1}, {4096, 1}, {4097, 2}, {80e6, 6}, {1<<32 - 1, 8}, {1 << 54, MaxLevel}, {1 << 60, MaxLevel}} {
		if got := levelFor(c.n, levelBase); got != c.want {
			t.Errorf("levelFor(%d) = %d, want %d", c.n, got, c.want)
		}
	}
}

// What the package promises of merging: at most 8 runs a level, levels in the
// order of age, and a bounded number of times that an entry is sent.
func TestPlanMergeArithmetic(t *testing.T) {
	for _, c := range []struct {
		name     string
		sessions int
		size     func(r *rand.Rand, session int) uint64
	}{
		{"small sessions", 5000, func(r *rand.Rand, _ int) uint64 { return 5 }},
		{"a large one, then small ones", 3000, func(r *rand.Rand, n int) uint64 {
			if n == 0 {
				return 10e6
			}
			return 480
		}},
		{"runs as large as their level allows", 2000, func(r *rand.Rand, n int) uint64 {
			if n%20 == 0 {
				return levelBase + 1
			}
			return levelBase
		}},
		{"all sizes", 5000, func(r *rand.Rand, _ int) uint64 { return 1 + r.Uint64N(1<<r.IntN(20)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 4))
			var runs []*run
			var added, sent uint64
			for n := range c.sessions {
				size := c.size(r, n)
				added += size
				level, merge := planMerge(runs, size, levelBase)
				if _, fewer := planMerge(runs, 1+r.Uint64N(size), levelBase); fewer > merge {
					t.Fatalf("session %d: %d runs are merged for fewer than %d additions, where those merge %d", n, fewer, size, merge)
				}
				for _, x := range runs[:merge] {
					size += x.listed.Entries
				}
				sent += size
				runs = append([]*run{fakeRun(level, size)}, runs[merge:]...)
				perLevel := make(map[uint8]int)
				for i, x := range runs {
					if perLevel[x.listed.Level]++; perLevel[x.listed.Level] > runsPerLevel {
						t.Fatalf("session %d: more than %d runs on level %d", n, runsPerLevel, x.listed.Level)
					}
					if i > 0 && x.listed.Level < runs[i-1].listed.Level {
						t.Fatalf("session %d: a run of level %d is older than one of level %d", n, runs[i-1].listed.Level, x.listed.Level)
					}
				}
			}
			top := uint64(levelFor(added, levelBase))
			limit := added*(top+1) + uint64(c.sessions)*levelBase/runsPerLevel
			t.Logf("%d entries in %d runs, highest level %d, each entry sent %.2f times", added, len(runs), runs[len(runs)-1].listed.Level, float64(sent)/float64(added))
			if sent > limit {
				t.Errorf("%d entries sent for %d added; the bound is %d", sent, added, limit)
			}
			if got := uint64(runs[len(runs)-1].listed.Level); got > top {
				t.Errorf("level %d for %d entries, want at most %d", got, added, top)
			}
		})
	}
}

// A root that another program wrote may list its runs in any order of levels, and
// as many as it may: then one more must not be too many.
func TestPlanMergeOfForeignRuns(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		var runs []*run
		for range r.IntN(format.MaxIndexRuns + 1) {
			runs = append(runs, fakeRun(uint8(r.IntN(MaxLevel+1)), 1+r.Uint64N(1<<r.IntN(30))))
		}
		n := 1 + r.Uint64N(1<<r.IntN(20))
		level, merge := planMerge(runs, n, levelBase)
		if merge > len(runs) || level > MaxLevel || len(runs)-merge+1 > format.MaxIndexRuns {
			t.Fatalf("%d of %d runs are merged to level %d", merge, len(runs), level)
		}
		if _, fewer := planMerge(runs, 1+r.Uint64N(n), levelBase); fewer > merge {
			t.Fatalf("%d of %d runs are merged for fewer than %d additions, where those merge %d", fewer, len(runs), n, merge)
		}
	}
}
