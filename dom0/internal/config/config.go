// Package config owns the syntax of pinion's configuration file.
//
// The file is a small INI:
//
//	# a comment, on a line of its own
//	[defaults]
//	dest = usb
//	quiet = true
//
//	[archive usb]
//	dest = file:/mnt/usb/backup
//	keep-daily = 7
//
//	[volume banking:*]
//	domain = banking
//	compression = none
//
// [defaults] holds long option names without their dashes; a switch takes true or false. [archive NAME] gives a
// destination a name, and says what is special about it. [volume PATTERN] says how volumes are stored whose names match
// the pattern; of several that match, the first counts. Values run to the end of the line, without the white space around them; there are no quotes, no
// escapes, no comments after a value and no continued lines. Sections and keys stand once.
//
// Promises: whatever it doesn't know is an error that names file and line, so that a misspelt key is never silently
// without effect. Every error has exit status Usage.
//
// It never writes the file, and it doesn't know which options there are: the command line checks all keys but dest,
// and their values.
package config

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"pinion/dom0/internal/exit"
)

// DefaultPath is read where no other file is named; it need not be there.
const DefaultPath = "/etc/pinion/pinion.conf"

// maxFile bounds the file, in bytes: a configuration is a page or two, and a wrong path may lead to a disk image.
const maxFile = 1 << 20

// ArchiveNameRule says in words what a name in [archive NAME] may be.
const ArchiveNameRule = "letters, digits, dot, dash and underscore, at most 64, beginning with a letter or digit"

// Setting is one line of the file: an option's long name and its value.
type Setting struct {
	Key, Value string
	// Line counts from 1.
	Line int
}

// Archive is one [archive NAME] section.
type Archive struct {
	Name string
	// Dest is the setting of the key dest, which every section has.
	Dest Setting
	// Settings are the others, in the order of the file, no key twice.
	Settings []Setting
}

// Volume is one [volume PATTERN] section.
type Volume struct {
	// Pattern is of path.Match's form, and valid.
	Pattern string
	// Domain is the domain of the volumes' chunks; empty: the shared one.
	Domain string
	// Stored says that chunks aren't compressed.
	Stored bool
	// Line counts from 1.
	Line int
}

// Config is what the file says. The zero value is an empty file.
type Config struct {
	// Path is the file's name, for error messages.
	Path string
	// Defaults are the settings of [defaults] in the order of the file, no key twice.
	Defaults []Setting
	// Archives are the sections by name.
	Archives map[string]Archive
	// Volumes are the sections of volumes, in the order of the file.
	Volumes []Volume
}

// VolumeOf is the section for a volume: the first whose pattern matches its name. Without one, ok is false.
func (c *Config) VolumeOf(name string) (v Volume, ok bool) {
	for _, v := range c.Volumes {
		if ok, _ := path.Match(v.Pattern, name); ok {
			return v, true
		}
	}
	return Volume{}, false
}

// Load reads the file. A file that isn't there is an empty one, unless required is set.
func Load(file string, required bool) (*Config, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return &Config{Path: file}, nil
	}
	if err != nil {
		return nil, exit.Usagef("read the configuration: %w", err)
	}
	defer func() { _ = f.Close() }()
	untrustedText, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, exit.Usagef("read the configuration: %w", err)
	}
	return Parse(file, untrustedText)
}

