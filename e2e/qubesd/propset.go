package qubesd

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// noSuchProperty answers a name that the qube's class doesn't have.
func noSuchProperty(name, of string) error {
	return raise("QubesNoSuchPropertyError", "Invalid property '%s' of %s", name, of)
}

// escaped is a value in a list: backslashes and line feeds are escaped
// (admin.py:232).
func escaped(line string) string {
	return strings.ReplaceAll(strings.ReplaceAll(line, `\`, `\\`), "\n", `\n`)
}

func (s *Server) propertyGetAll(q *qube, c Call) ([]byte, error) {
	table := definitions()
	var b []byte
	for _, name := range propertyNames(table, q.class) {
		value, isDefault := s.property(q, name, table[name])
		b = append(b, name+" "+escaped(s.propertyLine(value, table[name].kind, isDefault))+"\n"...)
	}
	return b, nil
}

func (s *Server) propertyGet(q *qube, c Call) ([]byte, error) {
	d, found := definitions()[c.Arg]
	if !found || !d.applies(q.class) {
		return nil, noSuchProperty(c.Arg, q.name)
	}
	value, isDefault := s.property(q, c.Arg, d)
	return []byte(s.propertyLine(value, d.kind, isDefault)), nil
}

func (s *Server) globalGetAll(q *qube, c Call) ([]byte, error) {
	table := globalDefinitions()
	var b []byte
	for _, name := range propertyNames(table, "") {
		_, set := s.system.globals.get(name)
		b = append(b, name+" "+escaped(s.propertyLine(s.global(name), table[name].kind, !set))+"\n"...)
	}
	return b, nil
}

func (s *Server) globalGet(q *qube, c Call) ([]byte, error) {
	d, found := globalDefinitions()[c.Arg]
	if !found {
		return nil, noSuchProperty(c.Arg, "system")
	}
	_, set := s.system.globals.get(c.Arg)
	return []byte(s.propertyLine(s.global(c.Arg), d.kind, !set)), nil
}

func (s *Server) globalSet(q *qube, c Call) ([]byte, error) {
	d, found := globalDefinitions()[c.Arg]
	if !found {
		return nil, noSuchProperty(c.Arg, "system")
	}
	value, err := s.checkKind(c.Arg, d, c.Payload)
	if err != nil {
		return nil, err
	}
	s.system.globals.set(c.Arg, value)
	return nil, s.save()
}

// propertySet sets a property; the value is checked by its type, and then by
// what the property means.
func (s *Server) propertySet(q *qube, c Call) ([]byte, error) {
	d, found := definitions()[c.Arg]
	if !found || !d.applies(q.class) {
		return nil, noSuchProperty(c.Arg, q.name)
	}
	switch d.fixed {
	case identity:
		return nil, errRefused
	case computed:
		return nil, raise("QubesPropertyValueError", "'%s' cannot be set", c.Arg)
	}
	value, err := s.checkKind(c.Arg, d, c.Payload)
	if err != nil {
		return nil, err
	}
	if err := s.checkMeaning(q, c.Arg, value); err != nil {
		return nil, err
	}
	q.properties.set(c.Arg, value)
	if c.Arg == "template" {
		s.followTemplate(q)
	}
	return nil, s.save()
}

func (s *Server) propertyReset(q *qube, c Call) ([]byte, error) {
	d, found := definitions()[c.Arg]
	if !found || !d.applies(q.class) {
		return nil, noSuchProperty(c.Arg, q.name)
	}
	if d.fixed != "" || c.Arg == "template" || c.Arg == "label" {
		return nil, errRefused // there is no default, or nothing to reset
	}
	q.properties.remove(c.Arg)
	return nil, s.save()
}

// badValue answers a value that a property can't have.
func badValue(name, value string) error {
	return raise("QubesPropertyValueError", "Invalid value '%s' for property '%s'", value, name)
}

// checkKind checks a value by the type of its property, and returns it as it
// is stored. What isn't ASCII is an error that the client isn't told.
func (s *Server) checkKind(name string, d definition, value string) (string, error) {
	if strings.ContainsFunc(value, func(r rune) bool { return r >= 0x80 }) {
		return "", errRefused
	}
	switch d.kind {
	case "bool":
		switch strings.ToLower(value) {
		case "true", "yes", "on", "1":
			return "True", nil
		case "false", "no", "off", "0":
			return "False", nil
		}
		return "", badValue(name, value)
	case "int":
		n, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil {
			return "", badValue(name, value)
		}
		return strconv.Itoa(n), nil
	case "vm":
		if value == "" {
			return "", nil
		}
		if s.find(value) == nil {
			return "", raise("QubesVMNotFoundError", "No such domain: '%s'", value)
		}
	case "label":
		if s.label(value) == nil {
			return "", raise("QubesLabelNotFoundError", "Label does not exist: %s", value)
		}
	}
	return value, nil
}

var (
	macRule = regexp.MustCompile(`^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$`)
	ipRule  = regexp.MustCompile(`^[0-9]+(\.[0-9]+){3}$`)
)

// checkMeaning refuses values as the setters of qubesd do, each seen on the
// real one: a kernel that isn't installed, a network qube that isn't one or
// makes a loop, a template of the wrong class, nothing for an address, no
// memory and no processors.
func (s *Server) checkMeaning(q *qube, name, value string) error {
	n, _ := strconv.Atoi(value)
	switch name {
	case "kernel":
		if value != "" && !slices.Contains(s.system.kernels, value) {
			return raise("QubesPropertyValueError", "Kernel '%s' not installed", value)
		}
	case "memory", "vcpus":
		if n <= 0 {
			return badValue(name, value)
		}
	case "maxmem", "qrexec_timeout", "shutdown_timeout":
		if n < 0 {
			return badValue(name, value)
		}
	case "virt_mode":
		if !slices.Contains([]string{"pv", "pvh", "hvm"}, value) {
			return badValue(name, value)
		}
	case "mac":
		if !macRule.MatchString(value) {
			return badValue(name, value)
		}
	case "ip":
		if !ipRule.MatchString(value) {
			return badValue(name, value)
		}
	case "netvm":
		return s.checkNetVM(q, value)
	case "template":
		return s.checkTemplate(q, value)
	case "provides_network":
		if value == "False" && slices.ContainsFunc(s.system.qubes, func(o *qube) bool { return s.netvm(o) == q.name }) {
			return raise("QubesValueError", "The qube is still used by other qubes as netvm")
		}
	case "template_for_dispvms":
		if value == "False" && s.basedOn(q.name) {
			return raise("QubesVMInUseError", "this qube is used as template for other qubes")
		}
	}
	return nil
}

// netvm is the qube that gives a qube its network, "" for none.
func (s *Server) netvm(q *qube) string {
	if q.class == "AdminVM" || q.class == "RemoteVM" {
		return ""
	}
	value, _ := s.property(q, "netvm", definitions()["netvm"])
	return value
}

func (s *Server) checkNetVM(q *qube, value string) error {
	if value == "" {
		return nil
	}
	of := s.find(value)
	if provides, _ := of.properties.get("provides_network"); provides != "True" {
		return raise("QubesValueError", "The '%s' qube does not provide network", value)
	}
	n := value
	for range len(s.system.qubes) { // a qube may be its own by default, and then the way has no end
		if n == q.name {
			return raise("QubesValueError", "Loops in network are unsupported")
		}
		next := s.find(n)
		if next == nil {
			break
		}
		if n = s.netvm(next); n == "" {
			break
		}
	}
	return nil
}

// checkTemplate: an AppVM is made of a TemplateVM, a DispVM of an AppVM with
// template_for_dispvms. It can't change while the qube runs.
func (s *Server) checkTemplate(q *qube, value string) error {
	if q.state != halted {
		return raise("QubesVMNotHaltedError", "Cannot change template while qube is running")
	}
	of := s.find(value)
	if of == nil {
		return badValue("template", value)
	}
	if q.class == "DispVM" {
		if yes, _ := of.properties.get("template_for_dispvms"); yes != "True" {
			return raise("QubesPropertyValueError", "template for DispVM must have template_for_dispvms=True")
		}
		return nil
	}
	if of.class != "TemplateVM" {
		return raise("QubesPropertyValueError", "template '%s' is not a TemplateVM", value)
	}
	return nil
}

// basedOn reports a qube that another has as its template.
func (s *Server) basedOn(name string) bool {
	return slices.ContainsFunc(s.system.qubes, func(o *qube) bool {
		template, _ := o.properties.get("template")
		return template == name
	})
}
