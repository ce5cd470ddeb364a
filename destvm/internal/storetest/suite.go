package storetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pinion/protocol"
)

// Run runs the suite. place returns the command of a helper for a place that
// doesn't exist yet; started again, the command reaches the same place.
func Run(t *testing.T, place func(t *testing.T) []string) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, []string)
	}{
		{"Hello", testHello},
		{"PutAndGet", testPutAndGet},
		{"PutNeverOverwrites", testPutNeverOverwrites},
		{"RefusedPutIsSkipped", testRefusedPut},
		{"PutCutOff", testPutCutOff},
		{"Ranges", testRanges},
		{"GetWhole", testGetWhole},
		{"List", testList},
		{"Locks", testLocks},
		{"LockGrows", testLockGrows},
		{"Notes", testNotes},
		{"NotesOfTheDead", testNotesOfTheDead},
		{"WithoutLock", testWithoutLock},
		{"HelloExtensions", testHelloExtensions},
		{"Commit", testCommit},
		{"CommitOnce", testCommitOnce},
		{"CommitCutOff", testCommitCutOff},
		{"SecondCopies", testSecondCopies},
		{"PutRoots", testPutRoots},
		{"OwnHead", testOwnHead},
		{"ReservedNames", testReservedNames},
		{"SignsOfLife", testSignsOfLife},
		{"Delete", testDelete},
		{"DeleteKeep", testDeleteKeep},
		{"Inventory", testInventory},
		{"Punch", testPunch},
		{"Compose", testCompose},
		{"ComposeRefused", testComposeRefused},
		{"Usage", testUsage},
		{"Pipelining", testPipelining},
		{"NoStall", testNoStall},
		{"TooMany", testTooMany},
		{"BrokenClients", testBrokenClients},
		{"Model", testModel},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, place(t))
		})
	}
}

// id makes an object id out of a number.
func id(n int) (id [16]byte) {
	h := sha256.Sum256(fmt.Append(nil, n))
	copy(id[:], h[:])
	return id
}

func pack(n int) string { return protocol.PackName(id(n)) }

// content makes n bytes that no other seed makes.
func content(seed, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1}).Read(b)
	return b
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes are not the %d that were expected", what, len(got), len(want))
	}
}

func testHello(t *testing.T, command []string) {
	refused := func(h protocol.Hello, want protocol.Code) {
		t.Helper()
		c := Start(t, command)
		header, payload := c.Hello(h)
		e, err := protocol.ParseErrorReply(payload)
		if header.Type != protocol.TypeError || header.ID != 0 || err != nil || e.Code != want {
			t.Errorf("hello was answered with %+v %q, want %s", header, payload, want)
		}
		c.Close()
	}
	refused(protocol.Hello{Min: 1, Max: protocol.Version}, protocol.CodeMissing)
	refused(protocol.Hello{Min: protocol.Version + 1, Max: 999, Create: true}, protocol.CodeVersion)
	refused(protocol.Hello{Min: 1, Max: protocol.Version}, protocol.CodeMissing)

	c, r := Open(t, command, true)
	if !r.Created || r.Version != protocol.Version || r.Capabilities&protocol.ReadOnly != 0 {
		t.Errorf("hello reply is %+v", r)
	}
	if r.MaxObject == 0 || r.MaxObject > protocol.MaxObject || r.MaxOutstanding > protocol.MaxOutstanding || r.MaxRanges > protocol.MaxRanges {
		t.Errorf("limits are %+v", r)
	}
	if r.Free == 0 || r.Total < r.Free {
		t.Errorf("%d of %d bytes are free", r.Free, r.Total)
	}
	for _, p := range []string{protocol.PrefixHead, protocol.PrefixRoots, protocol.PrefixPacks, protocol.PrefixIndex, protocol.PackPrefix(7)} {
		if names := c.Names(p, 10); len(names) > 0 {
			t.Errorf("a new archive has %q", names)
		}
	}
	c.Close()
	for _, create := range []bool{false, true} {
		c, r := Open(t, command, create)
		if r.Created {
			t.Error("an old archive was created")
		}
		c.Close()
	}
}

func testPutAndGet(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	const p = protocol.MaxPayload
	sizes := []int{0, 1, 4096, p - 1, p, p + 1, 2 * p, 1<<20 + 3}
	name := func(i int) string {
		return []string{protocol.IndexName(id(i)), pack(i)}[i%2]
	}
	for i, n := range sizes {
		c.Put(name(i), content(i, n))
	}
	check := func(c *Client) {
		t.Helper()
		for i, n := range sizes {
			same(t, name(i), c.Whole(name(i)), content(i, n))
		}
	}
	check(c)
	c.Close()
	c, _ = Open(t, command, false)
	check(c)
	c.Close()
}

