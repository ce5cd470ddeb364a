package restore_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"pinion/dom0/internal/restore"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/plain"
)

// TestCompare finds exactly the chunks that differ, also in holes and where one
// of the two is longer.
func TestCompare(t *testing.T) {
	s := save(t, append(image("ab..cd."), 1, 2, 3))
	chunks := func(from, to int64) source.Range { return source.Range{Start: from * chunkSize, End: to * chunkSize} }
	for name, c := range map[string]struct {
		now  []byte
		want []source.Range
	}{
		"the same":          {append(image("ab..cd."), 1, 2, 3), nil},
		"a chunk":           {append(image("aX..cd."), 1, 2, 3), []source.Range{chunks(1, 2)}},
		"a hole now":        {append(image("ab...d."), 1, 2, 3), []source.Range{chunks(4, 5)}},
		"in a hole":         {append(image("ab.Xcd."), 1, 2, 3), []source.Range{chunks(3, 4)}},
		"at the end":        {append(image("ab..cd."), 1, 2, 4), []source.Range{chunks(7, 8)}},
		"longer":            {append(image("ab..cd."), 1, 2, 3, 0), []source.Range{chunks(7, 8)}},
		"much longer":       {append(append(image("ab..cd."), 1, 2, 3), make([]byte, 2*chunkSize)...), []source.Range{chunks(7, 10)}},
		"shorter by a byte": {append(image("ab..cd."), 1, 2), []source.Range{chunks(7, 8)}},
		"in a chunk":        {image("ab..cd.")[:5*chunkSize+9], []source.Range{chunks(5, 8)}},
		"in a hole's chunk": {image("ab..cd.")[:3*chunkSize+9], []source.Range{chunks(3, 8)}},
		"empty":             {nil, []source.Range{chunks(0, 8)}},
	} {
		path := filepath.Join(t.TempDir(), "now")
		if err := os.WriteFile(path, c.now, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := plain.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		m, err := restore.Compare(ctx, s.a, "volume", s.seq, s.record, v, options(false))
		v.Close()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []source.Range
		for r, ok := m.Next(0); ok; r, ok = m.Next(r.End) {
			got = append(got, r)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
