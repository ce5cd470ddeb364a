// Package state is what dom0 remembers of archives between runs, so that a
// store can't show an older archive, a fork, or another archive unnoticed.
//
// It owns the state directory: which archive stands at a destination, the
// highest generation seen of every branch, a copy of each branch's newest root,
// whose clear part has the key slots, and the mark of a backup to a destination
// that didn't end cleanly. All of it is readable by a person. It promises that a
// change is durable when it is answered and that two processes don't lose each
// other's changes. It holds no secrets: copies are as sealed as in the store. It
// never asks the store.
package state

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"crypto/sha256"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/durable"
	"pinion/dom0/internal/flock"
	"pinion/dom0/internal/format"
)

// version is the version of both JSON files.
const version = 1

// A Dir is a state directory. It is safe for concurrent use by many processes.
type Dir struct {
	path string
}

// Open makes the directory if need be, readable by its owner only.
func Open(path string) (*Dir, error) {
	if err := durable.MkdirAll(path); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	return &Dir{path: path}, nil
}

// A Pin says what stood at a destination when it was last used.
type Pin struct {
	Version     int    `json:"version"`
	Destination string `json:"destination"`
	Archive     string `json:"archive"`
	Branch      string `json:"branch"`
}

// fileName stands for a destination in names of files.
func fileName(destination string) string {
	sum := sha256.Sum256([]byte(destination))
	return hex.EncodeToString(sum[:16])
}

func (d *Dir) pinPath(destination string) string {
	return filepath.Join(d.path, "destinations", fileName(destination)+".json")
}

// Pin returns what stood at a destination; ok is false if nothing is known.
func (d *Dir) Pin(destination string) (pin Pin, ok bool, err error) {
	if ok, err = readJSON(d.pinPath(destination), &pin); err != nil {
		return Pin{}, false, err
	}
	if ok && pin.Destination != destination {
		return Pin{}, false, fmt.Errorf("state file %s is of %q", d.pinPath(destination), pin.Destination)
	}
	return pin, ok, nil
}

// SetPin remembers what stands at a destination.
func (d *Dir) SetPin(destination string, archive, branch format.ObjectID) error {
	pin := Pin{Version: version, Destination: destination, Archive: archive.String(), Branch: branch.String()}
	if old, ok, err := d.Pin(destination); err == nil && ok && old == pin {
		return nil
	}
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return writeJSON(d.pinPath(destination), pin)
}

// A Memory is what is known of one archive.
type Memory struct {
	Version  int               `json:"version"`
	Archive  string            `json:"archive"`
	Branches map[string]Branch `json:"branches"`
	// GivenUp has, by destination, the generations of damaged older roots there that
	// a repair told of, ascending.
	GivenUp map[string][]uint64 `json:"given_up_roots,omitempty"`
}

// A Branch is what is known of one branch of an archive.
type Branch struct {
	Generation uint64 `json:"generation"`         // of the root last accepted
	RootHash   string `json:"root_hash"`          // SHA-256 of that root, hex
	Highest    uint64 `json:"highest_generation"` // ever seen
	NextSeq    uint64 `json:"next_seq"`           // sequence number of the next session: the highest ever seen
	Written    string `json:"written_to"`         // destination of this host's last write; empty: none
}

func (d *Dir) archiveDir(archive format.ArchiveID) string {
	return filepath.Join(d.path, "archives", archive.String())
}

// Memory returns what is known of an archive: nothing, perhaps.
func (d *Dir) Memory(archive format.ArchiveID) (*Memory, error) {
	m := &Memory{}
	path := filepath.Join(d.archiveDir(archive), "memory.json")
	ok, err := readJSON(path, m)
	if err != nil {
		return nil, err
	}
	if ok && m.Archive != archive.String() {
		return nil, fmt.Errorf("state file %s is of archive %q", path, m.Archive)
	}
	if m.Branches == nil {
		m.Branches = map[string]Branch{}
	}
	m.Version, m.Archive = version, archive.String()
	return m, nil
}

// Update changes what is known of an archive, with other processes kept out.
// Nothing is written if change leaves it as it was.
func (d *Dir) Update(archive format.ArchiveID, change func(*Memory)) error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	m, err := d.Memory(archive)
	if err != nil {
		return err
	}
	before, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the state of archive %s: %w", archive, err)
	}
	change(m)
	after, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the state of archive %s: %w", archive, err)
	}
	if string(before) == string(after) {
		return nil
	}
	return writeJSON(filepath.Join(d.archiveDir(archive), "memory.json"), m)
}

// SaveRoot keeps a copy of the newest root of a branch. Branches are apart:
// packs that the root of one names need not be where another is.
func (d *Dir) SaveRoot(archive format.ArchiveID, branch format.ObjectID, object []byte) error {
	return d.saveCopy(d.rootPath(archive, branch), object)
}

// Root returns the copy of the newest root of a branch, or nil if there is none.
func (d *Dir) Root(archive format.ArchiveID, branch format.ObjectID) ([]byte, error) {
	return readCopy(d.rootPath(archive, branch))
}

