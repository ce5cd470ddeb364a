package storetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pinion/protocol"
	"pinion/protocol/wire"
)

// rootName is the name of the second copy of a root.
func rootName(generation uint64, root string) string {
	sum := sha256.Sum256([]byte(root))
	return protocol.RootName(generation, [16]byte(sum[:16]))
}

// Commit makes a head and returns the heads that there are then.
func (c *Client) Commit(generation uint64, root []byte) []uint64 {
	c.t.Helper()
	r := c.OK(protocol.TypeCommit, protocol.Commit{Generation: generation, Size: uint32(len(root))}, root...)
	done, err := protocol.ParseCommitted(r.OK)
	if err != nil {
		c.t.Fatal(err)
	}
	return done.Heads
}

// testHelloExtensions: what a helper doesn't know it passes over, but for what
// it would have to.
func testHelloExtensions(t *testing.T, command []string) {
	for _, tt := range []struct {
		x    []wire.Extension
		want protocol.Type
	}{
		{[]wire.Extension{{Tag: 0x3f00, Data: []byte("keep")}, {Tag: 0x7f00}, {Tag: 0xbf00, Data: make([]byte, 100)}}, protocol.TypeHelloReply},
		{[]wire.Extension{{Tag: 1, Data: make([]byte, protocol.MaxExtensions-8)}}, protocol.TypeHelloReply},
		{[]wire.Extension{{Tag: 1}, {Tag: 0xff00}}, protocol.TypeError},
	} {
		c := Start(t, command)
		h, payload := c.Hello(protocol.Hello{Min: 1, Max: protocol.Version, Create: true, Extensions: tt.x})
		if h.Type != tt.want {
			t.Errorf("hello was answered with %s %q", h.Type, payload)
		}
		if e, err := protocol.ParseErrorReply(payload); h.Type == protocol.TypeError && (err != nil || e.Code != protocol.CodeVersion) {
			t.Errorf("the error is %+v, %v", e, err)
		}
		c.Close()
	}
	c := Start(t, command)
	c.Raw(protocol.AppendFrame(nil, protocol.TypeHello, 0, protocol.Hello{
		Min: 1, Max: 2, Extensions: []wire.Extension{{Tag: 1, Data: make([]byte, protocol.MaxExtensions-7)}},
	}))
	expectBroken(t, "a hello with too long extensions", c)
}

func testCommit(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	one, two, big := []byte("one"), []byte("two"), content(1, protocol.MaxRoot)
	if got := c.Commit(1, one); !slices.Equal(got, []uint64{1}) {
		t.Errorf("heads are %d", got)
	}
	same(t, "head/000000000001", c.Whole(protocol.HeadName(1)), one)
	// One that is there stays, whatever comes.
	for _, root := range [][]byte{one, two, big} {
		c.Fail(protocol.CodeConflict, protocol.TypeCommit, protocol.Commit{Generation: 1, Size: uint32(len(root))}, root...)
	}
	same(t, "head/000000000001", c.Whole(protocol.HeadName(1)), one)
	// The helper takes any number; the client knows better.
	c.Commit(protocol.MaxGeneration, big)
	c.Commit(10, two)
	if got := c.Commit(9, two); !slices.Equal(got, []uint64{protocol.MaxGeneration, 10, 9, 1}) {
		t.Errorf("heads are %d", got)
	}
	c.Close()
	c, r := Open(t, command, false)
	if !slices.Equal(r.Heads, []uint64{protocol.MaxGeneration, 10, 9, 1}) {
		t.Errorf("the hello's heads are %d", r.Heads)
	}
	same(t, "the longest root", c.Whole(protocol.HeadName(protocol.MaxGeneration)), big)
	if got := c.Names(protocol.PrefixHead, 2); !slices.Equal(got, []string{"head/000000000001", "head/000000000009", "head/000000000010", "head/999999999999"}) {
		t.Errorf("heads are %q", got)
	}
	c.Close()
}

