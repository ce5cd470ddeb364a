package lvm

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Qubes OS keeps the state that a qube was started from, or left, under the
// volume's own name. Names that are made of it are for other states:
//
//	NAME-snap             what a running qube writes to
//	NAME-<unix time>-back what NAME was until then
//	NAME-import           what is going to be NAME
//
// When a qube stops, NAME is given the name of an older state, and then that of
// NAME-snap becomes NAME. Between the two there is no NAME, and afterwards it is
// another volume.
const (
	liveSuffix   = "-snap"
	olderSuffix  = "-back"
	importSuffix = "-import"
)

// Waiting for a name that is between two volumes.
const (
	// patience is far more than two commands of LVM's take on a busy host, and
	// no more than a person likes to wait.
	patience = 5 * time.Second
	pause    = 50 * time.Millisecond
)

// LiveName is the name of the volume that a running qube writes to, whose
// committed state is called lv.
func LiveName(lv string) string { return lv + liveSuffix }

// Older returns the newest of the older states of the volume called lv, among
// all volumes of its group, and when it stopped being the volume's state; nil
// if there is none. Names are compared whole: a dash says nothing, they are in
// the names of qubes too.
func Older(all []*Volume, lv string) (newest *Volume, until time.Time) {
	for _, v := range all {
		rest, found := strings.CutPrefix(v.Name, lv+"-")
		digits, is := strings.CutSuffix(rest, olderSuffix)
		if !found || !is || strings.Trim(digits, "0123456789") != "" {
			continue
		}
		seconds, err := strconv.ParseInt(digits, 10, 64)
		if at := time.Unix(seconds, 0).UTC(); err == nil && (newest == nil || at.After(until)) {
			newest, until = v, at
		}
	}
	return newest, until
}

// between reports that a volume which isn't there may be just now being given
// its name: others have names that are made of it.
func between(all []*Volume, lv string) bool {
	older, _ := Older(all, lv)
	return older != nil || Named(all, lv+liveSuffix) != nil || Named(all, lv+importSuffix) != nil
}

// Named is the volume of that name, or nil.
func Named(all []*Volume, lv string) *Volume {
	n := slices.IndexFunc(all, func(v *Volume) bool { return v.Name == lv })
	if n < 0 {
		return nil
	}
	return all[n]
}

// Settle looks for the first of names that a volume has, and asks look for the
// volumes of the group. If none has any, and the last may be between two
// volumes, it asks again for some seconds. It returns nil if nothing came of
// that.
func Settle(ctx context.Context, look func(context.Context) ([]*Volume, error), names ...string) (*Volume, error) {
	for until := time.Now().Add(patience); ; {
		all, err := look(ctx)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if v := Named(all, name); v != nil {
				return v, nil
			}
		}
		if !between(all, names[len(names)-1]) || time.Now().After(until) {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}
