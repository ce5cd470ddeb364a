package format

// Everything that bounds what an archive may hold stands here, with its
// reason: docs/format.md has this table. What the two programs may send each
// other is bounded in protocol/limits.go. Sizes are bytes.
const (
	// MinChunkSize is the least chunk size, a power of two. Smaller chunks cost
	// too much metadata.
	MinChunkSize = 64 << 10

	// MaxChunkSize is the largest chunk size. Larger chunks take too much memory
	// per worker, and too much of what is near a change along with it.
	MaxChunkSize = 4 << 20

	// DefaultChunkSize is the chunk size, unless `init` is told otherwise.
	// Metadata is then 0.1 % of the data, and a small change costs little.
	DefaultChunkSize = 128 << 10

	// MaxMetadata bounds the plaintext of a metadata blob. A volume table with
	// all the names that it may have, and a session with all volumes and qubes,
	// have less; a qube's configuration may have more, and is then refused.
	MaxMetadata = 2 << 20

	// BlobOverhead is what a stored blob costs beyond its plaintext. A nonce of
	// 24, a head of 11, and a tag of 16.
	BlobOverhead = 24 + BlobHead + 16

	// MaxSealedBlob bounds a sealed blob. It is a chunk that didn't compress.
	MaxSealedBlob = MaxChunkSize + BlobOverhead

	// PackTarget is the size from which a pack is closed. Large enough that an
	// object store's cost per object is small, small enough that what a killed
	// backup sends again is little.
	PackTarget = 16 << 20

	// MaxPack bounds a pack. It is a full one with one blob more, and its table
	// of contents.
	MaxPack = 32 << 20

	// MaxPackBlobs bounds the blobs of a pack. It bounds the memory that a table
	// of contents takes; a pack of tiny blobs is closed early.
	MaxPackBlobs = 16 << 10

	// MaxSealedTOC bounds a sealed table of contents. It has the most blobs and
	// the largest extension area.
	MaxSealedTOC = (tocHead+MaxPackBlobs*tocBlob+MaxExtensions+PadUnit-1)/PadUnit*PadUnit + SealOverhead

	// MaxPacks bounds the packs that a store may list. They are 64 TiB of full
	// ones: a store that goes on listing for ever is told apart from a large one.
	MaxPacks = 4 << 20

	// MaxObject bounds any object. It leaves a later version room for larger
	// packs, and a reader can pass over what is larger without a look.
	MaxObject = 256 << 20

	// MaxIndexObject bounds an index object. It is read into memory whole, and
	// has up to 186,000 entries.
	MaxIndexObject = 8 << 20

	// MaxIndexList bounds a list of index objects. It is read into memory whole,
	// and has 349,000 objects, far more than the entries that there may be fill.
	MaxIndexList = 8 << 20

	// MaxIndexEntries bounds the entries of all index runs of a root. They are
	// 512 TiB of chunks of the default size, and 200 GB of index.
	MaxIndexEntries = 1 << 32

	// MaxIndexRuns bounds the index runs of a root. Every look-up of an unknown
	// id asks each of them.
	MaxIndexRuns = 128

	// MaxRunLevel is the highest level of an index run. The levels that are used
	// grow with the logarithm of the entries: 2^32 reach level 8.
	MaxRunLevel = 15

	// MaxRoot bounds a root. One with 16 key slots of the largest size and all
	// else at its bounds has 160 KiB.
	MaxRoot = 256 << 10

	// MaxClear bounds the clear part of a root. It has 16 key slots of the
	// largest size.
	MaxClear = 16 + 16 + 8 + 1 + MaxKeySlots*(2+MaxKeySlot)

	// MaxGeneration is the highest generation. It fits a signed integer, as
	// stores and databases have them.
	MaxGeneration = 1<<63 - 1

	// MaxKeptRoots bounds the roots that a store may list. They are those of a
	// backup every five minutes for twenty years.
	MaxKeptRoots = 2 << 20

	// MaxPredecessors bounds the predecessors of a root. A root that was seen so
	// many roots ago is recognised as an ancestor.
	MaxPredecessors = 1024

	// MaxNeeded bounds the tags that a root says are needed. They take 3 KiB, and
	// there are few of them in a version.
	MaxNeeded = 1024

	// MaxKeySlots bounds the key slots of an archive. Each one may cost an Argon2
	// run to try.
	MaxKeySlots = 16

	// MinKeySlot is the least size of a key slot. A derivation, a checksum, and
	// what seals a key don't fit into less.
	MinKeySlot = 64

	// MaxKeySlot bounds a key slot. A later derivation may need public keys and
	// ciphertexts of some KiB.
	MaxKeySlot = 4 << 10

	// MaxLabel bounds the label of a key slot. It is a line for people.
	MaxLabel = 64

	// MinArgonMemory is the least memory of Argon2, in KiB. A store can't plant a
	// slot that makes a passphrase cheap to guess.
	MinArgonMemory = 64 << 10

	// MaxArgonMemory bounds the memory of Argon2, in KiB. A store can't take
	// dom0's memory with a slot.
	MaxArgonMemory = 4 << 20

	// MaxArgonTime bounds the passes of Argon2. More memory is the better use of
	// the same time.
	MaxArgonTime = 8

	// MaxArgonThreads bounds the lanes of Argon2. dom0 has few processors.
	MaxArgonThreads = 8

	// MaxArgonWork bounds memory × passes, in KiB. A store can't take hours of
	// dom0's time with a slot.
	MaxArgonWork = 4 << 20

	// MaxPassphrase bounds a passphrase in normalisation form C. More has no
	// more to guess in it, and a bound keeps a file from being taken for one.
	MaxPassphrase = 1024

	// MinKeyFile is the least size of a key file. It isn't stretched, so it must
	// hold a key's worth of randomness.
	MinKeyFile = 32

	// MaxExtensions bounds an extension area. What is larger belongs into a blob
	// that an extension names.
	MaxExtensions = 64 << 10

	// MaxEntryExtensions bounds the extension area of an entry of the session
	// list or of the volume table. There are thousands of those in a blob.
	MaxEntryExtensions = 256

	// MaxVolumes bounds the volumes of an archive, and of a session. 4,096 names
	// fit the volume table.
	MaxVolumes = 4096

	// MaxName bounds the name of a volume, and of a domain. It is a line for
	// people: a qube's name, a colon and what LVM allows fit.
	MaxName = 128

	// MaxDomains bounds the domains of an archive. There may be one for every
	// volume.
	MaxDomains = 4096

	// MaxRemovedIDs bounds the ids of volumes and qubes in a list of removed
	// ones. It has as many as may be there at once; then the oldest go.
	MaxRemovedIDs = 8192

	// MaxQubes bounds the qubes of an archive, and of a session. 4,096 names fit
	// the volume table.
	MaxQubes = 4096

	// MaxQubeName bounds the name of a qube. qubesd allows no more.
	MaxQubeName = 31

	// MaxQubeKey bounds a name or line in a qube's configuration. qubesd's own
	// are far shorter.
	MaxQubeKey = 4096

	// MaxQubeValue bounds a value in a qube's configuration. A request to qubesd
	// has 65,536 with everything around the value.
	MaxQubeValue = 64_000

	// MaxQubeItems bounds each list of a qube's configuration. The longest is
	// that of the firewall's rules, of which qubesd takes fewer.
	MaxQubeItems = 8192

	// MaxSeq is the highest sequence number of a session. A backup every second
	// would reach it in nine million years, and a reader may multiply it.
	MaxSeq = 1 << 48

	// MaxRemovedRanges bounds the ranges of removed numbers. So many fill a
	// metadata blob; then a writer leaves out the oldest.
	MaxRemovedRanges = (MaxMetadata - removedHead) / seqRange

	// MaxTags bounds the tags of a session. They have to fit a line.
	MaxTags = 5

	// MaxTagName bounds the name of a tag. It is a word.
	MaxTagName = 64

	// MaxTagText bounds the text of a tag. It is part of a line.
	MaxTagText = 64

	// MaxHost bounds the name of a host. Linux allows no more.
	MaxHost = 64

	// MaxCommand bounds the words of a command in a lock note. They have to fit
	// what a helper keeps.
	MaxCommand = 32

	// MaxZone bounds the abbreviation of a time zone. Real ones have up to 6.
	MaxZone = 16

	// Fanout is the number of children of a node. Of 80 chunks scattered in 1 TiB
	// the nodes then cost about 3 % of the chunks; at 128 it would be 6 %, and
	// at 16 the trees are deeper for little gain.
	Fanout = 32

	// MaxTreeLevel is the height of the tallest tree of a volume. 2^63 bytes in
	// chunks of 64 KiB are 2^47 chunks, which 32^10 covers.
	MaxTreeLevel = 10

	// MaxChunks bounds the chunks of a volume. It is what a tree of that height
	// covers; at 64 KiB a chunk the largest volume has 2^47.
	MaxChunks = 1 << 50

	// MaxVolumeSize is the largest size of a volume. A file offset says no more.
	MaxVolumeSize = 1<<63 - 1
)

// Sizes of what the bounds are made of.
const (
	// SealOverhead is what sealing adds to anything: nonce and tag.
	SealOverhead = 24 + 16

	// PadUnit is what roots, index objects, lists of them and tables of contents
	// are padded to a multiple of, in bytes, before they are sealed.
	PadUnit = 4096

	// BlobHead is the length of what stands before a blob's content inside of
	// the seal: method, domain, length of the plaintext and of the content.
	BlobHead = 1 + 2 + 4 + 4

	tocHead     = 8 + 1 + 4
	tocBlob     = 1 + 32 + 4
	removedHead = 1 + 8 + 4
	seqRange    = 8 + 8
)
