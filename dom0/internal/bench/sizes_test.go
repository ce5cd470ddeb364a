package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/thinmeta"
	"pinion/e2e/umltest"
)

// How the cost of finding a change depends on what a volume has mapped. A
// difference can only skip what two devices share, and thin_restore shares no
// nodes: each of its devices has a whole tree. So it makes one device, and the
// kernel the snapshots and the changes, as it does with every volume. The data
// doesn't matter: it is on a device that is all zeros, whatever is written.
const (
	blockSize    = 64 << 10
	metadataSize = 64 << 20
	deviceChange = changeSize / blockSize // blocks
	// Devices: the volume before the changes, after the one in one place,
	// and after the one in 80 places.
	beforeID, onePlaceID, allOverID = 2, 3, 4
)

// sizes are the GiB that are mapped; disk 1 has the first's metadata.
var sizes = [...]int{1, 10, 100}

// TestRealSizes makes the metadata.
func TestRealSizes(t *testing.T) {
	umltest.Only(t)
	for i, gib := range sizes {
		if err := makeSnapshots(t.Context(), t.TempDir(), umltest.Disk(1+i), gib); err != nil {
			t.Fatal(err)
		}
	}
}

// restoreMetadata has thin_restore make devices with so many GiB mapped each:
// the first, and others that differ from it by one change in one place.
func restoreMetadata(ctx context.Context, dir, target string, gib int, devices int) error {
	blocks := gib << 30 / blockSize
	var xml strings.Builder
	fmt.Fprintf(&xml, "<superblock uuid=\"\" time=\"0\" transaction=\"0\" data_block_size=\"%d\" nr_data_blocks=\"%d\">\n",
		blockSize/512, blocks+4*deviceChange)
	add := func(first, data, count int) {
		fmt.Fprintf(&xml, "<range_mapping origin_begin=\"%d\" data_begin=\"%d\" length=\"%d\" time=\"0\"/>\n", first, data, count)
	}
	for id := range devices {
		fmt.Fprintf(&xml, "<device dev_id=\"%d\" mapped_blocks=\"%d\" transaction=\"0\" creation_time=\"0\" snap_time=\"0\">\n", id+1, blocks)
		if id == 0 {
			add(0, 0, blocks)
		} else {
			at := blocks / 3
			add(0, 0, at)
			add(at, blocks+(id-1)*deviceChange, deviceChange)
			add(at+deviceChange, at+deviceChange, blocks-at-deviceChange)
		}
		xml.WriteString("</device>\n")
	}
	xml.WriteString("</superblock>\n")
	path := filepath.Join(dir, "pool.xml")
	if err := os.WriteFile(path, []byte(xml.String()), 0o600); err != nil {
		return err
	}
	return tool(ctx, "thin_restore", "-q", "-i", path, "-o", target)
}

