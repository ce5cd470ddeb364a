package reflink

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

const numbered = 16 << 10 // bytes of a block that is written at once

// numberBlocks writes numbers from one on, each to the block after that of
// the one before, until it is told to stop.
func numberBlocks(f *os.File, size int64, stop <-chan bool) error {
	p := make([]byte, numbered)
	for n := int64(1); ; n++ {
		select {
		case <-stop:
			return nil
		default:
		}
		binary.LittleEndian.PutUint64(p, uint64(n))
		binary.LittleEndian.PutUint64(p[numbered-8:], uint64(n))
		if _, err := f.WriteAt(p, n*numbered%size); err != nil {
			return err
		}
	}
}

// checkNumbers sees that a file is what numberBlocks had written at one time.
func checkNumbers(t *testing.T, text []byte) {
	t.Helper()
	last, at := uint64(0), 0
	count := len(text) / numbered
	number := func(block int) uint64 {
		p := text[block*numbered:][:numbered]
		n := binary.LittleEndian.Uint64(p)
		if m := binary.LittleEndian.Uint64(p[numbered-8:]); m != n {
			t.Fatalf("block %d begins with %d and ends with %d", block, n, m)
		}
		return n
	}
	for i := range count {
		if n := number(i); n > last {
			last, at = n, i
		}
	}
	for i := range count {
		block := (at + count - i) % count
		want := uint64(0)
		if uint64(i) < last {
			want = last - uint64(i)
		}
		if n := number(block); n != want {
			t.Fatalf("block %d has number %d when %d is the last: want %d", block, n, last, want)
		}
	}
}

// again runs commands, one after the other, over and over until the test
// ends. It returns how often they were all run.
func again(t *testing.T, commands ...[]string) *atomic.Int64 {
	t.Helper()
	var rounds atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan bool)
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for _, c := range commands {
				if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil && ctx.Err() == nil {
					t.Errorf("%v: %v: %s", c, err, out)
					return
				}
			}
			rounds.Add(1)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return &rounds
}

