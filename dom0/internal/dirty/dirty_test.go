package dirty_test

import (
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/source"
)

var update = flag.Bool("update", false, "write the golden file")

const (
	page  = 256 << 20
	model = 3*4096 + 5 // grains that the model knows
)

func rng(start, end int64) source.Range { return source.Range{Start: start, End: end} }

func add(m *dirty.Map, set []bool, r source.Range) {
	m.Add(r)
	for g := r.Start / dirty.Grain; g*dirty.Grain < r.End && r.End > r.Start; g++ {
		set[g] = true
	}
}

// drawRange draws a range that lies at edges of grains and pages often.
func drawRange(t *rapid.T) source.Range {
	grain := rapid.OneOf(rapid.Int64Range(0, model-1), rapid.SampledFrom([]int64{0, 4095, 4096, 4097, 8191, 8192, 12287, 12288}))
	edge := rapid.SampledFrom([]int64{0, 0, 0, 1, dirty.Grain - 1, 12345})
	length := rapid.OneOf(rapid.Int64Range(0, 3*dirty.Grain), rapid.Int64Range(0, 3*page))
	start := grain.Draw(t, "grain")*dirty.Grain + edge.Draw(t, "edge")
	return rng(start, min(start+length.Draw(t, "length"), model*dirty.Grain))
}

// same compares a set with the model by every method that reads.
func same(t *rapid.T, m *dirty.Map, set []bool) {
	var bytes int64
	for g := int64(0); g < model; g++ {
		// Each grain is covered by Next below; Overlaps is asked of some.
		if start := g * dirty.Grain; g%61 == 0 && (m.Overlaps(rng(start, start+dirty.Grain)) != set[g] || m.Overlaps(rng(start+7, start+8)) != set[g]) {
			t.Fatalf("grain %d is not %v", g, set[g])
		}
		if set[g] {
			bytes += dirty.Grain
		}
	}
	if m.Bytes() != bytes || m.Empty() != (bytes == 0) {
		t.Fatalf("%d bytes, empty %v; want %d", m.Bytes(), m.Empty(), bytes)
	}
	// The ranges that Next gives are those of the model, as long as they go.
	off := int64(0)
	for g := int64(0); g < model; {
		if !set[g] {
			g++
			continue
		}
		end := g
		for end < model && set[end] {
			end++
		}
		r, ok := m.Next(off)
		if !ok || r != rng(g*dirty.Grain, end*dirty.Grain) {
			t.Fatalf("next of %d is %v, %v; want grains %d to %d", off, r, ok, g, end)
		}
		off, g = r.End, end
	}
	if r, ok := m.Next(off); ok {
		t.Fatalf("after the last: %v", r)
	}
}

// TestModel compares the set with a plain list of booleans.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, set := &dirty.Map{}, make([]bool, model)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			if rapid.IntRange(0, 3).Draw(t, "kind") > 0 {
				add(m, set, drawRange(t))
			} else {
				o, oset := &dirty.Map{}, make([]bool, model)
				for range rapid.IntRange(0, 3).Draw(t, "ranges") {
					add(o, oset, drawRange(t))
				}
				before := o.Clone()
				m.Merge(o)
				same(t, o, oset)
				if !o.Equal(before) {
					t.Fatal("merging changed the other")
				}
				for g, in := range oset {
					set[g] = set[g] || in
				}
			}
		}
		same(t, m, set)
		clone := m.Clone()
		clone.Add(rng(0, 3*page))
		same(t, m, set)
		r := drawRange(t)
		if got, want := m.Within(r.Start), within(set, r.Start); got != want {
			t.Fatalf("%d bytes below %d, want %d", got, r.Start, want)
		}
		if next, ok := m.Next(r.Start); ok && next.Start < r.Start {
			t.Fatalf("next of %d is %v", r.Start, next)
		}
		jsonAndBack(t, m)
	})
}

func within(set []bool, size int64) (n int64) {
	for g, in := range set {
		if start := int64(g) * dirty.Grain; in && start < size {
			n += min(size-start, dirty.Grain)
		}
	}
	return n
}

func jsonAndBack(t interface{ Fatal(...any) }, m *dirty.Map) {
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var back dirty.Map
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if !back.Equal(m) {
		t.Fatal("the set that was read is another")
	}
}

func TestEverything(t *testing.T) {
	m := dirty.All()
	if r, ok := m.Next(0); !ok || r != rng(0, math.MaxInt64) {
		t.Errorf("all is %v, %v", r, ok)
	}
	if r, ok := m.Next(math.MaxInt64 - 1); !ok || r != rng(math.MaxInt64-1, math.MaxInt64) {
		t.Errorf("the last byte is %v, %v", r, ok)
	}
	if r, ok := m.Next(math.MaxInt64); ok {
		t.Errorf("after everything: %v", r)
	}
	if m.Bytes() != math.MaxInt64 || m.Within(1<<50+1) != 1<<50+1 {
		t.Errorf("%d bytes, %d below 1 PiB", m.Bytes(), m.Within(1<<50+1))
	}
	jsonAndBack(t, m)
	m = &dirty.Map{}
	m.Add(rng(math.MaxInt64-1, math.MaxInt64))
	if r, ok := m.Next(0); !ok || r.Start != math.MaxInt64-dirty.Grain+1 || r.End != math.MaxInt64 {
		t.Errorf("the last grain is %v, %v", r, ok)
	}
	jsonAndBack(t, m)
}

