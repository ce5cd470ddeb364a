package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// An Option is an option of a device assignment.
type Option struct{ Name, Value string }

// An Assignment is a device that a qube gets. Backend is the qube that has
// the device, "*" any; Port where it is plugged in, "*" anywhere. Identity is
// the device itself, "*" any at that port. Mode is required, auto-attach, ask-to-attach or
// manual. R4.2 knows neither identity nor mode: there Identity is "*" and
// Mode "".
type Assignment struct {
	Backend, Port, Identity, Mode string
	Options                       []Option
}

// modes of an assignment (AssignmentMode in qubes/device_protocol.py of
// qubes-core-admin).
var modes = []string{"required", "auto-attach", "ask-to-attach", "manual"}

// IsMode reports a way to assign a device.
func IsMode(untrusted string) bool { return slices.Contains(modes, untrusted) }

// DeviceClasses returns the classes of devices: pci, block, usb, mic.
func (c *Client) DeviceClasses(ctx context.Context) ([]string, error) {
	return c.names(ctx, request{dest: dom0, method: "admin.deviceclass.List"}, "device class")
}

// Assigned returns the devices that are assigned to a qube for good,
// ascending by backend, port and identity. On R4.2 those are the persistent
// ones.
func (c *Client) Assigned(ctx context.Context, vm, class string) ([]Assignment, error) {
	if err := checkWord("device class", class); err != nil {
		return nil, err
	}
	r := request{dest: vm, method: "admin.vm.device." + class + ".Assigned"}
	list, err := parsed(ctx, c, r, parseAssigned)
	if !errors.Is(err, ErrRefused) {
		return list, err
	}
	// R4.2 has .List instead, and R4.3 has no .List.
	r.method = "admin.vm.device." + class + ".List"
	return parsed(ctx, c, r, parseAttached)
}

// Assign assigns a device to a qube for good. On R4.2, which doesn't know
// them, mode and identity are left out: every device is required there.
func (c *Client) Assign(ctx context.Context, vm, class string, a Assignment) error {
	if err := a.check(class); err != nil {
		return fmt.Errorf("assign a device to %q: %w", cut(vm), err)
	}
	r := request{dest: vm, method: "admin.vm.device." + class + ".Assign", arg: a.argument(), payload: a.payload(class)}
	err := c.do(ctx, r)
	if old := c.refusedBy42(ctx, vm, err); !old {
		return err
	}
	r.method, r.arg = "admin.vm.device."+class+".Attach", a.Backend+"+"+a.Port
	if r.payload, err = a.payload42(); err != nil {
		return fmt.Errorf("assign a device to %q: %w", cut(vm), err)
	}
	return c.do(ctx, r)
}

// Unassign takes an assigned device from a qube.
func (c *Client) Unassign(ctx context.Context, vm, class string, a Assignment) error {
	if err := a.check(class); err != nil {
		return fmt.Errorf("take a device from %q: %w", cut(vm), err)
	}
	r := request{dest: vm, method: "admin.vm.device." + class + ".Unassign", arg: a.argument()}
	err := c.do(ctx, r)
	if old := c.refusedBy42(ctx, vm, err); !old {
		return err
	}
	r.method, r.arg = "admin.vm.device."+class+".Detach", a.Backend+"+"+a.Port
	return c.do(ctx, r)
}

// refusedBy42 reports that a call was refused because this is R4.2.
func (c *Client) refusedBy42(ctx context.Context, vm string, err error) bool {
	return errors.Is(c.missingIn42(ctx, vm, err), ErrNoSuchCall)
}

