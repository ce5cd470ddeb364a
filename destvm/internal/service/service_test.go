package service

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"pinion/destvm/internal/dirstore"
)

func environment(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

func TestReadCall(t *testing.T) {
	good := map[string]string{"QREXEC_REMOTE_DOMAIN": "dom0", "QREXEC_SERVICE_ARGUMENT": "laptop"}
	with := func(name, value string) map[string]string {
		vars := maps.Clone(good)
		vars[name] = value
		return vars
	}
	for _, tt := range []struct {
		what, archive string
		vars          map[string]string
		want          error
	}{
		{"good", "laptop", good, nil},
		{"another caller", "laptop", with("QREXEC_REMOTE_DOMAIN", "mgmt-1.x_y"), nil},
		{"no argument set", "laptop", map[string]string{"QREXEC_REMOTE_DOMAIN": "dom0"}, nil},
		{"no caller", "laptop", map[string]string{"QREXEC_SERVICE_ARGUMENT": "laptop"}, ErrCaller},
		{"empty caller", "laptop", with("QREXEC_REMOTE_DOMAIN", ""), ErrCaller},
		{"two callers", "laptop", with("QREXEC_REMOTE_DOMAIN", "dom0 mgmt"), ErrCaller},
		{"long caller", "laptop", with("QREXEC_REMOTE_DOMAIN", strings.Repeat("a", 32)), ErrCaller},
		{"caller with a newline", "laptop", with("QREXEC_REMOTE_DOMAIN", "dom0\n"), ErrCaller},
		{"no archive", "", with("QREXEC_SERVICE_ARGUMENT", ""), ErrName},
		{"another archive", "laptop", with("QREXEC_SERVICE_ARGUMENT", "desktop"), ErrName},
		{"path", "../x", with("QREXEC_SERVICE_ARGUMENT", "../x"), ErrName},
		{"parent", "..", with("QREXEC_SERVICE_ARGUMENT", ".."), ErrName},
		{"option", "--config", with("QREXEC_SERVICE_ARGUMENT", "--config"), ErrName},
		{"too long", strings.Repeat("a", 65), with("QREXEC_SERVICE_ARGUMENT", strings.Repeat("a", 65)), ErrName},
	} {
		call, err := ReadCall(tt.archive, environment(tt.vars))
		if !errors.Is(err, tt.want) || (err == nil) != (call != Call{}) {
			t.Errorf("%s: %+v, %v", tt.what, call, err)
		}
		if err == nil && (call.Archive != tt.archive || call.Caller != tt.vars["QREXEC_REMOTE_DOMAIN"]) {
			t.Errorf("%s: %+v", tt.what, call)
		}
	}
}

const example = `
# comment
[archive laptop]
dir = /mnt/disk//laptop/
append-only = true
callers = mgmt other

; comment
[ archive   home ]
dir = ~/a/../b
read-only=true
[defaults]
callers = common
append-only = false
`

func TestPlace(t *testing.T) {
	c, err := Parse("store.conf", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	const home = "/home/user"
	for _, tt := range []struct {
		call Call
		want Place
		err  error
	}{
		{Call{"laptop", "dom0"}, Place{"/mnt/disk/laptop", dirstore.Options{AppendOnly: true}}, nil},
		{Call{"laptop", "mgmt"}, Place{"/mnt/disk/laptop", dirstore.Options{AppendOnly: true}}, nil},
		{Call{"laptop", "common"}, Place{}, ErrCaller},
		{Call{"laptop", "Dom0"}, Place{}, ErrCaller},
		{Call{"home", "dom0"}, Place{"/home/user/b", dirstore.Options{ReadOnly: true}}, nil},
		{Call{"home", "common"}, Place{"/home/user/b", dirstore.Options{ReadOnly: true}}, nil},
		{Call{"home", "mgmt"}, Place{}, ErrCaller},
		{Call{"new", "dom0"}, Place{"/home/user/pinion/new", dirstore.Options{Parent: true}}, nil},
		{Call{"new", "common"}, Place{"/home/user/pinion/new", dirstore.Options{Parent: true}}, nil},
		{Call{"new", "mgmt"}, Place{}, ErrCaller},
	} {
		got, err := c.Place(tt.call, home)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%+v: %+v, %v", tt.call, got, err)
		}
	}
	for _, home := range []string{"", "home/user"} {
		if _, err := c.Place(Call{"home", "dom0"}, home); !errors.Is(err, ErrConfig) {
			t.Errorf("with the home %q: %v", home, err)
		}
		if _, err := c.Place(Call{"laptop", "dom0"}, home); err != nil {
			t.Error(err)
		}
	}
	empty := &Config{}
	if _, err := empty.Place(Call{"new", "mgmt"}, home); !errors.Is(err, ErrCaller) {
		t.Errorf("without a configuration: %v", err)
	}
}

var badConfigs = map[string]string{
	"key = value":                                       ":1: \"key\" stands before",
	"[defaults]\n\nkey = v":                             `:3: unknown key "key"`,
	"[archive a]\ndir = /a\nreadonly = true":            `:3: unknown key "readonly"`,
	"[archive a]\ndir = a/b":                            ":2: dir has to be an absolute path",
	"[archive a]\ndir = ~user/b":                        ":2: dir has to be an absolute path",
	"[archive a]\ndir = ~/..":                           ":2: dir can't be the home",
	"[archive a]\ndir = /x/..":                          ":2: dir can't be /",
	"[archive a]\ndir =":                                ":2: \"dir\" has no value",
	"[archive a]\ndir = /a\ndir = /b":                   ":3: \"dir\" stands in line 2",
	"[archive a]\ndir = /a\n[archive  a]\ndir = /b":     ":3: the section [archive a] stands in line 1",
	"[archive a]\n[archive b]\ndir = /b":                ":2: the section [archive a] ends without dir",
	"[archive a]":                                       ":1: the section [archive a] ends without dir",
	"[defaults]\ndir = /a":                              ":2: dir can stand in a section",
	"[defaults]\nread-only = yes":                       ":2: read-only takes true or false",
	"[defaults]\ncallers = a b/c":                       ":2: callers: \"b/c\"",
	"[archive ..]\ndir = /a":                            ":1: \"..\" can't be the name",
	"[archive a b]\ndir = /a":                           ":1: \"[archive a b]\" is no section",
	"[archive]\ndir = /a":                               ":1: \"[archive]\" is no section",
	"[archive a\ndir = /a":                              ":1: \"[archive a\" is no section",
	"[other]":                                           ":1: \"[other]\" is no section",
	"[defaults]\nwords":                                 ":2: \"words\" is neither",
	"[defaults]\n\xff":                                  ":2: the line is not text",
	"[defaults]\nread-only = true\x00":                  ":2: the line is not text",
	"[defaults]\n" + strings.Repeat("x", 1000) + " = 1": "…",
	strings.Repeat("# comment\n", 8000):                 "more than 65536 bytes",
	"[defaults]\ncallers = " + strings.Repeat("a ", 65): "more than 64 names",
}

func TestBadConfigurations(t *testing.T) {
	for text, want := range badConfigs {
		c, err := Parse("/rw/store.conf", []byte(text))
		if c != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "/rw/store.conf") || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, %v, want %q", text, c, err, want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	place := func(want string) {
		t.Helper()
		c, err := Load(first, second)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := c.Place(Call{"a", "dom0"}, "/home"); err != nil || p.Dir != want {
			t.Errorf("%+v, %v, want %s", p, err, want)
		}
	}
	place("/home/pinion/a")
	for _, path := range []string{second, first} {
		if err := os.WriteFile(path, []byte("[archive a]\ndir = "+path), 0o600); err != nil {
			t.Fatal(err)
		}
		place(path)
	}
	// One that is there and says nothing counts: it was put there.
	if err := os.WriteFile(first, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	place("/home/pinion/a")
	// What can't be read is no reason to go on to the next.
	if _, err := Load(dir, second); !errors.Is(err, ErrConfig) {
		t.Errorf("a directory gave %v", err)
	}
	if _, err := Load(filepath.Join(second, "x"), second); !errors.Is(err, ErrConfig) {
		t.Errorf("a path through a file gave %v", err)
	}
}

// TestExample: what is shipped as an example says nothing, and says what it
// could say.
func TestExample(t *testing.T) {
	text, err := os.ReadFile("../../store.conf.example")
	if err != nil {
		t.Fatal(err)
	}
	var uncommented []string
	for line := range strings.Lines(string(text)) {
		if line != "\n" && !strings.HasPrefix(line, "#") {
			t.Errorf("%q is no comment", line)
		}
		// An example has one # and no space; prose has a space.
		if rest, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(rest, " ") {
			uncommented = append(uncommented, rest)
		}
	}
	c, err := Parse("store.conf.example", []byte(strings.Join(uncommented, "")))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.archives) < 2 || len(c.defaults.callers) == 0 {
		t.Errorf("the example shows %+v", c)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	for text := range badConfigs {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		c, err := Parse("f", untrusted)
		if err != nil {
			if text := err.Error(); len(text) > 1000 || strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("the error is %q", text)
			}
			return
		}
		for name := range c.archives {
			p, err := c.Place(Call{Archive: name, Caller: dom0}, "/home/user")
			if err != nil || !filepath.IsAbs(p.Dir) || filepath.Clean(p.Dir) != p.Dir {
				t.Errorf("%q is at %+v, %v", name, p, err)
			}
		}
	})
}
