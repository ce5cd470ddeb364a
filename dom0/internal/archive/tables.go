package archive

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"pinion/dom0/internal/durable"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/pack"
)

// The tables of contents of all packs say what the index says. Where an index object
// and its twin are both missing or damaged, reading goes on by them: that costs one
// small read for each pack, once, since what comes of it is kept in the cache. A
// writer stops: check --repair makes the index anew.

// tablesAtOnce is how many tables of contents are asked for at a time.
const tablesAtOnce = 16

// LoadIndex makes the archive's blobs readable. Index objects that are not in
// the cache are fetched; where that can't be done, tables of contents stand in.
func (a *Archive) LoadIndex(ctx context.Context) error {
	if a.kept != nil {
		return a.loadKept(ctx)
	}
	if a.rootless != nil {
		return a.loadRootless(ctx)
	}
	err := a.loadIndex(ctx, a.root.Index)
	if !isDamage(err) {
		return err
	}
	t, _, tablesErr := a.openTables(ctx, false, a.root.Index, nil, err)
	if tablesErr != nil {
		return tablesErr
	}
	a.index, a.freshIndex, a.tables = t, false, err
	return nil
}

// tablesNote says what the cache keeps of the tables of contents.
type tablesNote struct {
	Version    int    `json:"version"`
	For        string `json:"for"`        // what they stand in for: runsHash, or without a root packsHash
	Generation uint64 `json:"generation"` // the highest that a pack was written on
	Runs       []byte `json:"runs"`       // of the index that was made of them, as a root has them
}

// parseTablesNote reads a note of the cache. No error says that it is damaged: what
// it is about is read again then.
func parseTablesNote(untrusted []byte) (note tablesNote, runs []format.IndexRun, ok bool) {
	if len(untrusted) > maxTablesNote || json.Unmarshal(untrusted, &note) != nil || note.Version != tablesNoteVersion {
		return tablesNote{}, nil, false
	}
	runs, err := format.ParseIndexRuns(note.Runs)
	return note, runs, err == nil
}

const (
	tablesNoteVersion = 3
	tablesNoteName    = "tables.json"
	maxTablesNote     = 1 << 20
)

// openTables makes an index of the tables of contents, and of what is left of the
// index itself, for reading alone. generation is the highest that a pack was written
// on. sizes, if not nil, are the packs, listed already: then what the cache has is of
// use as long as they are the same, and not as long as runs are.
func (a *Archive) openTables(ctx context.Context, spare bool, runs []format.IndexRun, sizes map[format.ObjectID]int64, damage error) (t *index.Table, generation uint64, err error) {
	dir := filepath.Join(a.indexCache(), "tables")
	if spare {
		dir += "-spare"
	}
	what := runsHash(runs)
	if sizes != nil {
		what = packsHash(sizes)
	}
	if t, generation := a.openNoted(ctx, dir, what); t != nil {
		a.opts.Warn(fmt.Sprintf("%v; tables of contents are used that an earlier run read", damage))
		return t, generation, nil
	}
	if sizes == nil {
		if sizes, err = a.packSizes(ctx); err != nil {
			return nil, 0, err
		}
	}
	if t, err = index.Open(ctx, dir, a.keys.Archive, nil, noSource{}); err != nil {
		return nil, 0, fmt.Errorf("make an index of tables of contents: %w", err)
	}
	if generation, err = a.fillTables(ctx, t, sizes, damage); err == nil {
		err = a.enterLeft(ctx, t, runs)
	}
	if err != nil {
		t.Close()
		return nil, 0, err
	}
	a.keepTables(ctx, dir, what, generation, t)
	return t, generation, nil
}

// packSizes lists the packs of the store with their lengths in bytes.
func (a *Archive) packSizes(ctx context.Context) (map[format.ObjectID]int64, error) {
	sizes := map[format.ObjectID]int64{}
	err := a.eachPack(ctx, func(id format.ObjectID, size int64) error {
		sizes[id] = size
		return nil
	})
	return sizes, err
}

// packsHash tells sets of packs apart.
func packsHash(sizes map[format.ObjectID]int64) string {
	ids := slices.SortedFunc(maps.Keys(sizes), func(x, y format.ObjectID) int { return bytes.Compare(x[:], y[:]) })
	h := sha256.New()
	for _, id := range ids {
		h.Write(binary.BigEndian.AppendUint64(id[:], uint64(sizes[id])))
	}
	return "packs " + hex.EncodeToString(h.Sum(nil))
}

// noSource has no index objects: what the cache lost has to be made again.
type noSource struct{}

var errNoSource = errors.New("the cache has lost it")

func (noSource) Object(_ context.Context, id format.ObjectID) ([]byte, error) {
	return nil, &DamageError{Object: id.String(), Reason: errNoSource}
}

func (noSource) List(_ context.Context, id format.ObjectID) ([]byte, error) {
	return nil, &DamageError{Object: id.String(), Reason: errNoSource}
}

