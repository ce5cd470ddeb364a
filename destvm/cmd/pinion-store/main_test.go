package main

import (
	"os"
	"path/filepath"
	"testing"

	"pinion/destvm/internal/storetest"
)

// asHelper makes the test binary behave as the helper.
const asHelper = "PINION_TEST_AS_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(asHelper) != "" {
		main()
	}
	// For the helpers that tests start. Under the race detector a program
	// sleeps for a second before it ends, unless told otherwise.
	os.Setenv(asHelper, "1")
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	os.Exit(m.Run())
}

// helper is the command line of a helper, which is this binary.
func helper(t *testing.T, args ...string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{self}, args...)
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) []string {
		return helper(t, "serve", filepath.Join(t.TempDir(), "archive"))
	})
}
