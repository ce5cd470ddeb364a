package tracker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pinion/dom0/internal/flock"

	"golang.org/x/sys/unix"
)

// A life is the lock that says that a run's process lives.
type life struct {
	id   string
	file *os.File
}

func (d *Dir) lifePath(id string) string { return filepath.Join(d.path, "runs", id+".lock") }

// begin makes a run known as alive until end or the end of the process.
func (d *Dir) begin() (*life, error) {
	for {
		id := randomHex(8)
		f, err := flock.Try(d.lifePath(id), os.O_RDWR|os.O_CREATE|os.O_EXCL, unix.LOCK_EX)
		if err == nil {
			return &life{id, f}, nil
		}
		// Somebody who removes what the dead left may have been faster
		// between the making and the locking of the file.
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("begin a run: %w", err)
		}
		if _, err := os.Stat(filepath.Join(d.path, "runs")); err != nil {
			return nil, fmt.Errorf("begin a run: %w", err)
		}
	}
}

// end makes the run known as over.
func (d *Dir) end(l *life) {
	os.Remove(d.lifePath(l.id)) // what is left says the same as what is gone
	l.file.Close()
}

// alive reports whether the process of a run lives. In doubt it does.
func (d *Dir) alive(id string) bool {
	if !isHex(id, 16) {
		return false
	}
	f, err := flock.Try(d.lifePath(id), os.O_RDWR, unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		return true
	}
	os.Remove(d.lifePath(id))
	f.Close()
	return false
}

// buryTheDead removes locks of runs that are no more.
func (d *Dir) buryTheDead() {
	there, err := os.ReadDir(filepath.Join(d.path, "runs"))
	if err != nil {
		return // they only take up room
	}
	for _, e := range there {
		if id, ok := strings.CutSuffix(e.Name(), ".lock"); ok {
			d.alive(id)
		}
	}
}
