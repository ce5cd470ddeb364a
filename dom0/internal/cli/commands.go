package cli

import (
	"context"
	"os"
	"strings"
	"time"

	"pinion/dom0/internal/config"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/when"
)

// command is what each word of the command line does. validate runs before anything is read, asked or contacted, save
// for the configuration and, of a local path, whether it is a directory.
type command interface {
	validate(c check) error
	run(ctx context.Context, env *Env) error
	// needs says what the command can't do without.
	needs() need
	// afterInterrupt is the hint after an interruption.
	afterInterrupt() string
}

// check holds what validation is relative to.
type check struct {
	now  time.Time
	zone *time.Location
	conf *config.Config
}

// session reads --session; without the option the result is nil.
func (c check) session(word string) (*when.Session, error) {
	if word == "" {
		return nil, nil
	}
	s, err := when.ParseSession(word, c.now, c.zone)
	if err != nil {
		return nil, exit.Usagef("--session: %w", err)
	}
	return &s, nil
}

// need is what a command can't do without.
type need int

const (
	needNothing need = iota
	// needState is this host's directories.
	needState
	// needArchive is these and a destination.
	needArchive
)

// aboutArchive is embedded in commands that need an archive and leave nothing undone when interrupted.
type aboutArchive struct{}

func (aboutArchive) needs() need            { return needArchive }
func (aboutArchive) afterInterrupt() string { return "nothing was changed; run it again when you like" }

type initCommand struct {
	aboutArchive
	ChunkSize   chunkSize   `long:"chunk-size" value-name:"SIZE" default:"128K" description:"how volumes are cut, 64K to 4M, a power of two"`
	Compression compression `long:"compression" value-name:"HOW" default:"zstd:1" description:"zstd:N, N from 1 (fastest) to 19 (smallest), or none"`
}

func (o *initCommand) validate(check) error { return nil }

func (o *initCommand) afterInterrupt() string {
	return "run the same init again; if it finds a key slot without an archive there, remove that by hand first"
}

func (o *initCommand) run(ctx context.Context, env *Env) error { return runInit(ctx, env, o) }

type backupCommand struct {
	aboutArchive
	Tags        []string    `long:"tag" value-name:"NAME[,TEXT]" no-ini:"true" unquote:"false" description:"mark the session; up to 5 times"`
	Verify      bool        `long:"verify" description:"read back what was sent before the session counts"`
	Compression compression `long:"compression" value-name:"HOW" description:"zstd:N, N from 1 to 19, or none; without it as chosen at init"`
	DryRun      bool        `long:"dry-run" no-ini:"true" description:"only say how much would be read, and how much sent at most"`
	Rescan      bool        `long:"rescan" no-ini:"true" description:"read everything, whatever the storage says of it"`
	All         bool        `long:"all" no-ini:"true" description:"every qube, and dom0's files; without it and without names, those that are to be in backups"`
	Exclude     []string    `long:"exclude" value-name:"QUBE" no-ini:"true" unquote:"false" description:"not this qube; may be repeated"`
	Live        bool        `long:"live" no-ini:"true" description:"of running qubes, the state that they write to right now"`
	Dom0Files   dom0Files   `long:"dom0-files" value-name:"LIST" default:"/home:/etc/qubes:/srv" unquote:"false" description:"what of dom0's files is saved with dom0: paths with colons between"`
	Args        struct {
		Sources []string `positional-arg-name:"SOURCE" description:"the name of a qube, or a file, block device or logical volume: [NAME=]file:/path or [NAME=]lvm:VG/LV"`
	} `positional-args:"yes"`

	qubes   []string
	sources []Source
	tags    []format.Tag
}

func (o *backupCommand) validate(check) (err error) {
	if o.tags, err = parseTags("--tag", o.Tags); err != nil {
		return err
	}
	if o.DryRun && len(o.Tags) > 0 {
		return exit.Usagef("backup: --dry-run makes no session to tag")
	}
	var words []string
	if o.qubes, words, err = splitQubes("backup", o.Args.Sources); err != nil {
		return err
	}
	if err := o.validateQubes(); err != nil {
		return err
	}
	o.sources, err = parseSources("backup", words)
	return err
}

