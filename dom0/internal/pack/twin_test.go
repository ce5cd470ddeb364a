package pack_test

import (
	"bytes"
	"slices"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/dom0/internal/pack"
	"pinion/protocol"
)

// built is a pack of metadata and its twin, of blobs of these lengths.
func built(t *testing.T, lengths []int) (id format.ObjectID, places []format.Location, first, twin []byte) {
	t.Helper()
	b := pack.NewBuilder(keys(t), format.PackMetadata, 42, nil)
	for i, n := range lengths {
		sealed := bytes.Repeat([]byte{byte(1 + i)}, n)
		places = append(places, b.Add(format.BlobNode, ft.Blob(byte(i)), sealed))
	}
	name, first := b.Finish()
	kept := bytes.Clone(first)
	twinName, twin := b.Twin()
	if name != protocol.PackName(b.ID()) || twinName != protocol.PackName(b.ID().Twin()) {
		t.Errorf("the packs of %s are %s and %s", b.ID(), name, twinName)
	}
	if !bytes.Equal(first, kept) || &first[0] == &twin[0] {
		t.Error("the twin was made in the memory of the first")
	}
	return b.ID(), places, first, twin
}

// wantTwins fails unless two packs have the same blobs at the same offsets and
// one length, and tables of their own.
func wantTwins(t *testing.T, id format.ObjectID, first, twin []byte) {
	t.Helper()
	toc, blobs := open(t, keys(t), id, first)
	twinTOC, twinBlobs := open(t, keys(t), id.Twin(), twin)
	if toc.Kind != format.PackMetadata || twinTOC.Kind != format.PackTwin || toc.Generation != twinTOC.Generation {
		t.Errorf("kinds %d and %d, generations %d and %d", toc.Kind, twinTOC.Kind, toc.Generation, twinTOC.Generation)
	}
	if !slices.Equal(toc.Blobs, twinTOC.Blobs) || !slices.EqualFunc(blobs, twinBlobs, bytes.Equal) {
		t.Error("the twin has other blobs")
	}
	if len(first) != len(twin) {
		t.Errorf("the packs have %d and %d bytes", len(first), len(twin))
	}
	end := format.HeaderSize
	for _, b := range toc.Blobs {
		end += int(b.Length)
	}
	if !bytes.Equal(first[:end], twin[:end]) || bytes.Equal(first[end:], twin[end:]) {
		t.Error("the packs differ in their blobs, or not in their tables")
	}
}

func TestTwin(t *testing.T) {
	for _, lengths := range [][]int{{51}, {51, 100, 52}, slices.Repeat([]int{60}, 500)} {
		id, _, first, twin := built(t, lengths)
		wantTwins(t, id, first, twin)
	}
}

// TestOnlyMetadataHasTwins: data packs have none.
func TestOnlyMetadataHasTwins(t *testing.T) {
	b := pack.NewBuilder(keys(t), format.PackData, 1, nil)
	b.Add(format.BlobChunk, ft.Blob(1), make([]byte, 51))
	b.Finish()
	c := pack.NewComposition(keys(t), format.PackData, 1)
	for name, f := range map[string]func(){
		"builder":     func() { b.Twin() },
		"composition": func() { pack.NewTwinComposition(c) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: a pack of data has a twin", name)
				}
			}()
			f()
		}()
	}
}

// store makes objects of part lists as a helper does.
type store map[string][]byte

func (s store) compose(t *testing.T, name string, size int64, list []byte) []byte {
	t.Helper()
	var object []byte
	parts := 0
	err := protocol.EachPart(list, func(p protocol.Part) error {
		parts++
		if p.Source == "" {
			object = append(object, p.Literal...)
			return nil
		}
		source, ok := s[p.Source]
		if !ok {
			t.Fatalf("%s is composed of %s, which isn't there", name, p.Source)
		}
		object = append(object, source[p.Range.Off:][:p.Range.Len]...)
		return nil
	})
	if err != nil || int64(len(object)) != size {
		t.Fatalf("%s has %d bytes where %d were announced, %v", name, len(object), size, err)
	}
	s[name] = object
	return object
}

// TestComposition: what is composed has the blobs that were asked for, in that
// order, at the places that were said, and its twin has the same of twins alone.
func TestComposition(t *testing.T) {
	k := keys(t)
	one, onePlaces, first, twin := built(t, []int{51, 60, 70, 80, 90})
	two, twoPlaces, first2, twin2 := built(t, []int{100, 110})
	c := pack.NewComposition(k, format.PackMetadata, 43)
	if c.Full() {
		t.Error("a new composition is full")
	}
	from := []format.Location{onePlaces[1], onePlaces[2], twoPlaces[1], onePlaces[4], onePlaces[3], twoPlaces[0]}
	var want [][]byte
	for i, at := range from {
		source := map[format.ObjectID][]byte{one: first, two: first2}[at.Pack]
		want = append(want, source[at.Offset:][:at.Length])
		to := c.Add(format.BlobNode, ft.Blob(byte(i)), at)
		if to.Pack != c.ID() || to.Length != at.Length {
			t.Errorf("blob %d goes to %+v", i, to)
		}
	}
	twinOf := pack.NewTwinComposition(c)

	name, size, list := c.Finish()
	firsts := store{protocol.PackName(one): first, protocol.PackName(two): first2}
	object := firsts.compose(t, name, size, list)
	toc, blobs := open(t, k, c.ID(), object)
	if toc.Generation != 43 || !slices.EqualFunc(blobs, want, bytes.Equal) {
		t.Errorf("generation %d, and the blobs are %x", toc.Generation, blobs)
	}

	name, size, list = twinOf.Finish()
	twins := store{protocol.PackName(one.Twin()): twin, protocol.PackName(two.Twin()): twin2}
	wantTwins(t, c.ID(), object, twins.compose(t, name, size, list))
}

// TestCompositionJoins: blobs that lie one behind the other are one part.
func TestCompositionJoins(t *testing.T) {
	_, places, _, _ := built(t, []int{51, 60, 70, 80})
	for name, c := range map[string]struct {
		from  []format.Location
		parts int // without header and table
	}{
		"in order":      {places, 1},
		"with a gap":    {[]format.Location{places[0], places[1], places[3]}, 2},
		"the other way": {[]format.Location{places[1], places[0]}, 2},
	} {
		comp := pack.NewComposition(keys(t), format.PackMetadata, 1)
		for i, at := range c.from {
			comp.Add(format.BlobNode, ft.Blob(byte(i)), at)
		}
		for _, comp := range []*pack.Composition{comp, pack.NewTwinComposition(comp)} {
			_, _, list := comp.Finish()
			parts := 0
			if err := protocol.EachPart(list, func(protocol.Part) error { parts++; return nil }); err != nil || parts != c.parts+2 {
				t.Errorf("%s: %d parts, want %d, %v", name, parts, c.parts+2, err)
			}
		}
	}
}

// TestFullComposition: the part list of the largest composition is one that the
// protocol takes.
func TestFullComposition(t *testing.T) {
	c := pack.NewComposition(keys(t), format.PackMetadata, 1)
	for i := 0; !c.Full(); i++ {
		at := format.Location{Pack: format.NewObjectID(), Offset: format.HeaderSize, Length: format.BlobOverhead}
		c.Add(format.BlobNode, ft.Blob(byte(i)), at)
	}
	if _, _, list := c.Finish(); len(list) > protocol.MaxComposeList {
		t.Errorf("the part list has %d bytes, where %d are the most", len(list), protocol.MaxComposeList)
	}
}
