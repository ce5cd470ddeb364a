package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pinion/destvm/internal/storetest"
	"pinion/protocol"
)

// A call is one of the service, as the qube's side of qrexec starts it.
type call struct {
	caller, argument string
	home, config     string
	args             []string // of the service; nil: the argument
}

func newCall(t *testing.T) call {
	home := t.TempDir()
	return call{caller: "dom0", argument: "laptop", home: home, config: filepath.Join(home, "store.conf")}
}

func (c call) configure(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// command is the call's command line, with its environment in front.
func (c call) command(t *testing.T) []string {
	t.Helper()
	if c.args == nil {
		c.args = []string{c.argument}
	}
	vars := []string{"env", "QREXEC_REMOTE_DOMAIN=" + c.caller, "QREXEC_SERVICE_ARGUMENT=" + c.argument, "HOME=" + c.home}
	return append(vars, helper(t, append([]string{"qrexec", "--config", c.config, "--"}, c.args...)...)...)
}

// ends runs a call with some input to its end.
func (c call) ends(t *testing.T, in io.Reader) (status int, said string) {
	t.Helper()
	command := c.command(t)
	cmd := exec.Command(command[0], command[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &errs
	_ = cmd.Run()
	if out.Len() > 0 {
		t.Errorf("it wrote %q to its output", &out)
	}
	if n := strings.Count(errs.String(), "\n"); n > 1 || strings.Contains(errs.String(), c.home) && !strings.Contains(errs.String(), c.config) {
		t.Errorf("it said %q", &errs)
	}
	return cmd.ProcessState.ExitCode(), errs.String()
}

// TestQrexecStatuses: whoever is refused hears why, before anything was read
// or made.
func TestQrexecStatuses(t *testing.T) {
	for _, tt := range []struct {
		what   string
		change func(c *call)
		config string
		status int
		said   string
	}{
		{"input ends", func(*call) {}, "", exitOK, ""},
		{"another qube", func(c *call) { c.caller = "work" }, "", exitCaller, "does not let work have"},
		{"another qube, let in", func(c *call) { c.caller = "mgmt" }, "[defaults]\ncallers = mgmt\n", exitOK, ""},
		{"no caller", func(c *call) { c.caller = "" }, "", exitCaller, "QREXEC_REMOTE_DOMAIN"},
		{"a mistake", func(*call) {}, "[defaults]\nreadonly = true\n", exitConfig, `store.conf:2: unknown key "readonly"`},
		{"upwards", func(c *call) { c.argument = "../x" }, "", exitName, `"../x" can't be`},
		{"too long", func(c *call) { c.argument = strings.Repeat("a", 65) }, "", exitName, "more than 64"},
		{"none", func(c *call) { c.argument, c.args = "", []string{} }, "", exitName, "empty"},
		{"an option", func(c *call) { c.argument = "--config=/etc/passwd" }, "", exitName, "dash"},
		{"two names", func(c *call) { c.args = []string{"other"} }, "", exitName, "says another"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			c := newCall(t)
			tt.change(&c)
			if tt.config != "" {
				c.configure(t, tt.config)
			}
			if status, said := c.ends(t, nil); status != tt.status || !strings.Contains(said, tt.said) {
				t.Errorf("status %d, %q", status, said)
			}
			if _, err := os.Stat(filepath.Join(c.home, "pinion")); err == nil {
				t.Error("it made a directory")
			}
		})
	}
}

// TestQrexecPlaces: the default place is made by a create alone, a configured
// one only up to its last element, and what the configuration forbids is
// forbidden.
func TestQrexecPlaces(t *testing.T) {
	c := newCall(t)
	hello := func(create bool) (protocol.Header, []byte, *storetest.Client) {
		client := storetest.Start(t, c.command(t))
		h, payload := client.Hello(protocol.Hello{Min: 1, Max: protocol.Version, Create: create})
		return h, payload, client
	}
	refused := func(create bool, want protocol.Code) {
		t.Helper()
		h, payload, client := hello(create)
		if e, err := protocol.ParseErrorReply(payload); h.Type != protocol.TypeError || err != nil || e.Code != want {
			t.Errorf("%+v %q", h, payload)
		}
		client.Close()
	}
	granted := func(create bool) protocol.HelloReply {
		t.Helper()
		h, payload, client := hello(create)
		r, err := protocol.ParseHelloReply(payload)
		if h.Type != protocol.TypeHelloReply || err != nil {
			t.Fatalf("%+v %q", h, payload)
		}
		client.Close()
		return r
	}
	refused(false, protocol.CodeMissing)
	if entries, err := os.ReadDir(c.home); err != nil || len(entries) > 0 {
		t.Fatalf("%v, %v", entries, err)
	}
	if r := granted(true); !r.Created {
		t.Errorf("%+v", r)
	}
	for _, dir := range []string{"pinion", "pinion/laptop"} {
		if info, err := os.Stat(filepath.Join(c.home, dir)); err != nil || info.Mode() != os.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
	granted(false)
	c.configure(t, "[archive laptop]\ndir = ~/disk/laptop\nappend-only = true\n")
	refused(true, protocol.CodeMissing)
	if err := os.Mkdir(filepath.Join(c.home, "disk"), 0o700); err != nil {
		t.Fatal(err)
	}
	if r := granted(true); r.Capabilities != protocol.AppendOnly|protocol.CanCompose|protocol.LockNotes|protocol.CanInventory {
		t.Errorf("append-only: %+v", r)
	}
	c.configure(t, "[archive laptop]\ndir = ~/disk/laptop\n[defaults]\nread-only = true\n")
	if r := granted(false); r.Capabilities != protocol.ReadOnly|protocol.LockNotes|protocol.CanInventory {
		t.Errorf("read-only: %+v", r)
	}
	c.configure(t, "[archive laptop]\ndir = ~/disk/other\nread-only = true\n")
	refused(true, protocol.CodeReadOnly)
}

// TestNoHello: input of which somebody else had a part is told from a client
// that is gone, and from one that breaks the protocol later.
func TestNoHello(t *testing.T) {
	hello := protocol.AppendFrame(nil, protocol.TypeHello, 0, protocol.Hello{Min: 1, Max: protocol.Version})
	for _, tt := range []struct {
		what  string
		input []byte
		said  string
	}{
		{"a line is missing", hello[5:], ""},
		{"all but the end is missing", hello[len(hello)-3:], "ended after 3 of its 51 bytes"},
		{"the header is missing", hello[protocol.HeaderSize:], ""},
		{"the end is missing", hello[:len(hello)-1], "ended after 50 of its 51 bytes"},
		{"text", []byte("hello, is anybody there, and who may that be?\n"), ""},
		{"another frame", protocol.AppendFrame(nil, protocol.TypeUsage, 0, nil), "of type usage"},
		{"unknown flags", append(bytes.Clone(hello[:len(hello)-3]), 2, 0, 0), ""},
	} {
		status, said := newCall(t).ends(t, bytes.NewReader(tt.input))
		if status != exitNoHello || !strings.Contains(said, "not a client's hello") || !strings.Contains(said, tt.said) {
			t.Errorf("%s: status %d, %q", tt.what, status, said)
		}
	}
	status, said := newCall(t).ends(t, bytes.NewReader(nil))
	if status != exitOK || said != "" {
		t.Errorf("nothing at all: status %d, %q", status, said)
	}
}

// TestServiceFiles: what is installed starts the helper and nothing else, and
// passes a hostile argument on as one.
func TestServiceFiles(t *testing.T) {
	script, err := os.ReadFile("../../qubes-rpc/pinion.Store")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat("../../qubes-rpc/pinion.Store"); err != nil || info.Mode().Perm()&0o111 != 0o111 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	const program = "/usr/bin/pinion-store"
	if strings.Count(string(script), program) != 1 {
		t.Fatalf("the script is\n%s", script)
	}
	self := helper(t)[0]
	path := filepath.Join(t.TempDir(), "service")
	if err := os.WriteFile(path, bytes.ReplaceAll(script, []byte(program), []byte(self)), 0o755); err != nil {
		t.Fatal(err)
	}
	for argument, want := range map[string]int{"laptop": exitOK, "--help": exitName, "--config=/x": exitName, "a b": exitName, "$(false)": exitName} {
		cmd := exec.Command(path, argument)
		cmd.Env = append(os.Environ(), "QREXEC_REMOTE_DOMAIN=dom0", "QREXEC_SERVICE_ARGUMENT="+argument, "HOME="+t.TempDir())
		var out bytes.Buffer
		cmd.Stdout = &out
		_ = cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != want || out.Len() > 0 {
			t.Errorf("%q: status %d, output %q", argument, got, &out)
		}
	}
	// The qube's agent takes a file that it doesn't understand as a failed
	// call, so there is one line of the simplest kind.
	config, err := os.ReadFile("../../rpc-config/pinion.Store")
	if err != nil || string(config) != "force-user='user'\n" {
		t.Errorf("%q, %v", config, err)
	}
}

// TestHelpNamesTheConfiguration keeps the help's paths those that are read.
func TestHelpNamesTheConfiguration(t *testing.T) {
	var out bytes.Buffer
	run([]string{"qrexec", "--help"}, nil, &out, io.Discard)
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, path := range []string{"/rw/config/pinion/store.conf", "/etc/pinion/store.conf"} {
		if !strings.Contains(text, path) {
			t.Errorf("the help is %s", text)
		}
	}
}
