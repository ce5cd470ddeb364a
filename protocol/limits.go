package protocol

import "time"

// Limits of a frame.
const (
	// HeaderSize is the length of a frame's header.
	HeaderSize = 12

	// MaxFrame is the longest frame, header included: a qrexec data message
	// carries 64 KiB, so one frame never needs two.
	MaxFrame = 64 << 10

	// MaxPayload is the longest payload of a frame.
	MaxPayload = MaxFrame - HeaderSize

	// MaxNoise is how much may come before the magic: a login shell's
	// greeting fits, and a client that waits for a magic in an endless stream
	// of something else stops early.
	MaxNoise = 64 << 10

	// MaxText is the longest text of an error reply: it is shown to a person.
	MaxText = 1 << 10
)

// Limits of requests.
const (
	// MaxName is the length of the longest name that the grammar has, that of
	// a root's second copy.
	MaxName = len("roots/999999999999-") + 32

	// MaxObject is the largest object. Packs are at most 32 MiB; the rest is
	// room for other stores and later formats. Offsets therefore fit 32 bits.
	MaxObject = 256 << 20

	// MaxRoot is the largest root: both sides hold it in memory at once.
	MaxRoot = 256 << 10

	// MaxHeads is the most generations that a list of heads has. A helper
	// keeps a few of them; beyond it, only the highest matter.
	MaxHeads = 1000

	// MaxExtensions is the longest extension area of a message, in bytes, its
	// count included: a hello stays far below a frame and a pipe's buffer.
	MaxExtensions = 4 << 10

	// MaxRanges is the most ranges in one get or punch: with the longest name
	// they still fit one frame.
	MaxRanges = 4096

	// MaxDeletes is the most names in one delete: they fit one frame.
	MaxDeletes = 1000

	// MaxListed is the most entries that one list may ask for. A client
	// reserves memory for them before it asks.
	MaxListed = 1000

	// MaxComposeList is the longest encoded part list of a compose. The
	// helper holds it in memory, and may use 64 MiB for everything.
	MaxComposeList = 4 << 20

	// MaxNote is the longest note that a connection may leave beside its lock:
	// a sealed word about who it is.
	MaxNote = 256

	// MaxOutstanding is the most requests that may wait for their replies. A
	// helper may announce fewer. It bounds the helper's open files and the
	// memory for requests that wait (64 frames, 4 MiB), and is enough to keep
	// a link of 100 ms busy at 1 GB/s with gets of 2 MiB.
	MaxOutstanding = 64
)

// What a helper keeps of its own accord, unless it is append-only and keeps
// all: whoever has dom0 for a night, or makes a mistake there, must not be able
// to take the way back.
const (
	// KeptHeads is how many of the newest heads a helper keeps, and HeadAge
	// how old, by its clock, one has to be before it goes. In that time a
	// writer that slept finds that another went on.
	KeptHeads = 4
	HeadAge   = 24 * time.Hour

	// KeptRoots is of how many of the highest generations a helper refuses to
	// delete the second copies, and RootAge how old, by its clock, one has to
	// be before it may be deleted.
	KeptRoots = 64
	RootAge   = 30 * 24 * time.Hour
)

// Times.
const (
	// AliveInterval is how often a helper shows that it is still working on
	// something.
	AliveInterval = 10 * time.Second

	// HelloTimeout is how long a helper waits for the whole hello, which the
	// client sends as soon as there is a pipe: beyond it, somebody else took
	// what was sent.
	HelloTimeout = 20 * time.Second

	// ClientAliveInterval is how often a client shows that it is still there,
	// whatever it is waiting for: a person, or data that doesn't change.
	ClientAliveInterval = 60 * time.Second

	// IdleTimeout is how long a helper waits for anything of its client's:
	// fifteen missed signs of life. A client that is gone without the pipe's
	// having ended must not hold a lock for ever.
	IdleTimeout = 15 * time.Minute

	// FrameTimeout is how long a client waits for any frame while a request
	// of its is not answered: twelve missed signs of life.
	FrameTimeout = 120 * time.Second

	// QuietTimeout is how long a client waits while requests are not answered
	// and the helper shows nothing but that it is alive: no request ends, and
	// no byte of a body moves. What it waits for then is a disk's seek, or the
	// writing out of some packs that are behind a slow disk's full cache.
	QuietTimeout = 5 * time.Minute

	// LongTimeout is QuietTimeout while a request waits that may take long: to
	// write out a whole file system after a crash, to look at every object, or
	// to copy hundreds of megabytes inside a slow disk.
	LongTimeout = time.Hour

	// MinRate is how fast a body has to move, in bytes a second, and
	// RateWindow over how long that is averaged: slower than any line on which
	// a backup would end, so it stops only who stalls on purpose, and long
	// enough for a disk to be woken in between.
	MinRate    = 16 << 10
	RateWindow = 5 * time.Minute
)

// Long says whether a request of type t may take LongTimeout.
func (t Type) Long() bool {
	switch t {
	case TypeHello, TypeLock, TypeCommit, TypeCompose, TypePunch, TypeDelete, TypeUsage, TypeInventory:
		return true
	}
	return false
}
