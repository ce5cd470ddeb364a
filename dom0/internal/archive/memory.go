package archive

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// availableMemory is how many bytes a program can take without swapping, as the
// kernel estimates it; ok is false where it doesn't say.
func availableMemory() (bytes uint64, ok bool) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		rest, found := strings.CutPrefix(s.Text(), "MemAvailable:")
		if !found {
			continue
		}
		kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		return kib << 10, err == nil
	}
	return 0, false
}
