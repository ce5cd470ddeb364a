package index

import "pinion/dom0/internal/format"

// Everything that bounds the index stands here, with its reason.
const (
	// FlushEntries is how many additions are held in memory before they are
	// written to a spill file: about 18 MB.
	FlushEntries = 256 << 10

	// MaxBodyBytes bounds the body of an index object, in bytes: what header,
	// nonce and tag leave, in units of padding.
	MaxBodyBytes = (format.MaxIndexObject - objectOverhead) / format.PadUnit * format.PadUnit

	// MaxLevel bounds the level of a run.
	MaxLevel = format.MaxRunLevel

	// runsPerLevel is how many runs a level holds before they are merged:
	// more would make look-ups of unknown ids slower, fewer would send
	// entries more often.
	runsPerLevel = 8

	// levelFactor is how much larger a run may be than on the level below.
	levelFactor = 8

	// levelBase is how many entries a run on level 0 has at the most: a
	// small backup's, so that it costs little to rewrite.
	levelBase = 512

	// maxPageEntries bounds the entries of a page file, which counts them in
	// 32 bits.
	maxPageEntries = 1<<32 - 1

	// spillsPerLevel is how many spill files of a level are kept before
	// they are merged: it bounds the open files and the pages that a
	// look-up reads.
	spillsPerLevel = 8

	// maxHeals is how often one object is fetched again while a Table is
	// open. A cache that goes bad faster than that is on a failing disk.
	maxHeals = 3
)

// What follows from the layouts.
const (
	objectOverhead = format.HeaderSize + format.SealOverhead

	packEndBytes = format.PadUnit + format.SealOverhead + format.TrailerSize // the least that follows the blobs of a pack

	packBytes      = 16 + 4 // id, length
	bodyFixedBytes = 1 + 4 + 4
	bodyEntryBytes = 32 + 1 + 4 + 4 + 4
	maxBodyPacks   = (MaxBodyBytes - bodyFixedBytes) / (packBytes + bodyEntryBytes)
	maxBodyEntries = (MaxBodyBytes - bodyFixedBytes) / bodyEntryBytes
	noPack         = 1<<32 - 1 // position of the pack of a tombstone

	listFixedBytes = 4
	listItemBytes  = 16 + 4 + 4

	pageBytes      = 4096
	pageBody       = pageBytes - 4
	pageEntryBytes = 32 + 1 + 16 + 4 + 4 + 4
	pageEntries    = pageBody / pageEntryBytes
	fenceBytes     = 8
	pageFences     = pageBody / fenceBytes
	pagePacks      = pageBody / packBytes

	// metadataPack marks, in the length that a page file has of a pack, one with
	// metadata: no pack is nearly as long.
	metadataPack = 1 << 31
)

// tuning holds the sizes that tests make small.
type tuning struct {
	flushEntries int
	bodyBytes    int // without padding
	levelBase    uint64
}

func defaultTuning() tuning {
	return tuning{flushEntries: FlushEntries, bodyBytes: MaxBodyBytes, levelBase: levelBase}
}
