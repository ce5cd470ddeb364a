package dirstore

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestZerosTakeNoRoom: an object with blocks of zeros is read as it was put, in
// whatever pieces that came, and takes no more room than the other blocks do.
func TestZerosTakeNoRoom(t *testing.T) {
	data := bytes.Repeat([]byte{7}, blockSize)
	zeros := make([]byte, 64*blockSize)
	objects := map[string][]byte{
		"zeros":            zeros,
		"less than blocks": zeros[:blockSize-1],
		"in the middle":    bytes.Join([][]byte{data, zeros, data}, nil),
		"at the end":       bytes.Join([][]byte{data, zeros}, nil),
		"out of step":      bytes.Join([][]byte{data[:100], zeros, data[:100]}, nil),
		"odd end":          bytes.Join([][]byte{data, zeros[:3*blockSize+5]}, nil),
		"one zero":         {0},
	}
	dir := t.TempDir()
	s := create(t, dir)
	n := byte(0)
	holes := hasHoles(t, dir)
	for what, object := range objects {
		for _, piece := range []int{1000, blockSize, blockSize + 1, 3 * blockSize, 1 << 20} {
			n++
			u, err := s.Create(packName(n), uint64(len(object)))
			for rest := object; err == nil && len(rest) > 0; {
				part := rest[:min(piece, len(rest))]
				rest = rest[len(part):]
				_, err = u.Write(part)
			}
			if err == nil {
				err = u.Commit()
			}
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			got, err := read(s, packName(n))
			if err != nil || !bytes.Equal(got, object) {
				t.Errorf("%s in pieces of %d: %d bytes became %d: %v", what, piece, len(object), len(got), err)
			}
			if len(object) <= len(zeros)/2 {
				continue
			}
			info, err := os.Stat(filepath.Join(dir, packName(n)))
			if err != nil {
				t.Fatal(err)
			}
			used := info.Sys().(*syscall.Stat_t).Blocks * 512
			t.Logf("%s: %d bytes take %d", what, len(object), used)
			if used > 4*blockSize && holes {
				t.Errorf("%s: %d bytes take %d", what, len(object), used)
			}
		}
	}
}

// hasHoles reports whether the file system of a directory can leave holes.
func hasHoles(t *testing.T, dir string) bool {
	t.Helper()
	path := filepath.Join(dir, "probe")
	err := os.WriteFile(path, nil, 0o600)
	if err == nil {
		err = os.Truncate(path, 1<<20)
	}
	info, statErr := os.Stat(path)
	if err != nil || statErr != nil {
		t.Fatal(err, statErr)
	}
	return info.Sys().(*syscall.Stat_t).Blocks == 0
}
