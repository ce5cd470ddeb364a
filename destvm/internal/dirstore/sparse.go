package dirstore

import (
	"bytes"
	"io"
)

// blockSize is the unit in which file systems leave holes. What was punched out
// of a pack comes as zeros when the pack is copied here, and gets no room either.
const blockSize = 4096

var zeroBlock [blockSize]byte

// write writes the next bytes of an upload. Blocks of zeros are passed over: the
// file is new, so that they read as zeros all the same.
func (u *Upload) write(b []byte) (n int, err error) {
	at := u.size - u.left
	for len(b) > 0 {
		length, hole := stretch(b, at)
		if hole {
			_, err = u.f.Seek(int64(length), io.SeekCurrent)
		} else {
			length, err = u.f.Write(b[:length])
		}
		if err != nil {
			return n, err
		}
		u.hole = hole
		n, at, b = n+length, at+int64(length), b[length:]
	}
	return n, nil
}

// stretch is how many bytes at the beginning of b, which belong at an offset of a
// file, are a hole, or are none. A block that comes in two pieces is looked at
// piece by piece: if both are zeros, none of it is written.
func stretch(b []byte, at int64) (n int, hole bool) {
	n = min(len(b), int(blockSize-at%blockSize))
	hole = isZero(b[:n])
	for n < len(b) {
		next := b[n:min(len(b), n+blockSize)]
		if hole != isZero(next) {
			break
		}
		n += len(next)
	}
	return n, hole
}

// isZero reports whether at most a block of bytes is zeros.
func isZero(b []byte) bool { return bytes.Equal(b, zeroBlock[:len(b)]) }

// end gives a file that ends in a hole its length.
func (u *Upload) end() error {
	if !u.hole {
		return nil
	}
	return u.f.Truncate(u.size)
}
