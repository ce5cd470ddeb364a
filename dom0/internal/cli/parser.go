package cli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/jessevdk/go-flags"

	"pinion/dom0/internal/config"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/store"
)

const usage = `Backs up disk images and block devices into a store that need not be trusted.

Options of all commands stand anywhere, those of a command after its word.`

// statuses is the end of every command's help.
const statuses = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 done in part, 10 no archive, 11 locked by another command, " +
	"12 wrong passphrase or key, 13 damaged or forged data, 14 older than what was seen before, 15 store full, " +
	"16 needs --adopt, 130 interrupted."

// tree is the parser with everything that its options are stored in.
type tree struct {
	parser *flags.Parser
	global *globalOptions
	// commands are those that do something, by their words: "list", "key add".
	commands map[string]command
	// completing says that a shell has asked, through the environment, how a line may go on; completions are the
	// answers, a line each.
	completing  bool
	completions string
}

func newTree() (*tree, error) {
	t := &tree{
		parser:   flags.NewNamedParser("pinion", flags.HelpFlag|flags.PassDoubleDash|flags.AllowBoolValues),
		global:   &globalOptions{},
		commands: map[string]command{},
	}
	t.parser.LongDescription = usage
	// Without a handler the library would write to standard output and end the process.
	t.parser.CompletionHandler = func(items []flags.Completion) {
		t.completing = true
		for _, item := range items {
			t.completions += item.Item + "\n"
		}
	}
	if _, err := t.parser.AddGroup("Options of all commands", "", t.global); err != nil {
		return t, fmt.Errorf("set up the command line: %w", err)
	}
	for _, c := range []struct {
		name, short, long string
		command           command
	}{
		{"init", "Make a new archive", "Makes a new archive at the destination. There is no way to read an archive whose passphrase is lost.\n\n" +
			"Of --compression, zstd:1 and 2 are the fastest, 3 to 5 smaller, 6 to 9 smaller and slow, 10 to 19 the smallest and slowest; " +
			"chunks that don't shrink are stored as they are.", &initCommand{}},
		{"backup", "Back up volumes", "Saves files, block devices and logical volumes as one session. Where the storage tells what changed, only that is read; what the archive holds already is not sent.", &backupCommand{}},
		{"restore", "Write volumes back", "Writes volumes of a session to files or devices. A file that is there is replaced when " +
			"the new one is whole, without a question.", &restoreCommand{}},
		{"list", "Show sessions and volumes", "Shows what an archive holds.", &listCommand{}},
		{"verify", "Read data back and authenticate it", "Reads all data of a session back, as a restore does, and writes nothing.", &verifyCommand{}},
		{"check", "Check the structure of an archive", "Checks all that ties an archive together, and lists all damage that it finds.", &checkCommand{}},
		{"prune", "Remove sessions", "Removes sessions that are named, or all but those that rules keep. The rules hold for each qube and volume by itself; " +
			"what one of them keeps, stays, and so does the newest session of each volume. Without rules here, those of the archive's section of the configuration count. " +
			"Never asks; --dry-run shows what would go.", &pruneCommand{}},
		{"delete", "Remove qubes and volumes", "Removes all that an archive has of qubes or volumes, the newest included.", &deleteCommand{}},
		{"rename", "Give a qube or volume another name", "Changes what a qube or volume is called in the archive, in all its sessions. What it was backed up from stays as it is. " +
			"After a source got another name, this keeps its sessions together.", &renameCommand{}},
		{"tag", "Mark sessions", "Adds tags to sessions or removes them.", nil},
		{"tag add", "Add tags to a session", "Adds tags to a session, which has at most 5. Prune can keep what has a tag.", &tagAddCommand{}},
		{"tag remove", "Remove tags from a session", "Removes tags from a session.", &tagRemoveCommand{}},
		{"monitor", "Keep base snapshots young", "Replaces the base snapshots of volumes with new ones and notes what changed in between, so that old ones hold no room. " +
			"It reads no volume and needs no archive.", &monitorCommand{}},
		{"status", "Show what is tracked", "Shows, for each volume that was backed up from here, the last session, what changed since, and the room that its base snapshot holds. " +
			"It needs no archive.", &statusCommand{}},
		{"diff", "Show what changed since a session", "Shows which parts of a volume may differ from its last session, as its storage tells; with --full, which do.", &diffCommand{}},
		{"forget-local", "Drop base snapshots", "Drops base snapshots of volumes, and what is known of changes. Nothing is lost but speed: the next backup reads these volumes whole.", &forgetCommand{}},
		{"copy", "Copy an archive to another place", "Copies an archive as it is to another place, or brings a copy up to date. It needs no passphrase; where a key is at hand, it looks deeper.", &copyCommand{}},
		{"key", "List and change keys", "Lists and changes the keys of an archive: passphrases, key files and recovery keys, each of which opens it.", nil},
		{"key list", "Show the keys", "Shows the keys of an archive: their ids, kinds, labels, and which one was used.", &keyListCommand{}},
		{"key add", "Add a key", "Adds a key to the archive. Without an option for it, pinion asks for a new passphrase on the terminal.", &keyAddCommand{}},
		{"key change", "Replace the key that is used", "Replaces the key that this command is given. Safe to interrupt: the old or the new key always works.", &keyChangeCommand{}},
		{"key remove", "Remove a key", "Removes a key from the archive. Older roots in the store keep its slot for a time: whoever has one of them and the secret can still open the archive.", &keyRemoveCommand{}},
		{"key recovery", "Add a key for paper", "Makes a random key and shows it, once, on the terminal. Write it down and use it wherever a passphrase is asked for.", &keyRecoveryCommand{}},
		{"key export", "Write the key slots to a file", "Writes the sealed key slots of the archive to a new file. With --key-export FILE and the secret of one of them the archive opens, even if the store has lost everything but packs/.", &keyExportCommand{}},
		{"key import", "Take keys back from a file", "Adds the keys of a file that key export has written and that the archive doesn't have, removed ones too. If no root opens, use check --repair with --key-export FILE instead.", &keyImportCommand{}},
		{"key forget", "Forget remembered keys", "Drops the key that --remember has left with the kernel. It needs no passphrase.", &keyForgetCommand{}},
		{"version", "Show versions", "Shows the versions of the program, the protocol and the archive format.", &versionCommand{}},
	} {
		if err := t.add(c.name, c.short, c.long, c.command); err != nil {
			return t, fmt.Errorf("set up the command %s: %w", c.name, err)
		}
	}
	return t, nil
}

