// Package index knows where each blob of an archive is: its pack, and the
// offset and length in it.
//
// It owns the body of an index object (what is sealed and sent to the store),
// the local cache of those objects in a form that can be searched, the
// additions of the current run, and the rule by which runs are merged. It
// promises that a look-up never gives a wrong entry: every page of the cache
// is checked each time it is read, and what fails is thrown away and fetched
// again. It promises that memory follows neither the size of the archive nor
// that of the run, but for 8 bytes per 67 entries of the archive, and 20 bytes
// for each pack that the run makes. It never seals, opens, uploads or deletes an
// object, and never decides which objects are valid: the root lists those.
//
// # Runs
//
// A run is a set of entries in ascending order of blob id, each id once. It is
// stored as one or more index objects of at most 8 MiB, which divide it into
// ascending ranges; of several, a list object has the ids, in that order. The
// root lists the runs, the oldest first. Where two runs have the same id, the
// newer one counts.
//
// A tombstone is an entry without a place: it hides what older runs say of its
// id. Where a run becomes the oldest one, its tombstones are dropped, as there is
// nothing to be hidden; one that another program left there does no harm. A pack
// is named for as long as any run lists it, hidden or not.
//
// Every run has a level, which matters for merging alone.
//
// # Merging
//
// A new run of n entries goes to the lowest level L with n ≤ 512 · 8^L, and
// takes the runs of all lower levels into itself, as they would otherwise seem
// newer. When level L would then hold more than 8 runs, it and everything below
// become one run; that goes to level L+1, or stays on level L when it is small
// enough. So small runs pile up beside a large one without rewriting it. Runs
// that another program merged in another way are merged so that a root can list
// them and one more.
//
// What that costs: an entry is sent once when it is new and at most once for
// every level that it rises, with 45 bytes, and at most 20 more where no other
// entry of its object is in the same pack, and each time to two places, as
// objects have twins. 80 million entries reach level 6.
// On level 0 alone an entry may be rewritten without rising; that adds at most
// 512 / 8 entries, 4 KiB, per Flush. A look-up of an unknown id reads at most
// one page for each of at most 8 runs a level.
//
// # Body of an index object
//
// Integers are big-endian.
//
//	level          1
//	packs          4
//	packs         20 each, ascending, each used by an entry:
//	  pack id     16, not zero
//	  length       4, bytes
//	entries        4, at least 1
//	entries       45 each, ascending by id:
//	  blob id     32
//	  blob type    1
//	  pack         4, position in the packs; of a tombstone 2^32 - 1
//	  offset       4, bytes from the start of the pack; of a tombstone 0
//	  length       4, bytes, sealed; of a tombstone 0
//	zeros            fewer than 4,096, up to a multiple of that
//
// An entry lies between the header of its pack and the least table of contents.
// Where runs that are merged say different lengths of one pack, the larger one
// counts, so that all entries stay inside.
//
// # Page file
//
// The cache holds each object as a file of pages of 4,096 bytes, and each list as
// a file of its own. The last 4
// bytes of a page are the CRC-32C of archive id, object id, page number and
// the rest of the page, so a page of another file or place is not taken for
// the right one. Unused bytes are zero.
//
//	header page   magic 7, version 2, archive id 16, object id 16, level 1,
//	              entries 4, packs 4, first blob id 32, last blob id 32
//	entry pages   67 entries of 61 bytes: blob id, type, pack id, offset, length,
//	              length of the pack
//	fence pages   511 fences of 8 bytes: how the first blob id of an entry page
//	              begins
//	pack pages    204 packs of 20 bytes: pack id, length
//
//	list          magic 7, version 1, archive id 16, object id 16, the body of
//	              the list, CRC-32C of all that 4
//
// Only the fences are kept in memory. Entries carry id and length of their pack,
// so that a look-up reads a single page, and because a table of the packs of each object
// would take more memory, or disk, than it saves: in a large archive nearly
// every entry of an object is in a pack of its own.
package index
