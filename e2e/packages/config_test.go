package packages_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const example = "dom0/pinion.conf.example"

// commented is a line of the example that counts without its first byte.
var commented = regexp.MustCompile(`^#(?:\[.*\]|([a-z0-9-]+) = .+)$`)

// configured runs a command of pinion with a configuration.
func configured(t *testing.T, pinion, text string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pinion.conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return run(pinion, "--config", path, "version")
}

func buildPinion(t *testing.T) string {
	t.Helper()
	pinion := filepath.Join(t.TempDir(), "pinion")
	if _, err := run("go", "build", "-o", pinion, "pinion/dom0/cmd/pinion"); err != nil {
		t.Fatal(err)
	}
	return pinion
}

// TestExampleConfiguration: the example has comments only, each of its settings
// holds when its # is taken away, and no key is missing.
func TestExampleConfiguration(t *testing.T) {
	t.Parallel()
	pinion := buildPinion(t)
	text := read(t, top, example)
	if out, err := configured(t, pinion, text); err != nil {
		t.Errorf("as it is: %v %s", err, out)
	}
	explained := map[string]bool{}
	var defaults, sections []string
	for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		m := commented.FindStringSubmatch(line)
		switch {
		case m == nil:
			if line != "" && line != "#" && !strings.HasPrefix(line, "# ") {
				t.Errorf("line %d is neither a comment nor a setting: %s", n+1, line)
			}
			continue
		case line == "#[defaults]":
			continue
		case strings.HasPrefix(line, "#[") || len(sections) > 0:
			sections = append(sections, line[1:])
			continue
		}
		explained[m[1]] = true
		defaults = append(defaults, line[1:])
	}
	archives := "\n" + strings.Join(sections, "\n") + "\n"
	for _, line := range defaults {
		if out, err := configured(t, pinion, "[defaults]\n"+line+archives); err != nil {
			t.Errorf("%s: %v %s", line, err, out)
		}
	}
	together := slices.DeleteFunc(slices.Clone(defaults), func(line string) bool {
		key, _, _ := strings.Cut(line, " ")
		return slices.Contains([]string{"passcmd", "keyfile", "quiet", "verbose"}, key)
	})
	if out, err := configured(t, pinion, "[defaults]\n"+strings.Join(together, "\n")+archives); err != nil {
		t.Errorf("all together: %v %s", err, out)
	}
	if known := settable(t, pinion); !maps.Equal(known, explained) {
		t.Errorf("%s explains %q, and the program knows %q", example, slices.Sorted(maps.Keys(explained)), slices.Sorted(maps.Keys(known)))
	}
}

var (
	helpedOption  = regexp.MustCompile(`(?m)^\s+(?:-\w, |)\s*--([a-z0-9-]+[a-z0-9])`)
	helpedCommand = regexp.MustCompile(`(?m)^  ([a-z-]+)  +[A-Z]`)
)

// settable finds the options that a configuration may set, by trying all.
func settable(t *testing.T, pinion string) map[string]bool {
	t.Helper()
	help, err := run(pinion, "--help")
	if err != nil {
		t.Fatal(err)
	}
	options := helpedOption.FindAllStringSubmatch(help, -1)
	_, list, _ := strings.Cut(help, "Available commands:")
	for _, m := range helpedCommand.FindAllStringSubmatch(list, -1) {
		help, err := run(pinion, m[1], "--help")
		if err != nil {
			t.Fatal(err)
		}
		options = append(options, helpedOption.FindAllStringSubmatch(help, -1)...)
	}
	tried, known := map[string]bool{}, map[string]bool{}
	for _, m := range options {
		name := m[1]
		if tried[name] {
			continue
		}
		tried[name] = true
		out, err := configured(t, pinion, "[defaults]\n"+name+" = true\n")
		if err == nil || !strings.Contains(out, "can't be set here") && !strings.Contains(out, "unknown key") {
			known[name] = true
		}
	}
	if len(tried) < 30 || len(known) < 10 {
		t.Fatalf("only %d options were found in the help, and %d keys", len(tried), len(known))
	}
	return known
}
