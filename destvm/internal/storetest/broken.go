package storetest

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pinion/protocol"
	"pinion/protocol/wire"
)

// testBrokenClients: whatever breaks the protocol ends the connection with a
// status that says so, and one line on standard error.
func testBrokenClients(t *testing.T, command []string) {
	setup := OpenLocked(t, command, protocol.LockAppend)
	setup.Put(pack(1), content(1, 1000))
	setup.Close()
	header := func(t protocol.Type, id uint32, n int) []byte {
		return protocol.AppendHeader(nil, protocol.Header{Type: t, ID: id, Len: n})
	}
	frame := func(t protocol.Type, id uint32, m protocol.Appender) []byte {
		return protocol.AppendFrame(nil, t, id, m)
	}
	put := frame(protocol.TypePut, 1, protocol.Put{Name: pack(2), Size: 10})
	list := protocol.AppendLiteral(nil, []byte("x"))
	compose := frame(protocol.TypeCompose, 1, protocol.Compose{Name: pack(3), Size: 1, ListLen: uint32(len(list))})
	noise := make([]byte, 100000)
	rand.NewChaCha8([32]byte{7}).Read(noise)
	noise[0] = 0xff
	afterHello := map[string][]byte{
		"zeros":                     make([]byte, 100),
		"noise":                     noise,
		"text":                      []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"unknown type":              header(0x3f, 1, 0),
		"a frame of the helper's":   frame(protocol.TypeOK, 1, nil),
		"a second hello":            frame(protocol.TypeHello, 0, protocol.Hello{Min: 1, Max: 1}),
		"hello with an id":          frame(protocol.TypeHello, 1, protocol.Hello{Min: 1, Max: 1}),
		"request of id 0":           frame(protocol.TypeUsage, 0, nil),
		"padding":                   slices.Replace(header(protocol.TypeUsage, 1, 0), 1, 2, 1),
		"longest length":            slices.Replace(header(protocol.TypeUsage, 1, 0), 8, 12, 0xff, 0xff, 0xff, 0xff),
		"one byte too long":         header(protocol.TypeUsage, 1, protocol.MaxPayload+1),
		"usage with a payload":      frame(protocol.TypeUsage, 1, protocol.Lock{Mode: 1}),
		"holder with a payload":     frame(protocol.TypeHolder, 1, protocol.Lock{Mode: 1}),
		"an empty note":             frame(protocol.TypeNote, 1, protocol.Note{}),
		"a note that is long":       frame(protocol.TypeNote, 1, protocol.Note{Note: make([]byte, protocol.MaxNote+1)}),
		"lock of no mode":           frame(protocol.TypeLock, 1, protocol.Lock{Mode: 9}),
		"data for nothing":          append(header(protocol.TypeData, 1, 1), 'x'),
		"data for another":          slices.Concat(put, header(protocol.TypeData, 2, 1), []byte("x")),
		"empty data":                append(bytes.Clone(put), header(protocol.TypeData, 1, 0)...),
		"too much data":             slices.Concat(put, header(protocol.TypeData, 1, 11), []byte("01234567890")),
		"data after the end":        slices.Concat(put, header(protocol.TypeData, 1, 10), []byte("0123456789"), header(protocol.TypeData, 1, 1), []byte("x")),
		"put inside a put":          slices.Concat(put, frame(protocol.TypePut, 2, protocol.Put{Name: pack(3), Size: 1})),
		"commit inside a put":       slices.Concat(put, frame(protocol.TypeCommit, 2, protocol.Commit{Generation: 1, Size: 1})),
		"commit of no generation":   frame(protocol.TypeCommit, 1, protocol.Commit{Size: 1}),
		"commit of generation 2^63": frame(protocol.TypeCommit, 1, protocol.Commit{Generation: 1 << 63, Size: 1}),
		"commit of nothing":         frame(protocol.TypeCommit, 1, protocol.Commit{Generation: 1}),
		"inventory with a payload":  frame(protocol.TypeInventory, 1, protocol.Lock{Mode: 1}),
		"alive with an id":          frame(protocol.TypeAlive, 1, nil),
		"alive with a payload":      frame(protocol.TypeAlive, 0, protocol.Lock{Mode: 1}),
		"delete with unknown flags": frame(protocol.TypeDelete, 1, raw(append([]byte{2, 0, 0, 0, 1}, wire.AppendText(nil, pack(1))...))),
		"two composes":              slices.Concat(compose, frame(protocol.TypeCompose, 2, protocol.Compose{Name: pack(4), Size: 1, ListLen: 1})),
		"a get with a lying count":  frame(protocol.TypeGet, 1, raw(append(protocol.GetWhole{Name: pack(1)}.Append(nil)[:2+len(pack(1))], 0xff, 0xff, 0xff, 0xff))),
		"a list of an odd prefix":   frame(protocol.TypeList, 1, protocol.List{Prefix: "/etc/", Max: 1}),
		"a put of 2^63 bytes":       frame(protocol.TypePut, 1, protocol.Put{Name: pack(2), Size: 1 << 63}),
		"a compose of a huge list":  frame(protocol.TypeCompose, 1, protocol.Compose{Name: pack(2), Size: 1, ListLen: 1<<32 - 1}),
		"a commit of a huge root":   frame(protocol.TypeCommit, 1, protocol.Commit{Generation: 1, Size: 1<<32 - 1}),
		"a delete with a long name": frame(protocol.TypeDelete, 1, protocol.Delete{Names: []string{strings.Repeat("a", 5000)}}),
	}
	for _, n := range []string{"", ".", "..", "/etc/passwd", "../../etc/passwd", "packs/../../x", "lock.use", "tmp/x", "head/0", "README.txt", "packs/00/" + strings.Repeat("0", 31) + "\x00"} {
		name := raw(wire.AppendText(nil, n))
		afterHello["get-whole of "+n] = frame(protocol.TypeGetWhole, 1, raw(append(bytes.Clone(name), 0, 0, 1, 0)))
		afterHello["put of "+n] = frame(protocol.TypePut, 1, raw(append(bytes.Clone(name), 0, 0, 0, 0, 0, 0, 0, 1)))
	}
	for _, what := range slices.Sorted(maps.Keys(afterHello)) {
		c := OpenLocked(t, command, protocol.LockAppend)
		c.Raw(afterHello[what])
		expectBroken(t, what, c)
	}
	for what, first := range map[string][]byte{
		"no hello":                 frame(protocol.TypeUsage, 1, nil),
		"noise first":              noise,
		"hello of wrong id":        frame(protocol.TypeHello, 1, protocol.Hello{Min: 1, Max: 1}),
		"hello with flags":         append(header(protocol.TypeHello, 0, 39), append(make([]byte, 36), 0xff, 0, 0)...),
		"hello without extensions": append(header(protocol.TypeHello, 0, 37), make([]byte, 37)...),
		"alive first":              frame(protocol.TypeAlive, 0, nil),
		"hello upside down":        frame(protocol.TypeHello, 0, protocol.Hello{Min: 2, Max: 1}),
		"hello that is long":       append(header(protocol.TypeHello, 0, 40), make([]byte, 40)...),
	} {
		c := Start(t, command)
		c.Raw(first)
		expectBroken(t, what, c)
	}
	c := OpenLocked(t, command, protocol.LockAppend)
	same(t, "the object", c.Whole(pack(1)), content(1, 1000))
	for _, n := range c.Names(protocol.PrefixPacks, 10) {
		if n != pack(1) && n != pack(2) { // one of the clients completed pack 2
			t.Errorf("there is %s", n)
		}
	}
	c.Close()
}