func testPutNeverOverwrites(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	c.Put(pack(1), content(1, 1000))
	c.Fail(protocol.CodeExists, protocol.TypePut, protocol.Put{Name: pack(1), Size: 3}, 'n', 'e', 'w')
	c.Fail(protocol.CodeExists, protocol.TypePut, protocol.Put{Name: pack(1)})
	same(t, "the object", c.Whole(pack(1)), content(1, 1000))

	// Two of one name on their way at the same time: one is stored, whole.
	a := c.Send(protocol.TypePut, protocol.Put{Name: pack(2), Size: 100000})
	c.Body(a, content(2, 100000))
	b := c.Send(protocol.TypePut, protocol.Put{Name: pack(2), Size: 100000})
	c.Body(b, content(3, 100000))
	rs := c.Replies(a, b)
	switch {
	case rs[a].Err == nil && rs[b].Err != nil && rs[b].Err.Code == protocol.CodeExists:
		same(t, "the first", c.Whole(pack(2)), content(2, 100000))
	case rs[b].Err == nil && rs[a].Err != nil && rs[a].Err.Code == protocol.CodeExists:
		same(t, "the second", c.Whole(pack(2)), content(3, 100000))
	default:
		t.Errorf("answers are %+v and %+v", rs[a].Err, rs[b].Err)
	}
	c.Close()
}

// testRefusedPut: an early error must not make the helper take the body for
// something else.
func testRefusedPut(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	c.Put(pack(1), []byte("here"))
	for _, name := range []string{pack(1), protocol.HeadName(3), rootName(3, "another")} {
		r := c.Do(protocol.TypePut, protocol.Put{Name: name, Size: 300000}, content(9, 300000))
		if r.Err == nil {
			t.Errorf("put %s was taken", name)
		}
	}
	c.Put(pack(2), []byte("after"))
	same(t, "the object after", c.Whole(pack(2)), []byte("after"))
	c.Close()
}

func testPutCutOff(t *testing.T, command []string) {
	for _, sent := range []int{0, 1, protocol.MaxPayload, 199999} {
		c := OpenLocked(t, command, protocol.LockAppend)
		id := c.Send(protocol.TypePut, protocol.Put{Name: pack(1), Size: 200000})
		c.Body(id, content(1, 200000)[:sent])
		c.Close()
	}
	// A frame that is cut off is no different.
	c := OpenLocked(t, command, protocol.LockAppend)
	id := c.Send(protocol.TypePut, protocol.Put{Name: pack(1), Size: 10})
	c.Raw(protocol.AppendHeader(nil, protocol.Header{Type: protocol.TypeData, ID: id, Len: 10}))
	c.Raw([]byte("12345"))
	c.Close()
	c = OpenLocked(t, command, protocol.LockAppend)
	if names := c.Names(protocol.PrefixPacks, 10); len(names) > 0 {
		t.Errorf("uploads that were cut off left %q", names)
	}
	c.Put(pack(1), content(1, 200000))
	c.Close()
}

func testRanges(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	const size = 300000
	b := content(1, size)
	c.Put(pack(1), b)
	get := func(rs ...protocol.Range) {
		t.Helper()
		r := c.OK(protocol.TypeGet, protocol.Get{Name: pack(1), Ranges: rs})
		var want []byte
		for _, r := range rs {
			want = append(want, b[r.Off:r.Off+uint64(r.Len)]...)
		}
		same(t, "ranges", r.Data, want)
		if total, err := protocol.ParseTotal(r.OK); err != nil || total.Bytes != uint64(len(want)) {
			t.Errorf("total is %d, %v, want %d", total.Bytes, err, len(want))
		}
	}
	get(protocol.Range{Off: 0, Len: size})
	get(protocol.Range{Off: size - 1, Len: 1})
	get(protocol.Range{Off: 5, Len: 10}, protocol.Range{Off: 0, Len: 10}, protocol.Range{Off: 5, Len: 10})
	many := make([]protocol.Range, protocol.MaxRanges)
	for i := range many {
		many[i] = protocol.Range{Off: uint64(i * 73), Len: uint32(1 + i%50)}
	}
	get(many...)

	beyond := []protocol.Range{{Off: size, Len: 1}, {Off: size - 1, Len: 2}, {Off: 1 << 27, Len: 1 << 27}}
	for _, r := range beyond {
		c.Fail(protocol.CodeBadRequest, protocol.TypeGet, protocol.Get{Name: pack(1), Ranges: []protocol.Range{{Off: 0, Len: 9}, r}})
	}
	c.Fail(protocol.CodeMissing, protocol.TypeGet, protocol.Get{Name: pack(2), Ranges: many})
	c.Close()
}

