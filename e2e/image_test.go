package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Content is written as a list of parts, KIND:SIZE[:SEED], one after the other:
//
//	random   bytes that no compressor makes smaller
//	text     words that compress well, no two chunks alike
//	zero     zeros that are written
//	hole     zeros that are not
//
// The same part is the same bytes, always. Sizes take K, M, G, T and P.

// makeImage writes a file.
func makeImage(t testing.TB, path string, parts ...string) string {
	t.Helper()
	if err := writeParts(path, 0, true, parts); err != nil {
		t.Fatal(err)
	}
	return path
}

// image makes an image in the world's directory.
func (w *world) image(name string, parts ...string) string {
	w.t.Helper()
	return makeImage(w.t, w.path(name), parts...)
}

// overwrite writes parts over a file, from an offset in bytes.
func overwrite(t testing.TB, path string, off int64, parts ...string) {
	t.Helper()
	if err := writeParts(path, off, false, parts); err != nil {
		t.Fatal(err)
	}
}

// content is a part as bytes.
func content(part string) []byte {
	var b bytes.Buffer
	kind, size, seed, err := parsePart(part)
	if err == nil {
		_, err = io.Copy(&b, io.LimitReader(reader(kind, seed), size))
	}
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}

func writeParts(path string, off int64, create bool, parts []string) error {
	flag := os.O_WRONLY
	if create {
		flag |= os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, part := range parts {
		kind, size, seed, err := parsePart(part)
		if err != nil {
			return err
		}
		if kind != "hole" {
			buf := make([]byte, 1<<20)
			if _, err := io.CopyBuffer(onlyWriter{io.NewOffsetWriter(f, off)}, io.LimitReader(reader(kind, seed), size), buf); err != nil {
				return err
			}
		}
		off += size
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() && info.Size() < off {
		err = f.Truncate(off)
	}
	return err
}

// onlyWriter hides that an OffsetWriter's file may know shorter ways.
type onlyWriter struct{ io.Writer }

func parsePart(part string) (kind string, size int64, seed uint64, err error) {
	f := strings.Split(part, ":")
	if len(f) < 2 || len(f) > 3 {
		return "", 0, 0, fmt.Errorf("%q is not KIND:SIZE[:SEED]", part)
	}
	if size, err = parseSize(f[1]); err == nil && len(f) == 3 {
		seed, err = strconv.ParseUint(f[2], 10, 64)
	}
	if err == nil && reader(f[0], seed) == nil && f[0] != "hole" {
		err = fmt.Errorf("%q is no kind of content", f[0])
	}
	return f[0], size, seed, err
}

func parseSize(s string) (int64, error) {
	shift := 0
	if i := strings.IndexByte("KMGTP", s[len(s)-1]); i >= 0 {
		shift, s = 10*(i+1), s[:len(s)-1]
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n << shift, err
}

// reader is an endless stream of a kind of content.
func reader(kind string, seed uint64) io.Reader {
	var key [32]byte
	copy(key[:], fmt.Sprintf("%d", seed))
	random := rand.NewChaCha8(key)
	switch kind {
	case "random":
		return random
	case "text":
		return &prose{random: rand.New(random)}
	case "zero":
		return zeros{}
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type prose struct {
	random *rand.Rand
	left   []byte
}

func (w *prose) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(w.left) == 0 {
			w.left = fmt.Appendf(nil, "%d bottles of beer, take %d down. ", w.random.IntN(1000), w.random.IntN(10))
		}
		k := copy(p[n:], w.left)
		w.left = w.left[k:]
		n += k
	}
	return n, nil
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flip turns one bit of a file over, at an offset in bytes; an offset below
// zero counts from the end.
func flip(t testing.TB, path string, off int64) {
	t.Helper()
	if err := flipByte(path, off); err != nil {
		t.Fatal(err)
	}
}

func flipByte(path string, off int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if off < 0 {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		off += info.Size()
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		return err
	}
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], off)
	return err
}

// copyFile makes a copy with the same holes.
func copyFile(t testing.TB, from, to string) string {
	t.Helper()
	run(t, "cp", "--sparse=always", from, to)
	return to
}

// same expects two files to be the same, byte for byte.
func same(t testing.TB, a, b string) {
	t.Helper()
	if err := compare(a, b); err != nil {
		t.Error(err)
	}
}

// compare compares two files, reading only what is no hole of both.
func compare(a, b string) error {
	fa, err := os.Open(a)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return err
	}
	defer fb.Close()
	sa, err := fa.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	sb, err := fb.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if sa != sb {
		return fmt.Errorf("%s has %d bytes, %s has %d", a, sa, b, sb)
	}
	ba, bb := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < sa; {
		off = min(dataFrom(fa, off, sa), dataFrom(fb, off, sa))
		n := min(int64(len(ba)), sa-off)
		if _, err := fa.ReadAt(ba[:n], off); err != nil {
			return err
		}
		if _, err := fb.ReadAt(bb[:n], off); err != nil {
			return err
		}
		if !bytes.Equal(ba[:n], bb[:n]) {
			for i := range ba[:n] {
				if ba[i] != bb[i] {
					return fmt.Errorf("%s and %s differ at byte %d", a, b, off+int64(i))
				}
			}
		}
		off += n
	}
	return nil
}

// dataFrom is where the first data at or after off begins, or size.
func dataFrom(f *os.File, off, size int64) int64 {
	at, err := f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size
	}
	if err != nil {
		return off
	}
	return min(at, size)
}

// allocated is how much of its disk a file takes, in bytes.
func allocated(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// files lists the regular files below a directory with their sizes, by path
// relative to it. A directory that isn't there has none.
func files(t testing.TB, dir string) map[string]int64 {
	t.Helper()
	found := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		found[rel] = info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// under lists the files of the store under a prefix, as paths.
func (w *world) under(prefix string) []string {
	w.t.Helper()
	var found []string
	for name := range files(w.t, w.store) {
		if strings.HasPrefix(name, prefix) {
			found = append(found, filepath.Join(w.store, name))
		}
	}
	return found
}

// stored is how many bytes all objects of the store have together.
func (w *world) stored() (sum int64) {
	w.t.Helper()
	for _, size := range files(w.t, w.store) {
		sum += size
	}
	return sum
}

// digest is a hash of everything below a directory.
func digest(t testing.TB, dir string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %v\n", path, d.Type())
		if d.Type().IsRegular() {
			h.Write(readFile(t, path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// sizes are the sizes of files, in ascending order.
func sizes(files map[string]int64) []int64 {
	return slices.Sorted(maps.Values(files))
}
