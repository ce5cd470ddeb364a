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
	// MaxName is the length of the longest name that the grammar has, a
	// pack's.
	MaxName = len("packs/00/") + 32

	// MaxObject is the largest object. Packs are at most 32 MiB; the rest is
	// room for other stores and later formats. Offsets therefore fit 32 bits.
	MaxObject = 256 << 20

	// MaxRoot is the largest root: both sides hold it in memory at once.
	MaxRoot = 64 << 10

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

	// KeptRoots is how many replaced roots a helper keeps beside the current
	// one, unless it is append-only and keeps all.
	KeptRoots = 8
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

	// FrameTimeout is how long a client waits for any frame while a request
	// of its is not answered: twelve missed signs of life.
	FrameTimeout = 120 * time.Second

	// RequestTimeout is how long a client waits for one request while the
	// helper says nothing about it but that it is alive. The slowest thing
	// there is, writing out 32 MiB behind a very slow disk's full cache,
	// takes minutes.
	RequestTimeout = time.Hour
)
