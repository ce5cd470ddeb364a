package blob_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"pinion/dom0/internal/blob"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

var update = ft.UpdateFlag()

var fastest = format.Compression{Method: format.CompressZstd, Level: 1}

func keys(t testing.TB) *crypt.Keys {
	t.Helper()
	m := crypt.Master(ft.Master())
	k, err := crypt.NewKeys(&m, ft.Archive())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sealer(t testing.TB, c format.Compression, maxLen int) *blob.Sealer {
	t.Helper()
	s, err := blob.NewSealer(keys(t), c, maxLen)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func opener(t testing.TB) *blob.Opener {
	t.Helper()
	o, err := blob.NewOpener(keys(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// random is bytes that don't compress, always the same.
func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// text is bytes that compress well.
func text(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "line %d of a file that says nothing new\n", i)
	}
	return b.Bytes()[:n]
}

// A vector is a golden blob. How far a compressor gets may change between its
// versions, so what counts is that these bytes open, for ever.
type vector struct {
	name   string
	typ    format.BlobType
	domain format.Domain
	plain  []byte
	method byte
	padded bool
}

func vectors() []vector {
	return []vector{
		{"stored", format.BlobChunk, 0, random(300), 0, false},
		{"zstd", format.BlobChunk, 0, text(2000), 1, true},
		{"domain", format.BlobChunk, 0x0102, text(2000), 1, true},
		{"empty", format.BlobChunk, 0, nil, 0, false},
		{"metadata", format.BlobSession, 0, text(1000), 1, false},
		{"metadata-stored", format.BlobNode, 0, random(38), 0, false},
		{"configuration", format.BlobQubeConfig, 0, text(1000), 1, true},
		{"configuration-stored", format.BlobQubeConfig, 0, random(100), 0, true},
	}
}

func (v vector) id(t testing.TB) format.BlobID { return ft.BlobID(t, v.typ, v.domain, v.plain) }

// inner is what is inside the seal.
func (v vector) inner(t testing.TB) []byte {
	t.Helper()
	content := v.plain
	if v.method == 1 {
		content = frame(t, v.plain)
	}
	return ft.Inner(t, v.method, v.domain, v.id(t), v.plain, content, v.padded)
}

func TestGolden(t *testing.T) {
	for i, v := range vectors() {
		if *update {
			ft.Write(t, v.name, ft.SealBlob(t, byte(i), v.typ, v.id(t), v.inner(t)))
		}
		got, err := opener(t).Open(nil, ft.Read(t, v.name), v.typ, v.domain, v.id(t), 128<<10)
		if err != nil || !bytes.Equal(got, v.plain) {
			t.Errorf("%s opens to %x, %v", v.name, got, err)
		}
	}
	ft.Count(t, len(vectors()))
}

// stored is what is inside of a stored blob that says it has so many bytes.
func stored(says uint32, content []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0, 0, 0}, says)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	return append(b, content...)
}

// compressed is what is inside of a compressed chunk that says it has so many
// bytes, and is padded as it has to be.
func compressed(t testing.TB, id format.BlobID, says uint32, frame []byte) []byte {
	b := ft.Inner(t, 1, 0, id, nil, frame, true)
	binary.BigEndian.PutUint32(b[3:], says)
	return b
}

func frame(t testing.TB, plain []byte, o ...zstd.EOption) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, append([]zstd.EOption{zstd.WithEncoderConcurrency(1), zstd.WithZeroFrames(true)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	return enc.EncodeAll(plain, nil)
}

func TestRoundTrip(t *testing.T) {
	o := opener(t)
	for _, level := range []uint8{0, 1, 3, 7, 19} {
		c := format.Compression{Method: format.CompressZstd, Level: level}
		if level == 0 {
			c.Method = format.CompressNone
		}
		for _, size := range []int{0, 1, 100, 64<<10 - 1, 64 << 10, 128 << 10, format.MaxChunkSize} {
			if level != 1 && size > 128<<10 {
				continue // slow, and nothing new
			}
			s := sealer(t, c, max(size, format.MinChunkSize))
			for name, plain := range map[string][]byte{"random": random(size), "text": text(size), "zeros": make([]byte, size)} {
				kept := bytes.Clone(plain)
				id := s.ID(format.BlobChunk, 0, plain)
				sealed := s.Seal(nil, format.BlobChunk, 0, id, plain)
				if len(sealed) > size+format.BlobOverhead {
					t.Errorf("level %d: %d bytes of %s became %d", level, size, name, len(sealed))
				}
				if level > 0 && size >= 10_000 && name != "random" && len(sealed) > size/4+100+blob.MaxPadding {
					t.Errorf("level %d: %d bytes of %s became %d: not compressed", level, size, name, len(sealed))
				}
				got, err := o.Open(nil, sealed, format.BlobChunk, 0, id, size)
				if err != nil || !bytes.Equal(got, kept) || !bytes.Equal(plain, kept) {
					t.Fatalf("level %d: %d bytes of %s: %d bytes, %v", level, size, name, len(got), err)
				}
			}
		}
	}
}

// TestBuffersAreUsedAgain: sealing and opening with the buffers of the last
// time takes no memory, and leaves nothing of the last time behind.
func TestBuffersAreUsedAgain(t *testing.T) {
	s, o := sealer(t, fastest, 128<<10), opener(t)
	var sealed []byte
	scratch := make([]byte, 0, 128<<10)
	plains := [][]byte{text(128 << 10), random(128 << 10), text(100), random(1)}
	for range 3 {
		for _, plain := range plains {
			id := s.ID(format.BlobChunk, 0, plain)
			sealed = s.Seal(sealed, format.BlobChunk, 0, id, plain)
			got, err := o.Open(scratch, sealed, format.BlobChunk, 0, id, 128<<10)
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%d bytes: %v", len(plain), err)
			}
		}
	}
	plain := plains[0]
	id := s.ID(format.BlobChunk, 0, plain)
	// Bytes, not allocations: under the race detector, pools of the compressor
	// forget small things at random.
	var before, after runtime.MemStats
	const runs = 20
	runtime.ReadMemStats(&before)
	for range runs {
		sealed = s.Seal(sealed, format.BlobChunk, 0, id, plain)
		if _, err := o.Open(scratch, sealed, format.BlobChunk, 0, id, 128<<10); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 48<<10 {
		t.Errorf("sealing and opening a chunk allocates %d bytes", n)
	}
}

// hostileID is the id that the insides of hostile blobs are sealed under.
func hostileID(t testing.TB) format.BlobID {
	return ft.BlobID(t, format.BlobChunk, 0, text(2000))
}

// hostile are insides of blobs that were sealed with the right keys, as by a
// writer that is broken or means harm. The id is that of text(2000).
func hostile(t testing.TB) map[string][]byte {
	plain := text(2000)
	good := frame(t, plain)
	zeros := frame(t, make([]byte, 8<<20), zstd.WithSingleSegment(true))
	id := hostileID(t)
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7}
	dictionary := bytes.Clone(good)
	dictionary[4] |= 1
	dictionary = slices.Insert(dictionary, 5+int(1-good[4]>>5&1), 0) // behind the window: dictionary 0, which is none
	compressed := func(says uint32, frame []byte) []byte { return compressed(t, id, says, frame) }
	change := func(at int, to byte) []byte { b := compressed(2000, good); b[at] = to; return b }
	whole := compressed(2000, good)
	return map[string][]byte{
		"nothing":                            {},
		"a head that is cut":                 whole[:format.BlobHead-1],
		"a method that isn't known":          change(0, 2),
		"another domain":                     change(2, 1),
		"a stored blob that is too long":     stored(1<<20, random(1<<20)),
		"other bytes, stored":                stored(2000, random(2000)),
		"stored, and cut":                    stored(2000, plain)[:format.BlobHead+1999],
		"stored, and says less":              stored(1999, plain),
		"stored, and says more":              stored(2001, plain),
		"stored, and zeros":                  append(stored(2000, plain), make([]byte, 48)...),
		"stored, and as padded as if not":    ft.Inner(t, 0, 0, id, plain, plain, true),
		"zstd without padding":               whole[:format.BlobHead+len(good)],
		"zstd without a frame":               compressed(2000, nil),
		"nothing, compressed":                compressed(0, nil),
		"a frame that is cut":                compressed(2000, good[:len(good)-1]),
		"bytes behind the frame":             compressed(2000, append(bytes.Clone(good), 0)),
		"a frame twice":                      compressed(2000, append(bytes.Clone(good), good...)),
		"content that is too long":           change(7, 0xff),
		"content that takes up all zeros":    change(10, byte(len(whole)-format.BlobHead)),
		"a length that is too small":         compressed(1999, good),
		"a length that is too large":         compressed(2001, good),
		"a length of 1 GiB":                  compressed(1<<30, good),
		"a length of 4 GiB":                  compressed(1<<32-1, good),
		"8 MiB of zeros that say 2000":       compressed(2000, zeros),
		"8 MiB of zeros that say nothing":    compressed(0, zeros),
		"8 MiB of zeros, of unknown length":  compressed(2000, noSize(t, 8<<20)),
		"a frame that claims 1 GiB":          compressed(2000, claim(1<<30)),
		"a frame that claims 2^63":           compressed(2000, claim(1<<63)),
		"a frame with a window of 1 GiB":     compressed(2000, []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xa0, 1, 0, 0}),
		"no frame":                           compressed(2000, random(200)),
		"a skippable frame of 4 GiB":         compressed(2000, []byte{0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff}),
		"a frame behind a skippable one":     compressed(2000, append(skippable, good...)),
		"a skippable frame behind the frame": compressed(2000, append(bytes.Clone(good), skippable...)),
		"an empty frame behind the frame":    compressed(2000, append(bytes.Clone(good), frame(t, nil)...)),
		"a frame that names a dictionary":    compressed(2000, dictionary),
		"runs of zeros that repeat for ever": compressed(128<<10, rle(1000)),
	}
}

