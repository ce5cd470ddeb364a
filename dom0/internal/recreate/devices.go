package recreate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
)

// anyDevice stands for whatever is at a port, and for any port.
const anyDevice = "*"

// required is the mode of a device without which its qube doesn't start. On
// R4.2 all are so, and no mode is told.
const required = "required"

// devices assigns the devices and takes away those that the backup doesn't
// have.
func (j *job) devices(ctx context.Context) error {
	byClass := map[string][]admin.Assignment{}
	for i := range j.s.Config.Devices {
		d := &j.s.Config.Devices[i]
		if a, why := j.assignment(d); why != "" {
			j.refuse("device", d.Class+" "+d.Backend+":"+d.Port, deviceText(a), why)
		} else {
			byClass[d.Class] = append(byClass[d.Class], a)
		}
	}
	for _, class := range j.p.host.Classes {
		if err := j.devicesOf(ctx, class, byClass[class]); err != nil {
			return err
		}
	}
	return nil
}

// assignment turns a device of the backup into one of here, or says why that
// isn't possible.
func (j *job) assignment(d *format.QubeDevice) (a admin.Assignment, why string) {
	a = admin.Assignment{Port: d.Port, Identity: d.Identity, Mode: d.Mode}
	if a.Identity == "" {
		a.Identity = anyDevice
	}
	for _, o := range d.Options {
		a.Options = append(a.Options, admin.Option{Name: o.Name, Value: o.Value})
		if !isName(o.Name, "_-") || !isDeviceText(o.Value, " =") {
			return a, fmt.Sprintf("it has the option %s=%s, which can't be set", shown(o.Name), shown(o.Value))
		}
	}
	a.Backend = d.Backend
	if d.Backend != anyDevice {
		backend, found := j.p.find(d.Backend)
		if !found {
			return a, "there is no qube here that would have the device"
		}
		a.Backend = backend.name
	}
	switch {
	case !isName(d.Class, "_-") || !slices.Contains(j.p.host.Classes, d.Class):
		return a, "there are no devices of this class here"
	case a.Port != anyDevice && (!isName(a.Port, "_.-") || len(a.Port) > maxName):
		return a, "not a name of a port"
	case !isDeviceText(a.Identity, "") || a.Identity == "":
		return a, "not an identity of a device"
	case a.Mode != "" && !admin.IsMode(a.Mode):
		return a, "not a way to assign a device"
	}
	return a, ""
}

