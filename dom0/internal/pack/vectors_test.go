package pack_test

import (
	"bytes"
	"fmt"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
)

// TestVectors compares the golden packs, whole and spoilt, with those that are
// shipped, and gives them to a reader that was written by the page alone.
func TestVectors(t *testing.T) {
	var all []ft.Vector
	for name, id := range map[string]format.ObjectID{"pack": ft.ID(0x90), "metadata": ft.ID(0x90), "twin": ft.ID(0x90).Twin()} {
		whole := ft.Read(t, name)
		golden := ft.Sealed(name, "pack", whole)
		golden.Object = id.String()
		all = append(all, golden)
		refuse := func(why string, change func(*ft.Vector)) {
			v := golden
			v.Name, v.Why, v.Valid = name+"--"+why, why, false
			change(&v)
			all = append(all, v)
		}
		bytesOf := func(b []byte) func(*ft.Vector) { return func(v *ft.Vector) { v.Bytes = b } }
		refuse("a byte more", bytesOf(append(bytes.Clone(whole), 0)))
		refuse("a byte less", bytesOf(whole[:len(whole)-1]))
		refuse("a byte more in front of the table", bytesOf(bytes.Join([][]byte{whole[:146], whole[145:]}, nil)))
		for _, at := range []int{0, 6, 7, 8, 15, 16, 100, 200, len(whole) - 5, len(whole) - 1} {
			refuse(fmt.Sprintf("byte %d changed", at), func(v *ft.Vector) { v.Flip = []int{at} })
		}
		refuse("the name of another", func(v *ft.Vector) { v.Object = ft.ID(0x91).String() })
		refuse("the name of its twin", func(v *ft.Vector) { v.Object = id.Twin().String() })
	}
	ft.Ship(t, *update, "packs", all)
}
