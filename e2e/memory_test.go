package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// peakOf follows the most memory that a process has had, in bytes, until it
// ends. The account that the kernel gives at the end can't be used: its
// ru_maxrss is never less than what the parent had when it started the process,
// and the parent is a test that may hold whole volumes.
func peakOf(t testing.TB, pid int) *atomic.Int64 {
	t.Helper()
	peak := new(atomic.Int64)
	// Opened once: its number may be another's soon, the file is not.
	status, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8<<10)
	look := func() bool {
		n, err := status.ReadAt(buf, 0)
		kib, ok := peakIn(buf[:n])
		if n == 0 && err != nil || !ok {
			return false
		}
		peak.Store(kib << 10)
		return true
	}
	if !look() {
		status.Close()
		return peak // it has ended already
	}
	go func() {
		defer status.Close()
		for look() {
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return peak
}

// peakIn finds the peak in a process's status, in KiB. One that has ended has none.
func peakIn(status []byte) (int64, bool) {
	_, after, _ := bytes.Cut(status, []byte("\nVmHWM:"))
	value, _, found := bytes.Cut(after, []byte(" kB\n"))
	kib, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
	return kib, found && err == nil
}

// What is followed is the process's own memory, and none of ours.
func TestPeakOf(t *testing.T) {
	ours := bytes.Repeat([]byte{1}, 300<<20)
	w := newWorld(t)
	r := w.run("version")
	if r.maxRSS < 1<<20 || r.maxRSS > 200<<20 {
		t.Errorf("pinion version took %d KiB", r.maxRSS>>10)
	}
	if ours[len(ours)-1] != 1 {
		t.Error("not ours")
	}
}
