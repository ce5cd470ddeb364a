package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jessevdk/go-flags"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/when"
	"pinion/protocol"
)

// alone keeps the machine's own settings out of a test, and returns the path of a configuration with this text.
func alone(t *testing.T, conf string) string {
	t.Helper()
	for _, name := range []string{"PINION_DEST", "GO_FLAGS_COMPLETION", "XDG_STATE_HOME", "XDG_CACHE_HOME"} {
		t.Setenv(name, "")
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "pinion.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func runMain(args ...string) (status int, out, errs string) {
	var stdout, stderr bytes.Buffer
	status = Main(context.Background(), args, &stdout, &stderr, "1.2.3")
	return status, stdout.String(), stderr.String()
}

// wrong maps command lines, split at "|", to what standard error has to hold.
var wrong = map[string]string{
	"":                                    "no command given",
	"bogus":                               `unknown command "bogus"`,
	"--bogus":                             "unknown option --bogus",
	"-z":                                  "unknown option -z",
	"verify|--dry-run":                    "verify: unknown option --dry-run",
	"verify|--dry-run=x":                  "verify: unknown option --dry-run",
	"list|-qz":                            "list: unknown option -z",
	"list|--tag|x":                        "--tag is an option of backup, and stands after that word",
	"--tag|x|backup|file:/a":              "--tag is an option of backup, and stands after that word",
	"list|--dest":                         "list: expected argument for option --dest",
	"list|--dest|--wait":                  "expected argument for option --dest",
	"list|--dest=":                        "--dest has no value",
	"list|--dest=file:/d|--passfile=":     "--passfile has no value",
	"list":                                "--dest is missing",
	"list|--dest|nowhere":                 `no archive is called "nowhere"`,
	"list|--dest|/srv/x":                  `--dest: destination "/srv/x"`,
	"list|--dest|ftp://x/y":               "--dest: destination",
	"list|--dest=file:/d|-q|-v":           "--quiet and --verbose exclude each other",
	"list|--dest=file:/d|--quiet=perhaps": "-q, --quiet takes true or false",
	"list|--dest=file:/d|--passcmd=a|--keyfile=b":                                   "--passcmd and --keyfile exclude each other",
	"list|--dest=file:/d|--config=/none/such":                                       "read the configuration: open /none/such",
	"list|--dest=file:/d|--session|yesterdaay":                                      `--session: "yesterdaay" is no session; accepted: latest`,
	"list|--dest=file:/d|--session=365d":                                            "365 days ago",
	"list|--dest=file:/d|--session=":                                                "--session has no value",
	"list|--dest=file:/d|a|a":                                                       `list: "a" is named twice`,
	"list|--dest=file:/d|":                                                          "list: volume name is empty",
	"list|--dest=file:/d|a\x1bb":                                                    `list: volume name "a\x1bb" has a control character`,
	"list|--dest=file:/d|\xff":                                                      `list: volume name "\xff" is not valid UTF-8`,
	"init|--dest=file:/d|x":                                                         `init takes no names: "x"`,
	"init|--dest=file:/d|--chunk-size=3K":                                           "--chunk-size 3K: it has to be a power of two from 64K to 4M",
	"init|--dest=file:/d|--chunk-size=96K":                                          "power of two",
	"init|--dest=file:/d|--chunk-size=32K":                                          "from 64K to 4M",
	"init|--dest=file:/d|--chunk-size=8M":                                           "from 64K to 4M",
	"init|--dest=file:/d|--chunk-size=big":                                          `init: --chunk-size: "big" is no size; accepted:`,
	"init|--dest=file:/d|--compression=zstd:20":                                     `init: --compression "zstd:20": accepted are zstd:1 to zstd:19, and none`,
	"init|--dest=file:/d|--compression=zstd:0":                                      "--compression",
	"init|--dest=file:/d|--compression=zstd:01":                                     "--compression",
	"init|--dest=file:/d|--compression=gzip":                                        "--compression",
	"backup|--dest=file:/d":                                                         "backup: no source given",
	"backup|--dest=file:/d|work":                                                    `"work" is no source`,
	"backup|--dest=file:/d|file:/a/x|file:/b/x":                                     `both make a volume called "x"`,
	"backup|--dest=file:/d|file:/a|x=file:/b/../a":                                  `are one volume`,
	"backup|--dest=file:/d|lvm:vg/lv|b=lvm:vg/lv":                                   `are one volume`,
	"backup|--dest=file:/d|lvm:vg/pool/lv":                                          `a logical volume is written lvm:VG/LV`,
	"backup|--dest=file:/d|file:/a|--pool-reserve=51":                               `backup: --pool-reserve "51": a percentage is a whole number from 0 to 50`,
	"backup|--dest=file:/d|file:/a|--tag=,text":                                     "--tag: tag name is empty",
	"backup|--dest=file:/d|file:/a|--tag=a|--tag=a,b":                               `--tag: the tag "a" is given twice`,
	"backup|--dest=file:/d|file:/a|--tag=1|--tag=2|--tag=3|--tag=4|--tag=5|--tag=6": "at most 5 tags, not 6",
	"restore|--dest=file:/d|--to=/x":                                                "restore: nothing named",
	"restore|--dest=file:/d|a":                                                      "restore: --to is missing",
	"restore|--dest=file:/d|a|b|--to=/dev/null":                                     "has to be a directory",
	"verify|--dest=file:/d|--session=latest|--all-sessions":                         "--session and --all-sessions exclude each other",
	"check|--dest=file:/d|work":                                                     `check takes no names: "work"`,
	"check|--dest=file:/d|--read-data=0":                                            `check: --read-data "0": a percentage`,
	"check|--dest=file:/d|--read-data=101":                                          "a percentage",
	"check|--dest=file:/d|--read-data=half":                                         "a percentage",
	"check|--dest=file:/d|--read-data|50":                                           `check takes no names: "50"`,
	"backup|--dest=file:/d|file:/a|--dry-run|--tag=x":                               "--dry-run makes no session to tag",
	"restore|--dest=file:/d|a|--to=/x|--trust-snapshot":                             "--trust-snapshot is of use with --from-snapshot only",
	"restore|--dest=file:/d|a|--to=lvm:vg":                                          `--to "lvm:vg": write lvm:VG/LV`,
	"restore|--dest=file:/d|a|--to=lvm:vg/p/l/x":                                    "write lvm:VG/LV",
	"restore|--dest=file:/d|a|--to=lvm:vg/-l":                                       "can't be the name",
	"restore|--dest=file:/d|a|b|--to=lvm:vg/l":                                      "has to be a directory",
	"restore|--dest=file:/d|--all|--to=lvm:vg/p/l":                                  "has to be a directory",
	"backup|--dest=file:/d|work|work":                                               `backup: "work" is named twice`,
	"backup|--dest=file:/d|none":                                                    `no qube can be called "none"`,
	"backup|--dest=file:/d|-|x":                                                     `backup: "-" can't be the name of a qube`,
	"backup|--dest=file:/d|a\x1bb":                                                  `backup: "a\x1bb" can't be the name of a qube`,
	"backup|--dest=file:/d|--all":                                                   "this is not dom0 of Qubes OS",
	"backup|--dest=file:/d|--all|work":                                              "--all and names of qubes exclude each other",
	"backup|--dest=file:/d|--exclude=a|file:/x":                                     "--exclude is of use with --all",
	"backup|--dest=file:/d|--all|--exclude=../x":                                    `--exclude: "../x" can't be the name of a qube`,
	"backup|--dest=file:/d|--live|file:/x":                                          "--live is of use with qubes only",
	"backup|--dest=file:/d|--dom0-files=etc":                                        "--dom0-files: path",
	"backup|--dest=file:/d|--dom0-files=/":                                          "--dom0-files: path",
	"backup|--dest=file:/d|--dom0-files=/etc:/etc/x":                                "is inside",
	"restore|--dest=file:/d|work:private":                                           `"work:private" is no qube's name, and --to is missing`,
	"restore|--dest=file:/d|work|--in-place":                                        "--in-place is of use with --to only",
	"restore|--dest=file:/d|work|--sparse":                                          "--in-place is of use with --to only",
	"restore|--dest=file:/d|work|--salvage":                                         "--salvage is of use with --to only",
	"restore|--dest=file:/d|work|--to=/x|--pool=p":                                  "--pool is of use for qubes, without --to, only",
	"restore|--dest=file:/d|work|--to=/x|--as=w":                                    "--as is of use for qubes",
	"restore|--dest=file:/d|work|--to=/x|--settings-only":                           "--settings-only is of use for qubes",
	"restore|--dest=file:/d|work|--to=/x|--data-only":                               "--data-only is of use for qubes",
	"restore|--dest=file:/d|work|--to=/x|--skip-prop=a":                             "--skip-prop is of use for qubes",
	"restore|--dest=file:/d|a|b|--as=c":                                             "--as is the name for one qube, and 2 qubes are named",
	"restore|--dest=file:/d|--all|--as=c":                                           "--as is the name for one qube, and all are named",
	"restore|--dest=file:/d|a|--as=dom0":                                            `--as: no qube can be called "dom0"`,
	"restore|--dest=file:/d|dom0|--as=x":                                            "dom0 can't have another name",
	"restore|--dest=file:/d|a|--as=x|--data-only":                                   "--as makes a new qube",
	"restore|--dest=file:/d|a|--settings-only|--data-only":                          "exclude each other",
	"restore|--dest=file:/d|a|--rename-conflicting|--skip-conflicting":              "exclude each other",
	"monitor|/x":                        `"/x" is no source`,
	"monitor|x|x":                       `"x" is named twice`,
	"monitor|a=file:/x|a=file:/y":       "both make a volume called",
	"status|x":                          `status takes no names: "x"`,
	"diff|--dest=file:/d":               "diff: no volume named",
	"diff|a":                            "--dest is missing",
	"diff|--dest=file:/d|a|b":           `diff takes no names: "b"`,
	"diff|--dest=file:/d|a|--source=/x": `--source: "/x" is no source`,
	"forget-local":                      "forget-local: nothing named",
	"forget-local|--archive":            "--dest is missing",
	"forget-local|--all|file:/x":        "--all and sources exclude each other",
	"forget-local|--all|--archive":      "--all and --archive exclude each other",
	"version|x":                         `version takes no names: "x"`,
}

func TestWrongUsage(t *testing.T) {
	alone(t, "")
	for line, want := range wrong {
		args := strings.Split(line, "|")
		if line == "" {
			args = nil
		}
		status, out, errs := runMain(args...)
		first, _, _ := strings.Cut(errs, "\n")
		if status != int(exit.Usage) || !strings.Contains(errs, want) || !strings.HasPrefix(first, "pinion: error: ") || out != "" {
			t.Errorf("%q: status %d, stdout %q, stderr %q; want 2 and %q", args, status, out, errs, want)
		}
		if n := strings.Count(errs, "\n"); n > 2 || (n == 2 && !strings.Contains(errs, "\nhint: ")) {
			t.Errorf("%q: more than an error and a hint: %q", args, errs)
		}

		args = append([]string{"--json"}, args...)
		status, out, errs = runMain(args...)
		var doc struct {
			Error struct {
				Code          int
				Message, Hint string
			}
		}
		if err := json.Unmarshal([]byte(out), &doc); err != nil || doc.Error.Code != status || doc.Error.Message == "" || status != 2 {
			t.Errorf("%q: status %d, document %q: %v", args, status, out, err)
		}
		if !json.Valid([]byte(errs)) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: stderr %q", args, errs)
		}

		if _, out, errs = runMain(append([]string{"--quiet"}, args[1:]...)...); strings.Contains(errs, "hint") || out != "" {
			t.Errorf("%q: quiet, but %q, %q", args, out, errs)
		}
	}
}

