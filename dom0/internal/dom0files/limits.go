package dom0files

// The limits of the package, and the sizes that lay out the volume. Those of
// the layout are part of what makes the same files the same bytes.
const (
	// block is the unit of a tar archive.
	block = 512
	// trailer is what ends an archive: two blocks of zeros.
	trailer = 2 * block

	// alignment is where aligned content begins: the usual size of a chunk.
	// With smaller chunks it is as good, with larger ones less.
	alignment = 128 << 10
	// alignFrom is the size from which a file's content is aligned.
	alignFrom = 64 << 10
	// groupFrom is how far behind the last aligned content must be for a small
	// file to be aligned: it bounds what the gaps take to two thirds of the volume.
	groupFrom = 64 << 10
	// groupOneIn is the part of small files that may be aligned.
	groupOneIn = 8

	// maxEntries bounds the entries of a volume: with maxText it bounds the
	// memory of a layout to 128 MiB. A well used dom0 has a tenth of it.
	maxEntries = 1 << 20
	// maxText bounds names, link targets and extended attributes together.
	maxText = 48 << 20
	// textPage and entryPage are what tables grow by, in bytes and entries:
	// nothing is copied when they do.
	textPage  = 1 << 20
	entryPage = 1 << 12
	// maxVolume bounds the volume, far below where offsets end: sparse files
	// may claim any size.
	maxVolume = 1 << 60
	// maxPath bounds the length of a path: longer ones nothing can open.
	maxPath = 4095
	// maxName bounds a part of a path.
	maxName = 255
	// maxDepth bounds how deep directories are nested: each is an open file
	// while it is walked.
	maxDepth = 200
	// maxAttributes bounds the extended attributes of one file, as records.
	maxAttributes = 64 << 10
	// maxAttributeNames bounds the list of their names: the kernel's bound.
	maxAttributeNames = 64 << 10

	// maxOpen is how many files stay open for the next read.
	maxOpen = 4

	// maxPaths and maxPathList bound the user's list.
	maxPaths    = 256
	maxPathList = 64 << 10

	// maxExtracted bounds the content that is extracted if the caller knows no
	// bound of its own.
	maxExtracted = 1 << 40
	// maxBehind bounds the zeros at the end of an archive: some programs write
	// more of them than the two blocks that are needed.
	maxBehind = 1 << 20
	// copyBuffer is the unit that content is written in; zeros become holes.
	copyBuffer = 64 << 10
)

// roundUp is the first multiple of unit, a power of two, at or after n.
func roundUp(n, unit int64) int64 { return (n + unit - 1) &^ (unit - 1) }
