package source

import (
	"context"
	"errors"
	"time"
)

// A Kind says what a volume's storage can tell about it.
type Kind string

// The kinds of storage.
const (
	// Plain is a file or device that only reading tells anything about.
	Plain Kind = "plain"
	// LVM is a classic logical volume: it has snapshots for as long as it is
	// read, but what changed since an earlier one, only reading tells.
	LVM Kind = "lvm"
	// LVMThin is a thin logical volume.
	LVMThin Kind = "lvmthin"
	// Reflink is a file on a file system that shares blocks between files.
	Reflink Kind = "reflink"
)

// Tracks says that snapshots of this kind last and can be compared.
func (k Kind) Tracks() bool { return k == LVMThin || k == Reflink }

// A Range is a run of bytes of a volume, from offset Start to before End.
type Range struct{ Start, End int64 }

// Len is the number of bytes of the range.
func (r Range) Len() int64 { return r.End - r.Start }

// A Volume is a volume that is open to be read, as it was at one point in time
// unless its kind is Plain. All methods but Close are safe for concurrent use.
type Volume interface {
	// Path names it in messages.
	Path() string
	// Device says whether it is a block device.
	Device() bool
	// Size is its size in bytes, as it was when it was opened.
	Size() int64
	// Allocated is about how many bytes there are to read.
	Allocated() int64
	// ReadAt fills p, which stays the caller's, from offset off in bytes. It
	// returns less only with an error that names the path and the offset.
	ReadAt(p []byte, off int64) (int, error)
	// NextData returns the first range at or after off that may hold anything
	// but zeros, clipped to Size, or io.EOF.
	NextData(off int64) (start, end int64, err error)
	// Check is called after the last read: an error says that what was read
	// may not be the volume.
	Check() error
	// Close ends the use of the volume. No other method may run or follow.
	Close() error
}

// A Source is a volume on this host, found by what the command line says.
type Source struct {
	// Locator names the volume on this host: "file:" with an absolute path
	// free of symbolic links, or "lvm:VG/LV". All ways to name one volume
	// give one locator.
	Locator string
	// Path is the file or device that holds the volume now. Of a file, it is
	// what snapshots are made of; where it is gone, that is the file that
	// Locator names.
	Path string
	// LV is, as "VG/LV", the thin volume that snapshots are made of; where it
	// is gone, or LV is empty, that is the volume that Locator names. So a
	// volume has one locator, and one history, whichever of its states is read.
	LV   string
	Kind Kind
	// Pool is what makes its snapshots; nil if Kind is Plain.
	Pool Pool
	// Why says, if Kind doesn't track, what keeps the storage from telling
	// what changed: a clause for people, such as "ext4 shares no blocks".
	Why string
	// Open opens the volume, if it is Plain and Path is not all there is to
	// it; nil: what Path leads to is opened.
	Open func(ctx context.Context) (Volume, error)
	// Confirm is asked after each snapshot, or after a look that found that
	// none is needed: an error says that the volume wasn't in the state that
	// was to be saved. Nil: it always is.
	Confirm func(ctx context.Context) error
}

// A Label is in the name of every snapshot, so that it can be told later whose
// it is.
type Label struct {
	Owner  string // random id of the state directory, 8 hex digits
	Volume string // from the locator, 8 hex digits
	Serial uint64 // counts this volume's snapshots
}

// A Base is a snapshot, with everything that tells it from any other, also
// from one that was written to. Local state keeps it as JSON.
type Base struct {
	Kind  Kind      `json:"kind"`
	Pool  string    `json:"pool"` // Pool.ID
	Name  string    `json:"name"` // path of the file, or VG/LV
	Size  int64     `json:"size"` // bytes
	Taken time.Time `json:"taken"`
	// Identity is the pool's own: what has to be as it was for the snapshot
	// to be this one, unchanged.
	Identity map[string]string `json:"identity"`
}

// Wanted asks for a snapshot.
type Wanted struct {
	Source *Source
	Label  Label
	// Replaces says that an older snapshot of the volume goes as soon as this
	// one is there. So it frees more than it takes, and the reserve of data
	// doesn't stand in its way: what an old snapshot holds only grows.
	Replaces bool
}

// Taken answers it: a durable snapshot, or why there is none.
type Taken struct {
	Base *Base
	Err  error
}

// ErrUnsure is in what Pool.Check says if nothing proves that a snapshot isn't
// what it was: a look failed, which another time may not.
var ErrUnsure = errors.New("it could not be told whether the snapshot is as it was")

// A Pool is storage whose volumes share blocks: an LVM thin pool, a file
// system with reflinks, a classic volume group. Methods are safe for
// concurrent use; each does all locking against other processes that the
// storage needs, and none for the volume.
type Pool interface {
	// ID tells the pool from all others, also after it was made anew under the
	// same name. Two Pool values of one pool have one ID.
	ID() string

	// Snapshot makes snapshots of volumes of this pool, read-only, as close
	// together as it can. It answers each. When it returns, snapshots and
	// their names are durable. A pool that is nearly full warns; below its
	// reserve it refuses those that don't replace another.
	Snapshot(ctx context.Context, wanted []Wanted) []Taken

	// Check reports why a snapshot that state names can't be relied upon: it
	// is gone, another, or was written to, or, with ErrUnsure, that this can't
	// be found out now. The error is a clause for people.
	Check(ctx context.Context, b *Base) error

	// Open opens a snapshot to be read.
	Open(ctx context.Context, b *Base) (Volume, error)

	// Compare makes snapshots comparable that were taken before. Close ends
	// it. At most one Comparison of a pool is open in a process.
	Compare(ctx context.Context) (Comparison, error)

	// Owned lists the names of snapshots with this owner and volume in their
	// labels. An empty volume means all of the owner's.
	Owned(ctx context.Context, owner, volume string) ([]string, error)

	// Drop removes snapshots by name. It refuses names without the owner's
	// label. A snapshot that is not there is no error.
	Drop(ctx context.Context, owner string, names ...string) error
}

// A Comparison looks at how the storage maps volumes to blocks, without
// reading volumes. It belongs to one goroutine.
type Comparison interface {
	// Unchanged reports that the volume holds what the snapshot of it holds,
	// found without a new snapshot. False only means that nothing is known.
	Unchanged(ctx context.Context, s *Source, b *Base) (bool, error)

	// Diff calls yield with all ranges in which the content of two snapshots
	// may differ, ascending, not overlapping, up to the smaller size.
	Diff(ctx context.Context, old, now *Base, yield func(Range) error) error

	// Data calls yield with all ranges of a snapshot that may hold anything
	// but zeros, ascending, not overlapping, up to its size.
	Data(ctx context.Context, b *Base, yield func(Range) error) error

	// Held is how many bytes of the pool would be free without the snapshot,
	// as well as the storage can tell.
	Held(ctx context.Context, s *Source, b *Base) (int64, error)

	// Kin returns the index of the snapshot that shares most with b, or -1 if
	// none shares enough for a difference to be worth more than a scan. It
	// looks at a bounded sample.
	Kin(ctx context.Context, b *Base, others []*Base) (int, error)

	// Close ends the comparison. An error says that what it told may be
	// wrong and has to be thrown away.
	Close() error
}
