package admin

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// A VolumeInfo is what qubesd says about a volume. Path is what the qube
// would be attached to, and no source of a backup. Revisions is -1 where
// snapshots are disabled and a running qube writes into the committed volume.
type VolumeInfo struct {
	Pool, VID, Source, Path                string
	Size, Usage                            int64
	Revisions                              int
	RW, SaveOnStop, SnapOnStart, Ephemeral bool
}

// An Import is where an import's data goes: exactly Size bytes into Path,
// which reads as zeros before.
type Import struct {
	Path string
	Size int64
}

// Volumes returns the names of a qube's volumes, in qubesd's order. dom0 has
// none.
func (c *Client) Volumes(ctx context.Context, vm string) ([]string, error) {
	return parsed(ctx, c, request{dest: vm, method: "admin.vm.volume.List"}, func(untrusted []byte) ([]string, error) {
		return tokens(untrusted, "volume")
	})
}

// Volume returns what qubesd knows about a volume.
func (c *Client) Volume(ctx context.Context, vm, volume string) (VolumeInfo, error) {
	if err := checkWord("volume", volume); err != nil {
		return VolumeInfo{}, err
	}
	return parsed(ctx, c, request{dest: vm, method: "admin.vm.volume.Info", arg: volume}, parseVolume)
}

// Revisions returns the ids of the older states that a volume keeps, oldest
// first.
func (c *Client) Revisions(ctx context.Context, vm, volume string) ([]string, error) {
	if err := checkWord("volume", volume); err != nil {
		return nil, err
	}
	return parsed(ctx, c, request{dest: vm, method: "admin.vm.volume.ListSnapshots", arg: volume}, func(untrusted []byte) ([]string, error) {
		return tokens(untrusted, "revision")
	})
}

// Resize sets the size of a volume. LVM and file pools refuse to shrink, but
// file-reflink pools do it without a word: the caller compares before.
func (c *Client) Resize(ctx context.Context, vm, volume string, size int64) error {
	if err := checkWord("volume", volume); err != nil {
		return err
	}
	if size < 0 {
		return fmt.Errorf("resize %s of %s: a size can't be %d", volume, vm, size)
	}
	return c.do(ctx, request{dest: vm, method: "admin.vm.volume.Resize", arg: volume, payload: strconv.FormatInt(size, 10), long: true})
}

// SetRevisions sets how many older states a volume keeps.
func (c *Client) SetRevisions(ctx context.Context, vm, volume string, n int) error {
	if err := checkWord("volume", volume); err != nil {
		return err
	}
	return c.do(ctx, request{dest: vm, method: "admin.vm.volume.Set.revisions_to_keep", arg: volume, payload: strconv.Itoa(n), long: true})
}

// Pools returns the names of the storage pools, in qubesd's order.
func (c *Client) Pools(ctx context.Context) ([]string, error) {
	return parsed(ctx, c, request{dest: dom0, method: "admin.pool.List"}, func(untrusted []byte) ([]string, error) {
		return tokens(untrusted, "pool")
	})
}

// Pool returns the settings of a pool: its driver and what that needs, and
// perhaps size and usage.
func (c *Client) Pool(ctx context.Context, pool string) (map[string]string, error) {
	if err := checkWord("pool", pool); err != nil {
		return nil, err
	}
	return parsed(ctx, c, request{dest: dom0, method: "admin.pool.Info", arg: pool}, parsePairs)
}

// ImportBegin starts to replace the data of a volume of a halted qube. Size 0
// means the size that the volume has. The caller writes all of the import's
// bytes and then calls ImportEnd, also where the writing failed.
func (c *Client) ImportBegin(ctx context.Context, vm, volume string, size int64) (Import, error) {
	if err := checkWord("volume", volume); err != nil {
		return Import{}, err
	}
	if size < 0 {
		return Import{}, fmt.Errorf("import %s of %s: a size can't be %d", volume, vm, size)
	}
	r := request{dest: vm, method: "internal.vm.volume.ImportBegin", arg: volume, internal: true, long: true}
	if size > 0 {
		r.payload = strconv.FormatInt(size, 10)
	}
	return parsed(ctx, c, r, parseImport)
}

// importDiscarded is how qubesd answers when it was told that an import
// failed: with an exception of this type that begins so
// (qubes/api/internal.py of qubes-core-admin).
const importDiscarded = "Data import failed"

// ImportEnd ends an import. With no failure the data becomes the volume's new
// revision; with one it is discarded, the volume stays what it was, and
// qubesd's log gets the reason.
func (c *Client) ImportEnd(ctx context.Context, vm, volume string, failure string) error {
	if err := checkWord("volume", volume); err != nil {
		return err
	}
	r := request{dest: vm, method: "internal.vm.volume.ImportEnd", arg: volume, payload: "ok", internal: true, long: true}
	if failure == "" {
		return c.do(ctx, r)
	}
	r.payload = "fail\n" + plainLine(failure)
	_, err := c.call(ctx, r)
	if exception, ok := err.(*Error); ok && exception.Type == "QubesException" && strings.HasPrefix(exception.Message, importDiscarded) {
		return nil
	}
	return err
}

// plainLine is a reason as qubesd takes it: one line of ASCII.
func plainLine(s string) string {
	plain := strings.Map(func(r rune) rune {
		if isControl(r) || r > '~' {
			return '?'
		}
		return r
	}, s)
	return plain[:min(len(plain), maxMessage)]
}
