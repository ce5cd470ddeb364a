package archive

import (
	"context"
	"encoding/json"

	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// What tests of this package look at from outside.

// SealRoot seals a root as a commit would.
func (a *Archive) SealRoot(r *format.Root) ([]byte, error) { return a.sealRoot(r) }

// SealNote seals a lock note as one who has the archive's keys can.
func (a *Archive) SealNote(plain []byte) []byte {
	return a.keys.SealObject(format.KindLockNote, format.LockNoteName, nil, plain)
}

// WindowFree reports whether nothing of the fetch window is taken.
func (a *Archive) WindowFree() bool {
	ok := a.window.TryAcquire(fetchWindow)
	if ok {
		a.window.Release(fetchWindow)
	}
	return ok
}

// Flush sends what was added, without a commit.
func (w *Writer) Flush(ctx context.Context) error { return w.flush(ctx) }

// A Request is a get as plan makes it.
type Request struct {
	Pack   format.ObjectID
	Blobs  []int // positions in what was asked for
	Ranges []protocol.Range
	Bytes  int
}

// RequestBytes is the bound of a request that has more than one blob.
const RequestBytes = requestBytes

// Plan is plan.
func Plan(at []format.Location, maxRanges int) []Request {
	found := make([]located, len(at))
	for i, l := range at {
		found[i] = located{i: i, at: l}
	}
	var requests []Request
	for _, r := range plan(found, maxRanges) {
		q := Request{Pack: r.pack, Ranges: r.ranges, Bytes: r.bytes}
		for _, b := range r.blobs {
			q.Blobs = append(q.Blobs, b.i)
		}
		requests = append(requests, q)
	}
	return requests
}

// IsDamage reports whether an error is damage of the archive.
func IsDamage(err error) bool { return isDamage(err) }

// RecodeHostLists decodes and encodes a host's lists; ok is false if they can't be
// decoded.
func RecodeHostLists(untrusted []byte) (again []byte, sessions int, ok bool) {
	h, err := parseHostLists(untrusted)
	if err != nil {
		return nil, 0, false
	}
	return h.encode(), len(h.list), true
}

// EncodeHostLists encodes a host's lists.
func EncodeHostLists(list []format.SessionEntry, table *format.VolumeTable) []byte {
	return (&hostLists{root: format.RootHash{1}, generation: 7, list: list, table: table}).encode()
}

// TablesNote makes a note of the cache, and ReadTablesNote reads one.
func TablesNote(what string, runs []format.IndexRun) ([]byte, error) {
	return json.Marshal(tablesNote{Version: tablesNoteVersion, For: what, Generation: 7, Runs: format.AppendIndexRuns(nil, runs)})
}

func ReadTablesNote(untrusted []byte) (what string, runs []format.IndexRun, ok bool) {
	note, runs, ok := parseTablesNote(untrusted)
	return note.For, runs, ok
}