func testGetWhole(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	name := protocol.IndexName(id(1))
	c.Put(name, content(1, 1000))
	for _, most := range []uint32{1000, 1001} {
		same(t, "whole", c.OK(protocol.TypeGetWhole, protocol.GetWhole{Name: name, Max: most}).Data, content(1, 1000))
	}
	for _, most := range []uint32{0, 999} {
		c.Fail(protocol.CodeTooLarge, protocol.TypeGetWhole, protocol.GetWhole{Name: name, Max: most})
	}
	c.Fail(protocol.CodeMissing, protocol.TypeGetWhole, protocol.GetWhole{Name: protocol.HeadName(1), Max: 1})
	c.Close()
}

func testList(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	want := map[string][]string{}
	sizes := map[string]uint64{}
	add := func(prefix, name string, b []byte) {
		c.Put(name, b)
		want[prefix] = append(want[prefix], name)
		sizes[name] = uint64(len(b))
	}
	for i := range 150 {
		add(protocol.PrefixIndex, protocol.IndexName(id(i)), make([]byte, i))
		add(protocol.PrefixPacks, pack(i), make([]byte, i))
		root := fmt.Sprint("root ", i)
		add(protocol.PrefixRoots, rootName(uint64(i+1), root), []byte(root))
	}
	for n := range byte(20) {
		add(protocol.PackPrefix(0xee), protocol.PackName([16]byte{0xee, n}), []byte("x"))
	}
	want[protocol.PrefixPacks] = append(want[protocol.PrefixPacks], want[protocol.PackPrefix(0xee)]...)
	for _, name := range want[protocol.PrefixPacks] {
		if id, _ := protocol.ParseID(name); id[0] == 0xee && !slices.Contains(want[protocol.PackPrefix(0xee)], name) {
			want[protocol.PackPrefix(0xee)] = append(want[protocol.PackPrefix(0xee)], name)
		}
	}
	for prefix, names := range want {
		slices.Sort(names)
		for _, page := range []uint32{1, 2, 5, 149, 150, 151, protocol.MaxListed} {
			if got := c.Names(prefix, page); !slices.Equal(got, names) {
				t.Errorf("list %s by %d gave %d names, want %d", prefix, page, len(got), len(names))
			}
		}
		r := c.OK(protocol.TypeList, protocol.List{Prefix: prefix, Max: 1000})
		for _, e := range r.Entries {
			if e.Size != sizes[e.Name] {
				t.Errorf("%s is listed with %d bytes, want %d", e.Name, e.Size, sizes[e.Name])
			}
		}
		// It goes on after a name that is not there.
		gone := names[2][:len(names[2])-1] + "0"
		if gone < names[2] && gone > names[1] {
			r := c.OK(protocol.TypeList, protocol.List{Prefix: prefix, After: gone, Max: 1})
			if len(r.Entries) != 1 || r.Entries[0].Name != names[2] {
				t.Errorf("after %s came %v", gone, r.Entries)
			}
		}
	}
	c.Close()
}

func testDelete(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockExclusive)
	for i := range 5 {
		c.Put(pack(i), content(i, 10))
	}
	c.OK(protocol.TypeDelete, protocol.Delete{Names: []string{pack(0), pack(99), pack(1)}})
	c.OK(protocol.TypeDelete, protocol.Delete{Names: []string{pack(0), pack(1)}})
	c.Fail(protocol.CodeMissing, protocol.TypeGetWhole, protocol.GetWhole{Name: pack(0), Max: 10})
	if got := c.Names(protocol.PrefixPacks, 10); len(got) != 3 {
		t.Errorf("there are %q", got)
	}
	c.Put(pack(0), []byte("again"))
	same(t, "the object", c.Whole(pack(0)), []byte("again"))
	c.Close()
}

