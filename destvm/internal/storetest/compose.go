package storetest

import (
	"math/rand/v2"
	"testing"

	"pinion/protocol"
)

func testCompose(t *testing.T, command []string) {
	c, r := Open(t, command, true)
	if r.Capabilities&protocol.CanCompose == 0 {
		c.Close()
		return
	}
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockAppend})
	var sources [][]byte
	for i := range 3 {
		sources = append(sources, content(i, 300000))
		c.Put(pack(i), sources[i])
	}
	var list, want []byte
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		n := 1 + rng.IntN(2000)
		if i%10 == 1 {
			n = 60000 + rng.IntN(10000) // helpers may treat long ones differently
		}
		if i%7 == 0 {
			lit := content(i, n)
			list, want = protocol.AppendLiteral(list, lit), append(want, lit...)
			continue
		}
		s, off := rng.IntN(3), rng.IntN(300000-n)
		list = protocol.AppendCopy(list, pack(s), protocol.Range{Off: uint64(off), Len: uint32(n)})
		want = append(want, sources[s][off:off+n]...)
	}
	m := protocol.Compose{Name: pack(9), Size: uint64(len(want)), ListLen: uint32(len(list))}
	c.OK(protocol.TypeCompose, m, list...)
	same(t, "the composed object", c.Whole(pack(9)), want)
	c.Fail(protocol.CodeExists, protocol.TypeCompose, m, list...)
	c.Close()
}

func testComposeRefused(t *testing.T, command []string) {
	c, r := Open(t, command, true)
	if r.Capabilities&protocol.CanCompose == 0 {
		c.Close()
		return
	}
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockAppend})
	c.Put(pack(1), content(1, 100))
	piece := func(name string, off, n int) []byte {
		return protocol.AppendCopy(nil, name, protocol.Range{Off: uint64(off), Len: uint32(n)})
	}
	for what, tt := range map[string]struct {
		size int
		list []byte
		want protocol.Code
	}{
		"less than said":   {51, piece(pack(1), 0, 50), protocol.CodeBadRequest},
		"more than said":   {49, piece(pack(1), 0, 50), protocol.CodeBadRequest},
		"beyond the end":   {50, piece(pack(1), 51, 50), protocol.CodeBadRequest},
		"missing source":   {50, piece(pack(2), 0, 50), protocol.CodeMissing},
		"itself":           {50, piece(pack(9), 0, 50), protocol.CodeMissing},
		"not a part list":  {50, []byte("not a part list"), protocol.CodeBadRequest},
		"cut":              {50, piece(pack(1), 0, 50)[:20], protocol.CodeBadRequest},
		"mistake at last":  {50, append(piece(pack(1), 0, 50), 7), protocol.CodeBadRequest},
		"name out of line": {50, piece("../../etc/passwd", 0, 50), protocol.CodeBadRequest},
	} {
		m := protocol.Compose{Name: pack(9), Size: uint64(tt.size), ListLen: uint32(len(tt.list))}
		if r := c.Do(protocol.TypeCompose, m, tt.list); r.Err == nil || r.Err.Code != tt.want {
			t.Errorf("%s: %+v, want %s", what, r.Err, tt.want)
		}
	}
	for _, name := range []string{protocol.HeadName(1), rootName(1, string(content(1, 100)[:50]))} {
		m := protocol.Compose{Name: name, Size: 50, ListLen: uint32(len(piece(pack(1), 0, 50)))}
		c.Fail(protocol.CodeBadRequest, protocol.TypeCompose, m, piece(pack(1), 0, 50)...)
	}
	if got := c.Names(protocol.PrefixPacks, 10); len(got) != 1 {
		t.Errorf("there are %q", got)
	}
	c.Close()
}