// makeSnapshots makes the devices of one size on a disk.
func makeSnapshots(ctx context.Context, dir, disk string, gib int) error {
	if err := restoreMetadata(ctx, dir, disk, gib, 1); err != nil {
		return err
	}
	if _, err := os.Stat("/sys/module/dm_zero"); err != nil {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return err
		}
		module := "/usr/lib/uml/modules/" + unix.ByteSliceToString(u.Release[:]) + "/kernel/drivers/md/dm-zero.ko"
		if err := tool(ctx, "insmod", module); err != nil {
			return err
		}
	}
	blocks := int64(gib) << 30 / blockSize
	sectors := func(blocks int64) string { return strconv.FormatInt(blocks*blockSize/512, 10) }
	data := sectors(blocks + 4*deviceChange)
	dm := func(args ...string) error { return tool(ctx, "dmsetup", args...) }
	snapshot := func(id int) func() error {
		return func() error { return dm("message", "sized", "0", fmt.Sprintf("create_snap %d 1", id)) }
	}
	write := func(at func(i int64) int64) func() error {
		return func() error {
			err := dm("create", "volume", "--table", "0 "+sectors(blocks)+" thin /dev/mapper/sized 1")
			if err != nil {
				return err
			}
			return errors.Join(writeBlocks("/dev/mapper/volume", at), dm("remove", "volume"))
		}
	}
	for _, step := range []func() error{
		func() error { return dm("create", "zeros", "--table", "0 "+data+" zero") },
		func() error {
			return dm("create", "sized", "--table", fmt.Sprintf("0 %s thin-pool %s /dev/mapper/zeros %d 0 1 skip_block_zeroing", data, disk, blockSize/512))
		},
		snapshot(beforeID),
		write(func(i int64) int64 { return blocks/3 + i }),
		snapshot(onePlaceID),
		// Two blocks, 128 KiB, in each of 80 places.
		write(func(i int64) int64 { return i/2*(blocks/(deviceChange/2)) + blocks/deviceChange + i%2 }),
		snapshot(allOverID),
		func() error { return dm("remove", "sized") },
		func() error { return dm("remove", "zeros") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// writeBlocks writes to as many blocks as a change has.
func writeBlocks(device string, at func(i int64) int64) error {
	buf, err := aligned(blockSize)
	if err != nil {
		return err
	}
	defer unix.Munmap(buf)
	f, err := os.OpenFile(device, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for i := range int64(deviceChange) {
		if _, err := f.WriteAt(buf, at(i)*blockSize); err != nil {
			return err
		}
	}
	return f.Sync()
}

const sizesFormat = "%-8s %-12s %-14s %9s %7s %11s %8s\n"

// compareSizes measures on this machine what was made in User Mode Linux,
// whose disks are files in the test's temporary directories.
func compareSizes(t *testing.T, temp string, rounds int) {
	printing(t, func() error {
		fmt.Printf("Finding 10 MiB of change in a thin volume, blocks of 64 KiB: the metadata is\n" +
			"thin_restore's; snapshots and changes are the kernel's, which share nodes, or\n" +
			"thin_restore's as well, which share none. On this machine, past the page cache.\n\n")
		fmt.Printf(sizesFormat, "mapped", "nodes", "changed", "pinion", "reads", "thin_delta", "ratio")
		var onePlace, allOver [len(sizes)]sizeCost
		for i, gib := range sizes {
			found, err := filepath.Glob(filepath.Join(temp, "*", fmt.Sprintf("disk%d", 1+i)))
			if err != nil || len(found) != 1 {
				return fmt.Errorf("the disk with the metadata of %d GiB: found %q, %w", gib, found, err)
			}
			onePlace[i], err = sizesRow(t.Context(), found[0], gib, rounds, "shared", "in one place", beforeID, onePlaceID)
			if err != nil {
				return err
			}
			allOver[i], err = sizesRow(t.Context(), found[0], gib, rounds, "shared", "in 80 places", onePlaceID, allOverID)
			if err != nil {
				return err
			}
		}
		for _, gib := range sizes {
			dir := t.TempDir()
			path := filepath.Join(dir, "metadata")
			if err := sparse(path, metadataSize*2); err != nil {
				return err
			}
			if err := restoreMetadata(t.Context(), dir, path, gib, 2); err != nil {
				return err
			}
			if _, err := sizesRow(t.Context(), path, gib, rounds, "not shared", "in one place", 1, 2); err != nil {
				return err
			}
		}
		fmt.Printf("\nGoals, and what was reached:\n")
		fmt.Printf("  flat where nodes are shared: 100 times the size takes, in one place, %.1f times\n"+
			"  the time and %.1f times the reads; in 80 places %.1f and %.1f times\n\n",
			onePlace[2].seconds/onePlace[0].seconds, onePlace[2].reads/onePlace[0].reads,
			allOver[2].seconds/allOver[0].seconds, allOver[2].reads/allOver[0].reads)
		return nil
	})
}

// A sizeCost is what it takes to find a change.
type sizeCost struct{ seconds, reads float64 }

func sizesRow(ctx context.Context, path string, gib, rounds int, nodes, places string, left, right uint64) (sizeCost, error) {
	var least sizeCost
	var other float64
	for round := range rounds {
		c, err := readDiff(ctx, path, left, right)
		if err != nil {
			return c, err
		}
		o, err := thinDelta(ctx, path, fmt.Sprint(left), fmt.Sprint(right))
		if err != nil {
			return c, err
		}
		if round == 0 || c.seconds < least.seconds {
			least = c
		}
		if round == 0 || o < other {
			other = o
		}
	}
	fmt.Printf(sizesFormat, fmt.Sprintf("%d GiB", gib), nodes, places, timeOf(least.seconds), fmt.Sprint(least.reads),
		timeOf(other), fmt.Sprintf("%.1f", other/least.seconds))
	return least, nil
}

// readDiff finds what differs, from opening the file on.
func readDiff(ctx context.Context, path string, left, right uint64) (c sizeCost, err error) {
	start := time.Now()
	f, err := thinmeta.OpenDevice(path)
	if err != nil {
		return c, err
	}
	defer f.Close()
	m, err := thinmeta.Open(f, f.Size())
	if err != nil {
		return c, err
	}
	var devices [2]thinmeta.Device
	for i, id := range []uint64{left, right} {
		if devices[i], err = m.Device(ctx, id); err != nil {
			return c, err
		}
	}
	var blocks uint64
	_, err = m.Diff(ctx, devices[0], devices[1], func(found thinmeta.Change) error { blocks += found.Count; return nil })
	c = sizeCost{time.Since(start).Seconds(), float64(m.Reads())}
	if err == nil && blocks != deviceChange {
		err = fmt.Errorf("%s: %d blocks differ, not %d", path, blocks, deviceChange)
	}
	return c, err
}
