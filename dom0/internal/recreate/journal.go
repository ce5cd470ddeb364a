package recreate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/durable"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/flock"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/ui"
)

const (
	// journalVersion is the version of the files.
	journalVersion = 1
	// recordEnding ends the names of the files.
	recordEnding = ".json"
	// maxRecord bounds a file: a name of 128 bytes for each of a qube's volumes, of which there are four, twice, and ids.
	maxRecord = 64 << 10
)

// An Origin is what a qube's data is of.
type Origin struct {
	Archive string `json:"archive"` // its id
	Session string `json:"session"` // its id
	Qube    string `json:"qube"`    // its id in the archive
}

// A Record is what is known of a restore that may not have come to its end.
type Record struct {
	Version int    `json:"version"`
	Name    string `json:"name"` // of the qube here
	Class   string `json:"class"`
	Origin
	Made     bool     `json:"made"`     // by the restore
	Marked   bool     `json:"marked"`   // it carries Tag, or somebody has taken it away
	Begun    []string `json:"begun"`    // volumes that qubesd was told to replace, in this restore or an earlier one
	Imported []string `json:"imported"` // volumes of which it is known that they hold what the origin has
}

// A Journal is a directory of records. Who has it open is alone in restoring
// qubes: what an import has left behind is nobody's then.
type Journal struct {
	dir  string
	lock *os.File
}

// OpenJournal opens the journal, which it makes if need be. While another has
// it open, it fails with status Locked; or, if wait is set, it calls that, and
// waits for as long as ctx lasts.
func OpenJournal(ctx context.Context, dir string, wait func()) (*Journal, error) {
	if err := durable.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("open the journal of restores: %w", err)
	}
	path := filepath.Join(dir, "lock")
	lock, err := flock.Try(path, os.O_RDWR|os.O_CREATE, unix.LOCK_EX)
	if errors.Is(err, unix.EWOULDBLOCK) && wait != nil {
		wait()
		lock, err = flock.Lock(ctx, path)
	}
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, exit.With(exit.Locked, errors.New("another restore of qubes is under way on this host"), "--wait waits until it is done")
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("wait for another restore of qubes: %w", context.Cause(ctx))
	case err != nil:
		return nil, fmt.Errorf("open the journal of restores: %w", err)
	}
	return &Journal{dir: dir, lock: lock}, nil
}

// Close lets others restore.
func (o *Journal) Close() error { return o.lock.Close() }

// path is the file of a qube. Its name is a hash: those of qubes may have dots, and look like another file beside one.
func (o *Journal) path(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(o.dir, hex.EncodeToString(sum[:16])+recordEnding)
}

// records reads all records, by the name of the qube.
func (o *Journal) records() (map[string]*Record, error) {
	entries, err := os.ReadDir(o.dir)
	if err != nil {
		return nil, fmt.Errorf("read the journal of restores: %w", err)
	}
	records := map[string]*Record{}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), recordEnding) {
			continue // the lock, or what a crash left of a file
		}
		path := filepath.Join(o.dir, e.Name())
		r, err := readRecord(path)
		if err == nil && o.path(r.Name) != path {
			err = errors.New("it is of another qube than its name says")
		}
		if err != nil {
			return nil, exit.With(exit.Failed, fmt.Errorf("the record %s of a restore can't be read: %w", ui.Quote(path), err),
				"remove that file; of the qube that it was of, pinion then asks as of any other")
		}
		records[r.Name] = r
	}
	return records, nil
}

// readRecord reads one record.
func readRecord(path string) (*Record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	untrusted, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, err
	}
	return parseRecord(untrusted)
}

// parseRecord parses a record.
func parseRecord(untrusted []byte) (*Record, error) {
	if len(untrusted) > maxRecord {
		return nil, errors.New("it is too long")
	}
	var r Record
	if err := json.Unmarshal(untrusted, &r); err != nil {
		return nil, errors.New("it is garbled")
	}
	switch {
	case r.Version > journalVersion:
		return nil, fmt.Errorf("it has version %d: %w", r.Version, format.ErrNewer)
	case r.Version < journalVersion:
		return nil, fmt.Errorf("it has version %d", r.Version)
	case format.CheckQubeName(r.Name) != nil || !isName(r.Class, ""):
		return nil, errors.New("it is of no qube")
	}
	for _, volume := range slices.Concat(r.Begun, r.Imported) {
		if !isName(volume, "_-") {
			return nil, errors.New("it has a volume without a name")
		}
	}
	return &r, nil
}

// write makes a record durable.
func (o *Journal) write(r *Record) error {
	r.Version = journalVersion
	text, err := json.MarshalIndent(r, "", " ")
	if err == nil {
		err = durable.WriteFile(o.path(r.Name), append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("note the restore of %s: %w", r.Name, err)
	}
	return nil
}

// remove forgets a record, durably.
func (o *Journal) remove(name string) error {
	err := os.Remove(o.path(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		err = durable.SyncDir(o.dir)
	}
	if err != nil {
		return fmt.Errorf("forget the restore of %s: %w", name, err)
	}
	return nil
}

// continues reports that a restore goes on with what a record is of, without a
// question: the person has asked for it already, or the qube is none but for
// the restore. A mark that somebody has taken away says that the qube is theirs.
func (r *Record) continues(q *Qube, s *Step) bool {
	return r != nil && r.Class == q.Class && q.Class == s.Config.Class &&
		(q.Unfinished || r.Made && !r.Marked) && (r.Made || r.sameQube(s.From))
}

// sameQube reports that a record is of the same qube of the same archive.
func (r *Record) sameQube(from Origin) bool { return r.Archive == from.Archive && r.Qube == from.Qube }

// note writes down what is about to be restored, before anything is changed.
func (j *job) note() error {
	s := j.s
	r := &Record{Name: s.Name, Class: s.Config.Class, Origin: s.From, Made: !s.there()}
	if left := s.left; left != nil {
		r.Made, r.Marked, r.Begun = left.Made, left.Marked, slices.Clone(left.Begun)
		if left.Origin == s.From {
			r.Imported = slices.Clone(left.Imported)
		}
	}
	if err := j.p.host.journal.write(r); err != nil {
		return err
	}
	j.record = r
	return nil
}

// noteMark writes down that the qube is marked.
func (j *job) noteMark() error {
	if j.record.Marked {
		return nil
	}
	j.record.Marked = true
	return j.p.host.journal.write(j.record)
}

// noteVolume writes down that a volume is about to be replaced, or was.
func (j *job) noteVolume(list *[]string, volume string) error {
	if slices.Contains(*list, volume) {
		return nil
	}
	*list = append(*list, volume)
	return j.p.host.journal.write(j.record)
}

// forget removes the record: nothing is left to go on with.
func (j *job) forget() error {
	if j.record == nil {
		return nil
	}
	j.record = nil
	return j.p.host.journal.remove(j.s.Name)
}

// settle ends a record. A restore that changed nothing leaves that of another that is unfinished.
func (j *job) settle(untouched bool) error {
	if untouched && j.s.left != nil && j.record != nil {
		j.record = nil
		return j.p.host.journal.write(j.s.left)
	}
	return j.forget()
}
