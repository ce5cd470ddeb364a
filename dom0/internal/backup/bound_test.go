package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tree"
)

// TestNodesOfADelta holds the bounds of a dry run to what an update of a tree
// makes and reads.
func TestNodesOfADelta(t *testing.T) {
	const chunkSize = format.MinChunkSize
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		chunks := func(label string) uint64 {
			return rapid.SampledFrom([]uint64{0, 1, 31, 32, 33, 1000, 1024, 1025, 5000, 40000}).Draw(t, label)
		}
		stored, read := map[format.BlobID][]byte{}, uint64(0)
		store := func(plain []byte) (format.BlobID, error) {
			id := format.BlobID(sha256.Sum256(plain))
			stored[id] = slices.Clone(plain)
			return id, nil
		}
		entries := func(label string, n uint64) map[uint64]bool {
			set := map[uint64]bool{}
			if n == 0 {
				return set
			}
			for _, r := range drawRanges(t, label, int64(n)) {
				for i := r.Start; i < min(r.End, r.Start+300); i++ {
					set[uint64(i)] = true
				}
			}
			return set
		}
		was, now := chunks("was"), chunks("now")
		if rapid.Bool().Draw(t, "same size") {
			now = was
		}
		old, fresh := entries("old", was), entries("fresh", now)
		since := &format.VolumeRecord{Size: int64(was) * chunkSize, Data: int64(len(old)) * chunkSize}
		b := tree.NewBuilder(was, store)
		for i := range was {
			if old[i] {
				if err := b.Add(i, format.BlobID{1, byte(i)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		var err error
		if since.Top, err = b.Finish(); err != nil {
			t.Fatal(err)
		}
		only := &dirty.Map{}
		for _, r := range drawRanges(t, "changed", int64(max(now, 3))) {
			only.Add(source.Range{Start: r.Start * chunkSize, End: r.End * chunkSize})
		}
		l := look{since: since, only: resized(only, since.Size, int64(now)*chunkSize, chunkSize)}

		above := nodeCount{height: format.TreeLevel(now)}
		before := len(stored)
		u := tree.NewUpdater(tree.Update{
			Top: since.Top, Was: was, Count: now,
			Changed: func(first, count uint64) bool { return touches(l.only, first, count, chunkSize) },
			Fetch: func(_ context.Context, items []tree.Item, deliver func(int, []byte, error)) error {
				for i, it := range items {
					if stored[it.ID] == nil {
						return errors.New("lost")
					}
					deliver(i, stored[it.ID], nil)
				}
				read += uint64(len(items))
				return nil
			},
		}, store)
		for i := range now {
			if fresh[i] && touches(l.only, i, 1, chunkSize) {
				above.add(stretch{i, i + 1})
				if err := u.Add(ctx, i, format.BlobID{2, byte(i)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := u.Finish(ctx); err != nil {
			t.Fatal(err)
		}
		made, reads := l.nodes(above, int64(now)*chunkSize, chunkSize)
		if n := uint64(len(stored) - before); n > made || read > reads {
			t.Fatalf("%d nodes are new, at most %d; %d were read, at most %d", n, made, read, reads)
		}
	})
}
