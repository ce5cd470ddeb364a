package service

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"pinion/protocol"
)

// The places of the configuration. The first that is there counts, alone: /rw
// stays when the qube is restarted and is its own, /etc comes from its
// template.
const (
	ConfigOfQube     = "/rw/config/pinion/store.conf"
	ConfigOfTemplate = "/etc/pinion/store.conf"
)

// Limits of the file: a page or two is a large one, and a wrong path may lead
// to a disk image.
const (
	maxFile    = 64 << 10 // bytes
	maxShown   = 60       // bytes of the file that one error repeats
	maxCallers = 64       // names in one line
)

// Config is what the configuration says. The zero value is an empty file.
type Config struct {
	defaults settings
	archives map[string]settings
}

// settings are those of a section.
type settings struct {
	dir                  string // absolute, or begins with ~/; of an archive's section only
	callers              []string
	readOnly, appendOnly bool
}

// Load reads the first of the files that is there. If none is, nothing is
// configured.
func Load(paths ...string) (*Config, error) {
	for _, path := range paths {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrConfig, err)
		}
		defer f.Close()
		untrusted, err := io.ReadAll(io.LimitReader(f, maxFile+1))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrConfig, err)
		}
		return Parse(path, untrusted)
	}
	return &Config{}, nil
}

// Parse reads the text of a configuration:
//
//	# a comment, on a line of its own
//	[defaults]
//	callers = mgmt
//
//	[archive laptop]
//	dir = /mnt/disk/laptop
//	append-only = true
//
// Values run to the end of the line; there are no quotes and no continued
// lines. What [defaults] says holds for every archive whose section doesn't
// say it. Sections and keys stand once. path serves the error messages.
func Parse(path string, untrusted []byte) (*Config, error) {
	if len(untrusted) > maxFile {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrConfig, path, maxFile)
	}
	p := parser{config: &Config{archives: map[string]settings{}}, lines: map[string]int{}}
	lines := strings.Split(string(untrusted), "\n")
	// Twice, so that [defaults] may stand anywhere: the second time every
	// archive begins as they are.
	for _, p.wantDefaults = range []bool{true, false} {
		clear(p.lines)
		p.section = ""
		for i, line := range lines {
			p.line = i + 1
			if err := p.take(line); err != nil {
				return nil, fmt.Errorf("%w: %s:%d: %w", ErrConfig, path, p.line, err)
			}
		}
		if err := p.closeSection(); err != nil {
			return nil, fmt.Errorf("%w: %s:%d: %w", ErrConfig, path, p.line, err)
		}
	}
	return p.config, nil
}

type parser struct {
	config       *Config
	wantDefaults bool           // the first time, when only [defaults] is kept
	line         int            // counts from 1
	section      string         // between the brackets, empty before the first
	archive      string         // whose section it is; empty for [defaults]
	current      settings       // of the section
	lines        map[string]int // where a section, or a section's key, stands
}

func (p *parser) take(line string) error {
	if !utf8.ValidString(line) || strings.ContainsRune(line, 0) {
		return errors.New("the line is not text in UTF-8")
	}
	line = strings.TrimSpace(line)
	switch {
	case line == "", line[0] == '#', line[0] == ';':
		return nil
	case line[0] == '[':
		return p.openSection(line)
	}
	return p.setting(line)
}

func (p *parser) openSection(line string) error {
	if err := p.closeSection(); err != nil {
		return err
	}
	inside, closed := strings.CutSuffix(line[1:], "]")
	words := strings.Fields(inside)
	p.section, p.archive = strings.Join(words, " "), ""
	switch {
	case !closed:
		return fmt.Errorf("%s is no section: [defaults] or [archive NAME], alone on the line", shown(line))
	case p.section == "defaults":
		p.current = settings{}
	case len(words) == 2 && words[0] == "archive":
		if err := protocol.CheckArchive(words[1]); err != nil {
			return err
		}
		p.archive, p.current = words[1], p.config.defaults
		p.current.callers = slices.Clone(p.current.callers)
	default:
		return fmt.Errorf("%s is no section: [defaults] or [archive NAME]", shown(line))
	}
	return p.once("the section ["+p.section+"]", p.section)
}

// closeSection keeps what a section said.
func (p *parser) closeSection() error {
	switch {
	case p.section == "":
	case p.archive == "":
		if p.wantDefaults {
			p.config.defaults = p.current
		}
	case p.current.dir == "":
		return fmt.Errorf("the section [%s] ends without dir", p.section)
	case !p.wantDefaults:
		p.config.archives[p.archive] = p.current
	}
	return nil
}

func (p *parser) setting(line string) error {
	key, value, found := strings.Cut(line, "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	switch {
	case !found:
		return fmt.Errorf("%s is neither a section nor key = value", shown(line))
	case p.section == "":
		return fmt.Errorf("%s stands before the first section", shown(key))
	case value == "":
		return fmt.Errorf("%s has no value", shown(key))
	}
	if err := p.once(shown(key), p.section+"\n"+key); err != nil {
		return err
	}
	var err error
	switch {
	case key == "dir" && p.archive == "":
		return errors.New("dir can stand in a section [archive NAME] only")
	case key == "dir":
		p.current.dir, err = directory(value)
	case key == "callers":
		p.current.callers, err = names(value)
	case key == "read-only":
		p.current.readOnly, err = truth(key, value)
	case key == "append-only":
		p.current.appendOnly, err = truth(key, value)
	default:
		return fmt.Errorf("unknown key %s", shown(key))
	}
	return err
}

func (p *parser) once(what, id string) error {
	if first, again := p.lines[id]; again {
		return fmt.Errorf("%s stands in line %d already", what, first)
	}
	p.lines[id] = p.line
	return nil
}

// directory takes an absolute path, or one below the home directory.
func directory(value string) (string, error) {
	if below, ok := strings.CutPrefix(value, "~/"); ok {
		// Cleaned as from a root, so that it stays below.
		if below = filepath.Clean("/" + below); below == "/" {
			return "", errors.New("dir can't be the home directory itself")
		}
		return "~" + below, nil
	}
	if !filepath.IsAbs(value) {
		return "", fmt.Errorf("dir has to be an absolute path, or to begin with ~/, and is %s", shown(value))
	}
	if value = filepath.Clean(value); value == "/" {
		return "", errors.New("dir can't be /")
	}
	return value, nil
}

func names(value string) ([]string, error) {
	list := strings.Fields(value)
	if len(list) > maxCallers {
		return nil, fmt.Errorf("callers has more than %d names", maxCallers)
	}
	for _, name := range list {
		if !qubeName.MatchString(name) {
			return nil, fmt.Errorf("callers: %s can't be the name of a qube", shown(name))
		}
	}
	return list, nil
}

func truth(key, value string) (bool, error) {
	if value != "true" && value != "false" {
		return false, fmt.Errorf("%s takes true or false, not %s", key, shown(value))
	}
	return value == "true", nil
}

// shown is a part of the file for an error: quoted, and not long.
func shown(s string) string {
	if len(s) > maxShown {
		return fmt.Sprintf("%q…", s[:maxShown])
	}
	return fmt.Sprintf("%q", s)
}
