package ui

import (
	"testing"
	"time"
)

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour:                   "0 s",
		59*time.Second + 999_999_999: "59 s",
		time.Minute:                  "1 min",
		59*time.Minute + time.Second: "59 min",
		time.Hour:                    "1 h",
		47 * time.Hour:               "47 h",
		48 * time.Hour:               "2 days",
		1000 * day:                   "1000 days",
	} {
		if got := Age(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}
