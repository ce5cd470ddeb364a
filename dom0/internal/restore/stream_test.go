package restore_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"pinion/dom0/internal/restore"
)

// TestStream reads volumes of all shapes from end to end, holes too.
func TestStream(t *testing.T) {
	long := strings.Repeat("abcdefgh.ij....k", 24) // more than is held at a time
	for name, content := range map[string][]byte{
		"empty": {}, "a byte": {7}, "all holes": image("....."), "a short end": append(image("a..b"), 1, 2, 3),
		"a hole at the end": append(image("a...."), make([]byte, 100)...), "long": image(long),
	} {
		t.Run(name, func(t *testing.T) {
			s := save(t, content)
			defer s.a.Close()
			var got bytes.Buffer
			progress := int64(0)
			err := restore.Stream(ctx, s.a, "volume", s.seq, s.record, &got, func(n int64) { progress += n })
			if err != nil || !bytes.Equal(got.Bytes(), content) || progress != int64(len(content)) {
				t.Errorf("%d of %d bytes, progress %d, %v", got.Len(), len(content), progress, err)
			}
		})
	}
}

// failing takes a number of bytes and then no more.
type failing struct{ left int }

var errFull = errors.New("full")

func (f *failing) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errFull
	}
	return len(b), nil
}

// TestStreamEnds at the first damage, at a writer that fails, and with its
// context.
func TestStreamEnds(t *testing.T) {
	s := save(t, image("abc....d"))
	defer s.a.Close()
	stream := func(ctx context.Context, w *failing) error {
		return restore.Stream(ctx, s.a, "volume", s.seq, s.record, w, func(int64) {})
	}
	for _, left := range []int{0, chunkSize, 4 * chunkSize} {
		if err := stream(ctx, &failing{left}); !errors.Is(err, errFull) {
			t.Errorf("a writer that takes %d bytes: %v", left, err)
		}
	}
	packs := s.packs(t)
	s.place.DamagePair(t, packs[len(packs)-1], func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	if err := stream(ctx, &failing{1 << 30}); err == nil || errors.Is(err, errFull) {
		t.Errorf("damage: %v", err)
	}
	dead, cancel := context.WithCancel(ctx)
	cancel()
	if err := stream(dead, &failing{1 << 30}); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that is done: %v", err)
	}
}
