package lvm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
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

// openPatience is how long Deactivate waits for those who look into a device
// in passing, as udev does when it has changed.
const openPatience = 300 * time.Millisecond

// Deactivate takes the device of a volume away, unless somebody has it open:
// then it is left to them, without an error. One that is not there is none.
func Deactivate(ctx context.Context, v *Volume) error {
	for until := time.Now().Add(openPatience); ; time.Sleep(openPatience / 10) {
		n, err := openCount(v.Mapper)
		if errors.Is(err, ErrInactive) || err == nil && n > 0 && time.Now().After(until) {
			return nil
		}
		if err != nil || n == 0 {
			break // LVM says what is wrong
		}
	}
	_, err := Run(ctx, "lvchange", "--quiet", "--activate", "n", v.FullName())
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

// parseStatus reads a line such as "4 420/4096 17/8192 29 rw
// no_discard_passdown queue_if_no_space - 1024".
func parseStatus(line string) (PoolStatus, error) {
	word := strings.Fields(line)
	if len(word) == 1 {
		return PoolStatus{Problem: "the kernel gave it up: " + word[0]}, nil
	}
	if len(word) < 5 {
		return PoolStatus{}, fmt.Errorf("it says %q", strings.TrimSpace(line))
	}
	var s PoolStatus
	if _, err := fmt.Sscanf(word[1]+" "+word[2], "%d/%d %d/%d",
		&s.MetadataUsed, &s.MetadataTotal, &s.DataUsed, &s.DataTotal); err != nil || s.MetadataTotal == 0 || s.DataTotal == 0 {
		return PoolStatus{}, fmt.Errorf("it says %q", strings.TrimSpace(line))
	}
	if word[3] != "-" {
		if _, err := fmt.Sscanf(word[3], "%d", &s.Held); err != nil {
			return PoolStatus{}, fmt.Errorf("it says %q", strings.TrimSpace(line))
		}
	}
	for _, w := range word[4:] {
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
