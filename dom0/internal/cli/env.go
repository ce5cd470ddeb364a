package cli

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/config"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/secret"
	"pinion/dom0/internal/store"
	"pinion/dom0/internal/ui"
)

// helperName is the program that keeps an archive's objects.
const helperName = "pinion-store"

// Env is what a command works with, besides its own options.
type Env struct {
	UI *ui.UI
	// Dest is where the archive is; the zero Destination for a command that needs none.
	Dest store.Destination
	// StateDir and CacheDir are absolute; they may not exist yet. They are empty for a command that needs neither.
	StateDir, CacheDir string
	// Reserve is what snapshots have to leave free of their pool, in percent.
	Reserve int
	// policy is what the configuration says of the archive's sessions.
	policy policy
	// archives are the names that the configuration has for destinations.
	archives map[string]string
	// Secret is where the passphrase or key comes from. Nothing was read yet.
	Secret secret.Source
	// keyExportFile is the file of key slots that the archive is opened with; empty: those of its roots are used.
	keyExportFile string
	// keyExport is what is in it.
	keyExport *archive.SealedExport
	// volumes says how volumes are stored.
	volumes *config.Config
	// secretGiven says that the command line names it, and not just the configuration.
	secretGiven bool
	// remember is how long the kernel is to keep a key that was given; 0: not at all.
	remember time.Duration
	// mistyped is why the secret may be a recovery key after all; nil: it isn't.
	mistyped error
	// secretAt is when the secret was given; zero: it wasn't.
	secretAt time.Time
	// The switches of the same names.
	Wait, AllowRollback, Adopt, Unattended, SlowKey bool
	// Now is the clock, Zone the zone that times are shown in.
	Now  func() time.Time
	Zone *time.Location
	// Version is the program's own version.
	Version string
	// Command is the words of the command.
	Command string
}

func (a *app) newEnv(g *globalOptions, conf *config.Config, n need) (*Env, error) {
	env := &Env{
		UI: a.ui, Secret: g.secret(), remember: time.Duration(g.Remember),
		secretGiven: a.tree.given("passcmd") || a.tree.given("passfile") || a.tree.given("keyfile"),
		Wait:        g.Wait, AllowRollback: g.AllowRollback, Adopt: g.Adopt, Unattended: g.Unattended, SlowKey: g.SlowKey,
		Now: a.now, Zone: a.zone, Version: a.version, Reserve: int(g.PoolReserve), archives: archiveNames(conf),
	}
	_, env.Command = a.tree.active()
	env.volumes = conf
	env.Secret.Prompt, env.Secret.Warn = a.ui.ReadSecret, a.ui.Warn
	if n == needNothing {
		return env, nil
	}
	var err error
	if n == needArchive {
		if env.Dest, err = destination("dest", g.Dest, conf); err != nil {
			return nil, err
		}
		if env.policy, err = policyOf(g.Dest, env.Dest.String(), conf); err != nil {
			return nil, err
		}
	}
	if g.KeyExport != "" {
		if env.keyExportFile, err = absolute("key-export", g.KeyExport); err != nil {
			return nil, err
		}
	}
	if env.StateDir, err = directory("state-dir", g.StateDir, "/var/lib/pinion", "XDG_STATE_HOME", ".local/state"); err != nil {
		return nil, err
	}
	env.CacheDir, err = directory("cache-dir", g.CacheDir, "/var/cache/pinion", "XDG_CACHE_HOME", ".cache")
	return env, err
}

// archiveNames maps destinations to what the configuration calls them.
func archiveNames(conf *config.Config) map[string]string {
	names := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(conf.Archives)) {
		if d, err := store.ParseDestination(conf.Archives[name].Dest.Value); err == nil {
			names[d.String()] = name
		}
	}
	return names
}

// destination reads the value of an option that says where an archive is: a URL or the name of one in the configuration.
func destination(option, word string, conf *config.Config) (store.Destination, error) {
	if word == "" {
		hint := ""
		if option == "dest" {
			hint = "say where with --dest file:/path or qubes:QUBE/ARCHIVE, with PINION_DEST, or with dest in the configuration"
		}
		return store.Destination{}, exit.UsageHint(hint, "no archive given: --%s is missing", option)
	}
	if config.IsArchiveName(word) {
		a, ok := conf.Archives[word]
		if !ok {
			return store.Destination{}, exit.UsageHint(
				"a destination is file:/path, qubes:QUBE/ARCHIVE, or NAME of a section [archive NAME] there", "--%s: no archive is called %q in %s", option, word, conf.Path)
		}
		word = a.Dest.Value
	}
	d, err := store.ParseDestination(word)
	if err != nil {
		return store.Destination{}, exit.Usagef("--%s: %w", option, err)
	}
	return d, nil
}

// directory returns the directory that was given, or the default: of root below /var, of others by the XDG variables.
func directory(option, given, ofRoot, variable, belowHome string) (string, error) {
	if given != "" {
		return absolute(option, given)
	}
	if os.Geteuid() == 0 {
		return ofRoot, nil
	}
	// A relative path in these variables is invalid and to be ignored.
	if base := os.Getenv(variable); filepath.IsAbs(base) {
		return filepath.Join(base, "pinion"), nil
	}
	home := os.Getenv("HOME")
	if !filepath.IsAbs(home) {
		return "", exit.UsageHint("give --"+option+", or set HOME", "no home directory to keep the %s in", strings.TrimSuffix(option, "-dir"))
	}
	return filepath.Join(home, belowHome, "pinion"), nil
}

// Helper returns the path of the helper program: beside the running program, or else in PATH.
func (e *Env) Helper() (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), helperName)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(helperName)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", exit.With(exit.Failed, errors.New("the program "+helperName+" was found neither beside pinion nor in PATH"),
			"install it beside pinion")
	}
	return path, nil
}
