package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
)

// A ground is storage that can tell what changed in a volume.
type ground interface {
	// title says what it is, for people.
	title() string
	// path is the file or device of a volume, word its name on the command
	// line.
	path(volume string) string
	word(volume string) string
	// create makes a volume of which nothing is written, clone one that
	// shares everything with another.
	create(volume string, size int64) error
	clone(from, to string) error
	// oracle lets another program find what differs between two snapshots
	// that are being compared, and returns the seconds that it took; 0 if
	// there is no such program.
	oracle(ctx context.Context, old, now *source.Base) (seconds float64, err error)
	oracleName() string
	// count runs fn and counts the programs that pinion starts meanwhile to
	// ask the storage; false, without running fn, if it needs none.
	count(fn func() error) (programs int, ok bool, err error)
}

// What is backed up on each ground. It is the same everywhere, so that tables
// can be compared.
const (
	volumeSize  = 64 << 30
	writtenSize = 2 << 30   // in writtenRuns runs, spread evenly
	writtenRuns = 32        // as large files in a file system lie
	changeSize  = 10 << 20  // for each of the differences
	changePiece = 128 << 10 // of a difference that is scattered
	cloneChange = 1 << 20   // in each clone, in pieces of changePiece
	cloneCount  = 24
	mainVolume  = "image"
)

// What has to be reached: seconds of a backup that finds nothing to do, and
// bytes sent beyond what changed, in percent.
const (
	goalUnchanged = 0.3
	goalMetadata  = 5
)

// A tracking measures backups on one ground. Its archive is the bench's.
type tracking struct {
	b      *bench
	g      ground
	seed   uint64
	finder find.Finder
	clones int
	slow   string // why seconds are not those of a real machine; mostly empty
	goals  []string
}

// tracked measures what a ground's differences cost, and prints a table.
func (b *bench) tracked(g ground, clones int, slow string) error {
	t := &tracking{b: b, g: g, clones: clones, slow: slow, finder: find.Finder{StateDir: b.path("state-of-bench")}}
	if err := t.fill(); err != nil {
		return fmt.Errorf("%s: %w", g.title(), err)
	}
	if err := t.measure(); err != nil {
		return fmt.Errorf("%s: %w", g.title(), err)
	}
	t.foot()
	return nil
}

// fill makes the volume. What it holds differs in each block, but is quick to
// compress: what is measured here is everything else.
func (t *tracking) fill() error {
	if err := t.g.create(mainVolume, volumeSize); err != nil {
		return err
	}
	buf, err := aligned(1 << 20)
	if err != nil {
		return err
	}
	defer unix.Munmap(buf)
	return t.open(mainVolume, func(f *os.File) error {
		for at := int64(0); at < writtenSize; at += int64(len(buf)) {
			for block := 0; block < len(buf); block += 4096 {
				copy(buf[block:], fmt.Sprintf("block %d of the image\n", at+int64(block)))
			}
			if _, err := f.WriteAt(buf, place(at)); err != nil {
				return err
			}
		}
		return nil
	})
}

// place is where in the volume the written byte number at is.
func place(at int64) int64 {
	const run = writtenSize / writtenRuns
	return at/run*(volumeSize/writtenRuns) + at%run
}

// aligned makes a buffer that can be written past the page cache.
func aligned(size int) ([]byte, error) {
	return unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
}

