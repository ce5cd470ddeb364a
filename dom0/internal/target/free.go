package target

import (
	"errors"
	"fmt"
	"math"
	"math/bits"

	"golang.org/x/sys/unix"
)

// Free returns how many bytes an ordinary user can still write where path
// lives or, if it doesn't exist, would live: in the file system of the
// nearest directory above it. For a device it is not defined.
func Free(path string) (int64, error) {
	dir, err := absolute(path)
	if err != nil {
		return 0, err
	}
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		switch {
		case err == nil:
			return freeBytes(st.Bavail, uint64(st.Frsize)), nil
		case errors.Is(err, unix.ENOENT) && dir != "/":
			dir = parent(dir)
		case errors.Is(err, unix.EINTR):
		default:
			return 0, fmt.Errorf("find the free space of %s: %w", path, err)
		}
	}
}

// freeBytes multiplies without ever passing the largest offset; network file
// systems may claim anything.
func freeBytes(blocks, size uint64) int64 {
	high, low := bits.Mul64(blocks, size)
	if high != 0 || low > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(low)
}
