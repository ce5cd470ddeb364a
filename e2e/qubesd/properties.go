package qubesd

import (
	"slices"
	"strconv"
	"strings"
)

// A definition is what qubesd knows of a property.
type definition struct {
	kind    string // type= of an answer: str, int, bool, vm, label
	classes string // "": all but AdminVM; else those with a blank behind each
	// fixed properties can't be set. Those of state "identity" are refused
	// with the empty answer, the others with a reason.
	fixed string
	// value is the default: a text, or "@NAME" for the global property NAME.
	value string
}

// How a fixed property refuses.
const (
	identity = "identity"
	computed = "computed"
)

// definitions are the properties of qubes that are known here, those of
// qubesvm.py, appvm.py, dispvm.py and mix/net.py that can matter to a restore.
func definitions() map[string]definition {
	all := "AdminVM TemplateVM AppVM DispVM StandaloneVM RemoteVM "
	return map[string]definition{
		"name":  {kind: "str", fixed: identity, classes: all},
		"qid":   {kind: "int", fixed: identity, classes: all},
		"uuid":  {kind: "str", fixed: identity, classes: all},
		"klass": {kind: "str", fixed: computed, classes: all},
		"label": {kind: "label", classes: all},
		"icon":  {kind: "str", fixed: computed, classes: all},

		"template":             {kind: "vm", classes: "AppVM DispVM "},
		"template_for_dispvms": {kind: "bool", classes: "AppVM ", value: "False"},
		"auto_cleanup":         {kind: "bool", classes: "DispVM ", value: "False"},
		"dispid":               {kind: "int", classes: "DispVM "},
		"relayvm":              {kind: "vm", classes: "RemoteVM "},
		"remote_name":          {kind: "str", classes: "RemoteVM "},
		"transport_rpc":        {kind: "str", classes: "RemoteVM "},

		"audiovm":            {kind: "vm", value: "dom0"},
		"autostart":          {kind: "bool", value: "False"},
		"backup_timestamp":   {kind: "int"},
		"debug":              {kind: "bool", value: "False"},
		"default_dispvm":     {kind: "vm", value: "@default_dispvm"},
		"default_user":       {kind: "str", value: "user"},
		"dns":                {kind: "str", fixed: computed, value: "10.139.1.1 10.139.1.2"},
		"gateway":            {kind: "str", fixed: computed},
		"gateway6":           {kind: "str", fixed: computed},
		"guivm":              {kind: "vm", value: "dom0"},
		"include_in_backups": {kind: "bool", value: "True"},
		"installed_by_rpm":   {kind: "bool", value: "False"},
		"ip":                 {kind: "str"},
		"ip6":                {kind: "str"},
		"kernel":             {kind: "str", value: "@default_kernel"},
		"kernelopts":         {kind: "str", value: "swiotlb=2048"},
		"keyboard_layout":    {kind: "str", value: "us++"},
		"mac":                {kind: "str", value: "00:16:3e:5e:6c:00"},
		"management_dispvm":  {kind: "vm", value: "@management_dispvm"},
		"maxmem":             {kind: "int", value: "4000"},
		"memory":             {kind: "int", value: "400"},
		"netvm":              {kind: "vm", value: "@default_netvm"},
		"provides_network":   {kind: "bool", value: "False"},
		"qrexec_timeout":     {kind: "int", value: "60"},
		"shutdown_timeout":   {kind: "int", value: "60"},
		"start_time":         {kind: "str", fixed: computed},
		"stubdom_mem":        {kind: "int"},
		"stubdom_xid":        {kind: "int", fixed: computed, value: "-1"},
		"updateable":         {kind: "bool", fixed: computed, value: "False"},
		"vcpus":              {kind: "int", value: "2"},
		"virt_mode":          {kind: "str", value: "pvh"},
		"visible_gateway":    {kind: "str", fixed: computed},
		"visible_gateway6":   {kind: "str", fixed: computed},
		"visible_ip":         {kind: "str", fixed: computed},
		"visible_ip6":        {kind: "str", fixed: computed},
		"visible_netmask":    {kind: "str", fixed: computed},
		"xid":                {kind: "int", fixed: computed, value: "-1"},
	}
}

// globalDefinitions are the properties of the system (app.py).
func globalDefinitions() map[string]definition {
	return map[string]definition{
		"check_updates_vm":         {kind: "bool", value: "True"},
		"clockvm":                  {kind: "vm"},
		"default_audiovm":          {kind: "vm", value: "dom0"},
		"default_dispvm":           {kind: "vm"},
		"default_guivm":            {kind: "vm", value: "dom0"},
		"default_kernel":           {kind: "str"},
		"default_netvm":            {kind: "vm"},
		"default_pool":             {kind: "str", value: "varlibqubes"},
		"default_pool_kernel":      {kind: "str", value: "linux-kernel"},
		"default_pool_private":     {kind: "str", value: "@default_pool"},
		"default_pool_root":        {kind: "str", value: "@default_pool"},
		"default_pool_volatile":    {kind: "str", value: "@default_pool"},
		"default_qrexec_timeout":   {kind: "int", value: "60"},
		"default_shutdown_timeout": {kind: "int", value: "60"},
		"default_template":         {kind: "vm"},
		"management_dispvm":        {kind: "vm"},
		"stats_interval":           {kind: "int", value: "3"},
		"updatevm":                 {kind: "vm"},
	}
}

// applies reports whether a class has a property.
func (d definition) applies(class string) bool {
	if d.classes == "" {
		return class != "AdminVM" && class != "RemoteVM"
	}
	return strings.Contains(" "+d.classes, " "+class+" ")
}

// global is the value of a global property.
func (s *Server) global(name string) string {
	if value, found := s.system.globals.get(name); found {
		return value
	}
	return s.resolve(globalDefinitions()[name].value)
}

// resolve follows a default that is a global property.
func (s *Server) resolve(value string) string {
	if len(value) > 1 && value[0] == '@' {
		return s.global(value[1:])
	}
	return value
}

// property is the value of a qube's property, and whether it is a default.
func (s *Server) property(q *qube, name string, d definition) (value string, isDefault bool) {
	if value, found := q.properties.get(name); found {
		return value, false
	}
	switch {
	case name == "name":
		return q.name, false
	case name == "klass":
		return q.class, true
	case name == "qid":
		return strconv.Itoa(q.id), false
	case name == "label" && q.class == "AdminVM":
		return "black", false
	case name == "uuid" && q.class == "AdminVM":
		return "00000000-0000-0000-0000-000000000000", true
	case name == "netvm" && q.class == "TemplateVM":
		return "", true // templates have no network unless told so
	case name == "include_in_backups" && q.class == "DispVM":
		// Disposables that clean up after themselves aren't backed up.
		cleanup, _ := q.properties.get("auto_cleanup")
		return python(cleanup != "True"), true
	}
	return s.resolve(d.value), true
}

// propertyLine is what Get answers: default=, type= and the value.
func (s *Server) propertyLine(value, kind string, isDefault bool) string {
	return "default=" + python(isDefault) + " type=" + kind + " " + value
}

// propertyNames sorts a table's properties that a class has; "" means all.
func propertyNames(table map[string]definition, class string) []string {
	var names []string
	for name, d := range table {
		if class == "" || d.applies(class) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
