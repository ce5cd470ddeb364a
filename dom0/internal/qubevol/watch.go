package qubevol

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/plain"
)

// checkPatience is for how long qubesd is asked after the last byte was read.
const checkPatience = time.Minute

// A watch is an open volume that nobody may write to while it is read.
type watch struct {
	*plain.Volume
	path   string
	halted func(context.Context) error
	before string
}

// openWatched opens a file or device. Looked at after that, whoever writes to
// it later shows in Check.
func openWatched(ctx context.Context, path string, halted func(context.Context) error) (source.Volume, error) {
	v, err := plain.Open(path)
	if err != nil {
		return nil, err
	}
	w := &watch{Volume: v, path: path, halted: halted}
	if w.before, err = traces(path); err == nil {
		err = halted(ctx)
	}
	if err != nil {
		v.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return w, nil
}

// Check says whether the qube was halted until now, and nobody wrote to the
// volume: it may have been started and have stopped again.
func (w *watch) Check() error {
	if err := w.Volume.Check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkPatience)
	defer cancel()
	err := w.halted(ctx)
	if err == nil {
		var after string
		if after, err = traces(w.path); err == nil && after != w.before {
			err = errors.New("it was written to, or replaced, while it was read")
		}
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", w.path, err)
	}
	return nil
}

// traces are what writing leaves: the identity and times of a file, or how
// much was written to a device since it is there.
func traces(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("look at %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return fmt.Sprint(st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()), nil
	}
	number := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	text, err := os.ReadFile("/sys/dev/block/" + number + "/stat")
	if err != nil {
		return "", fmt.Errorf("ask what was written to %s: %w", path, source.Cause(err))
	}
	return number + " " + written(string(text)), nil
}

// written is, of the kernel's counters of a device, what goes up with writes
// and discards (Documentation/block/stat.rst of Linux).
func written(stat string) string {
	var kept []string
	for i, counter := range strings.Fields(stat) {
		switch i {
		case 4, 6, 11, 13: // writes and discards done, and sectors of both
			kept = append(kept, counter)
		}
	}
	return strings.Join(kept, " ")
}
