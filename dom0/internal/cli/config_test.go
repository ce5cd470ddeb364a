package cli

import (
	"crypto/sha256"
	"os"
	"strings"
	"testing"

	"pinion/dom0/internal/exit"
)

func TestConfigurationGivesDefaults(t *testing.T) {
	conf := "--config=" + alone(t, `[archive usb]
dest = file:/mnt/usb
[archive nas]
dest = file:/srv/nas
[defaults]
dest = usb
passfile = /etc/p
chunk-size = 1M
compression = none
state-dir = /state
quiet = true
wait = false
verify = true
pool-reserve = 10
`)
	a, c, env := prepared(t, "init", conf)
	if o := c.(*initCommand); o.ChunkSize != 1<<20 || o.Compression != compressionNone {
		t.Errorf("init: %+v", o)
	}
	if env.Dest.String() != "file:/mnt/usb" || env.Secret.PassFile != "/etc/p" || env.StateDir != "/state" || env.Wait || env.Reserve != 10 || !a.tree.global.Quiet {
		t.Errorf("env: %+v", env)
	}
	_, c, _ = prepared(t, "backup", "file:/a", conf)
	if o := c.(*backupCommand); !o.Verify || o.Compression != compressionNone {
		t.Errorf("backup: %+v", o)
	}
	// The command line wins, for each option and for each group of options that exclude each other.
	a, c, env = prepared(t, "init", conf, "--dest=nas", "--keyfile=k", "--chunk-size=64K", "--verbose", "--wait")
	if o := c.(*initCommand); o.ChunkSize != 64<<10 || o.Compression != compressionNone {
		t.Errorf("init: %+v", o)
	}
	if env.Dest.String() != "file:/srv/nas" || env.Secret.PassFile != "" || env.Secret.KeyFile != "k" || !env.Wait || a.tree.global.Quiet {
		t.Errorf("env: %+v", env)
	}
	_, c, _ = prepared(t, "backup", "file:/a", conf, "--verify=false")
	if o := c.(*backupCommand); o.Verify {
		t.Errorf("backup: %+v", o)
	}
	// So does the environment, over the configuration alone.
	t.Setenv("PINION_DEST", "nas")
	if _, _, env = prepared(t, "list", conf); env.Dest.String() != "file:/srv/nas" {
		t.Errorf("environment: %s", env.Dest)
	}
	if _, _, env = prepared(t, "list", conf, "--dest=file:/x"); env.Dest.String() != "file:/x" {
		t.Errorf("command line over environment: %s", env.Dest)
	}
	t.Setenv("PINION_DEST", "")
	if _, _, env = prepared(t, "list", conf); env.Dest.String() != "file:/mnt/usb" {
		t.Errorf("empty environment: %s", env.Dest)
	}
}

// All that the configuration says is checked by each command, also what that command has no use for.
func TestWrongConfiguration(t *testing.T) {
	for text, want := range map[string]string{
		"[defaults]\nkeep=3":                          ":2: unknown key keep",
		"[defaults]\npool-reserve=51":                 `:2: --pool-reserve "51": a percentage`,
		"[defaults]\nrescan=true":                     ":2: rescan can't be set here",
		"[defaults]\nhelp=true":                       ":2: unknown key help",
		"[defaults]\nquiet=yes":                       `:2: quiet takes true or false, not "yes"`,
		"[defaults]\n\nadopt=true":                    ":3: adopt can't be set here: it belongs on the command line",
		"[defaults]\nsession=latest":                  ":2: session can't be set here",
		"[defaults]\nyes=true":                        ":2: yes can't be set here",
		"[defaults]\nrepair=true":                     ":2: repair can't be set here",
		"[archive a]\ndest=file:/a\nautoprune=x":      ":3: autoprune: accepted are off, when-low and always",
		"[archive a]\ndest=file:/a\nkeep-daily=some":  ":3: keep-daily: how many are kept is a whole number",
		"[archive a]\ndest=file:/a\nkeep-within=x\n":  ":3: ",
		"[archive a]\nkeep-tag=a,,b\ndest=file:/a":    ":2: ",
		"[archive a]\nautoprune=always\ndest=file:/a": ":3: [archive a] has autoprune = always and no keep-",
		"[defaults]\nkeep-daily=3":                    ":2: keep-daily can't be set here: it belongs in the section of an archive",
		"[defaults]\nconfig=/x":                       ":2: config can't be set here",
		"[defaults]\nchunk-size=3K":                   ":2: --chunk-size 3K: it has to be a power of two",
		"[defaults]\ncompression=best":                `:2: --compression "best": accepted are`,
		"[defaults]\npassfile=a\nkeyfile=b":           ":3: keyfile and passfile of line 2 exclude each other",
		"[defaults]\nquiet=true\nverbose=true":        ":3: verbose and quiet of line 2 exclude each other",
		"[defaults]\ndest=file:rel":                   `:2: dest: the path "rel" has to be absolute`,
		"[defaults]\ndest=/a":                         ":2: dest: ",
		"[archive a]\ndest=file:rel":                  ":2: dest: ",
		"[archive a]\ndest=nothing":                   ":2: dest: ",
		"[archive a]\ndest=file:/a\nautoprun=off":     ":3: unknown key autoprun in [archive a]",
		"dest=file:/x":                                ":1: dest stands before the first section",
	} {
		path := alone(t, text)
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{"list", "version"} {
			args := []string{command, "--config", path, "--dest=file:/d", "--keyfile=k"}
			status, out, errs := runMain(args...)
			if status != int(exit.Usage) || out != "" || !strings.HasPrefix(errs, "pinion: error: "+path+want) {
				t.Errorf("%q: status %d, %q, %q; want %q", text, status, out, errs, want)
			}
		}
		after, err := os.Stat(path)
		if err != nil || !after.ModTime().Equal(before.ModTime()) {
			t.Errorf("the configuration was touched: %v", err)
		}
		content, err := os.ReadFile(path)
		if err != nil || sha256.Sum256(content) != sha256.Sum256([]byte(text)) {
			t.Errorf("the configuration was changed: %v", err)
		}
	}
}

func TestUnknownArchiveNamesTheConfiguration(t *testing.T) {
	path := alone(t, "[archive usb]\ndest=file:/mnt/usb")
	status, _, errs := runMain("list", "--config="+path, "--dest=nas")
	if status != 2 || !strings.Contains(errs, `no archive is called "nas" in `+path) {
		t.Errorf("status %d, %q", status, errs)
	}
}
