package state

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"pinion/dom0/internal/format"
)

// FuzzFiles: whatever a state file holds, reading it gives a value or an error that
// names the file; a value that is written again is read as the same one.
func FuzzFiles(f *testing.F) {
	const destination = "file:/copy"
	archive, branch := format.ObjectID{1}, format.ObjectID{2}
	known, err := Open(filepath.Join(f.TempDir(), "state"))
	if err != nil {
		f.Fatal(err)
	}
	must := func(err error) {
		if err != nil {
			f.Fatal(err)
		}
	}
	must(known.SetPin(destination, archive, branch))
	must(known.SetCopy(Copy{Destination: destination, Source: "file:/archive", RootHash: "00ff", Newest: true}))
	must(known.Update(archive, func(m *Memory) {
		m.Branches[branch.String()] = Branch{Generation: 7, RootHash: "00ff", Highest: 9, NextSeq: 4, Written: destination}
	}))
	must(known.SetFreed(archive, destination, 12))
	must(known.MarkUnclean(archive, destination, true))
	paths := func(d *Dir) []string {
		return []string{
			d.pinPath(destination), d.copyPath(destination), filepath.Join(d.archiveDir(archive), "memory.json"),
			d.freedPath(archive, destination), d.markPath(archive, destination),
		}
	}
	for i, path := range paths(known) {
		b, err := os.ReadFile(path)
		must(err)
		f.Add(uint8(i), b)
	}
	f.Add(uint8(2), []byte(`{"version":1,"archive":"`+archive.String()+`","branches":{"x":null}}`))
	f.Add(uint8(0), []byte(`{"version":99}`))
	memory := "/dev/shm" // where nothing waits for a disk
	if _, err := os.Stat(memory); err != nil {
		memory = f.TempDir()
	}
	f.Fuzz(func(t *testing.T, which uint8, untrusted []byte) {
		dir, err := os.MkdirTemp(memory, "pinion-state-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		d, err := Open(filepath.Join(dir, "state"))
		if err != nil {
			t.Fatal(err)
		}
		which %= uint8(len(paths(d)))
		path := paths(d)[which]
		if err := writeFile(path, untrusted); err != nil {
			t.Fatal(err)
		}
		read := map[uint8]func() (any, error){
			0: func() (any, error) { p, _, err := d.Pin(destination); return p, err },
			1: func() (any, error) { c, _, err := d.Copy(destination); return c, err },
			2: func() (any, error) { return d.Memory(archive) },
			3: func() (any, error) { return d.Freed(archive, destination) },
			4: func() (any, error) { _, suspect, err := d.Unclean(archive, destination); return suspect, err },
		}[which]
		was, err := read()
		if err != nil {
			if damaged := (&DamagedError{}); errors.As(err, &damaged) && damaged.Path != path {
				t.Errorf("the error names %s, not %s", damaged.Path, path)
			}
			return
		}
		switch v := was.(type) {
		case Pin, Copy:
			err = writeJSON(path, v)
		case *Memory:
			err = writeJSON(path, v)
		case uint64:
			err = d.SetFreed(archive, destination, v)
		case bool:
			err = d.MarkUnclean(archive, destination, v)
		}
		if err != nil {
			t.Fatal(err)
		}
		is, err := read()
		if err != nil || !reflect.DeepEqual(is, was) {
			t.Errorf("%+v was written, and %+v read (%v)", was, is, err)
		}
	})
}
