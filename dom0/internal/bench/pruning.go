package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// A series is sessions of one volume of random bytes, with a share of its
// chunks rewritten between two of them.
type series struct {
	sessions int
	size     int64  // of the volume, bytes
	goes     string // prune's --session
	what     string
}

const (
	seriesChunk   = 128 << 10 // init's default
	seriesPercent = 1         // of the chunks, between two sessions
)

// pruning measures what removing sessions costs, and what deleting the same by
// rewriting packs would.
func (b *bench) pruning() error {
	fmt.Printf("\nPrune: a volume of random bytes, %d %% of its chunks rewritten for each session\n\n", seriesPercent)
	fmt.Printf(pruneFormat, "", "seconds", "sent", "read", "freed", "on disk")
	for _, s := range []series{
		{100, 512 << 20, "#1,#50", "50 of 100, 512 MiB"},
		{1000, 16 << 20, "#500", "1 of 1,000, 16 MiB"},
	} {
		if err := b.pruneSeries(s); err != nil {
			return err
		}
	}
	return errors.Join(os.Remove(b.path("series")), os.RemoveAll(b.path("rewritten")))
}

// pruneFormat has a line in 80 columns.
const pruneFormat = "%-30s %8s %9s %9s %9s %9s\n"

// pruneSeries makes a series, prunes it, and rewrites what that has touched.
func (b *bench) pruneSeries(s series) error {
	if err := b.makeSeries(s); err != nil {
		return fmt.Errorf("make %d sessions: %w", s.sessions, err)
	}
	before, err := packBlocks(b.path("store"))
	if err != nil {
		return err
	}
	document, seconds, err := b.output("prune", "--session", s.goes)
	if err != nil {
		return err
	}
	var said struct {
		Freed int64 `json:"freed_bytes"`
		Sent  int64 `json:"sent_bytes"`
		Read  int64 `json:"read_bytes"`
	}
	if err := json.Unmarshal(document, &said); err != nil {
		return fmt.Errorf("read what prune prints: %w", err)
	}
	after, err := packBlocks(b.path("store"))
	if err != nil {
		return err
	}
	fmt.Printf(pruneFormat, s.what, fmt.Sprintf("%.2f", seconds), kib(said.Sent), kib(said.Read), kib(said.Freed), kib(total(before)-total(after)))
	moved, took, err := b.rewrite(before, after)
	if err != nil {
		return fmt.Errorf("rewrite packs: %w", err)
	}
	fmt.Printf(pruneFormat, "  the same by rewriting packs", fmt.Sprintf("%.2f", took), kib(moved), kib(moved), "", "")
	_, err = b.command("verify", "--all-sessions")
	return err
}

func kib(n int64) string { return fmt.Sprintf("%.0f KiB", float64(n)/1024) }

// makeSeries makes an archive with the sessions of a series.
func (b *bench) makeSeries(s series) error {
	if err := b.fresh(); err != nil {
		return err
	}
	f, err := os.OpenFile(b.path("series"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	chunk := make([]byte, seriesChunk)
	put := func(at int64) error {
		rand.Read(chunk) // never fails
		_, err := f.WriteAt(chunk, at*seriesChunk)
		return err
	}
	chunks := s.size / seriesChunk
	for at := range chunks {
		if err := put(at); err != nil {
			return err
		}
	}
	random := mathrand.New(mathrand.NewPCG(1, uint64(s.sessions)))
	for n := range s.sessions {
		if _, err := b.command("backup", "v=file:"+b.path("series")); err != nil {
			return fmt.Errorf("session %d: %w", n+1, err)
		}
		for range max(1, chunks*seriesPercent/100) {
			if err := put(random.Int64N(chunks)); err != nil {
				return err
			}
		}
	}
	return nil
}

// packBlocks is what each pack of a store takes up, by its name there.
func packBlocks(dir string) (map[string]int64, error) {
	packs := map[string]int64{}
	err := filepath.WalkDir(filepath.Join(dir, "packs"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		packs[filepath.ToSlash(name)] = info.Sys().(*syscall.Stat_t).Blocks * 512
		return err
	})
	return packs, err
}

func total(packs map[string]int64) (sum int64) {
	for _, n := range packs {
		sum += n
	}
	return sum
}

// rewrite does what a program has to do that can't free room inside of packs:
// of each pack that a prune has touched and not deleted, what is left is read,
// and sent as a new one. It returns how many bytes went each way.
func (b *bench) rewrite(before, after map[string]int64) (moved int64, seconds float64, err error) {
	from, err := store.ParseDestination("file:" + b.path("store"))
	if err != nil {
		return 0, 0, err
	}
	if err := os.RemoveAll(b.path("rewritten")); err != nil {
		return 0, 0, err
	}
	to, err := store.ParseDestination("file:" + b.path("rewritten"))
	if err != nil {
		return 0, 0, err
	}
	source, err := store.Open(b.ctx, from, store.Options{Helper: b.helper})
	if err != nil {
		return 0, 0, err
	}
	defer source.Close()
	target, err := store.Open(b.ctx, to, store.Options{Helper: b.helper, Create: true})
	if err != nil {
		return 0, 0, err
	}
	defer target.Close()
	if err := target.Lock(b.ctx, protocol.LockAppend); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	for name, was := range before {
		// What was composed is left in packs that are new; the least that rewriting would move is what they have.
		if is, there := after[name]; there && is < was {
			if err := b.moveBytes(source, target, name, is); err != nil {
				return moved, 0, err
			}
			moved += is
		}
	}
	for name, is := range after {
		if _, there := before[name]; !there && strings.HasPrefix(name, protocol.PrefixPacks) {
			if err := b.moveBytes(source, target, name, is); err != nil {
				return moved, 0, err
			}
			moved += is
		}
	}
	return moved, time.Since(start).Seconds(), nil
}

// moveBytes reads the first n bytes of a pack, or all if it has fewer, and puts
// them into another store.
func (b *bench) moveBytes(source, target *store.Conn, name string, n int64) error {
	info, err := os.Stat(filepath.Join(b.path("store"), filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	n = min(n, info.Size())
	if n == 0 {
		return nil
	}
	buf := make([]byte, n)
	if err := source.Get(b.ctx, name, []protocol.Range{{Len: uint32(n)}}, buf).Wait(); err != nil {
		return err
	}
	return target.Put(b.ctx, name, buf).Wait()
}