// check holds an assignment to what a request can carry. A port with a ':'
// or a backend with a '+' would be another device.
func (a *Assignment) check(class string) error {
	if err := errors.Join(checkWord("device class", class), checkBackend(a.Backend)); err != nil {
		return err
	}
	if !isToken(a.Port, maxToken) || !isPackable(a.Port) || strings.Contains(a.Port, ":") {
		return fmt.Errorf("%w of a device port: %q", ErrBadName, cut(a.Port))
	}
	if a.Identity != "" && !(isToken(a.Identity, maxToken) && isPackable(a.Identity)) {
		return fmt.Errorf("%w of a device: %q", ErrBadName, cut(a.Identity))
	}
	if a.Mode != "" && !IsMode(a.Mode) {
		return fmt.Errorf("%w of a mode of assignment: %q", ErrBadName, cut(a.Mode))
	}
	for _, o := range a.Options {
		if !isToken(o.Name, maxToken) || strings.ContainsAny(o.Name, `='"`+"`") {
			return fmt.Errorf("%w of a device option: %q", ErrBadName, cut(o.Name))
		}
		if !isPackable(o.Value) {
			return fmt.Errorf("the device option %s can't have the value %q", o.Name, cut(o.Value))
		}
	}
	return nil
}

// checkBackend takes a qube, or "*" for a device wherever it is plugged in.
func checkBackend(untrusted string) error {
	if untrusted == "*" {
		return nil
	}
	return checkQube(untrusted)
}

// isPackable reports a value that comes out of a packed assignment as it
// went in: qubesd looks for =' to find where the next key begins, and takes
// back only the backslash in front of an apostrophe.
func isPackable(value string) bool {
	return len(value) <= maxText && !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) &&
		!strings.Contains(value, `='`) && !strings.HasSuffix(value, "=") && !strings.Contains(value, `\'`) && !strings.HasSuffix(value, `\`)
}

// identity is Identity, with "" for any too.
func (a *Assignment) identity() string {
	if a.Identity == "" {
		return "*"
	}
	return a.Identity
}

func (a *Assignment) argument() string { return a.Backend + "+" + a.Port + ":" + a.identity() }

// payload packs an assignment: key='value', an apostrophe in a value with a
// backslash before it and nothing else escaped (DeviceSerializer in
// qubes/device_protocol.py of qubes-core-admin).
func (a *Assignment) payload(class string) string {
	mode := a.Mode
	if mode == "" { // captured on R4.2, where every device is required
		mode = "required"
	}
	b := pack(nil, "device_id", a.identity())
	b = pack(b, "port_id", a.Port)
	b = pack(b, "devclass", class)
	b = pack(b, "backend_domain", a.Backend)
	b = pack(b, "mode", mode)
	for _, o := range a.Options {
		b = pack(b, "_"+o.Name, o.Value)
	}
	return string(b)
}

// pack appends a key and its value.
func pack(b []byte, key, value string) []byte {
	if len(b) > 0 {
		b = append(b, ' ')
	}
	return append(b, key+"='"+strings.ReplaceAll(value, "'", `\'`)+"'"...)
}

// payload42 is an assignment as R4.2 takes it: words of option=value
// (vm_device_attach in its qubes/api/admin.py).
func (a *Assignment) payload42() (string, error) {
	words := []string{"persistent=yes"}
	for _, o := range a.Options {
		if strings.Trim(o.Value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.,+:") != "" || o.Name == "persistent" {
			return "", fmt.Errorf("R4.2 doesn't take the device option %s=%q", o.Name, cut(o.Value))
		}
		words = append(words, o.Name+"="+o.Value)
	}
	return strings.Join(words, " "), nil
}

// parseAssigned reads the answer of .Assigned:
//
//	BACKEND+PORT:IDENTITY key='value' key='value' ...
//
// where keys that begin with '_' are options.
func parseAssigned(untrusted []byte) ([]Assignment, error) {
	return parseDevices(untrusted, func(a *Assignment, identity, rest string) error {
		port, id, found := strings.Cut(identity, ":")
		if !found {
			id = "*"
		}
		a.Port, a.Identity = port, id
		pairs, err := unpack(rest)
		if err != nil {
			return err
		}
		for _, p := range pairs {
			option, isOption := strings.CutPrefix(p.Name, "_")
			switch {
			case isOption:
				a.Options = append(a.Options, Option{option, p.Value})
			case p.Name == "mode":
				a.Mode = p.Value
			case p.Name == "device_id":
				a.Identity = p.Value
			}
		}
		if !IsMode(a.Mode) {
			return fmt.Errorf("the mode is %q", cut(a.Mode))
		}
		return nil
	})
}

