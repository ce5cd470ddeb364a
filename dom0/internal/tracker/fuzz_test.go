package tracker

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"
)

// FuzzState: whatever stands behind a state file's first line, and whether its
// checksum fits or not, it is refused or understood; what is understood is encoded as
// what decodes to the same.
func FuzzState(f *testing.F) {
	for _, body := range []string{
		"", "{}\n", `{"locator":"file:/v","entries":[]}`, `{"entries":[null]}`, `{"runs":[null]}`, `{"locator":"lvm:a/b","base":{"name":"x"},"entries":[{"dirty":{}}]}`,
	} {
		f.Add([]byte(body), true)
		f.Add([]byte(body), false)
	}
	if whole, err := (&state{Locator: "file:/v"}).encode(); err == nil {
		_, body, _ := bytes.Cut(whole, []byte("\n"))
		f.Add(body, true)
	}
	f.Fuzz(func(t *testing.T, untrusted []byte, sum bool) {
		if sum {
			untrusted = append(fmt.Appendf(nil, "pinion tracker %d sha256:%x\n", version, sha256.Sum256(untrusted)), untrusted...)
		}
		s, err := decode(untrusted)
		if err != nil {
			return
		}
		first, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decode(first)
		if err != nil {
			t.Fatalf("what was understood can't be read again: %v\n%s", err, first)
		}
		second, err := again.encode()
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("written again it is another (%v):\n%s\n%s", err, first, second)
		}
	})
}
