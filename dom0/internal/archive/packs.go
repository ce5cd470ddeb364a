package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/index"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// packDirs is how many directories of packs are listed at once. What that many
// hold is in memory, 24 bytes each.
const packDirs = 16

// An object is a pack or an index object by its id, with its size in bytes.
type object struct {
	id   format.ObjectID
	size uint64
}

// listed is the object of an entry of a list.
func listed(prefix string, e protocol.Entry) (object, error) {
	id, ok := protocol.ParseID(e.Name)
	if !ok {
		return object{}, fmt.Errorf("list %s: %q: %w", prefix, e.Name, store.ErrProtocol)
	}
	return object{id, e.Size}, nil
}

func compareObjectIDs(x, y object) int { return bytes.Compare(x.id[:], y.id[:]) }

// maxListedDir bounds what one directory may list: ids are random, so that each of the
// 256 has a 256th of the packs, and no fourth of it more. A list without an end is
// found out before it takes memory.
const maxListedDir = format.MaxPacks / 64

// listDir lists a directory of packs, or the index, in order. total counts what was
// listed.
func listDir(ctx context.Context, conn *store.Conn, prefix string, total *atomic.Int64) (list []object, err error) {
	err = eachName(ctx, conn, prefix, "", format.MaxPacks, func(e protocol.Entry) error {
		o, err := listed(prefix, e)
		if err != nil {
			return err
		}
		if len(list) == maxListedDir {
			return fmt.Errorf("list %s: the store lists more than %d: %w", prefix, maxListedDir, store.ErrProtocol)
		}
		if total.Add(1) > format.MaxPacks {
			return fmt.Errorf("list %s: the store lists more than %d: %w", prefix, format.MaxPacks, store.ErrProtocol)
		}
		list = append(list, o)
		return nil
	})
	return list, err
}

// eachPack lists the packs in the store, in order of their ids: with one request
// where they are few, else many directories at a time.
func (a *Archive) eachPack(ctx context.Context, fn func(id format.ObjectID, size int64) error) error {
	entries, more, err := a.conn.List(ctx, protocol.PrefixPacks, "", protocol.MaxListed)
	if err != nil {
		return fmt.Errorf("list %s: %w", protocol.PrefixPacks, err)
	}
	if more {
		return a.eachPackIn(ctx, packRows(), fn)
	}
	for _, e := range entries {
		o, err := listed(protocol.PrefixPacks, e)
		if err != nil {
			return err
		}
		if err := fn(o.id, int64(o.size)); err != nil {
			return err
		}
	}
	return nil
}

// packRows are the rows of an inventory that count packs.
func packRows() []int {
	rows := make([]int, protocol.InventoryRows-1)
	for i := range rows {
		rows[i] = i
	}
	return rows
}

// eachPackIn is eachPack for some of the directories, by their rows of an inventory.
func (a *Archive) eachPackIn(ctx context.Context, rows []int, fn func(id format.ObjectID, size int64) error) error {
	return a.eachDir(ctx, rows, func(_ int, list []object) error {
		for _, o := range list {
			if err := fn(o.id, int64(o.size)); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachDir lists directories, given by their rows of an inventory, and gives fn one
// after the other.
func (a *Archive) eachDir(ctx context.Context, rows []int, fn func(row int, list []object) error) error {
	var total atomic.Int64
	for some := range slices.Chunk(rows, packDirs) {
		lists := make([][]object, len(some))
		var g errgroup.Group
		for i, row := range some {
			g.Go(func() (err error) {
				lists[i], err = listDir(ctx, a.conn, protocol.InventoryPrefix(row), &total)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for i, row := range some {
			if err := fn(row, lists[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachObject lists all packs and index objects and gives fn one directory after the
// other, by its row of an inventory. They take 24 bytes of memory each.
func (a *Archive) eachObject(ctx context.Context, fn func(row int, list []object) error) error {
	var packs [protocol.InventoryRows - 1][]object
	err := a.eachPack(ctx, func(id format.ObjectID, size int64) error {
		packs[id[0]] = append(packs[id[0]], object{id, uint64(size)})
		return nil
	})
	if err != nil {
		return err
	}
	for i, list := range packs {
		if err := fn(i, list); err != nil {
			return err
		}
	}
	return a.eachDir(ctx, []int{protocol.InventoryRows - 1}, fn)
}

// eachOtherPack is eachPack for the directories that hold something else than the
// index names, as far as the store says which they are.
func (a *Archive) eachOtherPack(ctx context.Context, fn func(id format.ObjectID, size int64) error) error {
	inv, err := a.inventory(ctx)
	if err != nil {
		return err
	}
	if inv == nil {
		return a.eachPack(ctx, fn)
	}
	needed, err := a.neededRows(ctx)
	if err != nil {
		return err
	}
	rows := slices.DeleteFunc(packRows(), func(i int) bool { return inv.Rows[i] == rowOf(needed[i]) })
	return a.eachPackIn(ctx, rows, fn)
}

// inventory asks the store what is in each directory; nil: it can't say, or as of
// some time ago.
func (a *Archive) inventory(ctx context.Context) (*protocol.Inventory, error) {
	if !a.conn.Info().CanInventory {
		return nil, nil
	}
	inv, err := a.conn.Inventory(ctx)
	var refused *store.Error
	if errors.As(err, &refused) {
		return nil, nil // one directory can't be read: the listing says which
	}
	if err != nil {
		return nil, fmt.Errorf("ask what the store has: %w", err)
	}
	return inv, nil
}

// neededRows are the packs and index objects that the root needs, and their twins, by
// the rows of an inventory that count them, each in order. They take 24 bytes each.
func (a *Archive) neededRows(ctx context.Context) (*[protocol.InventoryRows][]object, error) {
	var rows [protocol.InventoryRows][]object
	err := a.index.EachPack(ctx, func(p index.Pack) error {
		ids := []format.ObjectID{p.ID}
		if p.Metadata {
			ids = append(ids, p.ID.Twin())
		}
		for _, id := range ids {
			rows[id[0]] = append(rows[id[0]], object{id, uint64(p.Length)})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	last := &rows[len(rows)-1]
	for _, r := range a.index.Refs() {
		*last = append(*last, object{r.Object, uint64(r.Size)}, object{r.Object.Twin(), uint64(r.Size)})
	}
	for i := range rows {
		slices.SortFunc(rows[i], compareObjectIDs)
	}
	return &rows, nil
}

// rowOf is the row of an inventory for a directory that holds these objects.
func rowOf(list []object) protocol.InventoryRow {
	var sum protocol.InventorySum
	for _, o := range list {
		sum.Add(o.id, o.size)
	}
	return sum.Row()
}
