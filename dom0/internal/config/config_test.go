package config

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pinion/dom0/internal/exit"
)

const sample = `# pinion
; also a comment
[defaults]
dest = usb
  passcmd =  pass show "pinion" # not a comment
quiet=true

[archive usb]
dest = file:/mnt/usb = 1
keep-daily = 7
autoprune=always
[ archive  nas.2 ]
dest=file:/srv/nas
`

func TestParse(t *testing.T) {
	got, err := Parse("x.conf", []byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Path: "x.conf",
		Defaults: []Setting{
			{"dest", "usb", 4}, {"passcmd", `pass show "pinion" # not a comment`, 5}, {"quiet", "true", 6},
		},
		Archives: map[string]Archive{
			"usb": {"usb", Setting{"dest", "file:/mnt/usb = 1", 9}, []Setting{
				{"keep-daily", "7", 10}, {"autoprune", "always", 11},
			}},
			"nas.2": {"nas.2", Setting{"dest", "file:/srv/nas", 13}, nil},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	crlf, err := Parse("x.conf", []byte(strings.ReplaceAll(sample, "\n", "\r\n")))
	if err != nil || !reflect.DeepEqual(crlf, want) {
		t.Errorf("with CRLF: %+v, %v", crlf, err)
	}
}

func TestParseNamesFileAndLine(t *testing.T) {
	for text, want := range map[string]string{
		"dest = x":                                    "x.conf:1: dest stands before the first section",
		"\n[default]":                                 "x.conf:2: unknown section",
		"[archive]":                                   "x.conf:1: unknown section",
		"[archive a b]":                               "x.conf:1: unknown section",
		"[archive ../a]\ndest=x":                      "x.conf:1: \"../a\" can't name an archive",
		"[defaults] # c":                              "x.conf:1: \"[defaults] # c\" is no section",
		"[defaults\n":                                 "x.conf:1: \"[defaults\" is no section",
		"[defaults]\n[defaults]":                      "x.conf:2: the section [defaults] stands in line 1 already",
		"[defaults]\nquiet=true\n\nquiet=false":       "x.conf:4: quiet stands in line 2 already",
		"[defaults]\nquiet":                           "x.conf:2: \"quiet\" is neither",
		"[defaults]\nquiet=":                          "x.conf:2: quiet has no value",
		"[defaults]\n--quiet=true":                    "x.conf:2: \"--quiet\" is no key",
		"[defaults]\nQuiet=true":                      "x.conf:2: \"Quiet\" is no key",
		"[defaults]\n=true":                           "x.conf:2: \"\" is no key",
		"[archive a]\ndest=x\ndest=y":                 "x.conf:3: dest stands in line 2 already",
		"[archive a]\n\n[archive b]\ndest=y":          "x.conf:3: the section [archive a] ends without dest",
		"[archive a]\n":                               "x.conf:1: the section [archive a] ends without dest",
		"[archive a]\ndest=x\n[archive a]":            "x.conf:3: the section [archive a] stands in line 1 already",
		"[defaults]\ndest=\xff":                       "x.conf:2: the line is not text",
		"[defaults]\ndest=a\x00b":                     "x.conf:2: the line is not text",
		"\ufeff[defaults]":                            "x.conf:1: ",
		"[defaults]\n" + strings.Repeat("#", maxFile): "x.conf: a configuration of more than",
	} {
		got, err := Parse("x.conf", []byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.60q: error %v, want %q", text, err, want)
			continue
		}
		if e, ok := exit.Of(err); !ok || e.Status != exit.Usage {
			t.Errorf("%.60q: not a usage error", text)
		}
		if got != nil {
			t.Errorf("%.60q: a configuration comes with the error", text)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "none.conf")
	if c, err := Load(missing, false); err != nil || len(c.Defaults) != 0 || c.Path != missing {
		t.Errorf("a missing default file: %+v, %v", c, err)
	}
	if _, err := Load(missing, true); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("a missing named file: %v", err)
	}
	if _, err := Load(dir, false); err == nil {
		t.Error("a directory was read")
	}
	path := filepath.Join(dir, "pinion.conf")
	if err := os.WriteFile(path, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(path, true); err != nil || len(c.Archives) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	after, err := os.ReadFile(path)
	if err != nil || sha256.Sum256(after) != sha256.Sum256([]byte(sample)) {
		t.Errorf("the file changed: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("[archive a]\ndest=x\n[defaults]\nquiet"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("x.conf", text)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v with error %v", c, err)
		}
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, s := range c.Defaults {
			if seen[s.Key] || s.Value == "" || !keyName.MatchString(s.Key) || s.Line < 1 {
				t.Fatalf("setting %+v", s)
			}
			seen[s.Key] = true
		}
		for name, a := range c.Archives {
			if a.Name != name || !IsArchiveName(name) || a.Dest.Value == "" {
				t.Fatalf("archive %+v", a)
			}
		}
	})
}

// TestVolumes: the first section whose pattern matches counts.
func TestVolumes(t *testing.T) {
	c, err := Parse("f", []byte("[volume banking:*]\ndomain = banking\ncompression = none\n\n[volume *:root]\ncompression = none\n[defaults]\nquiet = true\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Volume{
		"banking:private": {Pattern: "banking:*", Domain: "banking", Stored: true, Line: 1},
		"banking:root":    {Pattern: "banking:*", Domain: "banking", Stored: true, Line: 1},
		"work:root":       {Pattern: "*:root", Stored: true, Line: 5},
		"work:private":    {},
	} {
		if got, ok := c.VolumeOf(name); got != want || ok != (want.Line > 0) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for _, text := range []string{
		"[volume]\n", "[volume a b]\n", "[volume [a]\ndomain = x\n", "[volume a]\ndomain = a\ndomain = b\n", "[volume a]\ncompression = zstd:1\n",
		"[volume a]\ncolour = red\n", "[volume a]\ndomain = a\tb\n", "[volume a]\n[volume a]\n", "[volume a]\ndomain =\n",
	} {
		if _, err := Parse("f", []byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