// runsHash tells lists of runs apart.
func runsHash(runs []format.IndexRun) string {
	h := sha256.New()
	for _, r := range runs {
		h.Write(r.Object[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// openNoted opens what an earlier run has kept in place of what; nil: nothing of use.
func (a *Archive) openNoted(ctx context.Context, dir, what string) (t *index.Table, generation uint64) {
	b, err := os.ReadFile(filepath.Join(dir, tablesNoteName))
	if err != nil {
		return nil, 0
	}
	note, runs, ok := parseTablesNote(b)
	if !ok || note.For != what {
		return nil, 0
	}
	t, err = index.Open(ctx, dir, a.keys.Archive, runs, noSource{})
	if err != nil {
		return nil, 0
	}
	return t, note.Generation
}

// keepTables keeps what was read, if the cache can be written: it only spares time.
func (a *Archive) keepTables(ctx context.Context, dir, what string, generation uint64, t *index.Table) {
	runs, _, err := t.Flush(ctx, cacheOnly{})
	if err != nil {
		a.opts.Warn(fmt.Sprintf("what was read is not kept in the cache: %v", err))
		return
	}
	note := tablesNote{Version: tablesNoteVersion, For: what, Generation: generation, Runs: format.AppendIndexRuns(nil, runs)}
	b, err := json.Marshal(note)
	if err == nil {
		err = durable.WriteFile(filepath.Join(dir, tablesNoteName), b)
	}
	if err != nil {
		a.opts.Warn(fmt.Sprintf("what was read is not kept in the cache: %v", err))
	}
}

// cacheOnly is a sink for an index that is kept in the cache and nowhere else.
type cacheOnly struct{}

func (cacheOnly) PutObject(_ context.Context, body []byte) (format.ObjectID, uint32, error) {
	return format.NewObjectID(), uint32(len(body)) + format.HeaderSize + format.SealOverhead, nil
}

func (cacheOnly) PutList(_ context.Context, body []byte) (format.ObjectID, uint32, error) {
	return format.NewObjectID(), uint32(len(body)) + format.HeaderSize + format.SealOverhead, nil
}

// fillTables enters the blobs of every pack whose table of contents opens, the
// newest pack first, since a blob that is in two packs was sent again for a reason.
// It returns the highest generation that one was written on.
func (a *Archive) fillTables(ctx context.Context, t *index.Table, sizes map[format.ObjectID]int64, damage error) (generation uint64, err error) {
	total := int64(0)
	for _, size := range sizes {
		total += min(size, tocGuess)
	}
	a.opts.Warn(fmt.Sprintf("%v; reading the tables of contents of %d packs instead, about %d MiB, some %v",
		damage, len(sizes), total>>20+1, tablesTime(len(sizes))))
	packs, err := a.generations(ctx, sizes)
	if err != nil {
		return 0, err
	}
	for _, p := range packs {
		generation = max(generation, p.generation)
		toc, err := a.ReadTOC(ctx, p.id, p.size)
		if isDamage(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if err := enterTable(ctx, t, p, toc); err != nil {
			return 0, err
		}
	}
	return generation, nil
}

// tablesTime is about how long reading so many tables takes: one of them some
// milliseconds through a pipe, twice, and many at a time.
func tablesTime(packs int) time.Duration {
	return (time.Duration(packs) * 2 * time.Millisecond).Round(time.Second) + time.Second
}

// generations reads the tables of contents of packs and orders the packs by their
// generation, the newest first. Of a pair of twins one is enough.
func (a *Archive) generations(ctx context.Context, sizes map[format.ObjectID]int64) ([]foundPack, error) {
	var mu sync.Mutex
	var packs []foundPack
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(tablesAtOnce)
	for id, size := range sizes {
		g.Go(func() error {
			toc, err := a.ReadTOC(ctx, id, size)
			if isDamage(err) {
				return nil
			}
			if err != nil {
				return err
			}
			p := foundPack{id, id, size, toc.Generation}
			if toc.Kind == format.PackTwin {
				p.first = id.Twin()
			}
			mu.Lock()
			defer mu.Unlock()
			packs = append(packs, p)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(packs, func(p, q foundPack) int {
		return cmp.Or(cmp.Compare(q.generation, p.generation), slices.Compare(p.first[:], q.first[:]), slices.Compare(p.id[:], q.id[:]))
	})
	return slices.CompactFunc(packs, func(p, q foundPack) bool { return p.first == q.first }), nil
}

// enterTable enters the blobs of a pack that aren't known yet.
func enterTable(ctx context.Context, t *index.Table, p foundPack, toc *format.TOC) error {
	t.SetPackLength(p.first, uint32(p.size))
	return pack.Locations(p.first, toc, func(b format.TOCBlob, at format.Location) error {
		_, known, err := t.Lookup(ctx, b.ID)
		if err != nil || known {
			return err
		}
		return t.Add(index.Entry{ID: b.ID, Type: b.Type, Pack: at.Pack, Offset: at.Offset, Length: at.Length})
	})
}

// enterLeft enters what the index objects that are left know beside the tables: of
// packs whose own tables of contents are damaged.
func (a *Archive) enterLeft(ctx context.Context, t *index.Table, runs []format.IndexRun) error {
	left, err := index.OpenPartly(ctx, filepath.Join(a.indexCache(), "spare"), a.keys.Archive, runs, indexSource{a},
		func(_ index.Ref, err error) error {
			if isDamage(err) || errors.Is(err, index.ErrBadObject) {
				return nil
			}
			return err
		})
	if err != nil {
		return fmt.Errorf("load what is left of the index: %w", err)
	}
	defer left.Close()
	return left.Each(ctx, func(e index.Entry) error {
		_, known, err := t.Lookup(ctx, e.ID)
		if err != nil || known {
			return err
		}
		t.SetPackLength(e.Pack, format.MaxPack)
		return t.Add(e)
	})
}
