package blob_test

import (
	"encoding/hex"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

// TestVectors compares the golden blobs, and all insides that are refused, with
// those that are shipped, and gives them to a reader that was written by the page
// alone.
func TestVectors(t *testing.T) {
	vector := func(name string, typ format.BlobType, id format.BlobID, sealed []byte) ft.Vector {
		v := ft.Sealed(name, "blob", sealed)
		v.Type, v.ID = int(typ), id.String()
		return v
	}
	var all []ft.Vector
	for _, v := range vectors() {
		x := vector(v.name, v.typ, v.id(t), ft.Read(t, v.name))
		domain := int(v.domain)
		x.Domain, x.Fields = &domain, []any{hex.EncodeToString(v.plain)}
		all = append(all, x)
	}
	id, shared := hostileID(t), 0
	for name, in := range hostile(t) {
		v := vector("-- "+name, format.BlobChunk, id, ft.SealBlob(t, 9, format.BlobChunk, id, in))
		v.Valid, v.Why, v.Domain, v.Most = false, name, &shared, 128<<10
		v.BLAKE3 = name == "other bytes, stored"
		all = append(all, v)
	}
	ft.Ship(t, *update, "blobs", all)
}
