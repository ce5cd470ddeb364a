package blob_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"pinion/dom0/internal/blob"
	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

// sealedLen is the length of what a Sealer makes of plain, and its id.
func sealedLen(t testing.TB, s *blob.Sealer, typ format.BlobType, domain format.Domain, plain []byte) (int, format.BlobID) {
	t.Helper()
	id := s.ID(typ, domain, plain)
	sealed := s.Seal(nil, typ, domain, id, plain)
	got, err := opener(t).Open(nil, bytes.Clone(sealed), typ, domain, id, len(plain))
	if err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%d bytes of a %s: %v", len(plain), typ, err)
	}
	return len(sealed), id
}

// frameLen is the length of what a Sealer compresses plain to: other metadata
// isn't padded, so it can be seen there.
func frameLen(t testing.TB, s *blob.Sealer, plain []byte) int {
	t.Helper()
	n, _ := sealedLen(t, s, format.BlobSession, 0, plain)
	return n - format.BlobOverhead
}

// rounded is the rule of the page, step by step.
func rounded(t testing.TB, id format.BlobID, content int) int {
	n := content + ft.PadBits(t, id)
	for n%512 != 0 {
		n++
	}
	return n
}

// mixed is plaintexts of many lengths that compress well, a little, and not.
func mixed() [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	var all [][]byte
	for i := range 300 {
		noise := r.IntN(3000)
		all = append(all, append(random(noise), text(r.IntN(2000))...))
		all = append(all, append([]byte{byte(i), byte(i >> 8)}, bytes.Repeat([]byte("x"), i*7)...))
	}
	return all
}

// TestPaddedLength: of each kind of blob the length is what the page says, and
// a chunk is stored exactly when padding doesn't pay.
func TestPaddedLength(t *testing.T) {
	s := sealer(t, fastest, 128<<10)
	compressed, kept := 0, 0
	for _, plain := range mixed() {
		frame := frameLen(t, s, plain) // or the plaintext, where that is no longer
		n, id := sealedLen(t, s, format.BlobChunk, 3, plain)
		want := rounded(t, id, frame)
		if want < len(plain) {
			compressed++
		} else {
			want = len(plain)
			if frame < len(plain) {
				kept++
			}
		}
		if n != want+format.BlobOverhead {
			t.Errorf("a chunk of %d bytes, compressed to %d, has %d sealed; want %d", len(plain), frame, n, want+format.BlobOverhead)
		}
		n, id = sealedLen(t, s, format.BlobQubeConfig, 0, plain)
		if want := rounded(t, id, frame) + format.BlobOverhead; n != want {
			t.Errorf("a configuration of %d bytes, compressed to %d, has %d sealed; want %d", len(plain), frame, n, want)
		}
	}
	if compressed < 50 || kept < 50 {
		t.Errorf("%d chunks were compressed, and of %d padding took what compression gained", compressed, kept)
	}
}

// TestUncompressedLength: without compression everything is stored, and only
// configurations are padded.
func TestUncompressedLength(t *testing.T) {
	s := sealer(t, format.Compression{}, 128<<10)
	for _, plain := range mixed() {
		if n, _ := sealedLen(t, s, format.BlobChunk, 0, plain); n != len(plain)+format.BlobOverhead {
			t.Errorf("a chunk of %d bytes has %d sealed", len(plain), n)
		}
		n, id := sealedLen(t, s, format.BlobQubeConfig, 0, plain)
		if want := rounded(t, id, len(plain)) + format.BlobOverhead; n != want {
			t.Errorf("a configuration of %d bytes has %d sealed, want %d", len(plain), n, want)
		}
	}
}

