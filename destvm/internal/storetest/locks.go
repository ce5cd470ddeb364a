package storetest

import (
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
		c.Fail(protocol.CodeBadRequest, protocol.TypeCommit, protocol.Commit{Generation: 1, Size: 1}, 'x')
		c.Fail(protocol.CodeBadRequest, protocol.TypePut, protocol.Put{Name: rootName(1, "x"), Size: 1}, 'x')
		list := protocol.AppendLiteral(nil, []byte("x"))
		c.Fail(protocol.CodeBadRequest, protocol.TypeCompose, protocol.Compose{Name: pack(2), Size: 1, ListLen: uint32(len(list))}, list...)
	}
	remove := func(c *Client) {
		t.Helper()
		c.Fail(protocol.CodeBadRequest, protocol.TypeDelete, protocol.Delete{Names: []string{pack(1)}})
		c.Fail(protocol.CodeBadRequest, protocol.TypeDelete, protocol.Delete{Keep: true, Names: []string{pack(1)}})
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
	for _, prefix := range []string{protocol.PrefixPacks, protocol.PrefixHead, protocol.PrefixRoots} {
		if names := c.Names(prefix, 10); (len(names) == 1) != (prefix == protocol.PrefixPacks) {
			t.Errorf("there are %q", names)
		}
	}
	c.Close()
}
