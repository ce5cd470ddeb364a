package restore

import "pinion/dom0/internal/dirty"

// zero makes a range that is between chunks zero where it may be anything
// else. What a pool hands out to the chunks on both sides isn't looked at, but
// written over: until that is flushed, the system shows the zeros that were
// there before.
func (j *job) zero(off, length int64) error {
	end := off + length
	if j.o.Piece == 0 {
		return j.look(off, end)
	}
	head := min(end, roundUp(off, j.o.Piece))
	tail := max(head, end-end%j.o.Piece)
	if err := j.beside(off, head); err != nil {
		return err
	}
	if !j.fresh {
		if err := j.look(head, tail); err != nil {
			return err
		}
	}
	return j.beside(tail, end)
}

// look makes a range zero where it isn't.
func (j *job) look(off, end int64) error {
	return j.inOnly(off, end, func(off, end int64) error { return j.t.Zero(off, end-off) })
}

// beside makes zero what lies in one piece of the pool.
func (j *job) beside(off, end int64) error {
	if off == end {
		return nil
	}
	if !j.fresh && !j.wroteIn(off-off%j.o.Piece) {
		return j.look(off, end)
	}
	return j.inOnly(off, end, func(off, end int64) error { return j.t.WriteZeros(off, end-off) })
}

// wroteIn reports whether any chunk of the piece at off is written.
func (j *job) wroteIn(off int64) bool {
	size := int64(j.a.ChunkSize())
	for i := off / size; i*size < off+j.o.Piece; i++ {
		if j.differ.has(uint64(i)) {
			return true
		}
	}
	return false
}

// inOnly gives do the parts of a range that may differ.
func (j *job) inOnly(off, end int64, do func(off, end int64) error) error {
	if off == end {
		return nil
	}
	if j.o.Only == nil {
		return do(off, end)
	}
	for off < end {
		r, ok := j.o.Only.Next(off)
		if !ok || r.Start >= end {
			return nil
		}
		off = min(r.End, end)
		if err := do(r.Start, off); err != nil {
			return err
		}
	}
	return nil
}

// inPieces widens a set to whole pieces of a pool.
func inPieces(only *dirty.Map, piece int64) *dirty.Map {
	if only == nil || piece == 0 {
		return only
	}
	wide := &dirty.Map{}
	for off := int64(0); ; {
		r, ok := only.Next(off)
		if !ok {
			return wide
		}
		off = r.End
		r.Start -= r.Start % piece
		if past := r.End % piece; past > 0 && r.End < 1<<62 {
			r.End += piece - past
		}
		wide.Add(r)
	}
}

// roundUp is the first multiple of piece at or after off.
func roundUp(off, piece int64) int64 {
	if past := off % piece; past > 0 {
		return off + piece - past
	}
	return off
}
