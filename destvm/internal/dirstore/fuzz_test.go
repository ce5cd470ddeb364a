package dirstore

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"pinion/protocol"
)

// FuzzCompose gives any part list to Compose and compares what comes of it with
// what the parts say. A list that is refused leaves nothing.
func FuzzCompose(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "archive")
	s, err := Open(dir, Options{Create: true})
	if err == nil {
		err = s.Lock(protocol.LockExclusive)
	}
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Close)
	sources := map[string][]byte{packName(1): []byte("0123456789"), packName(2): bytes.Repeat([]byte("abc"), 50000)}
	for name, b := range sources {
		if err := put(s, name, b); err != nil {
			f.Fatal(err)
		}
	}
	piece := func(list []byte, n byte, off uint64, length uint32) []byte {
		return protocol.AppendCopy(list, packName(n), protocol.Range{Off: off, Len: length})
	}
	lit := func(list []byte, text string) []byte { return protocol.AppendLiteral(list, []byte(text)) }
	f.Add(uint64(10), piece(nil, 1, 0, 10))
	f.Add(uint64(100010), lit(piece(piece(nil, 2, 7, 100000), 1, 2, 3), "literal"))
	f.Add(uint64(70003), piece(lit(nil, "x"), 2, 0, 70002))
	f.Add(uint64(11), piece(nil, 1, 0, 11))             // beyond the end
	f.Add(uint64(5), piece(nil, 9, 0, 5))               // itself
	f.Add(uint64(5), piece(nil, 3, 0, 5))               // not there
	f.Add(uint64(4), piece(nil, 1, 0, 5))               // more than said
	f.Add(uint64(6), append(piece(nil, 1, 0, 5), 1, 0)) // cut
	f.Add(uint64(1<<40), lit(nil, "x"))
	f.Add(uint64(0), []byte{})
	f.Add(uint64(4), protocol.AppendCopy(nil, "head/000000000001", protocol.Range{Len: 4}))
	f.Fuzz(func(t *testing.T, size uint64, untrustedList []byte) {
		if len(untrustedList) > 4096 {
			return
		}
		const name = 9
		err := s.Compose(packName(name), size, untrustedList)
		got, readErr := read(s, packName(name))
		if err != nil {
			if readErr == nil {
				t.Fatalf("%v, and %d bytes are there", err, len(got))
			}
		} else if want := composed(sources, untrustedList); readErr != nil || !bytes.Equal(got, want) || uint64(len(got)) != size {
			t.Fatalf("%d bytes, %v, want %d", len(got), readErr, len(want))
		}
		if err := s.Delete([]string{packName(name)}, false); err != nil {
			t.Fatal(err)
		}
		if temps, err := os.ReadDir(filepath.Join(dir, dirTemp)); err != nil || len(temps) > 0 {
			t.Fatalf("there are %v, %v", temps, err)
		}
	})
}

// composed is what a part list makes, or nil.
func composed(sources map[string][]byte, list []byte) []byte {
	var b []byte
	err := protocol.EachPart(list, func(p protocol.Part) error {
		if p.Source == "" {
			b = append(b, p.Literal...)
			return nil
		}
		b = append(b, sources[p.Source][p.Range.Off:p.Range.Off+uint64(p.Range.Len)]...)
		return nil
	})
	if err != nil {
		return nil
	}
	return b
}
