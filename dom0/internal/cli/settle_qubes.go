package cli

import (
	"context"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/qubevol"
	"pinion/dom0/internal/ui"
)

const (
	// settleTime is how long a qube may take from the first of its volumes to the last when it starts or stops. It is
	// longer than a list of logical volumes is held to be new.
	settleTime = 2500 * time.Millisecond
	// settleLook is how often that is looked at.
	settleLook = 50 * time.Millisecond
)

// foundVolume is where a volume of a qube is.
type foundVolume struct {
	volume string
	qubevol.Place
}

// found finds the volumes of a qube that are to be saved. A stop commits them one after the other: in the middle of one,
// the state of one volume would be that of days before the other's, so its end is waited for.
func (f *qubeFinder) found(ctx context.Context, vm admin.VM, c *format.QubeConfig) ([]foundVolume, error) {
	infos, err := f.volumes(ctx, vm.Name, c)
	if err != nil || vm.Name == format.AdminQube {
		return nil, err
	}
	for end := time.Now().Add(settleTime); ; {
		var all []foundVolume
		used := 0
		for _, v := range c.Volumes {
			if v.Flags&format.QubeVolumeSaved == 0 {
				continue
			}
			place, err := f.place(ctx, vm, v.Name, infos[v.Name])
			if err != nil {
				return nil, err
			}
			if all = append(all, foundVolume{v.Name, place}); place.Used {
				used++
			}
		}
		if used == 0 || used == len(all) {
			return all, nil
		}
		if time.Now().After(end) {
			f.b.env.UI.Warn("%s is being started or stopped: its volumes may be of two moments", ui.Quote(vm.Name))
			return all, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(settleLook):
		}
	}
}