// testCommitOnce: of many connections that try, one after the other, each
// generation has one winner, and all hear of it.
func testCommitOnce(t *testing.T, command []string) {
	for g := uint64(1); g <= 5; g++ {
		winner := fmt.Append(nil, "root ", g)
		for try := range 3 {
			c := OpenLocked(t, command, protocol.LockAppend)
			if try == 0 {
				c.Commit(g, winner)
			} else {
				c.Fail(protocol.CodeConflict, protocol.TypeCommit, protocol.Commit{Generation: g, Size: 5}, []byte("loser")...)
			}
			same(t, "the root", c.Whole(protocol.HeadName(g)), winner)
			c.Close()
		}
	}
}

// testCommitCutOff: half a commit leaves nothing, and doesn't use its number
// up.
func testCommitCutOff(t *testing.T, command []string) {
	root := content(1, 100000)
	for _, sent := range []int{0, 1, protocol.MaxPayload, len(root) - 1} {
		c := OpenLocked(t, command, protocol.LockAppend)
		id := c.Send(protocol.TypeCommit, protocol.Commit{Generation: 1, Size: uint32(len(root))})
		c.Body(id, root[:sent])
		c.Close()
	}
	c := OpenLocked(t, command, protocol.LockAppend)
	if got := c.Commit(1, root); !slices.Equal(got, []uint64{1}) {
		t.Errorf("heads are %d", got)
	}
	c.Close()
}

// testSecondCopies: a commit whose client, or helper, was killed before the
// second copy was put gets one when the next writer comes, and not before.
func testSecondCopies(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	for g := uint64(1); g <= 3; g++ {
		c.Commit(g, fmt.Append(nil, "root ", g))
	}
	second := fmt.Append(nil, "root 2")
	c.Put(rootName(2, string(second)), second)
	c.Kill()
	reader := OpenLocked(t, command, protocol.LockRead)
	if got := reader.Names(protocol.PrefixRoots, 10); !slices.Equal(got, []string{rootName(2, "root 2")}) {
		t.Errorf("before the next writer there are %q", got)
	}
	var want []string
	for g := uint64(1); g <= 3; g++ {
		want = append(want, rootName(g, fmt.Sprint("root ", g)))
	}
	for range 2 {
		c = OpenLocked(t, command, protocol.LockAppend)
		if got := c.Names(protocol.PrefixRoots, 10); !slices.Equal(got, want) {
			t.Errorf("there are %q, want %q", got, want)
		}
		for i, name := range want {
			same(t, name, c.Whole(name), fmt.Append(nil, "root ", i+1))
		}
		c.Close()
	}
	if got := reader.Names(protocol.PrefixHead, 10); len(got) != 3 {
		t.Errorf("heads are %q", got)
	}
	reader.Close()
}

// testPutRoots: a second copy is what its name says, or isn't there.
func testPutRoots(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	root, big := "a root", string(content(1, protocol.MaxRoot))
	put := func(name, body string) *Reply {
		return c.Do(protocol.TypePut, protocol.Put{Name: name, Size: uint64(len(body))}, []byte(body))
	}
	for what, tt := range map[string]struct {
		name, body string
		want       protocol.Code
	}{
		"another root":  {rootName(7, root), "another", protocol.CodeBadRequest},
		"a longer one":  {rootName(7, root), root + "x", protocol.CodeBadRequest},
		"nothing":       {rootName(7, ""), "", protocol.CodeBadRequest},
		"too much":      {rootName(7, big+"x"), big + "x", protocol.CodeTooLarge},
		"a head":        {protocol.HeadName(7), root, protocol.CodeBadRequest},
		"a large cheat": {rootName(7, root), big, protocol.CodeBadRequest},
	} {
		if r := put(tt.name, tt.body); r.Err == nil || r.Err.Code != tt.want {
			t.Errorf("%s: %+v, want %s", what, r.Err, tt.want)
		}
	}
	if got := c.Names(protocol.PrefixRoots, 10); len(got) > 0 {
		t.Errorf("there are %q", got)
	}
	for _, body := range []string{root, big} {
		name := rootName(7, body)
		if r := put(name, body); r.Err != nil {
			t.Fatalf("put %s: %+v", name, r.Err)
		}
		same(t, name, c.Whole(name), []byte(body))
	}
	// A young one is kept.
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockExclusive})
	for _, keep := range []bool{false, true} {
		c.Fail(protocol.CodeRefused, protocol.TypeDelete, protocol.Delete{Keep: keep, Names: []string{pack(1), rootName(7, root)}})
	}
	c.OK(protocol.TypeDelete, protocol.Delete{Names: []string{rootName(8, "none")}})
	c.Fail(protocol.CodeBadRequest, protocol.TypePunch, protocol.Punch{Name: rootName(7, root), Ranges: []protocol.Range{{Off: 0, Len: 1}}})
	same(t, "the root", c.Whole(rootName(7, root)), []byte(root))
	c.Close()
}