// add adds a command of one word, or of two: the first is then there already, as a group, which is a nil command.
func (t *tree) add(words, short, long string, c command) error {
	at := t.parser.Command
	group, word, nested := strings.Cut(words, " ")
	if nested {
		at = at.Find(group)
	} else {
		word = words
	}
	if c == nil {
		_, err := at.AddCommand(word, short, long, &struct{}{})
		return err
	}
	if _, err := at.AddCommand(word, short, long+"\n\n"+statuses, c); err != nil {
		return err
	}
	t.commands[words] = c
	return nil
}

// active returns the command that a command line has named, as far as it was understood, and its words; nil for none.
func (t *tree) active() (c *flags.Command, words string) {
	for next := t.parser.Active; next != nil; next = next.Active {
		c, words = next, strings.TrimSpace(words+" "+next.Name)
	}
	return c, words
}

// chosen returns the command of a command line that was understood; rest are its arguments that no option and no name
// has taken.
func (t *tree) chosen(rest []string) (command, error) {
	active, words := t.active()
	if active == nil {
		return nil, exit.UsageHint("pinion --help lists the commands", "no command given")
	}
	if len(rest) > 0 {
		return nil, exit.UsageHint("pinion "+words+" --help shows what it takes", "%s takes no names: %q", words, rest[0])
	}
	var empty string
	t.each(func(o *flags.Option) {
		if s, ok := o.Value().(string); ok && s == "" && isGiven(o) {
			empty = o.LongName
		}
	})
	if empty != "" {
		return nil, exit.Usagef("--%s has no value", empty)
	}
	return t.commands[words], nil
}

