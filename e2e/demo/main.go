// Command demo shows pinion at work: it makes a file system image of real
// files, backs it up, changes it, backs it up again, restores both states and
// compares them byte for byte.
//
// It owns a temporary directory, where everything happens and which is gone
// when it ends, also after ctrl-C. It promises that what it prints as a result
// was measured in this run. It needs no root, and touches nothing of the user's.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	bin := flag.String("bin", "bin", "the directory with pinion and pinion-store")
	files := flag.String("files", "", "the directory whose files go into the image")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *bin, *files)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// A demo is one run.
type demo struct {
	ctx    context.Context
	pinion string // absolute path
	dir    string // everything is in here
}

// The names in the demo's directory.
const (
	disk   = "disk.img"   // what is backed up
	before = "before.img" // a copy of it, from before it was changed
	store  = "store"      // the archive's directory
)

// conf makes the printed commands as short as in real life.
const conf = `[defaults]
dest = demo
passfile = %[1]s/passphrase
state-dir = %[1]s/state
cache-dir = %[1]s/cache

[archive demo]
dest = file:%[1]s/store
`

func run(ctx context.Context, bin, files string) error {
	start := time.Now()
	pinion, err := filepath.Abs(filepath.Join(bin, "pinion"))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "pinion-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{ctx: ctx, pinion: pinion, dir: dir}
	if err := d.prepare(files); err != nil {
		return err
	}
	first, second, err := d.backups()
	if err != nil {
		return err
	}
	if err := d.restores(); err != nil {
		return err
	}
	heading("Result")
	fmt.Printf("The first backup stored %s, the second %s: %.2f %% of it.\n", mib(first), mib(second), 100*float64(second)/float64(first))
	fmt.Printf("Both states came back byte for byte. %.0f seconds; nothing is left behind.\n", time.Since(start).Seconds())
	return nil
}

// prepare makes the image, the passphrase and the configuration.
func (d *demo) prepare(files string) error {
	heading("A disk to back up")
	if err := d.makeImage(files); err != nil {
		return err
	}
	if err := copySparse(d.path(before), d.path(disk)); err != nil {
		return err
	}
	if err := os.WriteFile(d.path("passphrase"), []byte("correct horse battery staple\n"), 0o600); err != nil {
		return err
	}
	return os.WriteFile(d.path("pinion.conf"), fmt.Appendf(nil, conf, d.dir), 0o600)
}

// backups makes two sessions and returns how much each added to the store.
func (d *demo) backups() (first, second int64, err error) {
	heading("An archive, and the first backup")
	fmt.Println("(pinion.conf says where the archive, the passphrase and the state are.)")
	if err := d.run("init"); err != nil {
		return 0, 0, err
	}
	empty, err := d.stored()
	if err != nil {
		return 0, 0, err
	}
	if err := d.run("backup", "file:"+disk); err != nil {
		return 0, 0, err
	}
	once, err := d.stored()
	if err != nil {
		return 0, 0, err
	}
	heading("The disk changes; the second backup")
	if err := d.changeImage(); err != nil {
		return 0, 0, err
	}
	if err := d.run("backup", "--tag", "changed", "file:"+disk); err != nil {
		return 0, 0, err
	}
	twice, err := d.stored()
	if err != nil {
		return 0, 0, err
	}
	return once - empty, twice - once, d.run("list")
}

// restores gets both states back and compares them.
func (d *demo) restores() error {
	heading("Both states again")
	for _, r := range []struct{ session, to, original string }{
		{"#1", "first.img", before},
		{"^changed", "second.img", disk},
	} {
		if err := d.run("restore", disk, "--session", r.session, "--to", r.to); err != nil {
			return err
		}
		fmt.Printf("\n$ cmp %s %s\n", r.original, r.to)
		if err := compare(d.path(r.original), d.path(r.to)); err != nil {
			return err
		}
		fmt.Println("(the same)")
	}
	return d.run("check", "--read-data")
}

func heading(text string) { fmt.Printf("\n%s\n%s\n", text, strings.Repeat("-", len(text))) }

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

// run shows a command of pinion's and runs it.
func (d *demo) run(args ...string) error {
	shown := make([]string, len(args))
	for i, a := range args {
		shown[i] = a
		if strings.ContainsAny(a, "#^") {
			shown[i] = "'" + a + "'"
		}
	}
	fmt.Printf("\n$ pinion --config pinion.conf %s\n", strings.Join(shown, " "))
	var out bytes.Buffer
	cmd := d.command(d.pinion, append([]string{"--config", "pinion.conf"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	err := cmd.Run()
	// What is only true of the temporary directory is noise here.
	io.WriteString(os.Stdout, strings.ReplaceAll(out.String(), d.dir+"/", ""))
	if err != nil {
		return fmt.Errorf("pinion %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// command prepares a program that runs in the demo's directory, and gets the
// chance to end in its own way when the demo is interrupted.
func (d *demo) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.ctx, name, args...)
	cmd.Dir = d.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// stored is the size of all files in the store.
func (d *demo) stored() (total int64, err error) {
	err = filepath.WalkDir(d.path(store), func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
