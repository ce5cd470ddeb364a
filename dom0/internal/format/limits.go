package format

// Everything that bounds what an archive may hold stands here, with its
// reason. What the two programs may send each other is bounded in
// protocol/limits.go.
const (
	// MinChunkSize and MaxChunkSize bound the chunk size, in bytes; it is a
	// power of two. Smaller chunks cost too much metadata, larger ones too
	// much memory per worker.
	MinChunkSize = 64 << 10
	MaxChunkSize = 4 << 20

	// DefaultChunkSize is what init chooses.
	DefaultChunkSize = 128 << 10

	// BlobOverhead is what sealing adds to a blob at the least: a 24-byte
	// nonce, the method byte, and a 16-byte tag.
	BlobOverhead = 24 + 1 + 16

	// MaxMetadata bounds the plaintext of a metadata blob, in bytes. A volume
	// table of MaxVolumes names of MaxName bytes and MaxQubes of MaxQubeName has
	// 190 KiB; a qube's configuration may have more, and is then refused.
	MaxMetadata = 256 << 10

	// MaxSealedBlob bounds a sealed blob: a chunk that didn't compress.
	MaxSealedBlob = MaxChunkSize + BlobOverhead

	// PackTarget is the size from which a pack is closed and sent, in bytes.
	// Large enough that an object store's cost per object is small, small
	// enough that what a killed backup sends again is little.
	PackTarget = 16 << 20

	// MaxPack bounds a pack that is read: a full one, with one blob more,
	// and its table of contents.
	MaxPack = 32 << 20

	// MaxPackBlobs bounds the blobs of a pack, and so the memory that a
	// table of contents takes (37 bytes each). A pack of tiny blobs is
	// closed early.
	MaxPackBlobs = 16 << 10

	// MaxPacks bounds the packs that a store may list: 64 TiB of full ones. A
	// store that goes on listing for ever is told apart from a large one.
	MaxPacks = 4 << 20

	// MaxIndexObject bounds an index object, sealed, in bytes.
	MaxIndexObject = 8 << 20

	// MaxRoot bounds the root, sealed, in bytes; the store keeps it to that.
	MaxRoot = 64 << 10

	// MaxKeptRoots bounds the replaced roots that a store may list, 8 bytes of
	// memory each: a backup every five minutes for twenty years.
	MaxKeptRoots = 2 << 20

	// MaxIndexObjects bounds the index objects that a root lists: 29 bytes
	// each, so that with everything else the root stays under MaxRoot. With
	// 186,000 entries in each this is 20 TiB of 128 KiB chunks.
	MaxIndexObjects = 900

	// MaxKeySlots bounds the key slots of an archive: each one may cost an
	// Argon2 run to try.
	MaxKeySlots = 16

	// MaxVolumes bounds the volumes of an archive, and of a session.
	MaxVolumes = 1000

	// MaxName bounds a volume's name, in bytes of UTF-8.
	MaxName = 128

	// MaxQubes bounds the qubes of an archive, and of a session.
	MaxQubes = 1000

	// MaxQubeName bounds a qube's name, in bytes: what qubesd allows.
	MaxQubeName = 31

	// MaxQubeKey bounds a name or a line in a qube's configuration, in bytes:
	// qubesd's own are far shorter.
	MaxQubeKey = 4096

	// MaxQubeValue bounds a value in a qube's configuration, in bytes: a
	// request to qubesd has 65,536 with everything around the value.
	MaxQubeValue = 64_000

	// MaxQubeItems bounds each list of a qube's configuration.
	MaxQubeItems = 8192

	// MaxTags, MaxTagName and MaxTagText bound a session's tags; the two
	// lengths are bytes of UTF-8.
	MaxTags    = 5
	MaxTagName = 64
	MaxTagText = 64

	// MaxHost bounds the name of a host, in bytes: what Linux allows.
	MaxHost = 64

	// MaxCommand bounds the words of a command in a lock note, in bytes, so
	// that it fits what a helper keeps.
	MaxCommand = 32

	// MaxZone bounds the abbreviation of a time zone, in bytes.
	MaxZone = 16

	// Fanout is the number of children of a tree node: 80 chunks scattered
	// in 1 TiB then cost about 3 % of their own size in nodes; at 128 it
	// would be 6 %, and at 16 the trees are deeper for little gain.
	Fanout = 32

	// MaxTreeLevel bounds the height of a tree: 2^63 bytes in chunks of 64
	// KiB are 2^47 chunks, which 32^10 covers.
	MaxTreeLevel = 10

	// MaxPredecessors is how many hashes of earlier roots a root carries, 16
	// bytes each, so that a root seen long ago is recognised as an ancestor.
	MaxPredecessors = 1024

	// MaxVolumeSize bounds a volume: what a file offset can say.
	MaxVolumeSize = 1<<63 - 1
)
