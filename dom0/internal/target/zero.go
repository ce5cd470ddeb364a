package target

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Zero makes length bytes at offset off, in bytes, read as zeros, and changes
// only what isn't zero already, block by block: in a file such blocks are
// punched out, and zeros that have space stay where they are, so that extents
// shared with other files stay shared; on a device they are made zero by the
// device where it can, and written otherwise. Where a file in place ends
// before the range does, it isn't grown.
func (t *Target) Zero(off, length int64) error {
	if err := t.inside("zero", length, off); err != nil {
		return err
	}
	return t.zero(off, off+length)
}

// WriteZeros writes zeros over length bytes at offset off, in bytes, whatever
// is there. Where a file in place ends before the range does, it isn't grown.
func (t *Target) WriteZeros(off, length int64) error {
	if err := t.inside("zero", length, off); err != nil {
		return err
	}
	t.touch()
	return t.writeZeros(off, off+length)
}

// zero is Zero from off to end, without the look at Size.
func (t *Target) zero(off, end int64) error {
	var buf []byte
	for off < end {
		start, stop, err := t.nextData(off, end)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if buf == nil {
			buf = make([]byte, min(scanBuffer, end-start))
		}
		if err := t.zeroData(buf, start, stop); err != nil {
			return err
		}
		off = stop
	}
	return nil
}

// zeroData reads from start to end into buf, piece by piece, and makes the
// runs of blocks that hold anything else zero. A run that goes on into the
// next piece is made zero with it, at once.
func (t *Target) zeroData(buf []byte, start, end int64) error {
	run := int64(-1) // where the open run of blocks that aren't zero began
	for off := start; off < end; {
		if t.stopped.Load() {
			return fmt.Errorf("zero %s at offset %d: %w", t.path, off, ErrStopped)
		}
		// Pieces end at whole blocks, so that runs do.
		n := min(int64(len(buf)), end-off)
		if past := (off + n) % zeroBlock; off+n < end && past < n {
			n -= past
		}
		if _, err := t.read(buf[:n], off); err != nil {
			return err
		}
		for from := int64(0); from < n; {
			to := min(n, from+zeroBlock-(off+from)%zeroBlock)
			switch zero := allZero(buf[from:to]); {
			case !zero && run < 0:
				run = off + from
			case zero && run >= 0:
				if err := t.makeZero(run, off+from); err != nil {
					return err
				}
				run = -1
			}
			from = to
		}
		off += n
		if run >= 0 && off-run >= zeroPiece {
			if err := t.makeZero(run, off); err != nil {
				return err
			}
			run = -1
		}
	}
	if run >= 0 {
		return t.makeZero(run, end)
	}
	return nil
}

// makeZero zeroes from off to end whatever is there, in the cheapest way that
// the target knows.
func (t *Target) makeZero(off, end int64) error {
	if t.kind != blockDevice {
		return t.punch(off, end, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE)
	}
	// A device takes whole sectors only, so the parts of blocks at both ends
	// are written. The sectors of those that have larger ones than a block
	// are seen by the error.
	head := min(end, (off+zeroBlock-1)/zeroBlock*zeroBlock)
	tail := max(head, end/zeroBlock*zeroBlock)
	if tail-head < deviceZeroMin {
		return t.writeZeros(off, end)
	}
	if err := t.writeZeros(off, head); err != nil {
		return err
	}
	// Punching gives the space back; a device that can't may still know how
	// to zero without being sent the zeros.
	if err := t.punch(head, tail,
		unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE); err != nil {
		return err
	}
	return t.writeZeros(tail, end)
}

// punch asks the system for zeros from off to end, in each of the modes until
// it knows one, and writes them if it knows none.
func (t *Target) punch(off, end int64, modes ...uint32) error {
	t.touch()
	for _, mode := range modes {
		err := allocate(int(t.f.Fd()), mode, off, end-off)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
			return fmt.Errorf("zero %s at offset %d: %w", t.path, off, err)
		}
	}
	return t.writeZeros(off, end)
}

// writeZeros writes zeros from off to end.
func (t *Target) writeZeros(off, end int64) error {
	if off >= end {
		return nil
	}
	zeros := make([]byte, min(scanBuffer, end-off))
	for off < end {
		n, err := t.write(zeros[:min(int64(len(zeros)), end-off)], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// allocate is fallocate, again after a signal.
func allocate(fd int, mode uint32, off, length int64) error {
	for {
		err := unix.Fallocate(fd, mode, off, length)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// allZero says whether b holds nothing but zeros: its first byte is, and
// every byte is like the one before.
func allZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
