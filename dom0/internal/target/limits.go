package target

// Every size and bound of this package, with its reason.
const (
	// zeroBlock is the unit, in bytes, in which a range is looked through
	// for what isn't zero yet. It is the page and block size of nearly
	// every file system, so a block that is punched is freed, and the
	// unchanged blocks beside it are left alone, shared extents and all.
	zeroBlock = 4 << 10

	// scanBuffer is how many bytes are read at once when looking for what
	// isn't zero: long enough that the calls don't count, short enough that
	// every worker may have one.
	scanBuffer = 256 << 10

	// deviceZeroMin is the shortest run, in bytes, that a device is asked
	// to make zero by itself. The request flushes what the kernel has
	// cached of the run, so writing is cheaper for less.
	deviceZeroMin = 64 << 10

	// zeroPiece bounds one request to make a range zero, in bytes. The
	// kernel may have to write it all, and can't be interrupted meanwhile.
	zeroPiece = 64 << 20

	// maxName is the longest file name that Linux file systems take, in
	// bytes.
	maxName = 255

	// partialSuffix ends the name of a file that is being restored. It
	// stands at the end and in plain sight, so that nobody takes what a
	// killed restore left for the volume.
	partialSuffix = ".pinion-partial"

	// createAttempts bounds how often the temporary file is made anew when
	// another restore's cleaning takes it away in between. Each attempt
	// needs another process to interfere at the same moment.
	createAttempts = 16
)