// TestLengthStays: sealed again, by another Sealer, after other blobs and over
// other bytes, a plaintext has the same length.
func TestLengthStays(t *testing.T) {
	plains := mixed()
	one, other := sealer(t, fastest, 128<<10), sealer(t, fastest, 128<<10)
	first := make([]int, len(plains))
	for i, plain := range plains {
		first[i], _ = sealedLen(t, one, format.BlobChunk, 0, plain)
	}
	buf := random(128 << 10)
	for i := len(plains) - 1; i >= 0; i-- {
		id := other.ID(format.BlobChunk, 0, plains[i])
		if buf = other.Seal(buf, format.BlobChunk, 0, id, plains[i]); len(buf) != first[i] {
			t.Errorf("a chunk of %d bytes had %d sealed, and then %d", len(plains[i]), first[i], len(buf))
		}
	}
}

// idWith finds a configuration of size bytes whose id lengthens it by r bytes.
func idWith(t testing.TB, s *blob.Sealer, size, r int) []byte {
	t.Helper()
	plain := make([]byte, size)
	for n := range 1 << 16 {
		binary.BigEndian.PutUint64(plain, uint64(n)*0x9e3779b97f4a7c15) // doesn't compress
		if ft.PadBits(t, s.ID(format.BlobQubeConfig, 0, plain)) == r {
			return plain
		}
	}
	t.Fatalf("no configuration of %d bytes is lengthened by %d", size, r)
	return nil
}

// TestPaddingEdges: content and zeros at the ends of what is added and of a step.
func TestPaddingEdges(t *testing.T) {
	s := sealer(t, format.Compression{}, 128<<10)
	for _, c := range []struct{ content, r, want int }{
		{511, 0, 512}, {512, 0, 512}, {513, 0, 1024}, {1024, 0, 1024},
		{8, 511, 1024}, {512, 511, 1024}, {513, 511, 1024}, {514, 511, 1536},
		{512, 1, 1024}, {511, 1, 512}, {8, 504, 512}, {8, 505, 1024},
	} {
		plain := idWith(t, s, c.content, c.r)
		if n, _ := sealedLen(t, s, format.BlobQubeConfig, 0, plain); n != c.want+format.BlobOverhead {
			t.Errorf("content of %d bytes, lengthened by %d, has %d with zeros, want %d", c.content, c.r, n-format.BlobOverhead, c.want)
		}
		if most := c.content + blob.MaxPadding; c.want > most {
			t.Errorf("%d bytes are padded to %d, where %d are the most", c.content, c.want, most)
		}
	}
	for _, size := range []int{0, 1} { // too short to be looked for
		n, id := sealedLen(t, s, format.BlobQubeConfig, 0, make([]byte, size))
		if want := rounded(t, id, size) + format.BlobOverhead; n != want {
			t.Errorf("a configuration of %d bytes has %d sealed, want %d", size, n, want)
		}
	}
}

// TestPaddingIsChecked: a step more or less, a byte more or less, and any byte
// that isn't zero is damage.
func TestPaddingIsChecked(t *testing.T) {
	o := opener(t)
	for _, v := range vectors() {
		good := v.inner(t)
		content := format.BlobHead + int(binary.BigEndian.Uint32(good[7:]))
		bad := map[string][]byte{
			"a byte more":  append(bytes.Clone(good), 0),
			"a step more":  append(bytes.Clone(good), make([]byte, 512)...),
			"a byte of 1":  append(bytes.Clone(good), 1),
			"a whole step": append(bytes.Clone(good), bytes.Repeat([]byte{1}, 512)...),
		}
		for _, less := range []int{1, 512} {
			if len(good)-less >= content {
				bad[fmt.Sprintf("%d less", less)] = good[:len(good)-less]
			}
		}
		if len(good) > content {
			for _, at := range []int{content, (content + len(good)) / 2, len(good) - 1} {
				b := bytes.Clone(good)
				b[at] = 0x80
				bad[fmt.Sprintf("byte %d of %d", at-content, len(good)-content)] = b
			}
		}
		for name, in := range bad {
			got, err := o.Open(nil, ft.SealBlob(t, 9, v.typ, v.id(t), in), v.typ, v.domain, v.id(t), 128<<10)
			if !errors.Is(err, blob.ErrDamaged) || got != nil {
				t.Errorf("%s, %s: %d bytes, %v", v.name, name, len(got), err)
			}
		}
	}
}