// TestMovingBlocksNeverPassForEqual: while a balance and a defragmentation
// give everything other addresses, over and over, a difference is whole or
// there is none.
func TestMovingBlocksNeverPassForEqual(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", gib)
	im := newImage(t, dir, 48*mib)
	im.write(1, 0, 48<<20)
	im.sync()
	for i := range int64(1500) {
		im.write(uint64(i), i*32*kib, 4096)
	}
	a := im.snap()
	for i := range int64(300) {
		im.write(uint64(10_000+i), i*160*kib, 4096)
	}
	b := im.snap()
	want := im.diff(a, b)
	if len(want) != 300 {
		t.Fatalf("%d ranges", len(want))
	}
	btrfs := testenv.Tool(t, "btrfs", "btrfs-progs")
	moves := again(t,
		[]string{btrfs, "balance", "start", "-d", dir},
		[]string{btrfs, "filesystem", "defragment", "-f", im.path},
		[]string{btrfs, "filesystem", "sync", dir})
	diffs, equal, refused := 0, 0, 0
	for began := time.Now(); (moves.Load() < 2 || diffs < 20) && time.Since(began) < 30*time.Second; {
		got, err := collect(im.pool, a, b)
		if errors.Is(err, errMoved) {
			refused++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		diffs++
		for _, r := range want {
			if !contains(got, r.Start, r.End) {
				t.Fatalf("after %d moves, the difference %v passes for equal", moves.Load(), r)
			}
		}
		if len(got) == len(want) {
			equal++
		}
		// A snapshot that is made while everything moves, and read at once.
		im.write(uint64(diffs), int64(diffs%48)*mib+512*kib, 4096)
		c := im.snap()
		ranges, err := collect(im.pool, b, c)
		if err == nil && !contains(ranges, int64(diffs%48)*mib+512*kib, int64(diffs%48)*mib+516*kib) {
			t.Fatal("a block that was just written passes for equal")
		}
		if err := im.pool.Drop(context.Background(), owner, c.Name); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d differences, %d of them exact, and %d given up, in %d moves", diffs, equal, refused, moves.Load())
	if diffs == 0 || moves.Load() == 0 {
		t.Error("nothing was compared, or nothing was moved")
	}
}

// TestDefragmentedSnapshot: rewriting a snapshot's blocks makes it differ in
// addresses, or tells that it was written to; never equal.
func TestDefragmentedSnapshot(t *testing.T) {
	dir := testenv.Mount(t, "btrfs", 512*mib)
	im := newImage(t, dir, 16*mib)
	for i := range int64(200) {
		im.write(uint64(i), i*64*kib, 4096)
		im.sync()
	}
	a := im.snap()
	im.write(999, mib, 4096)
	b := im.snap()
	testenv.Run(t, testenv.Tool(t, "btrfs", "btrfs-progs"), "filesystem", "defragment", "-r", "-f", filepath.Dir(a.Name))
	if err := errors.Join(im.pool.Check(context.Background(), a), im.pool.Check(context.Background(), b)); err != nil {
		t.Logf("it is found to be another: %v", err)
		return
	}
	im.checkDiff(a, b)
}

// A fakeReader gives mappings out of a list, one after another.
type fakeReader struct {
	reads [][]piece
	found int
}

func (r *fakeReader) read(pos int64, into []piece) ([]piece, error) {
	pieces := r.reads[0]
	if len(r.reads) > 1 {
		r.reads = r.reads[1:]
	}
	if pieces == nil {
		return nil, errMoved
	}
	return append(into[:0], pieces...), nil
}

func (r *fakeReader) settle(int64) {}

func (r *fakeReader) find(int64) error { r.found++; return nil }

// TestReadTwice: A moved away from an address and B came to it, between two
// reads; then all holds still.
func TestReadTwice(t *testing.T) {
	at := func(address uint64) []piece { return []piece{{end: 100, content: blocks, at: address}} }
	halves := []piece{{end: 50, content: blocks, at: 1}, {start: 50, end: 100, content: zeros}}
	all := []source.Range{{Start: 0, End: 100}}
	for name, c := range map[string]struct {
		a, b [][]piece
		want []source.Range
		err  error
	}{
		"still, equal":     {a: [][]piece{at(1)}, b: [][]piece{at(1)}},
		"still, different": {a: [][]piece{at(1)}, b: [][]piece{at(2)}, want: all},
		"A moved":          {a: [][]piece{at(1), at(3)}, b: [][]piece{at(1)}, want: all},
		"B moved":          {a: [][]piece{at(1)}, b: [][]piece{at(1), at(2)}, want: all},
		"B was cut up":     {a: [][]piece{at(1)}, b: [][]piece{halves, at(2)}, want: all},
		"A was lost":       {a: [][]piece{nil, at(1)}, b: [][]piece{at(1)}},
		"never still":      {a: alternating(at(1), at(3)), b: [][]piece{at(1)}, err: errMoved},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // the last takes its time
			var got []source.Range
			a, b := &fakeReader{reads: c.a}, &fakeReader{reads: c.b}
			d := differ{file: open(t, os.DevNull), a: a, b: b, size: 100, yield: func(r source.Range) error { got = append(got, r); return nil }}
			err := d.run(context.Background())
			if !errors.Is(err, c.err) || err != nil && c.err == nil {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if len(got) != len(c.want) || len(got) > 0 && got[0] != c.want[0] {
				t.Errorf("difference %v, want %v", got, c.want)
			}
			if moved := len(c.a) > 1 || len(c.b) > 1; moved != (a.found > 0) {
				t.Errorf("the place was looked for anew %d times", a.found)
			}
		})
	}
}

// alternating is more reads than there are attempts.
func alternating(a, b []piece) (all [][]piece) {
	for range attempts {
		all = append(all, a, b)
	}
	return all
}