func TestNothing(t *testing.T) {
	m := &dirty.Map{}
	m.Add(rng(5, 5))
	m.Merge(nil)
	m.Merge(m)
	if _, ok := m.Next(0); ok || !m.Empty() || m.Bytes() != 0 || m.Overlaps(rng(0, math.MaxInt64)) {
		t.Error("an empty set isn't")
	}
	m.Add(rng(1, 2))
	if m.Overlaps(rng(0, 0)) || m.Overlaps(rng(dirty.Grain, math.MaxInt64)) || !m.Overlaps(rng(-5, 1)) {
		t.Error("a set of one grain overlaps otherwise")
	}
}

func TestMistakes(t *testing.T) {
	for _, r := range []source.Range{rng(-1, 5), rng(5, 4), rng(-3, -2)} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%v was added", r)
				}
			}()
			(&dirty.Map{}).Add(r)
		}()
	}
}

// TestMemoryIsBounded: more scattered grains, and more scattered pages, than
// there is room for make a larger set, never a smaller one.
func TestMemoryIsBounded(t *testing.T) {
	const many = 3 * 64 << 10
	grains, pages := &dirty.Map{}, &dirty.Map{}
	for i := int64(0); i < many; i++ {
		grains.Add(rng(i*2*page+7, i*2*page+8))
		pages.Add(rng(i*2*page, i*2*page+page))
	}
	for name, m := range map[string]*dirty.Map{"grains": grains, "pages": pages} {
		for i := int64(0); i < many; i++ {
			if !m.Overlaps(rng(i*2*page+7, i*2*page+8)) {
				t.Fatalf("%s: number %d is lost", name, i)
			}
		}
		b, err := json.Marshal(m)
		if err != nil || len(b) > 8<<20 {
			t.Errorf("%s: %d bytes of JSON, %v", name, len(b), err)
		}
		jsonAndBack(t, m)
	}
	both := grains.Clone()
	both.Merge(pages)
	other := pages.Clone()
	other.Merge(grains)
	for i := int64(0); i < many; i++ {
		for _, m := range []*dirty.Map{both, other} {
			if r, ok := m.Next(i * 2 * page); !ok || r.Start != i*2*page || r.Len() < page {
				t.Fatalf("of page %d, %v is left", i, r)
			}
		}
	}
}

func golden() *dirty.Map {
	m := &dirty.Map{}
	m.Add(rng(2*page, 4*page+3*dirty.Grain))
	m.Add(rng(4*page+17*dirty.Grain+5, 4*page+17*dirty.Grain+6))
	for g := int64(0); g < 4096; g += 3 {
		m.Add(rng(7*page+g*dirty.Grain, 7*page+(g+1)*dirty.Grain))
	}
	m.Add(rng(1<<50, math.MaxInt64))
	return m
}

// TestGolden: what was written by earlier versions can be read for ever.
func TestGolden(t *testing.T) {
	path := filepath.Join("testdata", "map.json")
	got, err := json.MarshalIndent(golden(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(got) != string(want) {
		t.Errorf("%v, the set is written as\n%s", err, got)
	}
	var m dirty.Map
	if err := json.Unmarshal(want, &m); err != nil || !m.Equal(golden()) {
		t.Errorf("the golden file reads as another set, %v", err)
	}
}

var refused = []string{
	`null`, `{}`, `""`, `7`, `[7]`, `[null]`, `[""]`,
	`["0M"]`, `["0M "]`, `["0M-0M"]`, `["256M-0M"]`, `["1M-256M"]`, `["0-256M"]`, `["00M-256M"]`, `["+0M-256M"]`,
	`["-256M-256M"]`, `["0M-256M-512M"]`, `["0M-256M","256M-512M"]`, `["512M-768M","0M-256M"]`, `["0M-256M","0M-256M"]`,
	`["0M-8796093022464M"]`, `["8796093022208M 0"]`, `["0M 0-4095"]`, `["0M 4096"]`, `["0M 3-2"]`, `["0M 1-1"]`,
	`["0M 0 1"]`, `["0M 1 0"]`, `["0M 0  2"]`, `["0M 0 2 "]`, `["0M 0","0M 2"]`, `["0M-512M","256M 0"]`, `["0M 00"]`,
	`["0M bits "]`, `["0M bits AAAA"]`, `["0M bits ` + strings.Repeat("A", 683) + `"]`, `["0M bits ` + strings.Repeat("/", 682) + `8"]`,
}

func TestStrict(t *testing.T) {
	for _, text := range refused {
		m := golden()
		if err := m.UnmarshalJSON([]byte(text)); err == nil {
			t.Errorf("%s is read", text)
		}
		if !m.Equal(golden()) {
			t.Errorf("%s changed the set", text)
		}
	}
}

// FuzzJSON: nothing but what would be written is read.
func FuzzJSON(f *testing.F) {
	for _, text := range refused {
		f.Add([]byte(text))
	}
	for _, m := range []*dirty.Map{{}, dirty.All(), golden()} {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var m dirty.Map
		if err := json.Unmarshal(text, &m); err != nil || string(text) == "null" {
			return
		}
		b, err := json.Marshal(&m)
		if err != nil {
			t.Fatal(err)
		}
		var lines, want []string
		if err := json.Unmarshal(text, &want); err != nil {
			t.Skip() // a null around which the decoder steps
		}
		if err := json.Unmarshal(b, &lines); err != nil || strings.Join(lines, "\n") != strings.Join(want, "\n") {
			t.Fatalf("%s is read and written as %s, %v", text, b, err)
		}
		jsonAndBack(t, &m)
	})
}

func BenchmarkMerge(b *testing.B) {
	one, two := &dirty.Map{}, &dirty.Map{}
	for i := int64(0); i < 32<<10; i++ {
		one.Add(rng(i*2*page, i*2*page+1))
		two.Add(rng((2*i+1)*page, (2*i+1)*page+1))
	}
	for b.Loop() {
		one.Clone().Merge(two)
	}
}
