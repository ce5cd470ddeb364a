package storetest

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"

	"pinion/protocol"
)

func testLocks(t *testing.T, command []string) {
	const r, a, x = protocol.LockRead, protocol.LockAppend, protocol.LockExclusive
	for _, pair := range []struct {
		held, asked protocol.LockMode
		granted     bool
	}{
		{r, r, true}, {r, a, true}, {r, x, false},
		{a, r, true}, {a, a, false}, {a, x, false},
		{x, r, false}, {x, a, false}, {x, x, false},
	} {
		one := OpenLocked(t, command, pair.held)
		two, _ := Open(t, command, false)
		if pair.granted {
			two.OK(protocol.TypeLock, protocol.Lock{Mode: pair.asked})
			one.Close()
		} else {
			two.Fail(protocol.CodeLocked, protocol.TypeLock, protocol.Lock{Mode: pair.asked})
			one.Close() // the end of a connection gives its lock up
			two.OK(protocol.TypeLock, protocol.Lock{Mode: pair.asked})
		}
		two.Close()
	}
	one := OpenLocked(t, command, x)
	one.Kill()
	OpenLocked(t, command, x).Close()
}

func testLockGrows(t *testing.T, command []string) {
	const r, a, x = protocol.LockRead, protocol.LockAppend, protocol.LockExclusive
	one := OpenLocked(t, command, r)
	two, _ := Open(t, command, false)
	two.OK(protocol.TypeLock, protocol.Lock{Mode: r})
	one.OK(protocol.TypeLock, protocol.Lock{Mode: a})
	one.OK(protocol.TypeLock, protocol.Lock{Mode: r}) // no step back
	two.Fail(protocol.CodeLocked, protocol.TypeLock, protocol.Lock{Mode: a})
	one.Put(pack(1), []byte("x"))
	one.Fail(protocol.CodeLocked, protocol.TypeLock, protocol.Lock{Mode: x})
	// The refusal took nothing away from anybody.
	three, _ := Open(t, command, false)
	three.Fail(protocol.CodeLocked, protocol.TypeLock, protocol.Lock{Mode: x})
	three.Fail(protocol.CodeLocked, protocol.TypeLock, protocol.Lock{Mode: a})
	two.Close()
	three.Fail(protocol.CodeLocked, protocol.TypeLock, protocol.Lock{Mode: x})
	one.OK(protocol.TypeLock, protocol.Lock{Mode: x})
	three.Fail(protocol.CodeLocked, protocol.TypeLock, protocol.Lock{Mode: r})
	one.OK(protocol.TypeDelete, protocol.Delete{Names: []string{pack(1)}})
	one.Close()
	three.Close()
}

func testWithoutLock(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	c.Put(pack(1), []byte("abc"))
	c.Close()
	write := func(c *Client) {
		t.Helper()
		c.Fail(protocol.CodeBadRequest, protocol.TypePut, protocol.Put{Name: pack(2), Size: 1}, 'x')
		c.Fail(protocol.CodeBadRequest, protocol.TypeSwap, protocol.Swap{Size: 1}, 'x')
		list := protocol.AppendLiteral(nil, []byte("x"))
		c.Fail(protocol.CodeBadRequest, protocol.TypeCompose, protocol.Compose{Name: pack(2), Size: 1, ListLen: uint32(len(list))}, list...)
	}
	remove := func(c *Client) {
		t.Helper()
		c.Fail(protocol.CodeBadRequest, protocol.TypeDelete, protocol.Delete{Names: []string{pack(1)}})
		c.Fail(protocol.CodeBadRequest, protocol.TypePunch, protocol.Punch{Name: pack(1), Ranges: []protocol.Range{{Off: 0, Len: 1}}})
	}
	c, _ = Open(t, command, false)
	write(c)
	remove(c)
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockRead})
	write(c)
	remove(c)
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockAppend})
	remove(c)
	same(t, "the object", c.Whole(pack(1)), []byte("abc"))
	if names := c.Names(protocol.PrefixPacks, 10); len(names) != 1 {
		t.Errorf("there are %q", names)
	}
	c.Close()
}

// swap builds a swap of the root old (nil: none) for new.
func swap(old, new []byte) protocol.Swap {
	s := protocol.Swap{Size: uint32(len(new))}
	if old != nil {
		h := sha256.Sum256(old)
		s.Expect = &h
	}
	return s
}

func testSwap(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	one, two, big := []byte("one"), []byte("two"), content(1, protocol.MaxRoot)
	c.Fail(protocol.CodeConflict, protocol.TypeSwap, swap(one, two), two...)
	c.OK(protocol.TypeSwap, swap(nil, one), one...)
	same(t, "root", c.Whole(protocol.RootName), one)
	c.Fail(protocol.CodeConflict, protocol.TypeSwap, swap(nil, two), two...)
	c.Fail(protocol.CodeConflict, protocol.TypeSwap, swap(two, two), two...)
	same(t, "root", c.Whole(protocol.RootName), one)
	c.OK(protocol.TypeSwap, swap(one, big), big...)
	c.OK(protocol.TypeSwap, swap(big, two), two...)
	c.Fail(protocol.CodeBadRequest, protocol.TypeDelete, protocol.Delete{Names: []string{protocol.RootName}})
	// One that is cut off changes nothing.
	id := c.Send(protocol.TypeSwap, swap(two, big))
	c.Body(id, big[:len(big)-1])
	c.Close()
	c, _ = Open(t, command, false)
	same(t, "root", c.Whole(protocol.RootName), two)
	if got := c.Names(protocol.PrefixRoot, 10); !slices.Equal(got, []string{"root", "root.1", "root.2"}) {
		t.Errorf("roots are %q", got)
	}
	same(t, "root.1", c.Whole("root.1"), one)
	same(t, "root.2", c.Whole("root.2"), big)
	c.Close()
}

func testKeptRoots(t *testing.T, command []string) {
	c := OpenLocked(t, command, protocol.LockAppend)
	var old []byte
	for i := range 13 {
		root := fmt.Append(nil, "root ", i)
		c.OK(protocol.TypeSwap, swap(old, root), root...)
		old = root
	}
	want := []string{"root"}
	for n := 12; n > 12-protocol.KeptRoots; n-- {
		name := fmt.Sprint("root.", n)
		want = append(want, name)
		same(t, name, c.Whole(name), fmt.Append(nil, "root ", n-1))
	}
	slices.Sort(want)
	for _, page := range []uint32{1, 3, 100} {
		if got := c.Names(protocol.PrefixRoot, page); !slices.Equal(got, want) {
			t.Errorf("roots are %q, want %q", got, want)
		}
	}
	c.Close()
}