func TestHelp(t *testing.T) {
	alone(t, "")
	tree, err := newTree()
	if err != nil {
		t.Fatal(err)
	}
	commands := map[string]*flags.Command{"": tree.parser.Command}
	tree.eachCommand(func(c *flags.Command, words string) { commands[words] = c })
	for words, c := range commands {
		args := append(strings.Fields(words), "--help")
		status, out, errs := runMain(args...)
		if status != 0 || errs != "" || !strings.HasPrefix(out, "Usage:\n  pinion ") {
			t.Errorf("%q: status %d, stderr %q, stdout %q", args, status, errs, out)
		}
		for line := range strings.Lines(out) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
				t.Errorf("%q: %d columns: %q", args, n, line)
			}
		}
		for _, o := range c.Options() {
			if o.Description == "" || !strings.Contains(out, "--"+o.LongName) {
				t.Errorf("%q: --%s isn't explained", args, o.LongName)
			}
		}
		if tree.commands[words] != nil && !strings.Contains(out, "Exit status: 0 done") {
			t.Errorf("%q: the exit statuses are missing", args)
		}
	}
	offered := map[string]bool{}
	tree.eachCommand(func(c *flags.Command, words string) {
		if len(c.Commands()) == 0 {
			offered[words] = true
		}
	})
	for words := range offered {
		if tree.commands[words] == nil {
			t.Errorf("%q is offered and can't be run", words)
		}
	}
	if len(offered) != len(tree.commands) {
		t.Errorf("%d commands are offered, %d can be run", len(offered), len(tree.commands))
	}
}

