package pack_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

// TestReadersAgree gives the golden packs, whole and spoilt, to a reader that was
// written by the page alone.
func TestReadersAgree(t *testing.T) {
	master := ft.Master()
	var all []ft.Vector
	for name, id := range map[string]format.ObjectID{"pack": ft.ID(0x90), "metadata": ft.ID(0x90), "twin": ft.ID(0x90).Twin()} {
		whole := ft.Read(t, name)
		v := ft.Vector{
			Name: name, Structure: "pack", Valid: true, Object: id.String(), Bytes: whole,
			Master: hex.EncodeToString(master[:]), Archive: ft.Archive().String(),
		}
		all = append(all, v)
		add := func(why string, b []byte) {
			v.Name, v.Why, v.Valid, v.Bytes = name+", "+why, why, false, b
			all = append(all, v)
		}
		add("a byte more", append(bytes.Clone(whole), 0))
		add("a byte less", whole[:len(whole)-1])
		add("a byte more in front of the table", bytes.Join([][]byte{whole[:146], whole[145:]}, nil))
		for _, at := range []int{0, 6, 7, 8, 15, 16, 100, 200, len(whole) - 5, len(whole) - 1} {
			b := bytes.Clone(whole)
			b[at] ^= 1
			add(fmt.Sprintf("byte %d", at), b)
		}
		v.Object = ft.ID(0x91).String()
		add("the name of another", whole)
		v.Object = id.Twin().String()
		add("the name of its twin", whole)
	}
	ft.CompareReaders(t, all)
}
