package qubesd

import (
	"slices"
	"strings"
)

// deviceClasses are those that qubes-core-admin and its usual extensions
// bring.
var deviceClasses = []string{"block", "mic", "pci", "usb"}

// Modes of R4.3 (device_protocol.py).
var deviceModes = []string{"manual", "ask-to-attach", "auto-attach", "required"}

func (s *Server) deviceClassList(q *qube, c Call) ([]byte, error) {
	return []byte(strings.Join(deviceClasses, "\n") + "\n"), nil
}

// deviceCall: R4.2 lists, attaches and detaches; in R4.3 attaching is for as
// long as the qube runs only, and assigning for good.
func (s *Server) deviceCall(q *qube, c Call, class, verb string) ([]byte, error) {
	if !slices.Contains(deviceClasses, class) {
		return nil, errRefused
	}
	if s.o.Release == R42 {
		switch verb {
		case "List":
			return s.deviceList42(q, class), nil
		case "Attach":
			return nil, s.deviceAttach42(q, c, class)
		case "Detach":
			return nil, s.deviceRemove(q, c, class)
		}
		return nil, errRefused
	}
	switch verb {
	case "Assigned":
		return s.deviceAssigned(q, class), nil
	case "Assign":
		return nil, s.deviceAssign(q, c, class)
	case "Unassign":
		return nil, s.deviceRemove(q, c, class)
	}
	return nil, errRefused
}

// deviceAssigned lists BACKEND+PORT:IDENTITY and the packed assignment,
// sorted.
func (s *Server) deviceAssigned(q *qube, class string) []byte {
	var lines []string
	for _, d := range q.devices {
		if d.class != class {
			continue
		}
		line := d.backend + "+" + d.port + ":" + d.identity + " " + packed("device_id", d.identity) + " " + packed("port_id", d.port) +
			" " + packed("devclass", class) + " " + packed("backend_domain", d.backend) + " " + packed("mode", d.mode) +
			" " + packed("frontend_domain", q.name)
		for _, o := range d.options {
			line += " " + packed("_"+o.name, o.value)
		}
		lines = append(lines, line+"\n")
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, ""))
}

// packed is key='value'; only the apostrophe is escaped (DeviceSerializer).
func packed(key, value string) string {
	return key + "='" + strings.ReplaceAll(value, "'", `\'`) + "'"
}

// unpacked reads packed pairs as DeviceSerializer does: from each =' to the
// next one, of which what follows the last "' " is the next key.
func unpacked(text string) (pairs, error) {
	var result pairs
	key, rest, found := strings.Cut(text, "='")
	if !found {
		return nil, errRefused
	}
	for {
		value, after, more := strings.Cut(rest, "='")
		next := ""
		if more {
			i := strings.LastIndex(value, "' ")
			if i < 0 {
				return nil, errRefused
			}
			value, next = value[:i], value[i+2:]
		} else if value != "" {
			value = value[:len(value)-1]
		}
		result = append(result, pair{strings.TrimSpace(key), strings.ReplaceAll(value, `\'`, "'")})
		if !more {
			return result, nil
		}
		key, rest = next, after
	}
}

// parseDevice reads BACKEND+PORT[:IDENTITY]. A backend that isn't there is an
// exception.
func (s *Server) parseDevice(c Call, class string) (device, error) {
	backend, port, found := strings.Cut(c.Arg, "+")
	if !found {
		return device{}, errRefused
	}
	if _, err := s.need(backend); err != nil && backend != "*" {
		return device{}, err
	}
	d := device{class: class, backend: backend, identity: "*"}
	port, identity, found := strings.Cut(port, ":")
	if d.port = port; found && identity != "" {
		d.identity = identity
	}
	return d, nil
}

// deviceAssign: what the payload says must be what the argument says.
func (s *Server) deviceAssign(q *qube, c Call, class string) error {
	d, err := s.parseDevice(c, class)
	if err != nil {
		return err
	}
	properties, err := unpacked(strings.TrimSpace(c.Payload))
	if err != nil {
		return err
	}
	d.mode = "manual"
	for _, p := range properties {
		switch {
		case strings.HasPrefix(p.name, "_"):
			d.options.set(p.name[1:], p.value)
		case p.name == "mode":
			d.mode = p.value
		case p.name == "backend_domain" && p.value != d.backend, p.name == "port_id" && p.value != d.port,
			p.name == "devclass" && p.value != class, p.name == "device_id" && d.identity != "*" && p.value != d.identity:
			return errRefused
		case p.name == "device_id":
			d.identity = p.value
		}
	}
	if !slices.Contains(deviceModes, d.mode) {
		return errRefused
	}
	if q.device(d) >= 0 {
		return raise("DeviceAlreadyAssigned", "%s device %s+%s already assigned to %s", class, d.backend, d.port, q.name)
	}
	q.devices = append(q.devices, d)
	return s.save()
}

// device finds an assignment of the same device at the same port.
func (q *qube) device(d device) int {
	return slices.IndexFunc(q.devices, func(e device) bool {
		return e.class == d.class && e.backend == d.backend && e.port == d.port && e.identity == d.identity
	})
}

func (s *Server) deviceRemove(q *qube, c Call, class string) error {
	d, err := s.parseDevice(c, class)
	if err != nil {
		return err
	}
	i := q.device(d)
	if i < 0 {
		return raise("DeviceNotAssigned", "device %s+%s of class %s not assigned to %s", d.backend, d.port, class, q.name)
	}
	q.devices = slices.Delete(q.devices, i, i+1)
	return s.save()
}

// deviceList42 lists BACKEND+PORT option=value ... persistent=yes, sorted.
func (s *Server) deviceList42(q *qube, class string) []byte {
	var lines []string
	for _, d := range q.devices {
		if d.class != class {
			continue
		}
		line := d.backend + "+" + d.port
		for _, o := range d.options {
			line += " " + o.name + "=" + o.value
		}
		lines = append(lines, line+" persistent=yes\n")
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, ""))
}

// deviceAttach42 takes words of option=value; without persistent=yes a qube
// that doesn't run can't have a device.
func (s *Server) deviceAttach42(q *qube, c Call, class string) error {
	d, err := s.parseDevice(c, class)
	if err != nil {
		return err
	}
	d.mode = "required"
	persistent := false
	for _, word := range strings.Fields(c.Payload) {
		name, value, found := strings.Cut(word, "=")
		characters := wordCharacters
		switch {
		case !found:
			return errRefused
		case name == "persistent":
			persistent = value == "yes" || value == "True"
		case strings.Trim(name, characters) != "" || strings.Trim(value, characters+",+:") != "":
			return errRefused
		default:
			d.options.set(name, value)
		}
	}
	if !persistent {
		return raise("QubesVMNotRunningError", "VM not running, cannot attach device, do you mean `persistent`?")
	}
	if q.device(d) >= 0 {
		return raise("DeviceAlreadyAttached", "device %s+%s of class %s already attached to %s", d.backend, d.port, class, q.name)
	}
	q.devices = append(q.devices, d)
	return s.save()
}
