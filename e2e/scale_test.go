package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What the programs may have resident, in bytes.
const (
	pinionMemory = 256 << 20
	helperMemory = 64 << 20
)

// TestNoVolumeIsHeldInMemory takes a large image through everything that goes
// through all of its data, with the programs as they are installed: an image
// of 8 GiB, of which 1.5 GiB are data that is nowhere twice.
func TestNoVolumeIsHeldInMemory(t *testing.T) {
	w := newWorldOf(t, build{static: true})
	w.ok("init")
	image := w.image("image", "random:256M:1", "hole:3G", "text:96M:2", "zero:64M", "hole:2G", "random:160M:3", "hole:2496M")
	source := "file:" + image
	within(t, w, "backup", source)
	overwrite(t, image, 100<<20, "random:16M:4")
	overwrite(t, image, 6<<30, "random:16M:5")
	within(t, w, "backup", source)
	within(t, w, "verify", "--all-sessions")
	restored := w.path("restored")
	within(t, w, "restore", "image", "--session", "#1", "--to", restored)
	within(t, w, "restore", "image", "--to", restored, "--in-place")
	same(t, image, restored)
}

// TestMemoryDoesNotFollowCores makes the backups that want most memory for
// each core, with as many cores as no dom0 has.
func TestMemoryDoesNotFollowCores(t *testing.T) {
	for _, params := range [][]string{
		{"--compression", "zstd:19"},
		{"--chunk-size", "4M"},
	} {
		t.Run(strings.Join(params, " "), func(t *testing.T) {
			w := newWorldOf(t, build{static: true})
			w.env = []string{"GOMAXPROCS=16"}
			w.ok(append([]string{"init"}, params...)...)
			image := w.image("image", "random:96M:1", "text:32M:2")
			within(t, w, "backup", "file:"+image)
			within(t, w, "verify")
		})
	}
}

// within runs pinion and checks the peak memory of both programs.
func within(t *testing.T, w *world, args ...string) {
	t.Helper()
	r := w.start(args...)
	stop := make(chan struct{})
	peaks := make(chan [2]int64)
	go func() { peaks <- watchPeaks(r.cmd.Process.Pid, stop) }()
	res := w.wait(r)
	close(stop)
	peak := <-peaks
	res.expect(0)
	t.Logf("pinion %s: %v, peak of pinion %d MiB, of the helper %d MiB",
		strings.Join(args, " "), res.took.Round(time.Millisecond), peak[0]>>20, peak[1]>>20)
	if peak[0] == 0 || peak[1] == 0 {
		t.Errorf("pinion %s: the memory of one of the programs was not seen", strings.Join(args, " "))
	}
	if peak[0] > pinionMemory {
		t.Errorf("pinion %s: pinion had %d MiB resident, and %d are allowed", strings.Join(args, " "), peak[0]>>20, pinionMemory>>20)
	}
	if peak[1] > helperMemory {
		t.Errorf("pinion %s: the helper had %d MiB resident, and %d are allowed", strings.Join(args, " "), peak[1]>>20, helperMemory>>20)
	}
}

// watchPeaks reads the peak memory of a process and of its children until it
// is stopped. The kernel keeps the peak; only the last moment can be missed.
func watchPeaks(pid int, stop <-chan struct{}) (peak [2]int64) {
	for {
		peak[0] = max(peak[0], procMemory(pid, "VmHWM:"))
		for _, child := range childrenOf(pid) {
			peak[1] = max(peak[1], procMemory(child, "VmHWM:"))
		}
		select {
		case <-stop:
			return peak
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// procMemory is a line of a process's status, in bytes; 0 if it is gone.
func procMemory(pid int, line string) int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for l := range strings.Lines(string(status)) {
		if f := strings.Fields(l); len(f) == 3 && f[0] == line {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// childrenOf are the processes that any thread of a process started.
func childrenOf(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// TestTheKeyDerivationGivesItsMemoryBack opens an archive with a passphrase,
// which takes as much memory as all the rest may, and looks from then on.
func TestTheKeyDerivationGivesItsMemoryBack(t *testing.T) {
	w := newWorldOf(t, build{static: true})
	writeFile(t, w.path("passphrase"), []byte("a passphrase\n"))
	writeFile(t, w.config, []byte("[defaults]\npassfile = "+w.path("passphrase")+"\n"))
	w.configWas = w.fingerprint()
	w.ok("init")
	image := w.image("image", "random:256M:1")

	r := w.start("backup", "file:"+image)
	derivation := watch(r.cmd.Process.Pid)
	// The first pack is there when the key was derived and data is on its way.
	for end := time.Now().Add(patience); len(w.under("packs/")) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no pack came")
		}
	}
	if peak := derivation(); peak < pinionMemory {
		t.Errorf("deriving the key took %d MiB: nothing was there to give back", peak>>20)
	}
	after := watch(r.cmd.Process.Pid)
	w.wait(r).expect(0)
	peak := after()
	if peak == 0 {
		t.Fatal("the backup was over before it was looked at")
	}
	if peak > pinionMemory {
		t.Errorf("after the key was derived pinion had %d MiB resident, and %d are allowed", peak>>20, pinionMemory>>20)
	}
}

// watch looks at the memory that a process has until the function that it
// returns is called, which says what the most was.
func watch(pid int) (most func() int64) {
	stop, peak := make(chan struct{}), make(chan int64)
	go func() {
		var most int64
		for {
			most = max(most, procMemory(pid, "VmRSS:"))
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() int64 {
		close(stop)
		return <-peak
	}
}