// SaveLists keeps a sealed copy of the lists of the newest root of a branch.
func (d *Dir) SaveLists(archive format.ArchiveID, branch format.ObjectID, object []byte) error {
	return d.saveCopy(d.listsPath(archive, branch), object)
}

// Lists returns that copy, or nil if there is none.
func (d *Dir) Lists(archive format.ArchiveID, branch format.ObjectID) ([]byte, error) {
	return readCopy(d.listsPath(archive, branch))
}

func (d *Dir) listsPath(archive format.ArchiveID, branch format.ObjectID) string {
	return filepath.Join(d.archiveDir(archive), "lists", branch.String())
}

func (d *Dir) rootPath(archive format.ArchiveID, branch format.ObjectID) string {
	return filepath.Join(d.archiveDir(archive), "roots", branch.String())
}

func (d *Dir) saveCopy(path string, object []byte) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(object) {
		return nil
	}
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return writeFile(path, object)
}

func readCopy(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// MarkUnclean says durably that a backup has begun to send packs to a
// destination, so that the next one looks for them if this one dies. suspect
// says that what was sent is known not to be what the store has.
func (d *Dir) MarkUnclean(archive format.ArchiveID, destination string, suspect bool) error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	_, was, err := d.Unclean(archive, destination)
	if err != nil {
		return err
	}
	text := "unclean\n"
	if suspect || was {
		text = "suspect\n"
	}
	return writeFile(d.markPath(archive, destination), []byte(text))
}

// Unclean reports whether a backup to a destination began and neither committed
// nor was followed by one that did, and whether one of those was suspect.
func (d *Dir) Unclean(archive format.ArchiveID, destination string) (unclean, suspect bool, err error) {
	text, err := os.ReadFile(d.markPath(archive, destination))
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	return err == nil, strings.HasPrefix(string(text), "suspect"), err
}

// MarkClean takes the mark back, once everything sent is named by the root. It
// changes nothing where there is no mark.
func (d *Dir) MarkClean(archive format.ArchiveID, destination string) error {
	if unclean, _, err := d.Unclean(archive, destination); err == nil && !unclean {
		return nil
	}
	return d.removeMark(d.markPath(archive, destination))
}

// SetFreed says durably that all that the prune of a generation at a destination
// no longer needs was given back.
func (d *Dir) SetFreed(archive format.ArchiveID, destination string, generation uint64) error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return writeFile(d.freedPath(archive, destination), fmt.Appendf(nil, "%d\n", generation))
}

// Freed is what SetFreed said last; 0: nothing. What can't be read is nothing,
// which costs the next prune some time.
func (d *Dir) Freed(archive format.ArchiveID, destination string) (uint64, error) {
	text, err := os.ReadFile(d.freedPath(archive, destination))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return n, err
}

func (d *Dir) freedPath(archive format.ArchiveID, destination string) string {
	return filepath.Join(d.archiveDir(archive), "freed", fileName(destination))
}

// SetDoubt says durably whether what the root at a destination needs may be
// gone.
func (d *Dir) SetDoubt(archive format.ArchiveID, destination string, doubt bool) error {
	path := d.doubtPath(archive, destination)
	if !doubt {
		return d.removeMark(path)
	}
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return writeFile(path, []byte("doubt\n"))
}

// Doubt is what SetDoubt said last.
func (d *Dir) Doubt(archive format.ArchiveID, destination string) (bool, error) {
	_, err := os.Stat(d.doubtPath(archive, destination))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (d *Dir) doubtPath(archive format.ArchiveID, destination string) string {
	return filepath.Join(d.archiveDir(archive), "doubt", fileName(destination))
}

// removeMark removes a file durably.
func (d *Dir) removeMark(path string) error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take the mark %s back: %w", path, err)
	}
	return durable.SyncDir(filepath.Dir(path))
}

func (d *Dir) markPath(archive format.ArchiveID, destination string) string {
	return filepath.Join(d.archiveDir(archive), "unclean", fileName(destination))
}

// lock keeps other processes from changing the directory until unlock.
func (d *Dir) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(d.path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if err := flock.File(f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	return func() { f.Close() }, nil
}

func writeFile(path string, data []byte) error {
	if err := durable.MkdirAll(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return durable.WriteFile(path, data)
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return writeFile(path, append(b, '\n'))
}

// readJSON reads a state file. A file that isn't there gives false; one that
// can't be understood is an error that names it, since going on without it
// would drop the memory that protects from old roots.
func readJSON(path string, v any) (bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read state: %w", err)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return false, &DamagedError{Path: path, Err: err}
	}
	switch {
	case head.Version > version:
		return false, fmt.Errorf("state file %s has version %d: %w", path, head.Version, format.ErrNewer)
	case head.Version < version:
		return false, &DamagedError{Path: path, Err: fmt.Errorf("has version %d", head.Version)}
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, &DamagedError{Path: path, Err: err}
	}
	return true, nil
}

// A DamagedError says that a state file can't be understood.
type DamagedError struct {
	Path string
	Err  error
}

// Error names the file.
func (e *DamagedError) Error() string { return fmt.Sprintf("state file %s: %v", e.Path, e.Err) }

// Unwrap gives the cause.
func (e *DamagedError) Unwrap() error { return e.Err }
