package blob

import "pinion/protocol/wire"

// isFrame reports whether b has the extent of exactly one zstd frame (RFC 8878)
// that needs no dictionary. The decompressor would also take several, and frames
// to skip in front of them and behind, so that a plaintext had many encodings.
// What is in the blocks is the decompressor's to check.
func isFrame(b []byte) bool {
	const (
		magic      = 0x28b52ffd  // as it stands
		dictionary = 0b0000_1011 // a dictionary's id, or a bit that is reserved
		checksum   = 0b0000_0100
		single     = 0b0010_0000
		run        = 1 // a block that is one byte, repeated
		reserved   = 3
	)
	d := wire.NewDecoder(b)
	begins := d.U32() == magic
	flags := d.U8()
	if !begins || flags&dictionary != 0 {
		return false
	}
	window, size := 1, []int{0, 2, 4, 8}[flags>>6]
	if flags&single != 0 {
		window = 0
		size = max(size, 1)
	}
	d.Bytes(window + size)
	for last := false; !last; {
		head := d.Bytes(3)
		if d.Err() != nil {
			return false
		}
		block := uint32(head[0]) | uint32(head[1])<<8 | uint32(head[2])<<16
		last = block&1 != 0
		n := int(block >> 3)
		switch block >> 1 & 3 {
		case run:
			n = 1
		case reserved:
			return false
		}
		d.Bytes(n)
	}
	d.Bytes(int(flags & checksum)) // 4 bytes
	return d.Finish() == nil
}
