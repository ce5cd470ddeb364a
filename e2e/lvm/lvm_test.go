// Package lvm_test runs the end-to-end tests on thin pools and classic volumes,
// inside User Mode Linux, beside those that need none.
//
// It owns nothing but the choice of tests: those of package e2e whose names
// begin with TestCow, TestStorage and TestQubesLVM. It promises that each shows as a test
// of its own here, and never runs anything on the host's own devices.
package lvm_test

import (
	"testing"
	"time"

	"pinion/e2e/umltest"
)

// A kernel runs tests one after the other on one core, so each of these has a
// kernel of its own, and the cores something to do.

func TestKillsOnThinPools(t *testing.T) { inside(t, "TestCowKill.*") }
func TestThinPools(t *testing.T)        { inside(t, "TestCowLVM.*") }
func TestRowsOnThinPools(t *testing.T) {
	if umltest.All() {
		inside(t, "TestCow(Row|Two|Clone|Replaced|Restore).*")
		return
	}
	t.Log("SOME TESTS ARE LEFT OUT, which run on btrfs and XFS: " + umltest.AllEnv + "=all runs them on thin pools, too")
	inside(t, "TestCow(RowS(02|10|17|37)|Two|Restore).*")
}
func TestRulesOnThinPools(t *testing.T)    { inside(t, "TestCow(Soak|Monitor|Shrink|Lost).*") }
func TestCommandsOnThinPools(t *testing.T) { inside(t, "TestStorage(Monitor|Diff|Forget).*") }

// Qubes are on a disk of their own.
func TestQubesOnThinPools(t *testing.T) {
	inside(t, "TestQubesLVM(Running|Without|Restore|Row).*")
}
func TestQubesStopOnThinPools(t *testing.T) { inside(t, "TestQubesLVMStop.*") }

func inside(t *testing.T, tests string) {
	t.Parallel()
	umltest.Run(t, umltest.Options{
		Package: "pinion/e2e", Disks: []int64{8 << 30, 8 << 30}, Memory: 2 << 30, Timeout: 45 * time.Minute, Programs: umltest.Programs(t),
	}, tests)
}