// testOwnHead: who committed a head can take it back, for which the append lock
// is enough; nobody else can.
func testOwnHead(t *testing.T, command []string) {
	first := OpenLocked(t, command, protocol.LockAppend)
	first.Commit(1, []byte("one"))
	first.Close()
	c := OpenLocked(t, command, protocol.LockAppend)
	c.Put(pack(1), []byte("x"))
	c.Commit(2, []byte("two"))
	remove := func(names ...string) protocol.Delete { return protocol.Delete{Names: names} }
	c.Fail(protocol.CodeBadRequest, protocol.TypeDelete, remove("head/000000000001"))
	c.Fail(protocol.CodeBadRequest, protocol.TypeDelete, remove("head/000000000002", pack(1)))
	c.Fail(protocol.CodeConflict, protocol.TypeCommit, protocol.Commit{Generation: 1, Size: 1}, 'x')
	c.OK(protocol.TypeDelete, remove("head/000000000002"))
	c.OK(protocol.TypeDelete, remove("head/000000000002"))
	if got := c.Commit(2, []byte("again")); !slices.Equal(got, []uint64{2, 1}) {
		t.Errorf("heads are %d", got)
	}
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockExclusive})
	c.Fail(protocol.CodeRefused, protocol.TypeDelete, remove("head/000000000002", "head/000000000001"))
	c.Fail(protocol.CodeRefused, protocol.TypeDelete, remove(pack(1), "head/000000000003"))
	c.OK(protocol.TypeDelete, remove(pack(1), "head/000000000002"))
	if got := c.Names(protocol.PrefixHead, 10); !slices.Equal(got, []string{"head/000000000001"}) {
		t.Errorf("heads are %q", got)
	}
	c.Close()
}

// testReservedNames: what later helpers may have is no object, and asking for
// it breaks the protocol.
func testReservedNames(t *testing.T, command []string) {
	hex32 := strings.Repeat("a", 32)
	for _, name := range []string{
		"README.txt", "policy", "root", "root.1", "keys/" + hex32, "parity/aa/" + hex32, "sums/" + hex32, "lease/" + hex32,
		"trash/2026-01-01/packs/aa/" + hex32, "trash/2026-01-01/head/000000000001", "tmp/" + hex32, "lock.write",
	} {
		c := OpenLocked(t, command, protocol.LockExclusive)
		c.Send(protocol.TypeGetWhole, raw(append(wire.AppendText(nil, name), 0, 0, 1, 0)))
		expectBroken(t, name, c)
	}
	for _, prefix := range []string{"", "root", "keys/", "trash/", "parity/", "packs", "packs/0", "packs/00", "packs/0g/", "packs/00/00"} {
		c := OpenLocked(t, command, protocol.LockExclusive)
		c.Send(protocol.TypeList, protocol.List{Prefix: prefix, Max: 1})
		expectBroken(t, "a list of "+prefix, c)
	}
}

