package admin

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParseExposed(t *testing.T) {
	for _, tt := range []struct {
		answer string
		want   []string
	}{
		{"", []string{}},
		// R4.3, two devices that have been seen at one port
		{"2-1:0627:0001:x:u030000 device_id='0627:0001:x:u030000' port_id='2-1'\n00_14.3:0x8086:0x51f0::p028000 vendor='Intel'\n2-1:*\n", []string{"00_14.3", "2-1"}},
		// R4.2
		{"sda1 size=1024 mode=w description=(a disk)\nsda \n", []string{"sda", "sda1"}},
	} {
		if got, err := parseExposed([]byte(tt.answer)); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %q, %v", tt.answer, got, err)
		}
	}
	for _, answer := range []string{"\n", " x\n", ":x\n", "a+b\n", "a\x1b\n", "sda", strings.Repeat("a", 300) + "\n"} {
		if got, err := parseExposed([]byte(answer)); !errors.Is(err, ErrAnswer) && !errors.Is(err, ErrUnreachable) || got != nil {
			t.Errorf("%q: got %q, %v", answer, got, err)
		}
	}
}

func FuzzExposed(f *testing.F) {
	f.Add([]byte("2-1:0627:0001 device_id='x'\nsda x=1\n"))
	f.Add([]byte("\n: \n"))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		ports, err := parseExposed(untrusted)
		if err != nil && ports != nil {
			t.Errorf("an error and %q", ports)
		}
		if !slices.IsSorted(ports) {
			t.Errorf("out of order: %q", ports)
		}
		for _, port := range ports {
			if !isToken(port, maxToken) || strings.Contains(port, ":") {
				t.Errorf("%q is no port", port)
			}
		}
	})
}
