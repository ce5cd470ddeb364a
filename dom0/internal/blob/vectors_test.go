package blob_test

import (
	"encoding/hex"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

// notForRecovery are refused here, and not by the other reader, which isn't told
// domain and length, and may not have BLAKE3.
var notForRecovery = map[string]bool{
	"another domain":                 true,
	"a stored blob that is too long": true,
	"other bytes, stored":            true,
}

// TestReadersAgree gives the golden blobs, and all insides that are refused, to a
// reader that was written by the page alone.
func TestReadersAgree(t *testing.T) {
	master := ft.Master()
	vector := func(name string, typ format.BlobType, id format.BlobID, sealed []byte) ft.Vector {
		return ft.Vector{
			Name: name, Structure: "blob", Type: int(typ), ID: id.String(), Bytes: sealed,
			Master: hex.EncodeToString(master[:]), Archive: ft.Archive().String(),
		}
	}
	var all []ft.Vector
	for _, v := range vectors() {
		x := vector(v.name, v.typ, v.id(t), ft.Read(t, v.name))
		x.Valid = true
		all = append(all, x)
	}
	id := hostileID(t)
	for name, in := range hostile(t) {
		if !notForRecovery[name] {
			all = append(all, vector(name, format.BlobChunk, id, ft.SealBlob(t, 9, format.BlobChunk, id, in)))
		}
	}
	ft.CompareReaders(t, all)
}
