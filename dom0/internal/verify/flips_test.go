package verify_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// flipsEnv makes TestEveryByte flip a bit of every byte; else some of each object.
const flipsEnv = "PINION_TEST_EVERY_BYTE"

// offsets are the bytes of an object of size bytes to flip a bit of: of the header,
// the beginning of what follows, the end, and some between.
func offsets(r *rand.Rand, size int) (offs []int) {
	if os.Getenv(flipsEnv) != "" {
		for off := range size {
			offs = append(offs, off)
		}
		return offs
	}
	for off := 0; off < size; off += 1024 {
		offs = append(offs, off+r.IntN(min(1024, size-off)))
	}
	if len(offs) > 4 {
		r.Shuffle(len(offs), func(i, j int) { offs[i], offs[j] = offs[j], offs[i] })
		offs = offs[:4]
	}
	offs = append(offs, 7, r.IntN(format.HeaderSize), format.HeaderSize+r.IntN(80), size-1-r.IntN(24))
	slices.Sort(offs)
	return slices.Compact(offs)
}

// TestEveryByte: whichever bit of an archive is flipped, a host that has never seen
// the archive lists and restores what it has, but for the chunks in a blob that the
// bit is in, and check names the object and no other.
func TestEveryByte(t *testing.T) {
	p, _, _ := two(t)
	a := p.Open(t, protocol.LockRead)
	data, _ := archivetest.Packs(t, a)
	a.Close()
	r := rand.New(rand.NewPCG(11, 4))
	flips, costly := 0, 0
	for _, object := range p.Objects(t, "") {
		if protocol.CheckName(object) != nil {
			continue
		}
		whole, err := os.ReadFile(p.Path(object))
		if err != nil {
			t.Fatal(err)
		}
		for _, off := range offsets(r, len(whole)) {
			flips++
			bit := byte(1) << r.IntN(8)
			t.Run(fmt.Sprintf("%s byte %d bit %#02x", object, off, bit), func(t *testing.T) {
				if flipped(t, p, object, whole, off, bit) > 0 {
					costly++
					if !slices.Contains(data, object) {
						t.Error("a volume can't be had")
					}
				}
			})
			if t.Failed() && flips > 100 {
				t.Fatal("enough")
			}
		}
	}
	t.Logf("%d flips, of which %d cost chunks", flips, costly)
}

// flipped flips a bit and returns how many volumes can't be had for that.
func flipped(t *testing.T, p *archivetest.Place, object string, whole []byte, off int, bit byte) int {
	b := bytes.Clone(whole)
	b[off] ^= bit
	write := func(b []byte) {
		if err := os.WriteFile(p.Path(object), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(b)
	defer write(whole)
	p.Forget(t)
	p.ForgetCache(t)
	lost := restoreAll(t, p, object)
	found, _ := check(t, p, 100, false)
	if len(found) == 0 {
		t.Error("check finds nothing")
	}
	for _, f := range found {
		if !strings.Contains(f.Object+" "+f.Reason, object) {
			t.Errorf("check finds %+v", f)
		}
	}
	for _, text := range append(p.Warnings(), fmt.Sprint(found)) {
		text = strings.ReplaceAll(text, "is damaged, or of a newer version", "") // of roots, nobody can tell
		if strings.Contains(text, "newer version") {
			t.Errorf("it is called newer: %s", text)
		}
	}
	return lost
}
