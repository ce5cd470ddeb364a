package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/jessevdk/go-flags"

	"pinion/dom0/internal/dom0files"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/secret"
	"pinion/dom0/internal/when"
)

// globalOptions stand anywhere on the command line. What is marked no-ini can't be set in the configuration: it is
// for one run only.
type globalOptions struct {
	Dest          string   `long:"dest" value-name:"DEST" env:"PINION_DEST" unquote:"false" description:"where the archive is: file:/path, qubes:QUBE/ARCHIVE, or a name from the configuration"`
	Config        string   `long:"config" value-name:"FILE" default:"/etc/pinion/pinion.conf" no-ini:"true" unquote:"false" description:"the configuration"`
	PassCmd       string   `long:"passcmd" value-name:"COMMAND" unquote:"false" description:"a shell command whose first line of output is the passphrase"`
	PassFile      string   `long:"passfile" value-name:"FILE" unquote:"false" description:"a file whose first line is the passphrase"`
	KeyFile       string   `long:"keyfile" value-name:"FILE" unquote:"false" description:"a file whose content is the key, 32 bytes to 64 KiB"`
	KeyExport     string   `long:"key-export" value-name:"FILE" no-ini:"true" unquote:"false" description:"open the archive with the key slots in FILE, which key export has written; if no root opens, read it from its packs"`
	SlowKey       bool     `long:"slow-key" no-ini:"true" description:"also try key slots that need far more time or memory than usual"`
	Remember      remember `long:"remember" value-name:"TIME" description:"cache the key in the kernel for TIME, 1m to 24h"`
	CacheDir      string   `long:"cache-dir" value-name:"DIR" unquote:"false" description:"what can be fetched again; may be deleted at any time"`
	StateDir      string   `long:"state-dir" value-name:"DIR" unquote:"false" description:"what this host remembers of its archives"`
	PoolReserve   reserve  `long:"pool-reserve" value-name:"PERCENT" default:"5" description:"how much of a pool or file system snapshots leave free, 0 to 50"`
	Wait          bool     `long:"wait" description:"wait for an archive that another command holds, as long as it takes"`
	AllowRollback bool     `long:"allow-rollback" no-ini:"true" description:"accept an archive that is older than what was seen before, or no descendant of it"`
	Adopt         bool     `long:"adopt" no-ini:"true" description:"write to an archive that is a copy, or that another host wrote to last"`
	JSON          bool     `long:"json" description:"print one JSON document, and messages as JSON lines"`
	Quiet         bool     `short:"q" long:"quiet" description:"print neither progress nor notices nor hints"`
	Verbose       bool     `short:"v" long:"verbose" description:"print details"`
	Unattended    bool     `long:"unattended" description:"never ask anything; questions are answered with no"`
}

func (g *globalOptions) validate() error {
	if g.Quiet && g.Verbose {
		return exit.Usagef("--quiet and --verbose exclude each other")
	}
	return g.secret().Check()
}

// secret returns the source of the passphrase, without the means to ask and to warn.
func (g *globalOptions) secret() secret.Source {
	return secret.Source{PassCmd: g.PassCmd, PassFile: g.PassFile, KeyFile: g.KeyFile, Unattended: g.Unattended}
}

// flagError is an error that go-flags passes on as it is; the text names the option.
func flagError(format string, args ...any) error {
	return &flags.Error{Type: flags.ErrMarshal, Message: fmt.Sprintf(format, args...)}
}

// chunkSize is the value of --chunk-size, in bytes.
type chunkSize int64

// UnmarshalFlag reads a power of two within the bounds of the format.
func (c *chunkSize) UnmarshalFlag(word string) error {
	n, err := when.ParseSize(word)
	if err != nil {
		return flagError("--chunk-size: %v", err)
	}
	if n < format.MinChunkSize || n > format.MaxChunkSize || n&(n-1) != 0 {
		return flagError("--chunk-size %s: it has to be a power of two from %dK to %dM",
			word, format.MinChunkSize>>10, format.MaxChunkSize>>20)
	}
	*c = chunkSize(n)
	return nil
}

// compression is the value of --compression: a zstd level, or one of the two constants.
type compression int

const (
	// compressionUnset leaves the choice to the archive.
	compressionUnset compression = 0
	// compressionNone stores chunks as they are.
	compressionNone compression = -1
	// maxLevel is the highest level of zstd that needs no special memory.
	maxLevel = 19
)

// UnmarshalFlag reads "zstd:N" or "none".
func (c *compression) UnmarshalFlag(word string) error {
	if word == "none" {
		*c = compressionNone
		return nil
	}
	if level, ok := strings.CutPrefix(word, "zstd:"); ok {
		for n := compression(1); n <= maxLevel; n++ {
			if level == fmt.Sprint(int(n)) {
				*c = n
				return nil
			}
		}
	}
	return flagError("--compression %q: accepted are zstd:1 to zstd:%d, and none", word, maxLevel)
}

// dom0Files is the value of --dom0-files: paths in the order that they are saved in.
type dom0Files []string

// UnmarshalFlag reads absolute paths with colons between them.
func (f *dom0Files) UnmarshalFlag(word string) error {
	paths, err := dom0files.CheckPaths(word)
	if err != nil {
		return flagError("--dom0-files: %v", err)
	}
	*f = paths
	return nil
}

// percent is the value of --read-data, 1 to 100; 0 if it wasn't given.
type percent int

// UnmarshalFlag reads a whole number.
func (p *percent) UnmarshalFlag(word string) error {
	n, err := when.ParseSize(strings.TrimSuffix(word, "%"))
	if err != nil || n < 1 || n > 100 {
		return flagError("--read-data %q: a percentage is a whole number from 1 to 100", word)
	}
	*p = percent(n)
	return nil
}

// reserve is the value of --pool-reserve, in percent.
type reserve int

// maxReserve keeps a slip of the finger from looking like a full pool.
const maxReserve = 50

// UnmarshalFlag reads a whole number.
func (r *reserve) UnmarshalFlag(word string) error {
	n, err := when.ParseSize(strings.TrimSuffix(word, "%"))
	if err != nil || n < 0 || n > maxReserve {
		return flagError("--pool-reserve %q: a percentage is a whole number from 0 to %d", word, maxReserve)
	}
	*r = reserve(n)
	return nil
}

// parseTags reads tags as they are given to an option or command: NAME or NAME,TEXT, with or without a ^ in front.
func parseTags(where string, words []string) ([]format.Tag, error) {
	if len(words) > format.MaxTags {
		return nil, exit.Usagef("%s: a session has at most %d tags, not %d", where, format.MaxTags, len(words))
	}
	var tags []format.Tag
	for _, word := range words {
		name, text, _ := strings.Cut(strings.TrimPrefix(word, "^"), ",")
		t := format.Tag{Name: name, Text: text}
		if err := format.CheckTag(t); err != nil {
			return nil, exit.Usagef("%s: %w", where, err)
		}
		for _, other := range tags {
			if other.Name == name {
				return nil, exit.Usagef("%s: the tag %q is given twice", where, name)
			}
		}
		tags = append(tags, t)
	}
	return tags, nil
}

// absolute makes a path absolute, and names the option if that fails.
func absolute(option, path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", exit.Usagef("--%s %q: %w", option, path, err)
	}
	return abs, nil
}
