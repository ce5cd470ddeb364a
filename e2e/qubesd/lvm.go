package qubesd

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// lvm is the driver lvm_thin (storage/lvm.py), with the commands that qubesd
// runs. The id of a volume is VG/vm-NAME-VOL.
//
//	VID                   committed, also while the qube runs
//	VID-snap              live, or left by a crash
//	VID-<unixtime>-back   an older state
//	VID-import            an import
//
// A stop renames VID to VID-<now>-back and then VID-snap to VID: for a moment
// there is no VID, and afterwards it is another thin device.
type lvm struct {
	s           *Server
	group, thin string
}

func (d lvm) vid(q *qube, name string) string { return d.group + "/vm-" + q.name + "-" + name }

// run runs a command of LVM.
func (d lvm) run(args ...string) (string, error) {
	cmd := exec.Command("lvm", args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("lvm %s: %w\n%s", strings.Join(args, " "), err, &said)
	}
	return strings.TrimSpace(string(out)), nil
}

// has reports a volume. All are active, and so have a link to their device;
// asking LVM would take long.
func (d lvm) has(vid string) bool { return exists(devicePath(vid)) }

func lvName(vid string) string { return vid[strings.IndexByte(vid, '/')+1:] }

func (d lvm) make(vid string, size int64) error {
	_, err := d.run("lvcreate", "-q", "--setactivationskip=n", "--activate=y", "--thin", d.group+"/"+d.thin,
		"--virtualsize", fmt.Sprintf("%db", size), "--name", lvName(vid))
	return err
}

func (d lvm) snapshot(from, to string) error {
	_, err := d.run("lvcreate", "-q", "--setactivationskip=n", "--activate=y", "--snapshot", from, "--name", lvName(to))
	return err
}

func (d lvm) rename(from, to string) error {
	_, err := d.run("lvrename", "-q", from, to)
	return err
}

// drop removes a volume that may not be there. The real driver discards its
// blocks first; here that is left to LVM.
func (d lvm) drop(vid string) error {
	if !d.has(vid) {
		return nil
	}
	_, err := d.run("lvremove", "-q", "-f", vid)
	return err
}

func (d lvm) create(v *volume) error {
	if !v.save || d.has(v.vid) || len(d.revisions(v)) > 0 {
		return nil
	}
	return d.make(v.vid, v.size)
}

func (d lvm) remove(v *volume) error {
	for _, id := range d.revisions(v) {
		if err := d.drop(v.vid + "-" + id); err != nil {
			return err
		}
	}
	for _, vid := range []string{v.vid + "-snap", v.vid + "-import", v.vid} {
		if err := d.drop(vid); err != nil {
			return err
		}
	}
	return nil
}

// current is the committed state: the volume, else its newest revision
// (_vid_current).
func (d lvm) current(v *volume) string { return d.newest(v.vid) }

func (d lvm) newest(vid string) string {
	if !d.has(vid) {
		if ids := d.backs(vid); len(ids) > 0 {
			return vid + "-" + ids[len(ids)-1]
		}
	}
	return vid
}

// inProgress refuses what an unfinished import doesn't allow: another one,
// and a start. Only its end takes it away.
func (d lvm) inProgress(v *volume) error {
	if v.save && d.has(v.vid+"-import") {
		return raise("StoragePoolException", "Import operation in progress on %s", v.vid)
	}
	return nil
}

func (d lvm) start(v *volume) error {
	if err := d.inProgress(v); err != nil {
		return err
	}
	snap := v.vid + "-snap"
	switch {
	case v.save && v.revisions == -1:
		return nil // the qube writes into the volume itself
	case v.save && d.has(snap):
		return nil // the changes of before a crash go on
	case v.save:
		return d.snapshot(d.current(v), snap)
	case v.snap:
		if err := d.drop(snap); err != nil {
			return err
		}
		return d.snapshot(d.newest(v.source), snap)
	}
	if err := d.drop(v.vid); err != nil {
		return err
	}
	return d.make(v.vid, v.size)
}

func (d lvm) stop(v *volume) error {
	switch {
	case v.save && v.revisions == -1:
		return nil
	case v.save:
		return d.commit(v, v.vid+"-snap")
	case v.snap:
		return d.drop(v.vid + "-snap")
	}
	return d.drop(v.vid)
}

