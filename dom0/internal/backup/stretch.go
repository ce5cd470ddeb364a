package backup

import (
	"errors"
	"io"
	"iter"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
)

// A stretch is a run of chunks, from the index first to before end.
type stretch struct{ first, end uint64 }

// bytes is how many bytes the stretch, which has chunks, is of a volume of
// that size.
func (s stretch) bytes(size int64, chunkSize int) int64 {
	whole := s.end - 1 - s.first
	return int64(whole)*int64(chunkSize) + int64(format.ChunkLen(s.end-1, size, chunkSize))
}

// within gives the stretches of chunks that a set of ranges touches, ascending,
// up to the size of a volume. A nil set is everything.
func within(only *dirty.Map, size int64, chunkSize int) iter.Seq[stretch] {
	return func(yield func(stretch) bool) {
		chunks := format.Chunks(size, chunkSize)
		for next := uint64(0); next < chunks; {
			s := stretch{next, chunks}
			if only != nil {
				r, ok := only.Next(int64(next) * int64(chunkSize))
				if !ok || r.Start >= size {
					return
				}
				s = stretch{uint64(r.Start) / uint64(chunkSize), format.Chunks(min(r.End, size), chunkSize)}
			}
			if !yield(s) {
				return
			}
			next = s.end
		}
	}
}

// toRead gives the stretches of a volume that have to be read, ascending: of
// those that the set touches, the chunks that may hold anything but zeros. The
// others there are holes. An error is the last thing that it gives.
func toRead(v source.Volume, only *dirty.Map, chunkSize int) iter.Seq2[stretch, error] {
	return func(yield func(stretch, error) bool) {
		size, data := v.Size(), stretch{} // the last stretch of data that was found
		for s := range within(only, size, chunkSize) {
			for s.first < s.end {
				if data.end <= s.first {
					start, end, err := v.NextData(int64(s.first) * int64(chunkSize))
					if errors.Is(err, io.EOF) {
						return
					}
					if err != nil {
						yield(stretch{}, errSource{err})
						return
					}
					data = stretch{uint64(start) / uint64(chunkSize), format.Chunks(end, chunkSize)}
				}
				part := stretch{max(s.first, data.first), min(s.end, data.end)}
				if part.first < part.end && !yield(part, nil) {
					return
				}
				s.first = max(s.first, min(s.end, data.end))
			}
		}
	}
}