func TestVersion(t *testing.T) {
	alone(t, "")
	if status, out, errs := runMain("version"); status != 0 || errs != "" || !strings.HasPrefix(out, "pinion 1.2.3\n") {
		t.Errorf("status %d, %q, %q", status, out, errs)
	}
	if status, out, errs := runMain("version", "--json"); status != 0 || errs != "" ||
		out != fmt.Sprintf(`{"program":"1.2.3","protocol":%d,"format":%d}`+"\n", protocol.Version, format.Version) {
		t.Errorf("status %d, %q, %q", status, out, errs)
	}
	var stderr bytes.Buffer
	if status := Main(t.Context(), []string{"version"}, full{}, &stderr, ""); status != int(exit.Failed) || !strings.Contains(stderr.String(), "disk full") {
		t.Errorf("a full disk: status %d, %q", status, &stderr)
	}
	if status := Main(t.Context(), []string{"--help"}, full{}, &stderr, ""); status != int(exit.Failed) {
		t.Errorf("help to a full disk: status %d", status)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

// prepared parses a command line that has to be right.
func prepared(t *testing.T, args ...string) (*app, command, *Env) {
	t.Helper()
	a := &app{out: &bytes.Buffer{}, err: &bytes.Buffer{}, zone: time.UTC, tree: &tree{},
		now: func() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }}
	help, command, env, err := a.prepare(args)
	if err != nil || help != "" {
		t.Fatalf("%q: %v, help %q", args, err, help)
	}
	return a, command, env
}

// Options before, between and behind names mean the same.
func TestOptionsAnywhere(t *testing.T) {
	conf := alone(t, "")
	for _, line := range []string{
		"--dest=file:/d --config=CONF --keyfile=k --wait verify --session #3 a b",
		"verify a --session=#3 b --dest file:/d --config CONF --wait=true --keyfile k",
		"--wait verify --session #3 --dest=file:/d --keyfile=k --config=CONF -- a b",
	} {
		_, c, env := prepared(t, strings.Fields(strings.ReplaceAll(line, "CONF", conf))...)
		o, ok := c.(*verifyCommand)
		if !ok || o.session == nil || *o.session != (when.Session{Kind: when.Number, Number: 3}) || strings.Join(o.Args.Names, " ") != "a b" {
			t.Errorf("%s: %+v", line, c)
		}
		if env.Dest.String() != "file:/d" || env.Secret.KeyFile != "k" || !env.Wait || env.Adopt || env.AllowRollback || env.Unattended {
			t.Errorf("%s: %+v", line, env)
		}
	}
	_, c, _ := prepared(t, "list", "--dest=file:/d", "--config="+conf, "--", "--session")
	if o := c.(*listCommand); o.Args.Names[0] != "--session" || o.session != nil {
		t.Errorf("a name behind --: %+v", o)
	}
}

func TestCommandOptions(t *testing.T) {
	conf := alone(t, "")
	base := []string{"--dest=file:/d", "--config=" + conf}
	_, c, _ := prepared(t, append(base, "init")...)
	if o := c.(*initCommand); o.ChunkSize != 128<<10 || o.Compression != 1 {
		t.Errorf("init's defaults: %+v", o)
	}
	_, c, _ = prepared(t, append(base, "init", "--chunk-size", "4M", "--compression=none")...)
	if o := c.(*initCommand); o.ChunkSize != 4<<20 || o.Compression != compressionNone {
		t.Errorf("init: %+v", o)
	}
	_, c, _ = prepared(t, append(base, "backup", "a=file:/x/y", "--tag=weekly,of, course", "file:/x/z=1", "--tag", "b", "--verify")...)
	if o := c.(*backupCommand); fmt.Sprint(o.sources) != "[{a file:/x/y} {z=1 file:/x/z=1}]" || !o.Verify || o.Compression != compressionUnset ||
		fmt.Sprint(o.tags) != "[{weekly of, course} {b }]" {
		t.Errorf("backup: %+v", o)
	}
	_, c, _ = prepared(t, append(base, "restore", "a", "--sparse", "--to=x/../y", "--session=30d", "--yes", "--salvage")...)
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if o := c.(*restoreCommand); !o.InPlace || o.to != filepath.Join(cwd, "y") || o.session.Kind != when.Time || !o.Yes || !o.Salvage ||
		!o.session.At.Equal(time.Date(2026, 10, 23, 12, 0, 0, 0, time.UTC)) {
		t.Errorf("restore: %+v", o)
	}
	for option, want := range map[string]percent{"": 0, "--read-data": 100, "--read-data=7": 7, "--read-data=100%": 100} {
		args := append(base, "check", "--repair")
		if option != "" {
			args = append(args, option)
		}
		_, c, _ = prepared(t, args...)
		if o := c.(*checkCommand); o.ReadData != want || !o.Repair {
			t.Errorf("check %s: %+v", option, o)
		}
	}
}

func TestDirectories(t *testing.T) {
	conf := alone(t, "")
	_, _, env := prepared(t, "list", "--dest=file:/d", "--config="+conf, "--state-dir=/s/../t", "--cache-dir=/c")
	if env.StateDir != "/t" || env.CacheDir != "/c" {
		t.Errorf("given: %q, %q", env.StateDir, env.CacheDir)
	}
	t.Setenv("HOME", "/home/x")
	t.Setenv("XDG_STATE_HOME", "relative")
	t.Setenv("XDG_CACHE_HOME", "/caches")
	_, _, env = prepared(t, "list", "--dest=file:/d", "--config="+conf)
	want := [2]string{"/home/x/.local/state/pinion", "/caches/pinion"}
	if os.Geteuid() == 0 {
		want = [2]string{"/var/lib/pinion", "/var/cache/pinion"}
	}
	if got := [2]string{env.StateDir, env.CacheDir}; got != want {
		t.Errorf("defaults: %q, want %q", got, want)
	}
}

func TestParseSource(t *testing.T) {
	long := strings.Repeat("n", format.MaxName)
	for word, want := range map[string]Source{
		"file:/a/b.img":     {"b.img", "file:/a/b.img"},
		"file:/a/b=c":       {"b=c", "file:/a/b=c"},
		"x=file:/a/b":       {"x", "file:/a/b"},
		"x=file:/a/b=c":     {"x", "file:/a/b=c"},
		"x y=file:/dev/sda": {"x y", "file:/dev/sda"},
		"größe=file:/a":     {"größe", "file:/a"},
		"file:/a//b/../c/":  {"c", "file:/a/c"},
		long + "=file:/a":   {long, "file:/a"},
		"file:/a/" + long:   {long, "file:/a/" + long},
		"lvm:vg/lv":         {"vg/lv", "lvm:vg/lv"},
		"x=lvm:vg/l+v.1-_":  {"x", "lvm:vg/l+v.1-_"},
	} {
		if got, err := ParseSource(word); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", word, got, err, want)
		}
	}
	for word, part := range map[string]string{
		"": "is no source", "x": "is no source", "/a/b": "is no source", "x=": "is no source", "LVM:VG/LV": "is no source",
		"lvm:": "written lvm:VG/LV", "lvm:vg": "written lvm:VG/LV", "lvm:vg/pool/lv": "written lvm:VG/LV", "lvm:/dev/vg/lv": "written lvm:VG/LV",
		"lvm:vg/": "can't be the name", "lvm:/lv": "can't be the name", "lvm:-v/l": "can't be the name", "lvm:v/..": "can't be the name", "lvm:v/a b": "can't be the name",
		"x=y=file:/a": "is no source", "a/b=file:/x": "is no source", "File:/a": "is no source",
		"file:": "has no path", "x=file:": "has no path", "=file:/a": "is empty", "file:/": "root directory",
		"file:/a\x00b": "zero byte", "a\nb=file:/x": "control character", "\xff=file:/x": "UTF-8", "file:/a/\x1b": "control character",
		long + "n=file:/x": "at most 128 bytes",
	} {
		got, err := ParseSource(word)
		if e, ok := exit.Of(err); !ok || e.Status != exit.Usage || !strings.Contains(e.Error(), part) || got != (Source{}) {
			t.Errorf("%q: %+v, %v; want %q", word, got, err, part)
		}
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseSource("file:rel.img"); err != nil || got.Location != "file:"+filepath.Join(cwd, "rel.img") || got.Name != "rel.img" {
		t.Errorf("a relative path: %+v, %v", got, err)
	}
}

func TestDefaultChunkSizeIsTheFormats(t *testing.T) {
	var c chunkSize
	if err := c.UnmarshalFlag("128K"); err != nil || c != format.DefaultChunkSize {
		t.Errorf("the default chunk size is %d, the format's %d", c, format.DefaultChunkSize)
	}
}

// stuck is a command that a signal interrupts.
type stuck struct {
	aboutArchive
	returns error
}

func (stuck) validate(check) error                    { return nil }
func (s stuck) run(ctx context.Context, _ *Env) error { <-ctx.Done(); return s.returns }
func (stuck) afterInterrupt() string                  { return "it goes on from here" }

func TestInterrupt(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if signal.Ignored(s) {
			t.Logf("SKIPPED: the tests were started with %v ignored, as nohup does", s)
			continue
		}
		ctx, stop := withSignals(context.Background())
		// Were it not taken, the second one would end the test.
		for range 2 {
			if err := syscall.Kill(os.Getpid(), s); err != nil {
				t.Fatal(err)
			}
		}
		<-ctx.Done()
		time.Sleep(10 * time.Millisecond)
		a := &app{command: stuck{}}
		f := a.report(ctx, fmt.Errorf("put a pack: %w", ctx.Err()))
		want := "interrupted by " + map[syscall.Signal]string{syscall.SIGINT: "SIGINT", syscall.SIGTERM: "SIGTERM", syscall.SIGHUP: "SIGHUP"}[s]
		if f.Code != 130 || f.Message != want || f.Hint != "it goes on from here" {
			t.Errorf("%v: %+v", s, f)
		}
		if f := a.report(ctx, exit.With(exit.Damaged, errors.New("pack damaged"), "")); f.Code != int(exit.Damaged) {
			t.Errorf("%v: damage became %+v", s, f)
		}
		own := exit.With(exit.Interrupted, errors.New("stopped after 3 of 5 volumes"), "h")
		if f := a.report(ctx, own); f.Code != 130 || f.Message != own.Error() || f.Hint != "h" {
			t.Errorf("%v: the command's own words became %+v", s, f)
		}
		stop()
	}
}

