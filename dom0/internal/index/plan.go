package index

import "pinion/dom0/internal/format"

// levelFor is the lowest level for a run of n entries.
func levelFor(n, base uint64) uint8 {
	level := uint8(0)
	for limit := base; n > limit && level < MaxLevel; limit *= levelFactor {
		level++
	}
	return level
}

// planMerge says what becomes of n additions: they and the newest merge runs
// become one run on that level. runs are newest first. For more additions it is
// never fewer runs.
func planMerge(runs []*run, n, base uint64) (level uint8, merge int) {
	// What this program writes stays below the bound by itself.
	merge = max(0, len(runs)+1-format.MaxIndexRuns)
	n += entriesOf(runs[:merge])
	level = levelFor(n, base)
	for merge < len(runs) && runs[merge].listed.Level < level {
		n += runs[merge].listed.Entries
		merge++
	}
	for {
		end := merge
		for end < len(runs) && runs[end].listed.Level == level {
			end++
		}
		if end-merge+1 <= runsPerLevel {
			return level, merge
		}
		for ; merge < end; merge++ {
			n += runs[merge].listed.Entries
		}
		// At most one level up, so that levels stay in the order of age.
		level = max(level, min(levelFor(n, base), level+1))
	}
}
