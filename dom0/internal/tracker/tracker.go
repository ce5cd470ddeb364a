// Package tracker remembers, for each volume of this host, what may have
// changed since each archive's last session of it, so that a backup reads
// only that.
//
// It owns the base snapshot of a volume and, for each branch of an archive
// that has the volume, the session S that was backed up last, the dirty map D
// and, while a backup runs, the frozen map F. It promises that the content of
// the base differs from the session's tree only inside D ∪ F, whatever step a
// process dies in and whatever call to the storage fails: what isn't known is
// in D. It never reads volumes, never asks a store, and never removes a
// snapshot whose name doesn't carry the label of its state directory.
//
// State is one file for each volume, changed under a lock on the volume. The
// lock is held for as long as it takes to find what changed, never while data
// is read or sent. A backup keeps its snapshots by an entry of its own in the
// state, and a lock that ends with its process says whether it still lives.
package tracker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"pinion/dom0/internal/durable"
	"pinion/dom0/internal/flock"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
)

// A Key names what an entry of the state is about: a volume of an archive, as
// one branch of the archive has it.
type Key struct {
	Archive format.ArchiveID
	Branch  format.ObjectID
	Volume  format.ObjectID // id of the archived volume
}

// A Session is what state keeps of a session that has the volume. It is worth
// something only while the archive still has that session with that record.
type Session struct {
	ID         format.ObjectID
	Seq        uint64
	Time       time.Time
	Record     format.BlobID // the volume's record in the session
	Generation uint64        // of the root that the session was committed with
}

// same reports whether both are one session of the volume.
func (s *Session) same(o *Session) bool {
	return s != nil && o != nil && s.ID == o.ID && s.Record == o.Record
}

// A Find returns the source that a locator, or anything else that the command
// line takes for one, leads to. An error that is fs.ErrNotExist says that
// there is no such volume.
type Find func(ctx context.Context, locator string) (*source.Source, error)

// A Dir is the state of all volumes of this host. It is safe for concurrent
// use, also by many processes.
type Dir struct {
	path  string // of the directory of trackers
	owner string // in the labels of all snapshots, 8 hex digits

	comparing sync.Mutex // a pool has one open Comparison in a process
	step      func(string)
}

// Open opens the trackers of a state directory and makes what is missing.
func Open(stateDir string) (*Dir, error) {
	d := &Dir{path: filepath.Join(stateDir, "trackers"), step: func(string) {}}
	if err := durable.MkdirAll(filepath.Join(d.path, "runs")); err != nil {
		return nil, fmt.Errorf("make the trackers' directory: %w", err)
	}
	if err := d.readOwner(filepath.Join(stateDir, "owner")); err != nil {
		return nil, fmt.Errorf("read whose snapshots are ours: %w", err)
	}
	return d, nil
}

// readOwner reads the random id of the state directory, or draws it.
func (d *Dir) readOwner(path string) error {
	lock, err := flock.Lock(context.Background(), filepath.Join(d.path, "lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if d.owner = strings.TrimSpace(string(text)); isHex(d.owner, 8) {
		return nil
	}
	// Snapshots of an owner that can't be read any more stay for a person to
	// remove: nobody can tell any more whose they are.
	d.owner = randomHex(4)
	return durable.WriteFile(path, []byte(d.owner+"\n"))
}

func isHex(s string, digits int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(s) == digits && hex.EncodeToString(b) == s
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b) // never fails: the runtime ends the program instead
	return hex.EncodeToString(b)
}

// dirName is the name of the directory that holds a volume's state.
func dirName(locator string) string {
	sum := sha256.Sum256([]byte(locator))
	return hex.EncodeToString(sum[:16])
}

// labelOf is what stands for a volume in labels: the start of dirName.
func labelOf(locator string) string { return dirName(locator)[:8] }

func (d *Dir) volumeDir(locator string) string { return filepath.Join(d.path, dirName(locator)) }

func (d *Dir) statePath(locator string) string {
	return filepath.Join(d.volumeDir(locator), "state.json")
}

// volumeDirs lists the directories that hold the state of a volume.
func (d *Dir) volumeDirs() ([]string, error) {
	there, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("list the trackers: %w", err)
	}
	var names []string
	for _, e := range there {
		if isHex(e.Name(), 32) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// labelIsShared reports whether the label of a volume is that of another one of
// those with the given directories, too. Then snapshots can't be told apart by
// it, and none is taken for forgotten.
func labelIsShared(locator string, volumeDirs []string) bool {
	return slices.ContainsFunc(volumeDirs, func(name string) bool {
		return name != dirName(locator) && name[:8] == labelOf(locator)
	})
}
