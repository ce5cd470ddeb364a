package format_test

import (
	"strings"
	"testing"

	"pinion/dom0/internal/format"
)

// TestInherited: what a qube inherited is one of two properties, is not set as
// well, and is in order.
func TestInherited(t *testing.T) {
	pair := func(name, value string) format.QubePair { return format.QubePair{Name: name, Value: value} }
	for want, list := range map[string][]format.QubePair{
		"":                   {pair("default_dispvm", ""), pair("netvm", "sys-whonix")},
		"no property that":   {pair("memory", "400")},
		"set and inherited":  {pair("management_dispvm", "x")},
		"out of order":       {pair("netvm", "a"), pair("default_dispvm", "b")},
		"value of netvm":     {pair("netvm", "a\nb")},
		"value of netvm has": {pair("netvm", strings.Repeat("a", format.MaxQubeKey+1))},
	} {
		c := qube()
		c.Properties, c.Inherited = c.Properties[:1], list
		if want == "set and inherited" {
			c = qube()
			c.Inherited = []format.QubePair{pair("netvm", "a")}
		}
		_, err := format.ParseQubeConfig(c.Append(nil))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
