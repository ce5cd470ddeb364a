package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
)

// A mounted file system has volumes that are files. It implements ground.
type mounted struct{ kind, dir string }

// diskSize is the size of its disk in bytes, a file of which only what is
// written takes room.
const diskSize = 12 << 30

// fileSystems measures on btrfs and XFS, each on a loop device.
func (b *bench) fileSystems() error {
	for _, kind := range []string{"btrfs", "xfs"} {
		var why string
		if os.Geteuid() != 0 {
			why = "only root can mount a file system"
		} else if _, err := exec.LookPath("mkfs." + kind); err != nil {
			why = "mkfs." + kind + " is not installed"
		}
		if why != "" {
			leftOut(kind, why)
			continue
		}
		if err := b.onFileSystem(kind); err != nil {
			return err
		}
	}
	return nil
}

// leftOut says loudly that something was not measured.
func leftOut(what, why string) {
	fmt.Printf("*** %s: LEFT OUT, %s ***\n\n", what, why)
}

func (b *bench) onFileSystem(kind string) (err error) {
	disk, dir := b.path(kind+"-disk"), b.path(kind)
	defer func() { err = errors.Join(err, os.RemoveAll(disk)) }()
	if err := sparse(disk, diskSize); err != nil {
		return err
	}
	if err := tool(b.ctx, "mkfs."+kind, disk); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := tool(b.ctx, "mount", "-t", kind, "-o", "loop", disk, dir); err != nil {
		return err
	}
	// Also if the bench is interrupted.
	defer func() { err = errors.Join(err, tool(context.WithoutCancel(b.ctx), "umount", dir)) }()
	return b.tracked(&mounted{kind, dir}, cloneCount, "")
}

// sparse makes a file of which nothing is written.
func sparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// tool runs a program, whose words are shown only if it fails.
func tool(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (m *mounted) title() string { return m.kind + " on a loop device" }

func (m *mounted) path(volume string) string { return filepath.Join(m.dir, volume) }

func (m *mounted) word(volume string) string { return "file:" + m.path(volume) }

func (m *mounted) create(volume string, size int64) error { return sparse(m.path(volume), size) }

func (m *mounted) clone(from, to string) error {
	src, err := os.Open(m.path(from))
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(m.path(to), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())), dst.Close())
}

func (m *mounted) oracleName() string { return "" }

func (m *mounted) oracle(context.Context, *source.Base, *source.Base) (float64, error) {
	return 0, nil
}

func (m *mounted) count(func() error) (programs int, ok bool, err error) { return 0, false, nil }
