package lvm

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"pinion/dom0/internal/source"
)

// maxMapperName is how long a name may be for device-mapper, with dashes
// doubled and the longest suffix that LVM gives to a hidden layer, "-cow" or
// "-real", behind it.
const maxMapperName = 127 - 8

// snapshotForm is the form of our names: owner, volume, a piece of the
// volume's name for people, serial number. It ends in a digit and begins with
// our own name: neither is anything that Qubes OS gives a meaning to.
var snapshotForm = regexp.MustCompile(`^pinion\.([0-9a-f]{8})\.([0-9a-f]{8})\.(.*)\.([0-9]{1,20})$`)

// SnapshotName is the name of a snapshot of a logical volume of a group.
func SnapshotName(vg, lv string, l source.Label) string {
	name := func(cut string) string {
		return fmt.Sprintf("pinion.%s.%s.%s.%d", l.Owner, l.Volume, cut, l.Serial)
	}
	cut := lv
	for cut != "" && len(doubled(vg))+1+len(doubled(name(cut))) > maxMapperName {
		cut = cut[:len(cut)-1]
	}
	return name(cut)
}

// doubled is a name as device-mapper's names have it.
func doubled(name string) string { return strings.ReplaceAll(name, "-", "--") }

// ParseSnapshotName returns the label in the name of one of our snapshots.
func ParseSnapshotName(lv string) (source.Label, bool) {
	part := snapshotForm.FindStringSubmatch(lv)
	if part == nil {
		return source.Label{}, false
	}
	serial, err := strconv.ParseUint(part[4], 10, 64)
	return source.Label{Owner: part[1], Volume: part[2], Serial: serial}, err == nil
}

// CheckOwned takes VG/LV names apart, and refuses any that isn't a snapshot of
// this owner's in the volume group.
func CheckOwned(vg, owner string, names []string) ([]string, error) {
	lvs := make([]string, 0, len(names))
	for _, name := range names {
		group, lv, err := Split(name)
		if err != nil {
			return nil, err
		}
		l, ok := ParseSnapshotName(lv)
		if !ok || group != vg || l.Owner != owner || owner == "" {
			return nil, fmt.Errorf("%s is not a snapshot of this program's in %s", name, vg)
		}
		lvs = append(lvs, lv)
	}
	return lvs, nil
}