// each visits the options of all commands and of each command.
func (t *tree) each(visit func(*flags.Option)) {
	var groups func([]*flags.Group)
	groups = func(list []*flags.Group) {
		for _, g := range list {
			for _, o := range g.Options() {
				visit(o)
			}
			groups(g.Groups())
		}
	}
	groups(t.parser.Groups())
	t.eachCommand(func(c *flags.Command, _ string) { groups([]*flags.Group{c.Group}) })
}

// eachCommand visits all commands, those of groups included, each with its words.
func (t *tree) eachCommand(visit func(c *flags.Command, words string)) {
	var all func(of *flags.Command, before string)
	all = func(of *flags.Command, before string) {
		for _, c := range of.Commands() {
			visit(c, before+c.Name)
			all(c, before+c.Name+" ")
		}
	}
	all(t.parser.Command, "")
}

// isGiven reports whether an option stood on the command line.
func isGiven(o *flags.Option) bool { return o.IsSet() && !o.IsSetDefault() }

// twice finds an option of the command that stands on the command line more than once and has one value only: whichever
// counted, the other would be ignored. Of options of all commands the last counts: aliases have the first.
func (t *tree) twice(args []string) string {
	seen := map[string]int{}
	for _, arg := range args {
		if arg == "--" {
			break
		}
		if word, ok := strings.CutPrefix(arg, "--"); ok {
			word, _, _ = strings.Cut(word, "=")
			seen[word]++
		}
	}
	c, _ := t.active()
	for _, o := range c.Options() {
		kind := o.Field().Type.Kind()
		if seen[o.LongName] > 1 && kind != reflect.Bool && (kind != reflect.Slice || o.LongName == "dom0-files") {
			return o.LongName
		}
	}
	return ""
}

func (t *tree) given(name string) (given bool) {
	t.each(func(o *flags.Option) { given = given || (o.LongName == name && isGiven(o)) })
	return given
}

// quoted is how go-flags writes options.
var quoted = regexp.MustCompile("`([^`']*)'")

var notBool = regexp.MustCompile("^invalid argument for flag `([^`']*)' \\(expected bool\\)")

// explain turns an error of the parser into ours; rest begins with the argument it stumbled over.
func (t *tree) explain(err error, rest []string) error {
	var e *flags.Error
	if !errors.As(err, &e) {
		return exit.Usagef("%w", err)
	}
	hint, where := "pinion --help lists the commands", ""
	active, words := t.active()
	if active != nil {
		where = words + ": "
		hint = "pinion " + words + " --help lists its options"
	}
	switch e.Type {
	case flags.ErrUnknownFlag:
		name := quoted.FindStringSubmatch(e.Message)
		if name == nil {
			break
		}
		if owners := t.owners(name[1]); owners != "" {
			hint = "--" + name[1] + " is an option of " + owners + ", and stands after that word"
		}
		dashes := "--"
		if len([]rune(name[1])) == 1 {
			dashes = "-"
		}
		return exit.UsageHint(hint, "%sunknown option %s%s", where, dashes, name[1])
	case flags.ErrCommandRequired:
		if active != nil {
			return exit.UsageHint("pinion "+words+" --help lists them", "%s: which of its commands? %s", words, commandNames(active))
		}
		return exit.UsageHint(hint, "no command given")
	case flags.ErrUnknownCommand:
		if active != nil {
			return exit.UsageHint("pinion "+words+" --help lists them", "%s: unknown command %q; there are %s", words, rest[0], commandNames(active))
		}
		return exit.UsageHint(hint, "unknown command %q", rest[0])
	case flags.ErrMarshal:
		if m := notBool.FindStringSubmatch(e.Message); m != nil {
			return exit.UsageHint(hint, "%s%s takes true or false, or no value", where, m[1])
		}
	}
	text := quoted.ReplaceAllString(e.Message, "$1")
	return exit.UsageHint(hint, "%s%s", where, strings.Replace(text, "flag ", "option ", 1))
}

