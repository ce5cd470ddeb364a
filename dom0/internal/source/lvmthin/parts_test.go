package lvmthin_test

import (
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/source/lvmthin"
)

func TestJoin(t *testing.T) {
	type r = source.Range
	for _, c := range []struct {
		block, size int64
		runs        [][2]uint64
		want        []source.Range
	}{
		{10, 100, nil, nil},
		{10, 100, [][2]uint64{{0, 1}, {2, 3}}, []r{{Start: 0, End: 10}, {Start: 20, End: 50}}},
		{10, 100, [][2]uint64{{0, 1}, {1, 3}, {4, 1}, {6, 1}}, []r{{Start: 0, End: 50}, {Start: 60, End: 70}}},
		{10, 95, [][2]uint64{{9, 1}, {10, 5}}, []r{{Start: 90, End: 95}}},
		{10, 95, [][2]uint64{{8, 1}, {9, 100}}, []r{{Start: 80, End: 95}}},
		{10, 90, [][2]uint64{{9, 1}}, nil},
		{10, 0, [][2]uint64{{0, 1}}, nil},
		{10, 5, [][2]uint64{{0, 1}}, []r{{Start: 0, End: 5}}},
		{1 << 30, math.MaxInt64, [][2]uint64{{1<<33 - 1, 1 << 61}, {1 << 62, 1}}, []r{{Start: math.MaxInt64 - 1<<30 + 1, End: math.MaxInt64}}},
		{1 << 16, 1 << 20, [][2]uint64{{1 << 62, 1 << 62}}, nil},
	} {
		got := ranges(t, func(yield func(source.Range) error) error { return lvmthin.Join(c.block, c.size, c.runs, yield) })
		if !slices.Equal(got, c.want) {
			t.Errorf("blocks of %d, size %d, %v: %v", c.block, c.size, c.runs, got)
		}
	}
}

// TestToolsCutOff: what a tool that died has written is no difference.
func TestToolsCutOff(t *testing.T) {
	const whole = `<superblock n="1"><diff n="2"><same n="3"/><different n="4"/></diff></superblock>`
	var sum uint64
	if err := lvmthin.SeeElements(whole, "n", func(_ string, n uint64) { sum += n }); err != nil || sum != 10 {
		t.Errorf("%v, %d", err, sum)
	}
	for n := range len(whole) {
		if err := lvmthin.SeeElements(whole[:n], "n", func(string, uint64) {}); err == nil {
			t.Errorf("%q is taken for whole", whole[:n])
		}
	}
	if err := lvmthin.SeeElements("", "n", nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	for _, bad := range []string{`<a/>`, `<a n=""/>`, `<a n="-1"/>`, `<a n="99999999999999999999"/>`, `<a n="9223372036854775807"/>`, `<a n="x"/>`} {
		if err := lvmthin.SeeElements(bad, "n", func(string, uint64) {}); err == nil {
			t.Errorf("%s has a number", bad)
		}
	}
}

func TestClock(t *testing.T) {
	var said []string
	p, err := lvmthin.New(&lvm.Volume{Kind: source.LVMThin, PoolUUID: "x"}, lvmthin.Options{Warn: func(s string) { said = append(said, s) }})
	if err != nil {
		t.Fatal(err)
	}
	for after, want := range map[uint64]string{
		1: "", lvmthin.ClockWarn - 1: "", lvmthin.ClockWarn: "warn", lvmthin.ClockRefuse - 1: "warn", lvmthin.ClockRefuse: "refuse", 1 << 40: "refuse",
	} {
		said = nil
		err := p.CheckClock(after)
		if (err != nil) != (want == "refuse") || (len(said) > 0) != (want == "warn") {
			t.Errorf("%d: %v, %q", after, err, said)
		}
	}
}

func TestClosestFirst(t *testing.T) {
	base := func(name, of, ancestor string) *source.Base {
		return &source.Base{Kind: source.LVMThin, Pool: "p", Name: name, Identity: map[string]string{"source_uuid": of, "source_origin": ancestor}}
	}
	me := base("me", "clone", "template")
	others := []*source.Base{
		base("stranger", "x", ""), base("sibling", "y", "template"), base("me", "clone", "template"), base("parent", "template", ""),
		base("child", "z", "clone"), base("old self", "clone", ""), {Kind: source.LVMThin, Pool: "other", Name: "elsewhere"},
	}
	if got := lvmthin.Closest(me, others); !slices.Equal(got, []int{1, 3, 4, 5, 0}) {
		t.Errorf("%v", got)
	}
	if got := lvmthin.Closest(me, slices.Repeat(others, 20)); len(got) != 16 {
		t.Errorf("looks at %d", len(got))
	}
}

func TestNotThin(t *testing.T) {
	_, err := lvmthin.New(&lvm.Volume{VG: "vg", Name: "lv", Kind: source.LVM}, lvmthin.Options{})
	if err == nil || !strings.Contains(err.Error(), "vg/lv") {
		t.Error(err)
	}
}