// isDeviceText accepts visible ASCII that means nothing where assignments are
// packed, and the extra characters.
func isDeviceText(untrusted, extra string) bool {
	return isPrintable(untrusted, maxDeviceValue) && !strings.ContainsFunc(untrusted, func(r rune) bool {
		return strings.ContainsRune(` +='"\`+"`", r) && !strings.ContainsRune(extra, r)
	})
}

// devicesOf does it for one class.
func (j *job) devicesOf(ctx context.Context, class string, wanted []admin.Assignment) error {
	list, err := j.api.Assigned(ctx, j.s.Name, class)
	if fatal(ctx, err) {
		return fmt.Errorf("read the %s devices of %s: %w", class, j.s.Name, quoted(err))
	}
	if err != nil {
		if len(wanted) > 0 {
			j.refuseErr("device", class, "", err)
		}
		return nil
	}
	for _, now := range list {
		if slices.ContainsFunc(wanted, func(w admin.Assignment) bool { return sameAssignment(w, now) }) {
			continue
		}
		err := j.api.Unassign(ctx, j.s.Name, class, now)
		switch {
		case fatal(ctx, err):
			return fmt.Errorf("take the %s device %s from %s: %w", class, shown(now.Port), j.s.Name, quoted(err))
		case err != nil:
			j.refuseErr("device", class+" "+now.Backend+":"+now.Port, "(none)", err)
		default:
			j.changed = true
			if !slices.ContainsFunc(wanted, func(w admin.Assignment) bool { return w.Backend == now.Backend && w.Port == now.Port }) {
				j.say("the %s device %s of %s is no longer assigned, the backup doesn't have it", class, shown(now.Port), shown(now.Backend))
			}
		}
	}
	for _, w := range wanted {
		if slices.ContainsFunc(list, func(now admin.Assignment) bool { return sameAssignment(w, now) }) {
			continue
		}
		if err := j.assign(ctx, class, w); err != nil {
			return err
		}
	}
	return j.checkDevices(ctx, class, wanted, list)
}

// assign assigns a device, unless the qube couldn't start with it.
func (j *job) assign(ctx context.Context, class string, a admin.Assignment) error {
	name := class + " " + a.Backend + ":" + a.Port
	if (a.Mode == "" || a.Mode == required) && a.Port != anyDevice && a.Backend != anyDevice {
		ports, err := j.api.Exposed(ctx, a.Backend, class)
		if fatal(ctx, err) {
			return fmt.Errorf("list the %s devices of %s: %w", class, a.Backend, quoted(err))
		}
		if err == nil && !slices.Contains(ports, a.Port) {
			j.refuse("device", name, deviceText(a), a.Backend+" has no such device here, and the qube would not start without it")
			return nil
		}
	}
	err := j.api.Assign(ctx, j.s.Name, class, a)
	switch {
	case fatal(ctx, err):
		return fmt.Errorf("assign the %s device %s to %s: %w", class, shown(a.Port), j.s.Name, quoted(err))
	case err != nil:
		j.refuseErr("device", name, deviceText(a), err)
		return nil
	}
	j.changed = true
	if class == "pci" && a.Identity == anyDevice {
		j.say("it gets whatever is at the pci port %s: the backup doesn't say which device that was", shown(a.Port))
	}
	return nil
}

// checkDevices looks at what came of it: R4.2 knows no modes and identities.
func (j *job) checkDevices(ctx context.Context, class string, wanted, before []admin.Assignment) error {
	if len(wanted) == 0 {
		return nil
	}
	list, err := j.api.Assigned(ctx, j.s.Name, class)
	if fatal(ctx, err) {
		return fmt.Errorf("read the %s devices of %s: %w", class, j.s.Name, quoted(err))
	}
	if err != nil {
		return nil // each was answered for
	}
	for _, w := range wanted {
		for _, now := range list {
			lost := w.Identity != anyDevice || w.Mode != "" && w.Mode != required
			if lost && now.Mode == "" && now.Port == w.Port && now.Backend == w.Backend {
				j.refuse("device", class+" "+w.Backend+":"+w.Port, deviceText(w), "this release of Qubes OS keeps neither mode nor identity: assigned as required")
			}
		}
	}
	return nil
}

// sameAssignment compares two assignments. What R4.2 says of one has no mode
// and fits any identity.
func sameAssignment(a, b admin.Assignment) bool {
	alike := a.Backend == b.Backend && a.Port == b.Port && optionText(a.Options) == optionText(b.Options)
	return alike && (a.Mode == "" || b.Mode == "" || a.Mode == b.Mode && a.Identity == b.Identity)
}

// deviceText is what there is to say of an assignment beside its port.
func deviceText(a admin.Assignment) string {
	return strings.TrimSpace(a.Mode + " " + a.Identity + optionText(a.Options))
}

// firewall sets the rules, all or none. A qube whose rules aren't known or
// can't be set, and that has none yet, gets one that lets nothing through: open
// is no stand-in for closed.
func (j *job) firewall(ctx context.Context) error {
	const open, closed = "action=accept", "action=drop"
	wanted := j.s.Config.Firewall
	known := len(wanted) > 0
	if !known && (j.s.Config.Class == remoteVM || j.s.Config.Class == adminVM) {
		return nil // it has no firewall
	}
	value := ""
	if known {
		value = fmt.Sprintf("%d rules", len(wanted))
	}
	now, err := j.api.Firewall(ctx, j.s.Name)
	switch {
	case fatal(ctx, err):
		return fmt.Errorf("read the firewall of %s: %w", j.s.Name, quoted(err))
	case err != nil && j.s.InPlace:
		j.refuseErr("firewall", "all", value, err)
		return nil
	case err == nil && known && slices.Equal(now, wanted):
		return nil
	}
	name, why := "all", "the rules are not in the backup"
	if known {
		if name, value, why, err = j.setFirewall(ctx, wanted); why == "" {
			return err
		}
	}
	empty := j.made || len(now) == 0 || slices.Equal(now, []string{open}) // no rules that somebody has chosen
	if !empty || !known && j.s.InPlace {
		j.refuse("firewall", name, value, why+"; all rules stay what they are here")
		return nil
	}
	if err := j.api.SetFirewall(ctx, j.s.Name, []string{closed}); err != nil {
		j.refuse("firewall", name, value, why)
		return fmt.Errorf("close the firewall of %s, whose rules can't be set: %w", j.s.Name, quoted(err))
	}
	j.changed = true
	if known {
		why += "; instead of all rules, nothing is let through"
	} else {
		why += "; it lets nothing through until you set some"
	}
	j.refuse("firewall", name, value, why)
	return nil
}

// setFirewall sets rules. Why they can't be set is told with the name and value
// that this is about; an empty why means that they are set, or the error.
func (j *job) setFirewall(ctx context.Context, wanted []string) (name, value, why string, err error) {
	name, value = "all", fmt.Sprintf("%d rules", len(wanted))
	for i, rule := range wanted {
		if !isPrintable(rule, maxValue) || !strings.HasPrefix(rule, "action=") {
			return fmt.Sprintf("rule %d", i+1), rule, "not a rule", nil
		}
	}
	err = j.api.SetFirewall(ctx, j.s.Name, wanted)
	switch {
	case err == nil:
		j.changed = true
		return name, value, "", nil
	case fatal(ctx, err):
		return name, value, "", fmt.Errorf("set the firewall of %s: %w", j.s.Name, quoted(err))
	}
	return name, value, reason(err), nil
}

// notes sets the notes. Notes that are here and that the backup doesn't have
// stay: R4.2 has none.
func (j *job) notes(ctx context.Context) error {
	untrusted := j.s.Config.Notes
	if untrusted == "" {
		return nil
	}
	if !isNotes(untrusted) {
		j.refuse("notes", "all", untrusted, "they are too long or have characters that qubesd doesn't take")
		return nil
	}
	now, err := j.api.Notes(ctx, j.s.Name)
	if err == nil && now == untrusted {
		return nil
	}
	if err == nil || !errors.Is(err, admin.ErrNoSuchCall) {
		err = j.api.SetNotes(ctx, j.s.Name, untrusted)
	}
	switch {
	case fatal(ctx, err):
		return fmt.Errorf("set the notes of %s: %w", j.s.Name, quoted(err))
	case err != nil:
		j.refuseErr("notes", "all", untrusted, err)
	default:
		j.changed = true
	}
	return nil
}
