package qubesd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// reflink is the driver file-reflink (storage/reflink.py): images on a file
// system that can share blocks.
//
//	VOL.img               committed; the same file while the qube runs
//	VOL-dirty.img         live, or left by a crash
//	VOL-precache.img      a copy of VOL.img made in advance; a start renames it
//	VOL.img.N@TIMEZ       an older state; N counts up
//	VOL-import.img        an import
//
// With revisions_to_keep=-1 a start renames VOL.img itself to VOL-dirty.img,
// and there are no precache and no revisions.
type reflink struct {
	s   *Server
	dir string
}

func (d reflink) vid(q *qube, name string) string {
	if q.class == "TemplateVM" {
		return "vm-templates/" + q.name + "/" + name
	}
	return "appvms/" + q.name + "/" + name
}

func (d reflink) at(v *volume, suffix string) string { return filepath.Join(d.dir, v.vid+suffix) }
func (d reflink) clean(v *volume) string             { return d.at(v, ".img") }
func (d reflink) dirty(v *volume) string             { return d.at(v, "-dirty.img") }
func (d reflink) precache(v *volume) string          { return d.at(v, "-precache.img") }
func (d reflink) importing(v *volume) string         { return d.at(v, "-import.img") }

// create: only what is saved has an image while the qube is halted.
func (d reflink) create(v *volume) error {
	if !v.save || exists(d.clean(v)) || exists(d.dirty(v)) {
		return nil
	}
	if err := sparse(d.clean(v), v.size); err != nil {
		return err
	}
	return d.cache(v)
}

// cache makes the copy that the next start takes.
func (d reflink) cache(v *volume) error {
	if !v.save || v.revisions == -1 {
		return removeAny(d.precache(v))
	}
	return clone(d.clean(v), d.precache(v))
}

func (d reflink) remove(v *volume) error {
	err := removeAny(d.clean(v), d.dirty(v), d.precache(v), d.importing(v))
	for _, id := range d.revisions(v) {
		err = errors.Join(err, removeAny(d.at(v, ".img."+id)))
	}
	os.Remove(filepath.Dir(d.clean(v))) // if that was the last
	return err
}

func (d reflink) start(v *volume) error {
	if exists(d.dirty(v)) && v.save {
		return nil // the changes of before a crash go on
	}
	switch {
	case v.revisions == -1 && v.save:
		if err := removeAny(d.precache(v)); err != nil {
			return err
		}
		return os.Rename(d.clean(v), d.dirty(v))
	case v.snap:
		// The clean image is a hard link to the source's.
		source := filepath.Join(d.dir, v.source+".img")
		if err := os.MkdirAll(filepath.Dir(d.clean(v)), 0o770); err != nil {
			return err
		}
		if err := removeAny(d.clean(v), d.dirty(v)); err != nil {
			return err
		}
		if err := os.Link(source, d.clean(v)); err != nil {
			return err
		}
		return clone(d.clean(v), d.dirty(v))
	case !v.save:
		return sparse(d.dirty(v), v.size)
	case exists(d.precache(v)):
		return os.Rename(d.precache(v), d.dirty(v))
	}
	return clone(d.clean(v), d.dirty(v))
}

func (d reflink) stop(v *volume) error {
	if !v.save {
		clean := ""
		if v.snap {
			clean = d.clean(v)
			return removeAny(d.dirty(v), clean)
		}
		return removeAny(d.dirty(v))
	}
	return d.commit(v, d.dirty(v))
}

// commit keeps the clean image as a revision and renames another over it:
// the volume's file is a new one each time.
func (d reflink) commit(v *volume, from string) error {
	if v.revisions > 0 && exists(d.clean(v)) {
		id := fmt.Sprintf("%d@%s", d.next(v), d.s.now().Format("2006-01-02T15:04:05Z"))
		if err := clone(d.clean(v), d.at(v, ".img."+id)); err != nil {
			return err
		}
		d.s.step(v.qube, v.name, StepRevision)
	}
	if err := os.Rename(from, d.clean(v)); err != nil {
		return err
	}
	d.s.step(v.qube, v.name, StepCommitted)
	if err := d.prune(v); err != nil {
		return err
	}
	d.s.step(v.qube, v.name, StepPruned)
	return d.cache(v)
}

func (d reflink) committed(v *volume) string {
	if !exists(d.clean(v)) && v.revisions == -1 {
		return d.dirty(v)
	}
	return d.clean(v)
}

func (d reflink) live(v *volume) string { return d.dirty(v) }

// path is the live image, also while there is none.
func (d reflink) path(v *volume) string { return d.dirty(v) }

func (d reflink) size(v *volume) int64 { return fileSize(v.size, d.dirty(v), d.clean(v)) }

func (d reflink) usage(v *volume) int64 { return allocated(d.clean(v), d.dirty(v)) }

func (d reflink) revisions(v *volume) []string {
	prefix := d.clean(v) + "."
	paths, _ := filepath.Glob(filepath.Join(filepath.Dir(prefix), v.name+".img.*@*Z"))
	var ids []string
	for _, path := range paths {
		ids = append(ids, strings.TrimPrefix(path, prefix))
	}
	slices.SortFunc(ids, func(a, b string) int { return revisionNumber(a) - revisionNumber(b) })
	return ids
}

// revisionNumber is the N of N@TIME.
func revisionNumber(id string) int {
	n, _ := strconv.Atoi(id[:max(0, strings.IndexByte(id, '@'))])
	return n
}

func (d reflink) next(v *volume) int {
	ids := d.revisions(v)
	if len(ids) == 0 {
		return 1
	}
	return revisionNumber(ids[len(ids)-1]) + 1
}

func (d reflink) prune(v *volume) error {
	ids := d.revisions(v)
	for _, id := range ids[:max(0, len(ids)-max(0, v.revisions))] {
		if err := removeAny(d.at(v, ".img."+id)); err != nil {
			return err
		}
	}
	if v.revisions == -1 {
		return removeAny(d.precache(v))
	}
	return nil
}

// resize shrinks too, without a word.
func (d reflink) resize(v *volume, size int64) error {
	if exists(d.dirty(v)) {
		return os.Truncate(d.dirty(v), size)
	}
	if err := os.Truncate(d.clean(v), size); err != nil {
		return err
	}
	return d.cache(v)
}

func (d reflink) importBegin(v *volume, size int64) (string, error) {
	return d.importing(v), sparse(d.importing(v), size)
}

func (d reflink) importEnd(v *volume, ok bool) error {
	if !ok {
		return removeAny(d.importing(v))
	}
	return d.commit(v, d.importing(v))
}

func (d reflink) fill(v *volume, offset int64, data []byte) error {
	if err := writeAt(d.clean(v), offset, data); err != nil {
		return err
	}
	return d.cache(v)
}