// TestCompressionMustPay: a chunk that would be no longer if it were stored
// isn't accepted compressed.
func TestCompressionMustPay(t *testing.T) {
	o := opener(t)
	seen := map[bool]int{}
	for n := 500; n < 1400; n += 9 {
		v := vector{typ: format.BlobChunk, plain: text(n), method: 1, padded: true}
		in := v.inner(t)
		pays := len(in)-format.BlobHead < n
		seen[pays]++
		_, err := o.Open(nil, ft.SealBlob(t, 9, v.typ, v.id(t), in), v.typ, 0, v.id(t), 128<<10)
		if pays && err != nil || !pays && !errors.Is(err, blob.ErrDamaged) {
			t.Errorf("%d bytes in %d: %v", n, len(in)-format.BlobHead, err)
		}
	}
	if seen[true] < 5 || seen[false] < 5 {
		t.Errorf("compression pays %d times and doesn't %d times", seen[true], seen[false])
	}
}

// FuzzReseal opens what an independent writer may have made of a plaintext: what
// opens is sealed again to the same length, and a padding of any other length or
// content doesn't open.
func FuzzReseal(f *testing.F) {
	f.Add([]byte("plain"), byte(1), uint16(0), true, int16(0), uint16(0), byte(0))
	f.Add(text(2000), byte(1), uint16(7), true, int16(0), uint16(0), byte(0))
	f.Add(text(2000), byte(1), uint16(0), true, int16(512), uint16(0), byte(0))
	f.Add(text(900), byte(7), uint16(0), true, int16(-1), uint16(0), byte(0))
	f.Add(text(900), byte(7), uint16(0), false, int16(0), uint16(5), byte(9))
	f.Add(random(700), byte(5), uint16(0), true, int16(0), uint16(0), byte(0))
	o := opener(f)
	s, none := sealer(f, fastest, 128<<10), sealer(f, format.Compression{}, 128<<10)
	f.Fuzz(func(t *testing.T, plain []byte, typ byte, domain uint16, compress bool, more int16, at uint16, xor byte) {
		v := vector{typ: format.BlobType(1 + typ%8), domain: format.Domain(domain), plain: plain}
		again := none
		if compress {
			v.method, again = 1, s
		}
		v.padded = v.typ == format.BlobQubeConfig || v.typ == format.BlobChunk && compress
		id := v.id(t)
		var content []byte
		if compress { // by the same compressor, or the lengths would differ
			sealed := s.Seal(nil, v.typ, v.domain, id, plain)
			in, err := keys(t).OpenBlob(sealed, v.typ, id)
			if err != nil {
				t.Fatal(err)
			}
			if in[0] == 0 {
				return // not compressed
			}
			content = in[format.BlobHead:][:binary.BigEndian.Uint32(in[7:])]
		} else {
			content = plain
		}
		good := ft.Inner(t, v.method, v.domain, id, plain, content, v.padded)
		end := format.BlobHead + len(content)
		in := append(bytes.Clone(good), make([]byte, max(0, int(more)))...)
		in = in[:max(end, len(in)+min(0, int(more)))]
		if n := len(in) - end; n > 0 {
			in[end+int(at)%n] ^= xor
		}
		changed := !bytes.Equal(in, good)
		got, err := o.Open(nil, ft.SealBlob(t, 1, v.typ, id, in), v.typ, v.domain, id, len(plain))
		if changed {
			if !errors.Is(err, blob.ErrDamaged) {
				t.Fatalf("a padding of %d bytes, with %x at %d: %v", len(in)-end, xor, at, err)
			}
			return
		}
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes of a %s: %v", len(plain), v.typ, err)
		}
		if n := len(again.Seal(nil, v.typ, v.domain, id, got)); n != len(in)+format.SealOverhead {
			t.Fatalf("a %s of %d bytes was sealed to %d bytes, and then to %d", v.typ, len(plain), len(in)+format.SealOverhead, n)
		}
	})
}