// choosesQubes says that the command picks qubes by itself: all, or those that are to be in backups.
func (o *backupCommand) choosesQubes() bool { return o.All || len(o.Args.Sources) == 0 }

func (o *backupCommand) validateQubes() error {
	if o.All && len(o.qubes) > 0 {
		return exit.Usagef("backup: --all and names of qubes exclude each other")
	}
	if !o.choosesQubes() && len(o.Exclude) > 0 {
		return exit.Usagef("backup: --exclude is of use with --all, or without names, only")
	}
	if o.Live && !o.choosesQubes() && len(o.qubes) == 0 {
		return exit.Usagef("backup: --live is of use with qubes only")
	}
	for _, name := range o.Exclude {
		if err := format.CheckAnyQubeName(name); err != nil {
			return exit.Usagef("--exclude: %w", err)
		}
	}
	return nil
}

func (o *backupCommand) afterInterrupt() string {
	return "run it again: it goes on from here and sends nothing twice"
}

func (o *backupCommand) run(ctx context.Context, env *Env) error { return runBackup(ctx, env, o) }

type restoreCommand struct {
	aboutArchive
	All           bool   `long:"all" no-ini:"true" description:"every volume, as of the session or in its latest"`
	Session       string `long:"session" value-name:"SESSION" no-ini:"true" unquote:"false" description:"which session, by default the latest that has the volume: an id's beginning, #N, ^tag, or a time"`
	To            string `long:"to" value-name:"PATH" no-ini:"true" unquote:"false" description:"the file, device or directory to write to, lvm:VG/LV, or lvm:VG/POOL/LV for a new thin volume; of several volumes, a directory"`
	InPlace       bool   `long:"in-place" no-ini:"true" description:"write only what differs into the file or device that is there"`
	Sparse        bool   `long:"sparse" no-ini:"true" description:"the same as --in-place"`
	FromSnapshot  bool   `long:"from-snapshot" no-ini:"true" description:"begin with the volume's base snapshot and fetch what differs from it"`
	TrustSnapshot bool   `long:"trust-snapshot" no-ini:"true" description:"with --from-snapshot: don't read and compare what didn't change"`
	Salvage       bool   `long:"salvage" no-ini:"true" description:"write what is whole where data is damaged"`
	Yes           bool   `long:"yes" no-ini:"true" description:"overwrite a device, or a qube, without asking"`
	qubeRestoreOptions
	rootOption
	Args struct {
		Names []string `positional-arg-name:"NAME" description:"a qube of the archive; with --to, a volume or all of a qube's"`
	} `positional-args:"yes"`

	session *when.Session
	// to is absolute; it is empty if lv is set, or if qubes are restored.
	to string
	lv *lvTarget
}

func (o *restoreCommand) validate(c check) (err error) {
	if o.session, err = c.session(o.Session); err != nil {
		return err
	}
	switch {
	case o.All && len(o.Args.Names) > 0:
		return exit.Usagef("restore: --all and names exclude each other")
	case !o.All && len(o.Args.Names) == 0:
		return exit.UsageHint("pinion list shows the names of an archive's qubes and volumes, --all restores them all", "restore: nothing named")
	}
	if err := checkNames("restore", o.Args.Names); err != nil {
		return err
	}
	if o.restoresQubes() {
		return o.validateQubes()
	}
	if given := o.given(); given != "" {
		return exit.Usagef("restore: %s is of use for qubes, without --to, only", given)
	}
	if o.FromSnapshot && o.older() {
		return exit.Usagef("restore: --from-snapshot and --root exclude each other")
	}
	if o.TrustSnapshot && !o.FromSnapshot {
		return exit.Usagef("restore: --trust-snapshot is of use with --from-snapshot only")
	}
	o.InPlace = o.InPlace || o.Sparse
	return o.validateTarget()
}

