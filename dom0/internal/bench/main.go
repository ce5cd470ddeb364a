// Command bench measures pinion: speed and peak memory of a first backup, a
// backup of an unchanged and of a slightly changed image, a verify and a
// restore, each beside the limit that this machine sets, measured in the same
// run with the same packages on the same chunks. What it costs to remove
// sessions, beside rewriting the packs that have them. Then what a difference costs
// where the storage tells what changed: on btrfs and XFS, mounted from files,
// and in a thin pool, which it has the tests of this package make in User Mode
// Linux; there thin_delta does the same beside it.
//
// It owns a temporary directory and what it mounts there, and runs the real
// programs. It promises that a limit is never measured on other data, in
// another mode or with fewer cores than what is compared with it, and that what
// was left out is said. It never asserts how fast something is: tests do that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "the directory with pinion and pinion-store")
	flag.StringVar(&o.files, "files", "/usr/lib,/usr/share", "directories whose files go into the image, with commas between")
	flag.StringVar(&o.dir, "dir", "", "where to work; 5 GiB are needed (default: the temporary directory)")
	flag.Int64Var(&o.size, "size", 2<<30, "the image's size in bytes")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each measurement is repeated; the best counts")
	flag.BoolVar(&o.speed, "speed", true, "measure first backup, verify and restore beside what the machine could do")
	flag.BoolVar(&o.sparse, "sparse", true, "back up huge sparse files")
	flag.BoolVar(&o.prune, "prune", true, "remove sessions; 3 GiB are needed")
	flag.BoolVar(&o.mounts, "mounts", true, "measure differences on btrfs and XFS; needs root")
	flag.BoolVar(&o.thin, "thin", true, "measure differences in a thin pool, in User Mode Linux")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	bin, files, dir string
	size            int64
	rounds          int
	speed, sparse   bool // parts
	prune           bool
	mounts, thin    bool
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp(o.dir, "pinion-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	b := &bench{ctx: ctx, pinion: filepath.Join(bin, "pinion"), helper: filepath.Join(bin, "pinion-store"), dir: dir, rounds: o.rounds}
	for _, part := range []struct {
		wanted bool
		run    func() error
	}{
		{o.speed, func() error { return b.speed(o) }},
		{o.sparse, b.sparseFiles},
		{o.prune, b.pruning},
		{o.mounts, b.fileSystems},
		{o.thin, b.thinPools},
	} {
		if !part.wanted {
			continue
		}
		before, own := readCores(), ownSeconds()
		if err := part.run(); err != nil {
			return err
		}
		warnIfBusy(othersShare(before, readCores(), ownSeconds()-own))
	}
	return nil
}

// speed measures pinion on an image beside what the machine could do.
func (b *bench) speed(o options) (err error) {
	if b.image, err = makeImage(b.path("image"), o.size, strings.Split(o.files, ",")); err != nil {
		return fmt.Errorf("make the image: %w", err)
	}
	b.header()
	if err := b.limits(); err != nil {
		return err
	}
	if err := b.commands(); err != nil {
		return err
	}
	return errors.Join(os.Remove(b.path("image")), os.Remove(b.path("restored")))
}

// A bench is one run.
type bench struct {
	ctx            context.Context
	pinion, helper string // paths
	dir            string
	rounds         int
	image          *image
	limit          limits
	goals          []string // and what was reached
	peaks          usage    // the most memory of all commands
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// rate is the image's data in a time, in MB/s (10^6 bytes).
func (b *bench) rate(seconds float64) float64 { return float64(b.image.data) / 1e6 / seconds }