func expectBroken(t *testing.T, what string, c *Client) {
	t.Helper()
	if status := c.Wait(); status == 0 {
		t.Errorf("%s: the helper ended well", what)
	}
	if text := c.Stderr.String(); strings.Count(text, "\n") != 1 || len(text) > 500 {
		t.Errorf("%s: the helper said %q", what, text)
	}
}

// raw is a payload of any bytes.
type raw []byte

func (r raw) Append(b []byte) []byte { return append(b, r...) }

// testModel does random things and compares the helper with a map.
func testModel(t *testing.T, command []string) {
	rng := rand.New(rand.NewPCG(3, 4))
	model := map[string][]byte{}
	var newest uint64
	var root []byte
	for range 4 {
		c := OpenLocked(t, command, protocol.LockExclusive)
		for range 100 {
			n := rng.IntN(30)
			name := []string{protocol.IndexName(id(n)), pack(n)}[n%2]
			switch rng.IntN(6) {
			case 0, 1:
				b := content(rng.IntN(1000), rng.IntN(100000))
				m := protocol.Put{Name: name, Size: uint64(len(b))}
				if _, there := model[name]; there {
					c.Fail(protocol.CodeExists, protocol.TypePut, m, b...)
				} else {
					c.OK(protocol.TypePut, m, b...)
					model[name] = b
				}
			case 2:
				c.OK(protocol.TypeDelete, protocol.Delete{Names: []string{name}})
				delete(model, name)
			case 3:
				b, there := model[name]
				if !there {
					c.Fail(protocol.CodeMissing, protocol.TypeGetWhole, protocol.GetWhole{Name: name, Max: 1})
				} else {
					same(t, name, c.Whole(name), b)
				}
			case 4:
				root = content(rng.IntN(1000), 1+rng.IntN(1000))
				newest += uint64(1 + rng.IntN(3))
				c.Commit(newest, root)
			case 5:
				for _, prefix := range []string{protocol.PrefixPacks, protocol.PrefixIndex} {
					var want []string
					for name := range model {
						if strings.HasPrefix(name, prefix) {
							want = append(want, name)
						}
					}
					slices.Sort(want)
					if got := c.Names(prefix, uint32(1+rng.IntN(8))); !slices.Equal(got, want) {
						t.Fatalf("list %s gave %q, want %q", prefix, got, want)
					}
				}
			}
		}
		same(t, "root", c.Whole(protocol.HeadName(newest)), root)
		c.Close()
	}
}
