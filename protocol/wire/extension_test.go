package wire_test

import (
	"bytes"
	"reflect"
	"runtime"
	"testing"

	"pinion/protocol/wire"
)

func TestExtensions(t *testing.T) {
	want := []wire.Extension{
		{Tag: 0x0001, Data: []byte("kept")},
		{Tag: 0x4001, Data: []byte{}},
		{Tag: 0x8000, Data: []byte("w")},
		{Tag: 0xffff, Data: make([]byte, 300)},
	}
	b := append(wire.AppendExtensions(nil, want), "rest"...)
	n := len(b) - len("rest")
	for _, most := range []int{n, n + 1, 1 << 20} {
		d := wire.NewDecoder(b)
		if got := d.Extensions(most); !reflect.DeepEqual(got, want) || d.Err() != nil || d.Len() != len("rest") {
			t.Errorf("with %d bytes allowed: %+v, %v", most, got, d.Err())
		}
	}
	for i, class := range []wire.ExtensionClass{wire.Keep, wire.DropOnChange, wire.NeededToWrite, wire.NeededToRead} {
		if got := want[i].Class(); got != class {
			t.Errorf("0x%04x is of class %d, want %d", want[i].Tag, got, class)
		}
	}
	if got := wire.AppendExtensions(nil, nil); !bytes.Equal(got, []byte{0, 0}) {
		t.Errorf("no extensions are %x", got)
	}
	d := wire.NewDecoder([]byte{0, 0})
	if got := d.Extensions(2); got != nil || d.Finish() != nil {
		t.Errorf("an empty area gave %v, %v", got, d.Err())
	}
}

func TestExtensionsRefused(t *testing.T) {
	one := []byte{0, 1, 0, 7, 0, 0, 0, 3, 'a', 'b', 'c'}
	two := []byte{0, 2, 0, 7, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0}
	for what, tt := range map[string]struct {
		in   []byte
		most int
	}{
		"nothing":               {nil, 100},
		"half a count":          {[]byte{0}, 100},
		"more than there is":    {[]byte{0, 2, 0, 7, 0, 0, 0, 0}, 100},
		"cut data":              {one[:10], 100},
		"data beyond the bound": {one, 10},
		"no room for a count":   {[]byte{0, 0}, 1},
		"data of 4 GiB":         {[]byte{0, 1, 0, 7, 0xff, 0xff, 0xff, 0xff}, 1 << 20},
		"the same tag twice":    {two, 100},
		"tags that fall":        {bytes.Replace(two, []byte{0, 7}, []byte{0, 8}, 1), 100},
	} {
		d := wire.NewDecoder(tt.in)
		if got := d.Extensions(tt.most); d.Err() == nil || got != nil {
			t.Errorf("%s: %+v, %v", what, got, d.Err())
		}
	}
	for what, x := range map[string][]wire.Extension{"twice": {{Tag: 1}, {Tag: 1}}, "falling": {{Tag: 2}, {Tag: 1}}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("tags %s were appended", what)
				}
			}()
			wire.AppendExtensions(nil, x)
		}()
	}
}

// FuzzExtensions: what is taken appends to the same bytes, keeps to the bound,
// and costs little more memory than its input.
func FuzzExtensions(f *testing.F) {
	f.Add([]byte{0, 0}, 4096)
	f.Add([]byte{0, 1, 0, 7, 0, 0, 0, 3, 'a', 'b', 'c'}, 11)
	f.Add([]byte{0xff, 0xff, 0, 7, 0xff, 0xff, 0xff, 0xff}, 1<<30)
	f.Fuzz(func(t *testing.T, in []byte, most int) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		d := wire.NewDecoder(in)
		x := d.Extensions(most)
		runtime.ReadMemStats(&after)
		if grew := after.TotalAlloc - before.TotalAlloc; grew > uint64(10*len(in)+1<<16) {
			t.Fatalf("%d bytes cost %d", len(in), grew)
		}
		if d.Err() != nil {
			return
		}
		used := in[:len(in)-d.Len()]
		if got := wire.AppendExtensions(nil, x); !bytes.Equal(got, used) || len(got) > most {
			t.Fatalf("%x became %+v became %x", used, x, got)
		}
	})
}
