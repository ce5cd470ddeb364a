// Package lvm asks LVM what it knows of logical volumes, and makes temporary
// snapshots of the classic ones, which have no other way to be read as they
// were at one time.
//
// It owns how the commands of LVM and device-mapper are run and how their
// reports are read. It promises that no name reaches a command unchecked, that
// no command goes through a shell, and that a host without LVM is one on which
// no volume is LVM's. It never writes to a volume, never changes one that it
// didn't make, and knows nothing of what changed since an earlier time: a
// classic volume's difference, only reading tells.
package lvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/source"
)

// ErrNotFound says that there is no such volume group or logical volume.
var ErrNotFound = errors.New("there is no such logical volume")

// A Volume is what LVM says about a logical volume.
type Volume struct {
	VG, Name     string // names, as LVM allows them
	VGUUID, UUID string // with LVM's dashes
	Size         int64  // bytes
	Path         string // of its device, if it is active
	Mapper       string // its name for device-mapper
	// Kind is LVMThin, LVM for what a classic snapshot can be made of, or
	// Plain, and then Why says why it is no more than that.
	Kind source.Kind
	Why  string
	// Pool is the thin pool of a thin volume, and ThinID its number there.
	Pool, PoolUUID string
	ThinID         uint32
	// Origin is what it is a snapshot of, if that is still there.
	Origin, OriginUUID string
	Tags               []string
	Active, ReadOnly   bool
	// Made is when LVM made it, if it knows.
	Made time.Time
	// Segment is LVM's word for how it is made: linear, thin, thin-pool, …
	Segment string
	// Metadata is the name of the hidden volume with a thin pool's metadata.
	Metadata string
	// Invalid is set of a classic snapshot that has overflowed.
	Invalid bool
	// Filled is how much of a classic snapshot is used, in percent.
	Filled float64
	// Free is what the volume group has left, in bytes.
	Free int64

	role, attributes string
}

// FullName is VG/LV.
func (v *Volume) FullName() string { return v.VG + "/" + v.Name }

// nameForm is what LVM allows in the names of volume groups and volumes.
var nameForm = regexp.MustCompile(`^[a-zA-Z0-9_+.][a-zA-Z0-9_+.-]{0,126}$`)

// CheckName says what is wrong with the name of a volume group or volume.
func CheckName(untrustedName string) error {
	if !nameForm.MatchString(untrustedName) || untrustedName == "." || untrustedName == ".." {
		return fmt.Errorf("%q can't be the name of a volume group or logical volume", untrustedName)
	}
	return nil
}

// Split takes VG/LV apart and checks both names.
func Split(untrustedName string) (vg, lv string, err error) {
	vg, lv, found := strings.Cut(untrustedName, "/")
	if !found {
		return "", "", fmt.Errorf("%q is not of the form VG/LV", untrustedName)
	}
	if err := errors.Join(CheckName(vg), CheckName(lv)); err != nil {
		return "", "", err
	}
	return vg, lv, nil
}

// fields are asked of lvs.
const fields = "vg_name,lv_name,vg_uuid,lv_uuid,lv_size,lv_path,lv_dm_path,segtype,lv_attr,lv_role,lv_tags,lv_active," +
	"lv_permissions,pool_lv,pool_lv_uuid,thin_id,origin,origin_uuid,metadata_lv,lv_snapshot_invalid,data_percent,vg_free,lv_time"

// List returns all volumes of a volume group, hidden ones too; none if there
// is no such group.
func List(ctx context.Context, vg string) ([]*Volume, error) {
	if err := CheckName(vg); err != nil {
		return nil, err
	}
	return list(ctx, `vg_name="`+vg+`"`)
}

// list returns the volumes that LVM's own selection picks.
func list(ctx context.Context, selection string) ([]*Volume, error) {
	out, err := Run(ctx, "lvs", "--config", `report/time_format="%s"`, "--all", "--reportformat", "json", "--units", "b", "--nosuffix",
		"--options", fields, "--select", selection)
	if err != nil {
		return nil, err
	}
	return parseReport(out)
}

// Find returns what LVM knows of a logical volume, or ErrNotFound. A host
// without LVM has none.
func Find(ctx context.Context, vg, lv string) (*Volume, error) {
	if err := CheckName(lv); err != nil {
		return nil, err
	}
	all, err := List(ctx, vg)
	if errors.Is(err, ErrNoTools) {
		return nil, fmt.Errorf("%s/%s: %w: %w", vg, lv, ErrNotFound, err)
	}
	if err != nil {
		return nil, fmt.Errorf("look for %s/%s: %w", vg, lv, err)
	}
	for _, v := range all {
		if v.Name == lv {
			return v, nil
		}
	}
	return nil, fmt.Errorf("%s/%s: %w", vg, lv, ErrNotFound)
}

// deviceID is device-mapper's id of a logical volume: LVM's two ids without
// their dashes. Those of its hidden layers have a suffix.
var deviceID = regexp.MustCompile(`^LVM-([a-zA-Z0-9]{32})([a-zA-Z0-9]{32})$`)

