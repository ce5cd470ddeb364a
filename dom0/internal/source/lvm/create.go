package lvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pinion/dom0/internal/source"
)

// ErrExists says that there is a logical volume of that name already.
var ErrExists = errors.New("there is such a logical volume already")

// A new volume has another name and a tag until Finish, so that one which a
// crash has left is never taken for whole. The next attempt removes it.
const (
	partialSuffix = ".pinion-partial"
	partialTag    = "pinion-partial"
)

// partial is the name that a volume has until Finish.
func partial(lv string) string { return lv + partialSuffix }

// CreateThin makes an active thin volume of size bytes, rounded up to whole
// extents of its group, in a pool that is there. All of it reads as zeros. Its
// name is a temporary one until Finish. A volume that has the name lv gives
// ErrExists and stays as it is.
func CreateThin(ctx context.Context, vg, pool, lv string, size int64) (*Volume, error) {
	if err := checkNew(ctx, vg, pool, lv); err != nil {
		return nil, err
	}
	const sector = 512 // what LVM takes as a size is whole sectors, and more than none
	sectors := max(1, size/sector)
	if sectors*sector < size {
		sectors++
	}
	_, err := Run(ctx, "lvcreate", "--yes", "--quiet", "--type", "thin", "--virtualsize", strconv.FormatInt(sectors, 10)+"s",
		"--thinpool", pool, "--addtag", partialTag, "--name", partial(lv), vg)
	return created(ctx, vg, pool, partial(lv), err)
}

// CreateThinFrom makes an active, writable thin volume that shares all blocks
// of another one of its group, by name. Its name is a temporary one until
// Finish. A volume that has the name lv gives ErrExists and stays as it is.
func CreateThinFrom(ctx context.Context, vg, pool, lv, base string) (*Volume, error) {
	if err := errors.Join(CheckName(base), checkNew(ctx, vg, pool, lv)); err != nil {
		return nil, err
	}
	_, err := Run(ctx, "lvcreate", "--yes", "--quiet", "--snapshot", "--setactivationskip", "n", "--permission", "rw",
		"--addtag", partialTag, "--name", partial(lv), vg+"/"+base)
	return created(ctx, vg, pool, partial(lv), err)
}

// Finish gives a new volume its name, and returns it as it is then.
func Finish(ctx context.Context, v *Volume) (*Volume, error) {
	lv, found := strings.CutSuffix(v.Name, partialSuffix)
	if !found {
		return nil, fmt.Errorf("finish %s: it is not a new volume", v.FullName())
	}
	// The tag goes last: what has its name is whole, tag or not.
	if _, err := Run(ctx, "lvrename", "--quiet", v.VG, v.Name, lv); err != nil {
		return nil, fmt.Errorf("give %s its name: %w", v.FullName(), err)
	}
	if _, err := Run(ctx, "lvchange", "--quiet", "--deltag", partialTag, v.VG+"/"+lv); err != nil {
		return nil, fmt.Errorf("take the tag %s off %s/%s: %w", partialTag, v.VG, lv, err)
	}
	return Find(ctx, v.VG, lv)
}

// checkNew checks the three names, that the pool is there and the volume is
// not, and removes what an attempt that died has left of it.
func checkNew(ctx context.Context, vg, pool, lv string) error {
	if err := errors.Join(CheckName(vg), CheckName(pool), CheckName(lv), CheckName(partial(lv))); err != nil {
		return err
	}
	all, err := List(ctx, vg)
	if err != nil {
		return fmt.Errorf("look for the pool %s/%s: %w", vg, pool, err)
	}
	found := false
	var dead *Volume
	for _, v := range all {
		if v.Name == lv {
			return fmt.Errorf("make %s: %w", v.FullName(), ErrExists)
		}
		if v.Name == partial(lv) {
			dead = v
		}
		found = found || (v.Name == pool && v.Segment == "thin-pool")
	}
	if !found {
		return fmt.Errorf("make %s/%s: there is no thin pool %s/%s", vg, lv, vg, pool)
	}
	if dead == nil {
		return nil
	}
	if !slices.Contains(dead.Tags, partialTag) {
		return fmt.Errorf("make %s/%s: %s is in the way, and no restore has left it", vg, lv, dead.FullName())
	}
	// LVM removes none that a live restore has open.
	return RemoveNew(ctx, dead)
}

// created returns what a command has made; if it isn't what was wanted it is
// removed again.
func created(ctx context.Context, vg, pool, lv string, err error) (*Volume, error) {
	if err != nil {
		return nil, fmt.Errorf("make %s/%s: %w", vg, lv, err)
	}
	v, err := Find(ctx, vg, lv)
	if err != nil {
		return nil, fmt.Errorf("make %s/%s: %w", vg, lv, err)
	}
	if v.Kind != source.LVMThin || v.Pool != pool || v.Path == "" {
		err = fmt.Errorf("make %s: it came out as another kind of volume, or in another pool", v.FullName())
		return nil, errors.Join(err, RemoveNew(ctx, v))
	}
	return v, nil
}

// RemoveNew removes a volume that CreateThin or CreateThinFrom has made, with all
// that is in it. It looks first whether the name still is of that volume.
func RemoveNew(ctx context.Context, v *Volume) error {
	now, err := Find(ctx, v.VG, v.Name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", v.FullName(), err)
	}
	if now.UUID != v.UUID || now.VGUUID != v.VGUUID {
		return fmt.Errorf("remove %s: the name is another volume's now", v.FullName())
	}
	if _, err := Run(ctx, "lvremove", "--yes", "--quiet", now.FullName()); err != nil {
		return fmt.Errorf("remove %s: %w", v.FullName(), err)
	}
	return nil
}

// Unzeroed returns the size, in bytes, of the pieces that the pool of a thin
// volume hands out without zeroing them first: in one that was written to in
// part, the rest may be anything. It is 0 if the pool zeroes them, or the
// volume isn't thin.
func Unzeroed(ctx context.Context, v *Volume) (int64, error) {
	if v.Pool == "" {
		return 0, nil
	}
	out, err := Run(ctx, "lvs", "--noheadings", "--units", "b", "--nosuffix", "--binary", "--options", "chunk_size,zero", v.VG+"/"+v.Pool)
	if err != nil {
		return 0, fmt.Errorf("ask for the chunk size of %s/%s: %w", v.VG, v.Pool, err)
	}
	f := strings.Fields(string(out))
	if len(f) == 2 && f[1] == "1" {
		return 0, nil
	}
	// What else is said, or not said, of zeroing means that it isn't sure.
	n := int64(0)
	if len(f) > 0 {
		n, err = strconv.ParseInt(f[0], 10, 64)
	}
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("ask for the chunk size of %s/%s: lvs says %q", v.VG, v.Pool, strings.TrimSpace(string(out)))
	}
	return n, nil
}
