package index

import "pinion/dom0/internal/format"

// Everything that bounds the index stands here, with its reason.
const (
	// FlushEntries is how many additions are held in memory before they are
	// written to a spill file: about 18 MB.
	FlushEntries = 256 << 10

	// MaxBodyBytes bounds the body of an index object, in bytes: header,
	// nonce and tag come on top.
	MaxBodyBytes = format.MaxIndexObject - 64

	// MaxLevel bounds the level of a run: 512 · 8^8 is more entries than a
	// run may have.
	MaxLevel = 8

	// maxBlobType bounds the type of a blob. Types are few; the rest of the
	// byte stays free for the format.
	maxBlobType = 15

	// runsPerLevel is how many runs a level holds before they are merged:
	// more would make look-ups of unknown ids slower, fewer would send
	// entries more often.
	runsPerLevel = 8

	// levelFactor is how much larger a run may be than on the level below.
	levelFactor = 8

	// levelBase is how many entries a run on level 0 has at the most: a
	// small backup's, so that it costs little to rewrite.
	levelBase = 512

	// maxRunEntries bounds the entries of one run, and of a page file: with
	// 128 KiB chunks, 512 TiB.
	maxRunEntries = 1<<32 - 1

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
	packIDBytes    = 16
	bodyFixedBytes = 1 + 4 + 4
	bodyEntryBytes = 32 + 1 + 4 + 4 + 4
	maxBodyPacks   = (MaxBodyBytes - bodyFixedBytes) / (packIDBytes + bodyEntryBytes)
	maxBodyEntries = (MaxBodyBytes - bodyFixedBytes - packIDBytes) / bodyEntryBytes

	pageBytes      = 4096
	pageBody       = pageBytes - 4
	pageEntryBytes = 32 + 1 + 16 + 4 + 4
	pageEntries    = pageBody / pageEntryBytes
	fenceBytes     = 8
	pageFences     = pageBody / fenceBytes
	pagePacks      = pageBody / packIDBytes
)

// tuning holds the sizes that tests make small.
type tuning struct {
	flushEntries int
	bodyBytes    int
	levelBase    uint64
}

func defaultTuning() tuning {
	return tuning{flushEntries: FlushEntries, bodyBytes: MaxBodyBytes, levelBase: levelBase}
}
