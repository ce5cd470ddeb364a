package testenv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMounts makes each kind of file system, sees that it is one, and that
// nothing of it is left.
func TestMounts(t *testing.T) {
	magic := map[string]int64{
		"btrfs": unix.BTRFS_SUPER_MAGIC, "xfs": unix.XFS_SUPER_MAGIC,
		"ext4": unix.EXT4_SUPER_MAGIC, "tmpfs": unix.TMPFS_MAGIC,
	}
	for kind, want := range magic {
		t.Run(kind, func(t *testing.T) {
			var dir string
			t.Run("mounted", func(t *testing.T) {
				dir = Mount(t, kind, 512<<20)
				var st unix.Statfs_t
				if err := unix.Statfs(dir, &st); err != nil {
					t.Fatal(err)
				}
				if got := int64(st.Type); got != want {
					t.Errorf("file system type %#x, want %#x", got, want)
				}
				if err := os.WriteFile(filepath.Join(dir, "x"), []byte("x"), 0o600); err != nil {
					t.Error(err)
				}
			})
			if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || dir != "" && strings.Contains(string(mounts), dir) {
				t.Errorf("%s is still mounted (%v)", dir, err)
			}
		})
	}
}
