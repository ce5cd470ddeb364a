package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// imageSize is the size of the file system, in bytes: room for the source of
// Go's library twice.
const imageSize = 384 << 20

// makeImage makes a file system of files where there is a tool for that, else
// an archive of the same files.
func (d *demo) makeImage(files string) error {
	files, err := filepath.EvalSymlinks(files) // some distributions link it
	if err != nil {
		return fmt.Errorf("find files for the image: %w", err)
	}
	mke2fs, ok := tool("mke2fs")
	if !ok {
		n, err := tarTree(d.path(disk), files)
		if err != nil {
			return fmt.Errorf("make an image of %s: %w", files, err)
		}
		fmt.Printf("%s: a tar of %d files (mke2fs, of e2fsprogs, isn't there)\n", disk, n)
		return nil
	}
	cmd := d.command(mke2fs, "-q", "-F", "-t", "ext4", "-d", files, disk, fmt.Sprintf("%dk", imageSize>>10))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make a file system of %s: %w: %s", files, err, bytes.TrimSpace(out))
	}
	n, err := countFiles(files)
	fmt.Printf("%s: an ext4 file system of %s with %d real files\n", disk, mib(imageSize), n)
	return err
}

// changeImage changes the image as its owner would: new files in the file
// system where there is a tool for that, else some bytes in the middle.
func (d *demo) changeImage() error {
	debugfs, ok := tool("debugfs")
	if _, ext4 := tool("mke2fs"); !ok || !ext4 {
		return d.overwrite(64<<20, 2<<20)
	}
	if err := os.WriteFile(d.path("new"), content(2<<20), 0o600); err != nil {
		return err
	}
	script := "mkdir /demo\nwrite new /demo/one\nwrite new /demo/two\nrm /fmt/print.go\n"
	if err := os.WriteFile(d.path("script"), []byte(script), 0o600); err != nil {
		return err
	}
	if out, err := d.command(debugfs, "-w", "-f", "script", disk).CombinedOutput(); err != nil {
		return fmt.Errorf("change the file system: %w: %s", err, bytes.TrimSpace(out))
	}
	same, err := equal(d.path(before), d.path(disk))
	if err != nil {
		return err
	}
	if same {
		return errors.New("debugfs changed nothing in the image")
	}
	fmt.Printf("%s: two new files of 2 MiB with the same content, one file removed\n", disk)
	return nil
}

// overwrite replaces n bytes at off.
func (d *demo) overwrite(off, n int64) error {
	f, err := os.OpenFile(d.path(disk), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(content(n), off); err != nil {
		return err
	}
	fmt.Printf("%s: %s in the middle overwritten\n", disk, mib(n))
	return f.Close()
}

// content is n bytes that look like a log: no two lines alike.
func content(n int64) []byte {
	var b bytes.Buffer
	for i := 0; int64(b.Len()) < n; i++ {
		fmt.Fprintf(&b, "%08d the quick brown fox jumps over %d lazy dogs\n", i, i*i)
	}
	return b.Bytes()[:n]
}

// tool finds a program, also where only root's PATH leads.
func tool(name string) (string, bool) {
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, true
		}
	}
	return "", false
}

func countFiles(dir string) (n int, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			n++
		}
		return err
	})
	return n, err
}

// tarTree writes all regular files below dir into one tar.
func tarTree(to, dir string) (n int, err error) {
	f, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		return 0, err
	}
	if err := w.Close(); err != nil {
		return 0, err
	}
	if n, err = countFiles(dir); err != nil {
		return 0, err
	}
	return n, f.Close()
}

// block is how much is copied and compared at a time, in bytes.
const block = 1 << 20

// copySparse copies a file; blocks of zeros become holes.
func copySparse(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	buf, zeros := make([]byte, block), make([]byte, block)
	for off := int64(0); ; {
		n, err := io.ReadFull(in, buf)
		if n > 0 && !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := out.WriteAt(buf[:n], off); err != nil {
				return err
			}
		}
		off += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return errors.Join(out.Truncate(off), out.Close())
		}
		if err != nil {
			return err
		}
	}
}

// compare fails unless both files hold the same bytes.
func compare(a, b string) error {
	same, err := equal(a, b)
	if err == nil && !same {
		err = fmt.Errorf("%s and %s differ", filepath.Base(a), filepath.Base(b))
	}
	return err
}

func equal(a, b string) (bool, error) {
	fa, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer fb.Close()
	bufA, bufB := make([]byte, block), make([]byte, block)
	for {
		na, errA := io.ReadFull(fa, bufA)
		nb, errB := io.ReadFull(fb, bufB)
		if !bytes.Equal(bufA[:na], bufB[:nb]) {
			return false, nil
		}
		ended := func(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }
		switch {
		case ended(errA) && ended(errB):
			return true, nil
		case errA != nil && !ended(errA):
			return false, errA
		case errB != nil && !ended(errB):
			return false, errB
		}
	}
}