// owners names the commands that have the option.
func (t *tree) owners(name string) string {
	var owners []string
	t.eachCommand(func(c *flags.Command, words string) {
		for _, o := range c.Options() {
			if o.LongName == name {
				owners = append(owners, words)
			}
		}
	})
	return strings.Join(owners, ", ")
}

// commandNames lists the commands of a group.
func commandNames(group *flags.Command) string {
	var names []string
	for _, c := range group.Commands() {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}

// exclusive are options of which the configuration's don't count where the command line has any of the same line.
var exclusive = [][]string{{"passcmd", "passfile", "keyfile"}, {"quiet", "verbose"}}

// apply gives options that are not on the command line, nor in the environment, the values of the configuration. All
// that the configuration says is checked, also what this run has no use for.
func (t *tree) apply(conf *config.Config) error {
	trial, err := newTree()
	if err != nil {
		return err
	}
	seen := map[string]config.Setting{}
	for _, s := range conf.Defaults {
		if err := trial.set(conf, s, func(*flags.Option) bool { return true }); err != nil {
			return err
		}
		seen[s.Key] = s
		if other, ok := clash(s.Key, func(name string) bool { _, ok := seen[name]; return ok }); ok {
			return conf.Errorf(s.Line, "%s and %s of line %d exclude each other", s.Key, other, seen[other].Line)
		}
	}
	names := slices.Sorted(maps.Keys(conf.Archives))
	for _, name := range names {
		if err := checkDestination(conf, conf.Archives[name].Dest); err != nil {
			return err
		}
	}
	if err := checkPolicies(conf, names); err != nil {
		return err
	}
	for _, s := range conf.Defaults {
		if s.Key == "dest" && !config.IsArchiveName(s.Value) {
			if err := checkDestination(conf, s); err != nil {
				return err
			}
		}
		if _, overruled := clash(s.Key, t.given); overruled {
			continue
		}
		if err := t.set(conf, s, func(o *flags.Option) bool {
			return !isGiven(o) && (o.EnvDefaultKey == "" || os.Getenv(o.EnvDefaultKey) == "")
		}); err != nil {
			return err
		}
	}
	return nil
}

// clash finds another option that is present and excludes the named one.
func clash(name string, present func(string) bool) (string, bool) {
	for _, group := range exclusive {
		for _, member := range group {
			if member != name {
				continue
			}
			for _, other := range group {
				if other != name && present(other) {
					return other, true
				}
			}
		}
	}
	return "", false
}

// checkDestination refuses a destination that isn't one, or that would depend on the working directory.
func checkDestination(conf *config.Config, s config.Setting) error {
	if _, err := store.ParseDestination(s.Value); err != nil {
		return conf.Errorf(s.Line, "dest: %w", err)
	}
	if path, ok := strings.CutPrefix(s.Value, "file:"); ok && !strings.HasPrefix(path, "/") {
		return conf.Errorf(s.Line, "dest: the path %q has to be absolute", path)
	}
	return nil
}

// set gives the options called as the setting its value, where wanted says so.
func (t *tree) set(conf *config.Config, s config.Setting, wanted func(*flags.Option) bool) (err error) {
	found := false
	t.each(func(o *flags.Option) {
		if o.LongName != s.Key || o.Field().Type.Kind() == reflect.Func || err != nil {
			return
		}
		found = true
		switch {
		case o.Field().Tag.Get("no-ini") == "archive":
			err = conf.Errorf(s.Line, "%s can't be set here: it belongs in the section of an archive", s.Key)
		case o.Field().Tag.Get("no-ini") != "":
			err = conf.Errorf(s.Line, "%s can't be set here: it belongs on the command line", s.Key)
		case o.Field().Type.Kind() == reflect.Bool && s.Value != "true" && s.Value != "false":
			err = conf.Errorf(s.Line, "%s takes true or false, not %q", s.Key, s.Value)
		case wanted(o):
			if setErr := o.Set(&s.Value); setErr != nil {
				err = conf.Errorf(s.Line, "%w", setErr)
			}
		}
	})
	if !found {
		return conf.Errorf(s.Line, "unknown key %s", s.Key)
	}
	return err
}