func testPunch(t *testing.T, command []string) {
	c, r := Open(t, command, true)
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockExclusive})
	b := content(1, 1<<20)
	c.Put(pack(1), b)
	ranges := []protocol.Range{{Off: 0, Len: 65536}, {Off: 100001, Len: 50000}}
	m := protocol.Punch{Name: pack(1), Ranges: ranges}
	if r.Capabilities&protocol.CanPunch == 0 {
		if c.Do(protocol.TypePunch, m, nil).Err == nil {
			t.Error("a helper that can't punch punched")
		}
		c.Close()
		return
	}
	c.OK(protocol.TypePunch, m)
	for _, r := range ranges {
		clear(b[r.Off : r.Off+uint64(r.Len)])
	}
	same(t, "the punched object", c.Whole(pack(1)), b)
	c.Fail(protocol.CodeBadRequest, protocol.TypePunch, protocol.Punch{Name: pack(1), Ranges: []protocol.Range{{Off: 1<<20 - 1, Len: 2}}})
	c.Fail(protocol.CodeMissing, protocol.TypePunch, protocol.Punch{Name: pack(2), Ranges: ranges})
	same(t, "the punched object", c.Whole(pack(1)), b)
	c.Close()
}

func testUsage(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	usage := func() protocol.Usage {
		t.Helper()
		u, err := protocol.ParseUsage(c.OK(protocol.TypeUsage, nil).OK)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	before := usage()
	c.Put(pack(1), content(1, 1<<20))
	c.Put(protocol.IndexName(id(1)), content(2, 1<<20))
	after := usage()
	if grown := after.Used - before.Used; grown < 2<<20 || grown > 3<<20 {
		t.Errorf("2 MiB take up %d bytes", grown)
	}
	if after.Free == 0 || after.Total < after.Free {
		t.Errorf("usage is %+v", after)
	}
	c.Close()
}

func testPipelining(t *testing.T, command []string) {
	c, hello := Open(t, command, true)
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockAppend})
	window := int(hello.MaxOutstanding)
	var ids []uint32
	for i := range window {
		id := c.Send(protocol.TypePut, protocol.Put{Name: pack(i), Size: uint64(i)})
		c.Body(id, content(i, i))
		ids = append(ids, id)
	}
	for _, r := range c.Replies(ids...) {
		if r.Err != nil {
			t.Fatalf("put: %+v", r.Err)
		}
	}
	// Requests between the frames of a body.
	put := c.Send(protocol.TypePut, protocol.Put{Name: pack(window), Size: 200000})
	c.Body(put, content(window, 200000)[:100000])
	get := c.Send(protocol.TypeGetWhole, protocol.GetWhole{Name: pack(7), Max: 7})
	miss := c.Send(protocol.TypeGetWhole, protocol.GetWhole{Name: pack(window), Max: 7})
	rs := c.Replies(get, miss)
	same(t, "a get inside a put", rs[get].Data, content(7, 7))
	if rs[miss].Err == nil || rs[miss].Err.Code != protocol.CodeMissing {
		t.Errorf("half an object: %+v", rs[miss])
	}
	c.Body(put, content(window, 200000)[100000:])
	c.Replies(put)
	ids = ids[:0]
	for i := range window {
		ids = append(ids, c.Send(protocol.TypeGetWhole, protocol.GetWhole{Name: pack(i), Max: 1000}))
	}
	replies := c.Replies(ids...)
	for i, id := range ids {
		same(t, pack(i), replies[id].Data, content(i, i))
	}
	c.Close()
}

// testNoStall: a client that writes and doesn't read must get rid of all it
// writes, whatever it has asked for before.
func testNoStall(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	big := content(1, 1<<20)
	c.Put(pack(1), big)
	var gets []uint32
	for range protocol.MaxOutstanding - 1 {
		gets = append(gets, c.Send(protocol.TypeGetWhole, protocol.GetWhole{Name: pack(1), Max: 1 << 20}))
	}
	put := c.Send(protocol.TypePut, protocol.Put{Name: pack(2), Size: 1 << 20})
	c.Body(put, big) // would wait for ever
	rs := c.Replies(append(gets, put)...)
	if rs[put].Err != nil {
		t.Errorf("put: %+v", rs[put].Err)
	}
	for _, id := range gets {
		same(t, "get", rs[id].Data, big)
	}
	c.Close()
}

// testTooMany: one request more than announced ends the connection. The
// replies are not read, so none of the requests can have been answered.
func testTooMany(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	c.Put(pack(1), content(1, 1<<20))
	for range protocol.MaxOutstanding + 1 {
		c.Send(protocol.TypeGetWhole, protocol.GetWhole{Name: pack(1), Max: 1 << 20})
	}
	if status := c.Wait(); status == 0 {
		t.Error("the helper ended well")
	}
	if !strings.Contains(c.Stderr.String(), "requests") {
		t.Errorf("the helper said %q", c.Stderr)
	}
}
