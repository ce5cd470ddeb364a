package archive

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// listBoth lists the generations that have a head, and what roots/ has from a
// generation on, both at once.
func listBoth(ctx context.Context, conn *store.Conn, from uint64) (heads []uint64, second []RootName, err error) {
	var g errgroup.Group // without a context: to end one of the requests ends the connection
	g.Go(func() (err error) {
		heads, err = listHeads(ctx, conn)
		return err
	})
	g.Go(func() (err error) {
		second, err = listSecond(ctx, conn, from)
		return err
	})
	err = g.Wait()
	return heads, second, err
}

// listHeads lists the generations that have a head.
func listHeads(ctx context.Context, conn *store.Conn) (heads []uint64, err error) {
	err = eachName(ctx, conn, protocol.PrefixHead, "", format.MaxKeptRoots, func(e protocol.Entry) error {
		n, ok := protocol.ParseHead(e.Name)
		if !ok {
			return fmt.Errorf("list %s: %q: %w", protocol.PrefixHead, e.Name, store.ErrProtocol)
		}
		heads = append(heads, n)
		return nil
	})
	return heads, err
}

// listSecond lists what roots/ has from a generation on.
func listSecond(ctx context.Context, conn *store.Conn, from uint64) (names []RootName, err error) {
	after := ""
	if from > 0 {
		after = protocol.RootName(from, [16]byte{}) // behind which all of that generation come
	}
	err = eachName(ctx, conn, protocol.PrefixRoots, after, format.MaxKeptRoots, func(e protocol.Entry) error {
		n, sum, ok := protocol.ParseRootName(e.Name)
		if !ok {
			return fmt.Errorf("list %s: %q: %w", protocol.PrefixRoots, e.Name, store.ErrProtocol)
		}
		names = append(names, RootName{Name: e.Name, Generation: n, Sum: sum})
		return nil
	})
	return names, err
}