// unpack reads key='value' pairs: each "='" begins a value, which ends with
// the last "' " before the next, or with the text.
func unpack(untrusted string) ([]Option, error) {
	if untrusted == "" {
		return nil, nil
	}
	var pairs []Option
	key, rest, found := strings.Cut(untrusted, "='")
	for found {
		value, next, ended := "", "", false
		value, rest, found = strings.Cut(rest, "='")
		if found {
			i := strings.LastIndex(value, "' ")
			if ended = i >= 0; ended {
				value, next = value[:i], value[i+2:]
			}
		} else {
			value, ended = strings.CutSuffix(value, "'")
		}
		if !ended {
			return nil, errors.New("a value doesn't end")
		}
		if key = strings.TrimSpace(key); !isToken(key, maxToken) {
			return nil, fmt.Errorf("%q is no key", cut(key))
		}
		pairs = append(pairs, Option{key, strings.ReplaceAll(value, `\'`, "'")})
		key = next
	}
	if len(pairs) == 0 {
		return nil, fmt.Errorf("%q has no value", cut(untrusted))
	}
	return pairs, nil
}

// parseAttached reads the answer of .List of R4.2:
//
//	BACKEND+PORT option=value ... persistent=yes
//
// Devices that are attached until the qube stops say persistent=no and are
// left out.
func parseAttached(untrusted []byte) ([]Assignment, error) {
	list, err := parseDevices(untrusted, func(a *Assignment, port, rest string) error {
		a.Port, a.Identity = port, "*"
		for word := range strings.FieldsSeq(rest) {
			name, value, found := strings.Cut(word, "=")
			if !found || name == "" {
				return fmt.Errorf("%q is no option", cut(word))
			}
			a.Options = append(a.Options, Option{name, value})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	kept := list[:0]
	for _, a := range list {
		persistent := func(o Option) bool { return o.Name == "persistent" }
		i := slices.IndexFunc(a.Options, persistent)
		if i < 0 || a.Options[i].Value != "yes" {
			continue
		}
		if a.Options = slices.DeleteFunc(a.Options, persistent); len(a.Options) == 0 {
			a.Options = nil
		}
		kept = append(kept, a)
	}
	return kept, nil
}

// parseDevices reads a list of devices; read gets what follows the backend's
// '+', and the rest of the line.
func parseDevices(untrusted []byte, read func(a *Assignment, device, rest string) error) ([]Assignment, error) {
	list, err := lines(untrusted)
	if err != nil {
		return nil, err
	}
	devices := make([]Assignment, 0, len(list))
	for _, line := range list {
		name, rest, _ := strings.Cut(line, " ")
		backend, device, found := strings.Cut(name, "+")
		a := Assignment{Backend: backend}
		if !found || checkBackend(backend) != nil {
			return nil, fmt.Errorf("%w: %q is no device", ErrAnswer, cut(line))
		}
		err := read(&a, device, rest)
		if err == nil && (!isToken(a.Port, maxToken) || a.Identity == "" || len(a.Identity) > maxToken ||
			strings.ContainsFunc(a.Identity, isControl)) {
			err = errors.New("no port or identity")
		}
		if err != nil {
			return nil, fmt.Errorf("%w: the device %q: %w", ErrAnswer, cut(name), err)
		}
		slices.SortFunc(a.Options, func(x, y Option) int { return strings.Compare(x.Name, y.Name) })
		devices = append(devices, a)
	}
	slices.SortFunc(devices, func(x, y Assignment) int {
		return strings.Compare(x.Backend+"\x00"+x.Port+"\x00"+x.Identity, y.Backend+"\x00"+y.Port+"\x00"+y.Identity)
	})
	return devices, nil
}
