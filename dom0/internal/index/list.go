package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"pinion/dom0/internal/format"
	"pinion/protocol/wire"
)

// A list of the objects of a run is kept in the cache as a file of its own.
const (
	listMagic   = "PINLIST"
	listVersion = 1
)

// openList reads a list from the cache. The error is ErrCacheDamaged, or
// os.ErrNotExist.
func (c *cacheDir) openList(ref *Ref) ([]format.IndexListItem, error) {
	f, err := openFile(c.listFile(ref.Object))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := c.readList(f, ref)
	if err != nil {
		return nil, damaged("list %s: %w", ref.Object, err)
	}
	items, err := parseList(ref, body)
	if err != nil {
		return nil, damaged("list %s: %w", ref.Object, err)
	}
	return items, nil
}

// listHead is what a list's file begins with.
func (c *cacheDir) listHead(list format.ObjectID) []byte {
	b := append([]byte(listMagic), listVersion)
	b = append(b, c.archive[:]...)
	return append(b, list[:]...)
}

// readList takes the body out of a list's file.
func (c *cacheDir) readList(f *os.File, ref *Ref) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	head := c.listHead(ref.Object)
	if n := int64(ref.Size) - objectOverhead; !info.Mode().IsRegular() || info.Size() != int64(len(head))+n+4 {
		return nil, fmt.Errorf("has %d bytes", info.Size())
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, err
	}
	d := wire.NewDecoder(b)
	if string(d.Bytes(len(head))) != string(head) {
		return nil, errors.New("is another's")
	}
	body := d.Bytes(d.Len() - 4)
	if sum := d.U32(); sum != listSum(b[:len(b)-4]) {
		return nil, errors.New("has a wrong checksum")
	}
	return body, nil
}

func listSum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// storeList checks a list's body against ref and writes it to the cache.
func (c *cacheDir) storeList(ref *Ref, untrustedBody []byte) ([]format.IndexListItem, error) {
	items, err := parseList(ref, untrustedBody)
	if err != nil {
		return nil, err
	}
	b := append(c.listHead(ref.Object), untrustedBody...)
	b = binary.BigEndian.AppendUint32(b, listSum(b))
	f, err := os.CreateTemp(c.path, tempPrefix)
	if err != nil {
		return nil, fmt.Errorf("write index cache: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.RemoveAll(c.listFile(ref.Object)) // whatever is there
	}
	if err == nil {
		err = os.Rename(f.Name(), c.listFile(ref.Object))
	}
	if err != nil {
		os.Remove(f.Name())
		return nil, fmt.Errorf("write index cache: %w", err)
	}
	return items, nil
}

// parseList decodes a list and checks it against ref.
func parseList(ref *Ref, untrustedBody []byte) ([]format.IndexListItem, error) {
	l, err := format.ParseIndexList(untrustedBody)
	if err != nil {
		return nil, fmt.Errorf("index list %s: %w: %w", ref.Object, ErrBadObject, err)
	}
	if err := checkSize(ref, untrustedBody); err != nil {
		return nil, err
	}
	if l.Entries() != ref.Entries {
		return nil, fmt.Errorf("index list %s: %w: has %d entries, where the root lists %d", ref.Object, ErrBadObject, l.Entries(), ref.Entries)
	}
	return l.Objects, nil
}