func TestStatusOf(t *testing.T) {
	for _, c := range []struct {
		err    error
		status exit.Status
		hint   string
	}{
		{errors.New("x"), exit.Failed, ""},
		{fmt.Errorf("a: %w", context.Canceled), exit.Interrupted, ""},
		{fmt.Errorf("a: %w", exit.With(exit.Locked, context.Canceled, "wait")), exit.Locked, "wait"},
	} {
		if status, hint := statusOf(c.err); status != c.status || hint != c.hint {
			t.Errorf("%v: %v, %q", c.err, status, hint)
		}
	}
}

func TestHelperIsFoundInPath(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	env := &Env{}
	if path, err := env.Helper(); err == nil {
		t.Errorf("found %q in an empty directory", path)
	} else if e, ok := exit.Of(err); !ok || e.Hint == "" {
		t.Errorf("no hint with %v", err)
	}
	want := filepath.Join(dir, helperName)
	if err := os.WriteFile(want, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if path, err := env.Helper(); err != nil || path != want {
		t.Errorf("got %q, %v", path, err)
	}
}

func TestCompletion(t *testing.T) {
	alone(t, "")
	t.Setenv("GO_FLAGS_COMPLETION", "1")
	if status, out, errs := runMain("check", "--re"); status != 0 || out != "--read-data\n--remember\n--repair\n" || errs != "" {
		t.Errorf("status %d, %q, %q", status, out, errs)
	}
	if status, out, errs := runMain("check", "--nothing"); status != 0 || out != "" || errs != "" {
		t.Errorf("status %d, %q, %q", status, out, errs)
	}
}
