package secret

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Harden keeps what the process holds in memory out of core files and away from other processes of the same user. It
// is called once, before the first secret is read; the limit on core files is inherited by commands that are started.
func Harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid memory dumps: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	return nil
}