func (o *restoreCommand) validateTarget() (err error) {
	if o.lv, err = parseLVTarget(o.To); err != nil {
		return err
	}
	isDir := false
	if o.lv == nil {
		// Sources are written so, and people write targets alike.
		if o.to, err = absolute("to", strings.TrimPrefix(o.To, find.SchemeFile)); err != nil {
			return err
		}
		if o.to == "/" {
			return exit.Usagef("restore: --to %q names no file", o.To)
		}
		// A path that isn't there yet is told apart when the directory is made or used.
		info, err := os.Stat(o.to)
		isDir = err != nil || info.IsDir()
	}
	if o.several() && !isDir {
		return exit.Usagef("restore: --to %q has to be a directory, because several volumes are named", o.To)
	}
	return nil
}

// several says that --to is a directory. A qube may have several volumes: whether a name is one only the archive says.
func (o *restoreCommand) several() bool { return o.All || len(o.Args.Names) > 1 }

func (o *restoreCommand) afterInterrupt() string {
	if o.restoresQubes() {
		return "qubes that are not whole don't start; run it again: it goes on from here"
	}
	return "files are as they were before; what was being written in place is unfinished until the restore is run again"
}

func (o *restoreCommand) run(ctx context.Context, env *Env) error {
	return o.explain(runRestore(ctx, env, o))
}

type listCommand struct {
	aboutArchive
	rootOption
	Session string `long:"session" value-name:"SESSION" no-ini:"true" unquote:"false" description:"only this session: latest, an id's beginning, #N, ^tag, or a time"`
	Args    struct {
		Names []string `positional-arg-name:"NAME" description:"only sessions with these volumes"`
	} `positional-args:"yes"`

	session *when.Session
}

func (o *listCommand) validate(c check) (err error) {
	if o.session, err = c.session(o.Session); err != nil {
		return err
	}
	return checkNames("list", o.Args.Names)
}

func (o *listCommand) run(ctx context.Context, env *Env) error {
	return o.explain(runList(ctx, env, o))
}

type verifyCommand struct {
	aboutArchive
	rootOption
	Session     string `long:"session" value-name:"SESSION" no-ini:"true" unquote:"false" description:"which session, by default the latest: an id's beginning, #N, ^tag, or a time"`
	AllSessions bool   `long:"all-sessions" no-ini:"true" description:"every session; what they share is read once"`
	Args        struct {
		Names []string `positional-arg-name:"NAME" description:"only these volumes"`
	} `positional-args:"yes"`

	session *when.Session
}

func (o *verifyCommand) validate(c check) (err error) {
	if o.session, err = c.session(o.Session); err != nil {
		return err
	}
	if o.session != nil && o.AllSessions {
		return exit.Usagef("verify: --session and --all-sessions exclude each other")
	}
	return checkNames("verify", o.Args.Names)
}

func (o *verifyCommand) run(ctx context.Context, env *Env) error {
	return o.explain(runVerify(ctx, env, o))
}

type checkCommand struct {
	aboutArchive
	ReadData    percent `long:"read-data" value-name:"PERCENT" optional:"true" optional-value:"100" no-ini:"true" description:"read data too: all, or with =PERCENT a sample of it"`
	Repair      bool    `long:"repair" no-ini:"true" description:"mend what can be mended from what is whole"`
	DropDamaged bool    `long:"drop-damaged" no-ini:"true" description:"with --repair: remove from sessions what can't be mended"`
	Roots       bool    `long:"roots" no-ini:"true" description:"only list the roots that the store keeps, older ones too"`
}

func (o *checkCommand) validate(check) error {
	if o.DropDamaged && !o.Repair {
		return exit.Usagef("check: --drop-damaged is of use with --repair only")
	}
	if o.Roots && (o.Repair || o.ReadData > 0) {
		return exit.Usagef("check: --roots only lists: it excludes --repair and --read-data")
	}
	return nil
}

func (o *checkCommand) afterInterrupt() string { return "run the same check again" }

func (o *checkCommand) run(ctx context.Context, env *Env) error {
	if o.Roots {
		return runRoots(ctx, env)
	}
	return runCheck(ctx, env, o)
}

type versionCommand struct{}

func (o *versionCommand) validate(check) error                    { return nil }
func (o *versionCommand) needs() need                             { return needNothing }
func (o *versionCommand) afterInterrupt() string                  { return "" }
func (o *versionCommand) run(ctx context.Context, env *Env) error { return runVersion(ctx, env) }
