package umltest

import (
	"sync"
	"syscall"
	"testing"
	"time"
)

// slowFault is what a page fault inside costs where the host is too slow for tests
// that run many programs: each start of one costs a thousand. Measured were 400 to
// 600 µs in a virtual machine whose own faults take 35; such a test took a quarter
// of an hour there.
const slowFault = 150 * time.Microsecond

// Long skips a test that runs many programs where these take too long to start. It
// says so, and how to have it run all the same.
func Long(t testing.TB) {
	t.Helper()
	if !Inside() || All() {
		return
	}
	if cost := faultCost(); cost > slowFault {
		t.Skipf("SKIPPED: User Mode Linux is slow here, a page fault takes %v, and this takes tens of minutes; %s=all runs it", cost, AllEnv)
	}
}

// faultCost measures what a page fault costs, once.
var faultCost = sync.OnceValue(func() time.Duration {
	const pages, size = 2048, 4096
	b, err := syscall.Mmap(-1, 0, pages*size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return 0
	}
	defer syscall.Munmap(b)
	began := time.Now()
	for i := range pages {
		b[i*size] = 1
	}
	return time.Since(began) / pages
})
