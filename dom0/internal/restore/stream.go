package restore

import (
	"context"
	"fmt"
	"io"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tree"
)

// streamBytes is about how many bytes of chunks Stream holds at a time.
const streamBytes = 8 << 20

// Stream writes a volume to w from its first byte to its last, holes as zeros,
// in memory of some MiB. Every byte was authenticated. The first damage ends
// it; what was written before is right. progress gets every further number of
// bytes.
func Stream(ctx context.Context, a *archive.Archive, name string, seq uint64, r *format.VolumeRecord, w io.Writer, progress func(n int64)) error {
	s := &stream{w: w, progress: progress}
	j := &job{a: a, name: name, seq: seq, record: r, o: Options{Bytes: func(int64) {}}}
	batch := max(1, streamBytes/a.ChunkSize())
	walker := a.Walker()
	walker.Entries = func(items []tree.Item) error {
		for len(items) > 0 {
			some := items[:min(len(items), batch)]
			items = items[len(some):]
			chunks := make([][]byte, len(some))
			at := make(map[uint64]int, len(some))
			for i, it := range some {
				off, length := Extent(it, r.Size, a.ChunkSize())
				chunks[i], at[it.Index] = make([]byte, length), i
				if off+length > r.Size {
					return fmt.Errorf("%s, session #%d: a chunk at %d is not inside the volume", name, seq, off)
				}
			}
			// Each has its place before it is asked for.
			err := j.fetch(ctx, some, func(it tree.Item, plain []byte) error {
				copy(chunks[at[it.Index]], plain)
				return nil
			})
			if err != nil {
				return err
			}
			for i, it := range some {
				off, _ := Extent(it, r.Size, a.ChunkSize())
				if err := s.zeros(ctx, off-s.at); err != nil {
					return err
				}
				if err := s.write(chunks[i]); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := a.WalkVolume(ctx, r, walker); err != nil {
		return err
	}
	return s.zeros(ctx, r.Size-s.at)
}

// stream is a writer that knows how far it is.
type stream struct {
	w        io.Writer
	at       int64
	progress func(n int64)
}

func (s *stream) write(b []byte) error {
	n, err := s.w.Write(b)
	s.at += int64(n)
	s.progress(int64(n))
	return err
}

// zeros writes n of them.
func (s *stream) zeros(ctx context.Context, n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		piece := zeros[:min(n, int64(len(zeros)))]
		if err := s.write(piece); err != nil {
			return err
		}
		n -= int64(len(piece))
	}
	return nil
}