// OfDevice returns the names of the logical volume that a block device is;
// both are empty if it is none, or no block device, or LVM isn't installed.
func OfDevice(ctx context.Context, device string) (vg, lv string, err error) {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return "", "", fmt.Errorf("look at %s: %w", device, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", "", nil
	}
	id, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/dm/uuid", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if errors.Is(err, os.ErrNotExist) {
		return "", "", nil // not device-mapper's
	}
	if err != nil {
		return "", "", fmt.Errorf("look at %s: %w", device, source.Cause(err))
	}
	part := deviceID.FindStringSubmatch(strings.TrimSpace(string(id)))
	if part == nil {
		return "", "", nil
	}
	found, err := list(ctx, fmt.Sprintf(`vg_uuid="%s" && lv_uuid="%s"`, dashed(part[1]), dashed(part[2])))
	if errors.Is(err, ErrNoTools) {
		return "", "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("ask LVM about %s: %w", device, err)
	}
	if len(found) != 1 {
		return "", "", fmt.Errorf("ask LVM about %s: it doesn't know the volume", device)
	}
	return found[0].VG, found[0].Name, nil
}

// dashed writes one of LVM's ids as LVM does.
func dashed(id string) string {
	parts := make([]string, 0, 7)
	for _, n := range []int{6, 4, 4, 4, 4, 4, 6} {
		parts = append(parts, id[:n])
		id = id[n:]
	}
	return strings.Join(parts, "-")
}

// parseReport reads what lvs reports. Its names are checked: nothing else may
// reach another command later.
func parseReport(report []byte) ([]*Volume, error) {
	var untrusted struct {
		Report []struct {
			LV []map[string]string `json:"lv"`
		} `json:"report"`
	}
	if err := json.Unmarshal(report, &untrusted); err != nil {
		return nil, fmt.Errorf("read the report of lvs: %w", err)
	}
	var all []*Volume
	for _, r := range untrusted.Report {
		for _, row := range r.LV {
			v, err := parseRow(row)
			if err != nil {
				return nil, fmt.Errorf("read the report of lvs: %w", err)
			}
			// A volume of several segments may come once for each.
			if !slices.ContainsFunc(all, func(o *Volume) bool { return o.UUID == v.UUID }) {
				all = append(all, v)
			}
		}
	}
	for _, v := range all {
		v.classify(all)
	}
	return all, nil
}

// parseRow takes one volume from the report. Names in brackets are hidden
// volumes.
func parseRow(untrusted map[string]string) (*Volume, error) {
	text := func(field string) string { return strings.Trim(untrusted[field], "[]") }
	v := &Volume{
		VG: text("vg_name"), Name: text("lv_name"), VGUUID: text("vg_uuid"), UUID: text("lv_uuid"),
		Path: text("lv_path"), Mapper: path.Base(text("lv_dm_path")), Segment: text("segtype"),
		Pool: text("pool_lv"), PoolUUID: text("pool_lv_uuid"), Origin: text("origin"), OriginUUID: text("origin_uuid"),
		Metadata: text("metadata_lv"), Active: text("lv_active") == "active", ReadOnly: text("lv_permissions") == "read-only",
		role: text("lv_role"), attributes: text("lv_attr"),
	}
	for _, name := range []string{v.VG, v.Name} {
		if err := CheckName(name); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{v.Pool, v.Origin, v.Metadata} {
		if name != "" && CheckName(name) != nil {
			return nil, CheckName(name)
		}
	}
	// An active volume may allow reading only in the kernel, or only in
	// LVM's mind; a volume that isn't active has its second attribute only.
	v.ReadOnly = v.ReadOnly || len(v.attributes) > 1 && (v.attributes[1] == 'r' || v.attributes[1] == 'R')
	v.Invalid = text("lv_snapshot_invalid") == "snapshot invalid"
	if tags := text("lv_tags"); tags != "" {
		v.Tags = strings.Split(tags, ",")
	}
	var err error
	if v.Size, err = strconv.ParseInt(text("lv_size"), 10, 64); err != nil || v.Size < 0 {
		return nil, fmt.Errorf("%s has a size of %q", v.FullName(), text("lv_size"))
	}
	if seconds, err := strconv.ParseInt(text("lv_time"), 10, 64); err == nil && seconds > 0 {
		v.Made = time.Unix(seconds, 0).UTC()
	}
	v.Free, _ = strconv.ParseInt(text("vg_free"), 10, 64)
	v.Filled, _ = strconv.ParseFloat(text("data_percent"), 64)
	if id := text("thin_id"); id != "" {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%s has the thin id %q", v.FullName(), id)
		}
		v.ThinID = uint32(n)
	}
	return v, nil
}

// classify finds the kind of a volume; all are those of its group.
func (v *Volume) classify(all []*Volume) {
	v.Kind = source.Plain
	switch {
	case v.Segment == "thin" && v.external(all):
		v.Why = "the thin volume has an external origin"
	case v.Segment == "thin":
		v.Kind = source.LVMThin
	case strings.HasSuffix(v.Segment, "-pool"):
		v.Why = "it is a pool"
	case !strings.Contains(v.role, "public"):
		v.Why = "it is a part of another volume"
	case strings.Contains(v.role, "thicksnapshot"):
		v.Why = "it is a snapshot itself, of which LVM makes no other"
	default:
		v.Kind, v.Why = source.LVM, "a classic volume; only thin ones tell what changed"
	}
}

// external says whether blocks of a thin volume may come from outside of its
// pool: from an origin, or an origin's origin, that is no volume of the pool.
// What such a volume maps is not all that it holds.
func (v *Volume) external(all []*Volume) bool {
	for range all { // at most so many steps, even if origins went in circles
		if v.OriginUUID == "" {
			return false
		}
		n := slices.IndexFunc(all, func(o *Volume) bool { return o.UUID == v.OriginUUID })
		if n < 0 || all[n].Segment != "thin" || all[n].PoolUUID != v.PoolUUID {
			return true
		}
		v = all[n]
	}
	return true
}