// commit is the dance: the old state goes away under another name, also where
// none is kept, the new one takes its place, and old revisions are removed.
func (d lvm) commit(v *volume, from string) error {
	if d.has(v.vid) {
		if err := d.rename(v.vid, fmt.Sprintf("%s-%d-back", v.vid, d.s.now().Unix())); err != nil {
			return err
		}
		d.s.step(v.qube, v.name, StepAway)
	}
	if err := d.rename(from, v.vid); err != nil {
		return err
	}
	d.s.step(v.qube, v.name, StepCommitted)
	if err := d.prune(v); err != nil {
		return err
	}
	d.s.step(v.qube, v.name, StepPruned)
	return nil
}

// revisions are the volumes VID-<digits>-back: names of qubes have dashes,
// and nothing but digits may be between.
func (d lvm) revisions(v *volume) []string { return d.backs(v.vid) }

func (d lvm) backs(vid string) []string {
	var ids []string
	entries, _ := os.ReadDir(devicePath(d.group)) // none while the group has no volume
	for _, e := range entries {
		id, found := strings.CutPrefix(e.Name(), lvName(vid)+"-")
		digits, back := strings.CutSuffix(id, "-back")
		if _, err := strconv.ParseUint(digits, 10, 63); found && back && err == nil {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Compare(unixTime(a), unixTime(b)) })
	return ids
}

// unixTime is when a revision's state was committed, 0 if the id is none.
func unixTime(id string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(id, "-back"), 10, 64)
	return n
}

func (d lvm) prune(v *volume) error {
	ids := d.revisions(v)
	for _, id := range ids[:max(0, len(ids)-max(0, v.revisions))] {
		if err := d.drop(v.vid + "-" + id); err != nil {
			return err
		}
	}
	return nil
}

func devicePath(vid string) string { return "/dev/" + vid }

func (d lvm) committed(v *volume) string { return devicePath(d.current(v)) }

func (d lvm) live(v *volume) string {
	if v.save && v.revisions != -1 || v.snap {
		return devicePath(v.vid + "-snap")
	}
	return devicePath(v.vid)
}

// path is the current volume.
func (d lvm) path(v *volume) string { return devicePath(d.current(v)) }

// size is LVM's, which rounds up to whole extents (ThinVolume.size); of what
// isn't there, what was asked for last.
func (d lvm) size(v *volume) int64 {
	path := devicePath(d.current(v))
	if snap := v.vid + "-snap"; (v.snap || v.save) && d.has(snap) {
		path = devicePath(snap)
	}
	f, err := os.Open(path)
	if err != nil {
		return v.size
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		return size
	}
	return v.size
}

func (d lvm) usage(v *volume) int64 {
	out, err := d.run("lvs", "--noheadings", "-o", "data_percent", d.current(v))
	percent, parseErr := strconv.ParseFloat(out, 64)
	if err != nil || parseErr != nil {
		return 0
	}
	return int64(float64(d.size(v)) * percent / 100)
}

func (d lvm) resize(v *volume, size int64) error {
	if have := d.size(v); size < have {
		return shrinking(v, size, have)
	} else if size == have {
		return nil
	}
	// Of a running qube only the live volume grows; its stop commits that.
	vid := d.current(v)
	switch {
	case d.has(v.vid + "-snap"):
		vid = v.vid + "-snap"
	case d.has(v.vid + "-import"):
		vid = v.vid + "-import"
	case !v.save || v.snap:
		return nil
	}
	_, err := d.run("lvextend", "-q", fmt.Sprintf("--size=%db", size), vid)
	return err
}

func (d lvm) importBegin(v *volume, size int64) (string, error) {
	if d.has(v.vid + "-snap") {
		return "", raise("StoragePoolException", "Cannot import data to dirty volume %s, stop the qube first", v.vid)
	}
	if err := d.inProgress(v); err != nil {
		return "", err
	}
	v.imported = size
	return devicePath(v.vid + "-import"), d.make(v.vid+"-import", size)
}

func (d lvm) importEnd(v *volume, ok bool) error {
	if !d.has(v.vid + "-import") {
		return raise("StoragePoolException", "No import operation in progress on %s", v.vid)
	}
	if !ok {
		return d.drop(v.vid + "-import")
	}
	v.size = v.imported
	return d.commit(v, v.vid+"-import")
}

func (d lvm) fill(v *volume, offset int64, data []byte) error {
	return writeAt(devicePath(v.vid), offset, data)
}