// testSignsOfLife: a client's may come at any time, also inside a body.
func testSignsOfLife(t *testing.T, command []string) {
	alive := protocol.AppendFrame(nil, protocol.TypeAlive, 0, nil)
	c := OpenLocked(t, command, protocol.LockAppend)
	c.Raw(bytes.Repeat(alive, 1000))
	id := c.Send(protocol.TypePut, protocol.Put{Name: pack(1), Size: 200000})
	c.Body(id, content(1, 200000)[:100000])
	c.Raw(alive)
	c.Body(id, content(1, 200000)[100000:])
	c.Raw(alive)
	if r := c.Replies(id)[id]; r.Err != nil {
		t.Errorf("put: %+v", r.Err)
	}
	same(t, "the object", c.Whole(pack(1)), content(1, 200000))
	c.Close()
}

// testDeleteKeep: what is kept is gone from the archive, and its name is free.
func testDeleteKeep(t *testing.T, command []string) {
	c, r := Open(t, command, true)
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockExclusive})
	names := []string{pack(1), protocol.IndexName(id(1)), pack(2)}
	m := protocol.Delete{Keep: true, Names: names}
	if r.Capabilities&protocol.CanKeep == 0 {
		if c.Do(protocol.TypeDelete, m, nil).Err == nil {
			t.Error("a helper that can't keep what it deletes did so")
		}
		c.Close()
		return
	}
	for round := range 3 {
		for _, name := range names {
			c.Put(name, content(round, 100))
		}
		c.OK(protocol.TypeDelete, m)
		c.OK(protocol.TypeDelete, m) // none is there
		for _, name := range names {
			c.Fail(protocol.CodeMissing, protocol.TypeGetWhole, protocol.GetWhole{Name: name, Max: 100})
		}
	}
	for _, prefix := range []string{protocol.PrefixPacks, protocol.PrefixIndex, protocol.PrefixHead, protocol.PrefixRoots} {
		if got := c.Names(prefix, 10); len(got) > 0 {
			t.Errorf("there are %q", got)
		}
	}
	c.Close()
}

// testInventory compares the counts with what was put, and with a listing.
func testInventory(t *testing.T, command []string) {
	c, r := Open(t, command, true)
	if r.Capabilities&protocol.CanInventory == 0 {
		c.Close()
		return
	}
	inventory := func() *protocol.Inventory {
		t.Helper()
		v, err := protocol.ParseInventory(c.OK(protocol.TypeInventory, nil).OK)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	empty := new(protocol.Inventory)
	for i := range empty.Rows {
		empty.Rows[i].Digest = sha256.Sum256(nil)
	}
	if got := inventory(); *got != *empty {
		t.Error("an empty archive has something in it")
	}
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockExclusive})
	for i := range 20 {
		c.Put(pack(i), content(i, i*100))
		c.Put(protocol.PackName([16]byte{0xab, byte(19 - i)}), content(i, i))
		c.Put(protocol.IndexName(id(i)), content(i, i))
	}
	c.Commit(1, []byte("not counted"))
	check := func() {
		t.Helper()
		got := inventory()
		objects := uint32(0)
		for i := range got.Rows {
			var sum protocol.InventorySum
			for _, e := range c.OK(protocol.TypeList, protocol.List{Prefix: protocol.InventoryPrefix(i), Max: 1000}).Entries {
				id, _ := protocol.ParseID(e.Name)
				sum.Add(id, e.Size)
			}
			if got.Rows[i] != sum.Row() {
				t.Errorf("%s: %+v, want %+v", protocol.InventoryPrefix(i), got.Rows[i], sum.Row())
			}
			objects += got.Rows[i].Objects
		}
		if objects != 60 && objects != 59 {
			t.Errorf("there are %d objects", objects)
		}
	}
	check()
	before := inventory()
	c.OK(protocol.TypeDelete, protocol.Delete{Names: []string{protocol.PackName([16]byte{0xab, 3})}})
	check()
	if after := inventory(); before.Rows[0xab] == after.Rows[0xab] {
		t.Error("a deleted pack is counted")
	}
	c.Close()
}
