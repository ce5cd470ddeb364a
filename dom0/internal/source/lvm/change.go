package lvm

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Batch runs commands of LVM's in one process, one after the other. Their
// outcome is for the caller to look at: one that fails doesn't stop those
// behind it, and no error of Batch says that all succeeded. No argument may
// have space or quotes in it.
func Batch(ctx context.Context, commands [][]string) error {
	var input strings.Builder
	for _, c := range commands {
		line := strings.Join(c, " ")
		if strings.ContainsAny(line, "\n\"'\\#") || len(strings.Fields(line)) != len(c) {
			panic("lvm: internal error: an argument that needs quotes: " + line)
		}
		input.WriteString(line + "\n")
	}
	path, err := Program("lvm")
	if err != nil {
		return err
	}
	cmd := Command(ctx, path)
	// LVM's shell would add the commands to the history that a person left
	// in the home directory.
	cmd.Env = append(cmd.Env, "HOME=/dev/null")
	cmd.Stdin = strings.NewReader(input.String())
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("lvm: %w", err)
	}
	return nil
}

// Activate makes the device of a volume, also of one that is skipped when
// others are activated.
func Activate(ctx context.Context, fullName string) error {
	_, err := Run(ctx, "lvchange", "--quiet", "--activate", "y", "--ignoreactivationskip", fullName)
	return err
}

// Deactivate takes the device of a volume away, unless somebody has it open:
// then it is left to them, without an error.
func Deactivate(ctx context.Context, v *Volume) error {
	_, err := Run(ctx, "lvchange", "--quiet", "--activate", "n", v.FullName())
	if err == nil {
		return nil
	}
	open, infoErr := Run(ctx, "dmsetup", "info", "--columns", "--noheadings", "--options", "open", v.Mapper)
	if infoErr == nil && strings.TrimSpace(string(open)) != "0" {
		return nil
	}
	return err
}

// Drop removes volumes of one group, with their data. Those that are not
// there are no error. The caller has made sure that they are its own.
func Drop(ctx context.Context, vg string, names ...string) error {
	there, err := List(ctx, vg)
	if err != nil {
		return err
	}
	args := []string{"--quiet", "--yes"}
	for _, v := range there {
		for _, name := range names {
			if v.Name == name {
				args = append(args, v.FullName())
			}
		}
	}
	if len(args) == 2 {
		return nil
	}
	_, err = Run(ctx, "lvremove", args...)
	return err
}

// PoolStatus is what the kernel says of an active thin pool.
type PoolStatus struct {
	MetadataUsed, MetadataTotal uint64 // blocks of 4 KiB
	DataUsed, DataTotal         uint64 // blocks of the pool
	Held                        uint64 // block of the metadata snapshot, 0: none
	// Problem says why the pool can't be relied upon, if so: a clause.
	Problem string
}

// ErrInactive says that the device of a pool is not there.
var ErrInactive = errors.New("the thin pool is not active")

// Status asks the kernel about the thin pool with this name for
// device-mapper.
func Status(ctx context.Context, mapper string) (PoolStatus, error) {
	out, err := Run(ctx, "dmsetup", "status", "--target", "thin-pool", mapper)
	if err != nil {
		if strings.Contains(err.Error(), "Device does not exist") || strings.Contains(err.Error(), "not found") {
			err = fmt.Errorf("%w: %w", ErrInactive, err)
		}
		return PoolStatus{}, err
	}
	s, err := parseStatus(string(out))
	if err != nil {
		return PoolStatus{}, fmt.Errorf("dmsetup status %s: %w", mapper, err)
	}
	return s, nil
}

// parseStatus reads a line such as "0 1048576 thin-pool 4 420/4096 17/8192 29
// rw no_discard_passdown queue_if_no_space - 1024".
func parseStatus(line string) (PoolStatus, error) {
	word := strings.Fields(line)
	if len(word) == 4 && word[2] == "thin-pool" {
		return PoolStatus{Problem: "the kernel gave it up: " + word[3]}, nil
	}
	if len(word) < 8 || word[2] != "thin-pool" {
		return PoolStatus{}, fmt.Errorf("it says %q", strings.TrimSpace(line))
	}
	var s PoolStatus
	if _, err := fmt.Sscanf(word[4]+" "+word[5], "%d/%d %d/%d",
		&s.MetadataUsed, &s.MetadataTotal, &s.DataUsed, &s.DataTotal); err != nil || s.MetadataTotal == 0 || s.DataTotal == 0 {
		return PoolStatus{}, fmt.Errorf("it says %q", strings.TrimSpace(line))
	}
	if word[6] != "-" {
		if _, err := fmt.Sscanf(word[6], "%d", &s.Held); err != nil {
			return PoolStatus{}, fmt.Errorf("it says %q", strings.TrimSpace(line))
		}
	}
	for _, w := range word[7:] {
		switch w {
		case "ro":
			s.Problem = "its metadata is read-only, which the kernel does after an error"
		case "out_of_data_space":
			s.Problem = "it has no space left for data"
		case "needs_check":
			s.Problem = "its metadata needs to be checked (lvconvert --repair)"
		}
	}
	return s, nil
}

// Message sends a message to the device with this name for device-mapper.
func Message(ctx context.Context, mapper, message string) error {
	_, err := Run(ctx, "dmsetup", "message", mapper, "0", message)
	return err
}
