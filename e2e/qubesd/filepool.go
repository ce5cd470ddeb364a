package qubesd

import (
	"os"
	"path/filepath"
)

// files is the driver file (storage/file.py), which is deprecated: a running
// qube writes into VOL.img itself, through a device-mapper snapshot-origin
// that saves old blocks to VOL-cow.img. There is at most one revision,
// VOL-cow.img.old. No committed state can be read while the qube runs.
type files struct {
	s   *Server
	dir string
}

func (d files) vid(q *qube, name string) string { return reflink(d).vid(q, name) }

func (d files) at(v *volume, suffix string) string { return filepath.Join(d.dir, v.vid+suffix) }
func (d files) image(v *volume) string             { return d.at(v, ".img") }
func (d files) cow(v *volume) string               { return d.at(v, "-cow.img") }
func (d files) importing(v *volume) string         { return d.at(v, "-import.img") }

func (d files) create(v *volume) error {
	if !v.save || exists(d.image(v)) {
		return nil
	}
	return sparse(d.image(v), v.size)
}

func (d files) remove(v *volume) error {
	err := removeAny(d.image(v), d.cow(v), d.cow(v)+".old", d.importing(v))
	os.Remove(filepath.Dir(d.image(v)))
	return err
}

// start: what begins as a copy of the template's writes into the -cow file.
func (d files) start(v *volume) error {
	if !v.save && !v.snap {
		return sparse(d.image(v), v.size)
	}
	return sparse(d.cow(v), v.size)
}

func (d files) stop(v *volume) error {
	if !v.save && !v.snap {
		return removeAny(d.image(v))
	}
	if v.save && v.revisions > 0 {
		if err := os.Rename(d.cow(v), d.cow(v)+".old"); err != nil {
			return err
		}
	} else if err := removeAny(d.cow(v)); err != nil {
		return err
	}
	if v.save {
		d.s.step(v.qube, v.name, StepCommitted)
	}
	return nil
}

func (d files) committed(v *volume) string { return d.image(v) }

func (d files) live(v *volume) string {
	if v.snap {
		return d.cow(v)
	}
	return d.image(v)
}

func (d files) path(v *volume) string        { return d.image(v) }
func (d files) size(v *volume) int64         { return fileSize(v.size, d.image(v)) }
func (d files) usage(v *volume) int64        { return allocated(d.image(v), d.cow(v)) }
func (d files) revisions(v *volume) []string { return oneIf(exists(d.cow(v)+".old"), "old") }

// oneIf is a list of one, or of none.
func oneIf(there bool, id string) []string {
	if there {
		return []string{id}
	}
	return nil
}

func (d files) prune(v *volume) error {
	if v.revisions > 0 {
		return nil
	}
	return removeAny(d.cow(v) + ".old")
}

func (d files) resize(v *volume, size int64) error {
	if have := d.size(v); size < have {
		return shrinking(v, size, have)
	}
	if !exists(d.image(v)) { // what isn't saved, of a halted qube
		return nil
	}
	return os.Truncate(d.image(v), size)
}

func (d files) importBegin(v *volume, size int64) (string, error) {
	return d.importing(v), sparse(d.importing(v), size)
}

func (d files) importEnd(v *volume, ok bool) error {
	if !ok {
		return removeAny(d.importing(v))
	}
	return os.Rename(d.importing(v), d.image(v))
}

func (d files) fill(v *volume, offset int64, data []byte) error {
	return writeAt(d.image(v), offset, data)
}

// kernels is the driver linux-kernel: a directory a kernel, read-only. The
// id of a volume is the kernel's version, "" for none.
type kernels struct{ dir string }

func (d kernels) path(v *volume) string {
	if v.vid == "" {
		return ""
	}
	return filepath.Join(d.dir, v.vid, "modules.img")
}

func (d kernels) vid(q *qube, name string) string { return "" }
func (d kernels) create(v *volume) error          { return nil }
func (d kernels) remove(v *volume) error          { return nil }
func (d kernels) start(v *volume) error           { return nil }
func (d kernels) stop(v *volume) error            { return nil }
func (d kernels) committed(v *volume) string      { return d.path(v) }
func (d kernels) live(v *volume) string           { return d.path(v) }
func (d kernels) size(v *volume) int64            { return fileSize(0, d.path(v)) }
func (d kernels) usage(v *volume) int64           { return allocated(d.path(v)) }
func (d kernels) revisions(v *volume) []string    { return nil }
func (d kernels) prune(v *volume) error           { return nil }

// errReadOnly is for everything that would write to a kernel.
func errReadOnly(v *volume) error {
	return raise("StoragePoolException", "%s is read-only", v.vid)
}

func (d kernels) resize(v *volume, size int64) error { return errReadOnly(v) }

func (d kernels) importBegin(v *volume, size int64) (string, error) { return "", errReadOnly(v) }

func (d kernels) importEnd(v *volume, ok bool) error { return errReadOnly(v) }

func (d kernels) fill(v *volume, offset int64, data []byte) error { return errReadOnly(v) }