// claim is the start of a frame that says it holds n bytes.
func claim(n uint64) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0} // single segment, 8 bytes of size
	b = binary.LittleEndian.AppendUint64(b, n)
	return append(b, 1, 0, 0)
}

// rle is a frame of n run-length blocks of 128 KiB each, without a size.
func rle(n int) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0x58} // window of 2 MiB
	for i := range n {
		header := uint32(128<<10)<<3 | 1<<1
		if i == n-1 {
			header |= 1
		}
		b = append(b, byte(header), byte(header>>8), byte(header>>16), 0)
	}
	return b
}

// noSize compresses n zeros as a stream, so that the frame doesn't say how
// many they are.
func noSize(t testing.TB, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestHostileInsides: what authenticates is checked all the same, in bounded
// memory. Some of these decode to the right bytes by another way, and may.
func TestHostileInsides(t *testing.T) {
	plain, id := text(2000), hostileID(t)
	o := opener(t)
	scratch := make([]byte, 0, 128<<10)
	for name, in := range hostile(t) {
		sealed := ft.SealBlob(t, 9, format.BlobChunk, id, in)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := o.Open(scratch, sealed, format.BlobChunk, 0, id, 128<<10)
		runtime.ReadMemStats(&after)
		switch {
		case err == nil:
			t.Errorf("%s: opened to %d bytes", name, len(got))
		case !errors.Is(err, blob.ErrDamaged) || got != nil:
			t.Errorf("%s: %d bytes and %v", name, len(got), err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s: opening took %d bytes of memory", name, n)
		}
	}
	good := vector{typ: format.BlobChunk, plain: plain}.inner(t)
	if _, err := o.Open(nil, ft.SealBlob(t, 9, format.BlobChunk, id, good), format.BlobChunk, 0, id, 1999); !errors.Is(err, blob.ErrDamaged) {
		t.Errorf("a blob that is longer than may be: %v", err)
	}
	if _, err := o.Open(nil, ft.SealBlob(t, 9, format.BlobNode, id, good), format.BlobChunk, 0, id, 128<<10); !errors.Is(err, crypt.ErrForged) {
		t.Errorf("a blob of another type: %v", err)
	}
	node := ft.BlobID(t, format.BlobNode, 0, plain)
	if _, err := o.Open(nil, ft.SealBlob(t, 9, format.BlobChunk, node, good), format.BlobChunk, 0, node, 128<<10); !errors.Is(err, blob.ErrDamaged) {
		t.Errorf("a chunk under the name of a node: %v", err)
	}
}

// TestDomain: a blob of one domain has another name than one of another, and
// isn't taken for it whatever its inside says.
func TestDomain(t *testing.T) {
	s, o, plain := sealer(t, fastest, 128<<10), opener(t), text(2000)
	id0, id7 := s.ID(format.BlobChunk, 0, plain), s.ID(format.BlobChunk, 7, plain)
	if id0 == id7 {
		t.Fatal("one name in two domains")
	}
	if got, err := o.Open(nil, s.Seal(nil, format.BlobChunk, 7, id7, plain), format.BlobChunk, 7, id7, 2000); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("in its domain: %v", err)
	}
	for _, c := range []struct{ sealed, asked format.Domain }{{7, 0}, {0, 7}, {0, 0}, {7, 8}} {
		sealed := s.Seal(nil, format.BlobChunk, c.sealed, id7, plain)
		if _, err := o.Open(nil, sealed, format.BlobChunk, c.asked, id7, 2000); !errors.Is(err, blob.ErrDamaged) {
			t.Errorf("sealed in %d and opened in %d: %v", c.sealed, c.asked, err)
		}
	}
}

// TestOpenerSurvives: after any failure the same Opener still opens.
func TestOpenerSurvives(t *testing.T) {
	v := vector{typ: format.BlobChunk, plain: text(2000), method: 1, padded: true}
	id, good := v.id(t), v.inner(t)
	o := opener(t)
	for name, in := range hostile(t) {
		o.Open(nil, ft.SealBlob(t, 9, format.BlobChunk, id, in), format.BlobChunk, 0, id, 128<<10)
		got, err := o.Open(nil, ft.SealBlob(t, 9, format.BlobChunk, id, good), format.BlobChunk, 0, id, 128<<10)
		if err != nil || !bytes.Equal(got, v.plain) {
			t.Errorf("after %s: %v", name, err)
		}
	}
}

// FuzzOpen opens any bytes, as they are and under a good seal.
func FuzzOpen(f *testing.F) {
	for _, v := range vectors() {
		f.Add(ft.Read(f, v.name), uint32(1000))
	}
	for _, in := range hostile(f) {
		if len(in) < 4096 {
			f.Add(in, uint32(1000))
		}
	}
	id := ft.Blob(3)
	o := opener(f)
	scratch := make([]byte, 0, 128<<10)
	f.Fuzz(func(t *testing.T, in []byte, maxLen uint32) {
		limit := int(maxLen % (128 << 10))
		if got, err := o.Open(scratch, bytes.Clone(in), format.BlobChunk, 0, id, limit); !errors.Is(err, crypt.ErrForged) {
			t.Fatalf("%x opened to %x, %v", in, got, err)
		}
		var before, after runtime.MemStats
		sealed := ft.SealBlob(t, 9, format.BlobChunk, id, in)
		runtime.ReadMemStats(&before)
		got, err := o.Open(scratch, sealed, format.BlobChunk, 0, id, limit)
		runtime.ReadMemStats(&after)
		if err == nil || got != nil {
			t.Fatalf("%x decoded to %x, whose name is the one asked for", in, got)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Fatalf("%x took %d bytes of memory", in, n)
		}
	})
}

func TestIsZero(t *testing.T) {
	for _, n := range []int{0, 1, 2, 7, 8, 9, 63, 64, 65, 4096, 128 << 10} {
		b := make([]byte, n)
		if !blob.IsZero(b) {
			t.Errorf("%d zeros are not", n)
		}
		for _, at := range []int{0, 1, n / 2, n - 2, n - 1} {
			if at >= 0 && at < n {
				b[at] = 1
				if blob.IsZero(b) {
					t.Errorf("%d bytes with a one at %d are zeros", n, at)
				}
				b[at] = 0
			}
		}
	}
}
