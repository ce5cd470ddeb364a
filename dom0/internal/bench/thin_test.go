package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/source"
	"pinion/e2e/umltest"
)

// asked is how often the bench wants each measurement to be repeated. Without
// the bench nothing is measured.
func asked(t *testing.T) (rounds int) {
	t.Helper()
	rounds, err := strconv.Atoi(os.Getenv(askEnv))
	if err != nil {
		t.Skip("measures, and tests nothing: make bench runs it")
	}
	return rounds
}

// TestThin measures on a thin pool, inside User Mode Linux, and then what it
// takes to compare the metadata that the kernel has made there.
func TestThin(t *testing.T) {
	rounds := asked(t)
	dir := t.TempDir()
	o := umltest.Options{
		Disks: []int64{8 << 30}, Memory: 2 << 30, Timeout: thinTimeout, Programs: os.Getenv(binEnv),
		Env: []string{fmt.Sprintf("%s=%d", askEnv, rounds)},
	}
	for range sizes {
		o.Disks = append(o.Disks, metadataSize)
	}
	umltest.Run(t, o, "TestReal.*")
	if !t.Failed() {
		compareSizes(t, filepath.Dir(dir), rounds)
	}
}

// printing has fn print to standard output, and passes what it prints on to
// the bench.
func printing(t *testing.T, fn func() error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	done := make(chan error)
	go func() {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			fmt.Fprintln(stdout, mark+lines.Text())
		}
		done <- lines.Err()
	}()
	os.Stdout = w
	err = fn()
	os.Stdout = stdout
	w.Close()
	if scanErr := <-done; err == nil {
		err = scanErr
	}
	if err != nil {
		t.Fatal(err)
	}
}

const (
	group = "bench"
	pool  = "pool"
)

// TestRealPool is what the bench shows of a thin pool.
func TestRealPool(t *testing.T) {
	umltest.Only(t)
	bin, ctx := umltest.Programs(t), t.Context()
	for _, args := range [][]string{
		{"vgcreate", "-q", group, umltest.Disk(0)},
		{"lvcreate", "-q", "-Zn", "--type", "thin-pool", "-L", "6G", "--poolmetadatasize", "64M", "-c", "64k", "-n", pool, group},
	} {
		if err := tool(ctx, args[0], args[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	b := &bench{
		ctx: ctx, pinion: filepath.Join(bin, "pinion"), helper: filepath.Join(bin, "pinion-store"),
		dir: t.TempDir(), rounds: asked(t),
	}
	one := lvsAlone(t)
	printing(t, func() error {
		return b.tracked(&thin{b.path("counted")}, thinClones, fmt.Sprintf(slowHere, timeOf(one)))
	})
}

// lvsAlone is how long LVM takes here to answer a question.
func lvsAlone(t *testing.T) float64 {
	t.Helper()
	c, err := best(t.Context(), 3, func() error { return tool(t.Context(), "lvs", "--reportformat", "json", group) })
	if err != nil {
		t.Fatal(err)
	}
	return c.clock
}

// thinClones are few: each takes several of LVM's commands.
const thinClones = 4

const slowHere = `In User Mode Linux, where system calls, page faults and new processes take
many times what they take elsewhere: only what is beside each other compares.
LVM counts the commands of LVM and dmsetup, of which a lone lvs takes %s.`

// A thin pool has volumes that are logical volumes. It implements ground.
type thin struct{ log string }

func (p *thin) title() string { return "LVM thin pool, blocks of 64 KiB" }

func (p *thin) path(volume string) string { return "/dev/" + group + "/" + volume }

func (p *thin) word(volume string) string { return "lvm:" + group + "/" + volume }

func (p *thin) create(volume string, size int64) error {
	return tool(context.Background(), "lvcreate", "-q", "-V", fmt.Sprintf("%db", size), "-T", group+"/"+pool, "-n", volume)
}

func (p *thin) clone(from, to string) error {
	return tool(context.Background(), "lvcreate", "-q", "-kn", "-s", "-n", to, group+"/"+from)
}

func (p *thin) oracleName() string { return "thin_delta" }

// oracle runs thin_delta on the metadata snapshot that is being compared.
func (p *thin) oracle(ctx context.Context, old, now *source.Base) (float64, error) {
	return thinDelta(ctx, "/dev/mapper/"+group+"-"+pool+"_tmeta", old.Identity["thin_id"], now.Identity["thin_id"], "-m")
}

// thinDelta returns the seconds that thin_delta takes for two devices.
func thinDelta(ctx context.Context, path, left, right string, more ...string) (float64, error) {
	args := append(more, "--thin1", left, "--thin2", right, path)
	cmd := exec.CommandContext(ctx, "thin_delta", args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	n, copyErr := io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil || copyErr != nil || n == 0 {
		return 0, fmt.Errorf("thin_delta %s: %w, %w, %d bytes", strings.Join(args, " "), err, copyErr, n)
	}
	return time.Since(start).Seconds(), nil
}

// count puts programs of the same names before those of LVM and device-mapper
// that leave a line each.
func (p *thin) count(fn func() error) (programs int, ok bool, err error) {
	dir := p.log + ".bin"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, false, err
	}
	for _, name := range []string{"lvs", "lvcreate", "lvremove", "lvchange", "lvm", "vgs", "dmsetup", "thin_delta", "thin_dump"} {
		real, err := exec.LookPath(name)
		if err != nil || filepath.Dir(real) == dir {
			continue
		}
		script := fmt.Sprintf("#!/bin/sh\necho %s >>'%s'\nexec '%s' \"$@\"\n", name, p.log, real)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
			return 0, false, err
		}
	}
	if err := os.WriteFile(p.log, nil, 0o600); err != nil {
		return 0, false, err
	}
	path := os.Getenv("PATH")
	if err := os.Setenv("PATH", dir+":"+path); err != nil {
		return 0, false, err
	}
	err = fn()
	if resetErr := os.Setenv("PATH", path); err == nil {
		err = resetErr
	}
	log, readErr := os.ReadFile(p.log)
	if err == nil {
		err = readErr
	}
	return strings.Count(string(log), "\n"), true, err
}
