package index

import (
	"os"

	"pinion/dom0/internal/format"
)

// A spill is a sorted file of additions that no longer fit in memory. It has
// no name and no other copy.
type spill struct {
	level int // how often it was merged
	file  *pageFile
}

// writeSpill writes all of from to a new spill.
func writeSpill(cache *cacheDir, from stream, level int) (*spill, error) {
	f, err := cache.temp()
	if err != nil {
		return nil, err
	}
	p, err := fillSpill(cache, f, from)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &spill{level: level, file: p}, nil
}

// stream reads the spill.
func (s *spill) stream() stream {
	return &fileStream{parts: []part{{pages: len(s.file.fences), read: s.file.readEntries}}}
}

func fillSpill(cache *cacheDir, f *os.File, from stream) (*pageFile, error) {
	id := format.NewObjectID()
	w, err := newPageWriter(f, cache.archive, id, 0)
	if err != nil {
		return nil, err
	}
	for {
		e, ok, err := from.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if err := w.add(&e); err != nil {
			return nil, err
		}
	}
	if err := w.finish(nil); err != nil {
		return nil, err
	}
	return openPageFile(f, cache.archive, id)
}