// Parse reads the text of a configuration file; its name serves the error messages.
func Parse(file string, untrustedText []byte) (*Config, error) {
	p := parser{config: &Config{Path: file, Archives: map[string]Archive{}}, seen: map[string]int{}}
	if len(untrustedText) > maxFile {
		return nil, exit.Usagef("%s: a configuration of more than %d bytes is refused", file, maxFile)
	}
	lines := bufio.NewScanner(bytes.NewReader(untrustedText))
	lines.Buffer(nil, maxFile+1)
	for lines.Scan() {
		p.line++
		if err := p.take(lines.Text()); err != nil {
			return nil, p.config.Errorf(p.line, "%w", err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, exit.Usagef("read %s: %w", file, err)
	}
	if err := p.closeSection(); err != nil {
		return nil, p.config.Errorf(p.line, "%w", err)
	}
	return p.config, nil
}

// Errorf makes an error of exit status Usage that names the file and a line of it.
func (c *Config) Errorf(line int, format string, args ...any) error {
	return exit.Usagef("%s:%d: %w", c.Path, line, fmt.Errorf(format, args...))
}

var (
	archiveName = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z`)
	keyName     = regexp.MustCompile(`\A[a-z0-9]+(-[a-z0-9]+)*\z`)
)

// IsArchiveName reports whether s may stand in [archive NAME], and so isn't a URL or a path.
func IsArchiveName(s string) bool { return archiveName.MatchString(s) }

type parser struct {
	config *Config
	line   int
	// section is the text between the brackets, empty before the first.
	section string
	// archive is set inside of an archive's section, volume inside of a volume's.
	archive *Archive
	volume  *Volume
	// seen maps a section, or a section and a key, to the line where it stands.
	seen map[string]int
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

func (p *parser) once(what, id string) error {
	if first, again := p.seen[id]; again {
		return fmt.Errorf("%s stands in line %d already", what, first)
	}
	p.seen[id] = p.line
	return nil
}

func (p *parser) openSection(line string) error {
	if err := p.closeSection(); err != nil {
		return err
	}
	if !strings.HasSuffix(line, "]") {
		return fmt.Errorf("%q is no section: [defaults], [archive NAME] or [volume PATTERN], alone on the line", line)
	}
	words := strings.Fields(line[1 : len(line)-1])
	p.section = strings.Join(words, " ")
	if err := p.once("the section ["+p.section+"]", p.section); err != nil {
		return err
	}
	switch {
	case p.section == "defaults":
		return nil
	case len(words) == 2 && words[0] == "archive":
		if !IsArchiveName(words[1]) {
			return fmt.Errorf("%q can't name an archive: %s", words[1], ArchiveNameRule)
		}
		p.archive = &Archive{Name: words[1]}
		return nil
	case len(words) == 2 && words[0] == "volume":
		if _, err := path.Match(words[1], ""); err != nil {
			return fmt.Errorf("%q is not a pattern for names of volumes", words[1])
		}
		p.volume = &Volume{Pattern: words[1], Line: p.line}
		return nil
	}
	return fmt.Errorf("unknown section %q: [defaults], [archive NAME] or [volume PATTERN]", line)
}

func (p *parser) closeSection() error {
	if v := p.volume; v != nil {
		p.volume = nil
		p.config.Volumes = append(p.config.Volumes, *v)
		return nil
	}
	a := p.archive
	p.archive = nil
	if a == nil {
		return nil
	}
	if a.Dest.Line == 0 {
		return fmt.Errorf("the section [archive %s] ends without dest", a.Name)
	}
	p.config.Archives[a.Name] = *a
	return nil
}

func (p *parser) setting(line string) error {
	key, value, found := strings.Cut(line, "=")
	s := Setting{Key: strings.TrimSpace(key), Value: strings.TrimSpace(value), Line: p.line}
	switch {
	case !found:
		return fmt.Errorf("%q is neither a section nor key = value", line)
	case !keyName.MatchString(s.Key):
		return fmt.Errorf("%q is no key: lower-case letters, digits and dashes", s.Key)
	case p.section == "":
		return fmt.Errorf("%s stands before the first section", s.Key)
	case s.Value == "":
		return fmt.Errorf("%s has no value", s.Key)
	}
	if err := p.once(s.Key, p.section+"\n"+s.Key); err != nil {
		return err
	}
	if p.volume != nil {
		return p.volume.set(s)
	}
	if p.archive == nil {
		p.config.Defaults = append(p.config.Defaults, s)
		return nil
	}
	if s.Key == "dest" {
		p.archive.Dest = s
	} else {
		p.archive.Settings = append(p.archive.Settings, s)
	}
	return nil
}

// set takes a setting of the section.
func (v *Volume) set(s Setting) error {
	switch s.Key {
	case "domain":
		if len(s.Value) > maxDomain || strings.ContainsFunc(s.Value, unicode.IsControl) {
			return fmt.Errorf("a domain's name has at most %d bytes and no control characters", maxDomain)
		}
		v.Domain = s.Value
	case "compression":
		if s.Value != "none" {
			return fmt.Errorf("compression of single volumes can only be none, not %q", s.Value)
		}
		v.Stored = true
	default:
		return fmt.Errorf("unknown key %s in [volume %s]", s.Key, v.Pattern)
	}
	return nil
}

// maxDomain bounds the name of a domain, in bytes: as the archive does.
const maxDomain = 128