// open lets fn write to a volume, and waits until the disk has it: what is
// still being written would slow what is measured.
func (t *tracking) open(volume string, fn func(f *os.File) error) error {
	path := t.g.path(volume)
	flags := os.O_RDWR
	if info, err := os.Stat(path); err != nil {
		return err
	} else if source.IsDevice(info.Mode()) {
		flags |= unix.O_DIRECT // what is written needs no memory
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := fn(f); err != nil {
		return err
	}
	return f.Sync()
}

// change writes something new over length written bytes, in pieces that are
// spread evenly. The volume's other bytes stay.
func (t *tracking) change(volume string, length, piece int64) error {
	buf, err := aligned(int(piece))
	if err != nil {
		return err
	}
	defer unix.Munmap(buf)
	t.seed++
	rng := rand.NewChaCha8([32]byte{byte(t.seed), byte(t.seed >> 8)})
	step := writtenSize / (length / piece) / changePiece * changePiece
	return t.open(volume, func(f *os.File) error {
		for i := range length / piece {
			rng.Read(buf) // never fails
			if _, err := f.WriteAt(buf, place(i*step+step/2/changePiece*changePiece)); err != nil {
				return err
			}
		}
		return nil
	})
}

// A document is what backup and monitor say with --json.
type document struct {
	Volumes []struct {
		Mode string `json:"mode"`
		Read int64  `json:"read_bytes"`
	} `json:"volumes"`
	Sent int64 `json:"sent_bytes"`
}

// A line is a row of the table.
type line struct {
	read, sent int64 // bytes
	seconds    float64
	finding    float64 // seconds; 0: not measured
	oracle     float64 // seconds of another program; 0: there is none
	programs   int     // that were started to ask the storage; -1: it needs none
}

// run runs a command some times, each after prepare, and returns its best
// time, and what it said the last time.
func (t *tracking) run(rounds int, prepare func() error, args ...string) (l line, mode string, err error) {
	again := func() (float64, error) {
		if err := prepare(); err != nil {
			return 0, err
		}
		out, seconds, err := t.b.output(args...)
		if err != nil {
			return 0, err
		}
		var doc document
		if err := json.Unmarshal(out, &doc); err != nil || len(doc.Volumes) == 0 {
			return 0, fmt.Errorf("pinion %s: not the document that was expected: %q", args[0], out)
		}
		l.read, l.sent, mode = 0, doc.Sent, doc.Volumes[0].Mode
		for _, v := range doc.Volumes {
			l.read += v.Read
		}
		return seconds, nil
	}
	// Counting takes little beside the programs that are counted: what is run
	// only once is counted while it is measured.
	var seconds float64
	programs, ok, err := t.g.count(func() (err error) { seconds, err = again(); return err })
	if err != nil {
		return l, "", err
	}
	l.programs = -1
	if ok {
		l.programs = programs
		if rounds == 1 {
			l.seconds = seconds
			return l, mode, nil
		}
	}
	for round := range rounds {
		seconds, err := again()
		if err != nil {
			return l, "", err
		}
		if round == 0 || seconds < l.seconds {
			l.seconds = seconds
		}
	}
	return l, mode, nil
}

// finding takes snapshots before and after a change, and adds to l how long it
// takes to find the change: by the package that pinion itself does it with,
// here in this process, and by another program.
func (t *tracking) finding(l *line, change func() error) (err error) {
	ctx := t.b.ctx
	src, err := t.finder.Locator(ctx, t.g.word(mainVolume))
	if err != nil {
		return err
	}
	if src.Pool == nil {
		return fmt.Errorf("it can't be told what changed: %s", src.Why)
	}
	const owner = "be4c4be4"
	var bases [2]*source.Base
	for i := range bases {
		label := source.Label{Owner: owner, Volume: "00000000", Serial: uint64(time.Now().UnixNano())}
		taken := src.Pool.Snapshot(ctx, []source.Wanted{{Source: src, Label: label}})[0]
		if taken.Err != nil {
			return taken.Err
		}
		defer func() {
			if dropErr := src.Pool.Drop(ctx, owner, taken.Base.Name); err == nil {
				err = dropErr
			}
		}()
		if bases[i] = taken.Base; i == 0 {
			if err := change(); err != nil {
				return err
			}
		}
	}
	return t.compare(l, src.Pool, bases[0], bases[1])
}

// compare measures some times, each in a comparison of its own: one remembers
// what it has read.
func (t *tracking) compare(l *line, pool source.Pool, old, now *source.Base) error {
	for round := range t.b.rounds {
		seconds, other, err := t.compareOnce(pool, old, now)
		if err != nil {
			return err
		}
		if round == 0 || seconds < l.finding {
			l.finding = seconds
		}
		if round == 0 || other < l.oracle {
			l.oracle = other
		}
	}
	return nil
}

func (t *tracking) compareOnce(pool source.Pool, old, now *source.Base) (seconds, other float64, err error) {
	c, err := pool.Compare(t.b.ctx)
	if err != nil {
		return 0, 0, err
	}
	var found int64
	start := time.Now()
	err = c.Diff(t.b.ctx, old, now, func(r source.Range) error { found += r.Len(); return nil })
	seconds = time.Since(start).Seconds()
	if err == nil && found < changeSize {
		err = fmt.Errorf("only %d of %d changed bytes were found", found, changeSize)
	}
	if err == nil {
		other, err = t.g.oracle(t.b.ctx, old, now)
	}
	return seconds, other, errors.Join(err, c.Close())
}
