package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pinion/protocol"
)

func inQube(t testing.TB) Destination {
	t.Helper()
	d, err := ParseDestination("qubes:storage/laptop")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// asQubeError checks an error of a qube: what it says, and that hint and text
// are fit to be shown.
func asQubeError(t *testing.T, err, kind error, text, hint string) {
	t.Helper()
	q := (*QubeError)(nil)
	if !errors.As(err, &q) || !errors.Is(err, kind) {
		t.Errorf("the error is %#v, %v", err, err)
		return
	}
	printable(t, err.Error())
	printable(t, q.Hint)
	if q.Qube != "storage" || !strings.Contains(err.Error(), text) || !strings.Contains(q.Hint, hint) || !strings.HasPrefix(err.Error(), "open qubes:storage/laptop: ") {
		t.Errorf("the error is %q, the hint %q", err, q.Hint)
	}
}

// TestExitStatusesOfACall: every way in which a call can end before the helper
// has answered becomes a sentence and something to do.
func TestExitStatusesOfACall(t *testing.T) {
	for script, want := range map[string][2]string{
		"exit 0":   {"ended and said nothing", "login profile"},
		"exit 125": {"qrexec could not start pinion.Store in qube storage", "see that storage runs"},
		"exit 126": {"was refused", "can be run"},
		"exit 127": {"qube storage has no service pinion.Store", "install the package pinion-vm in the template of storage"},
		"exit 255": {"was it shut down?", "run the same command again"},
		"exit 137": {"was killed by SIGKILL", "enough memory"},
		"exit 143": {"was killed by SIGTERM", "run the same command again"},
		"exit 200": {"was killed by signal 72", "run the same command again"},
		"exit 1":   {"pinion-store in qube storage failed", "run the same command again"},
		"exit 2":   {"does not know the command", "update the package pinion-vm in the template of storage"},
		"exit 3":   {"refuses calls of dom0", "pinion-vm"},
		"exit 4":   {"configuration of pinion-store in qube storage is wrong", "/rw/config/pinion/store.conf"},
		"exit 5":   {"does not take the archive's name", "pinion-vm"},
		"exit 6":   {"something in qube storage took part of what was sent", "login profile"},
		"exit 77":  {"exit status 77", "pinion-vm"},

		"kill -9 $$": {"the call to qube storage ended with signal: killed", ""},
		`printf 'store.conf:3: \033[31mno\n' >&2; exit 4`: {`(its last words: store.conf:3: \x1b[31mno)`, "store.conf"},
		`head -c 49 >/dev/null; echo hello; exit 127`:     {"after saying: hello", "pinion-vm"},
	} {
		_, err := Open(context.Background(), inQube(t), Options{Command: []string{"/bin/sh", "-c", script}})
		asQubeError(t, err, ErrGone, want[0], want[1])
	}
}

// TestLoginProfiles: noise that is too much, and input that doesn't arrive,
// lead to the likely cause.
func TestLoginProfiles(t *testing.T) {
	open := func(fake string, warn func(string)) error {
		c, err := Open(context.Background(), inQube(t), Options{Command: command(t, fake), Timeout: 2 * time.Second, Warn: warn})
		if err == nil {
			c.Close()
		}
		return err
	}
	began := time.Now()
	asQubeError(t, open("silent", nil), ErrTimeout, "no word of pinion-store there for 1s", "login profile in storage")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	asQubeError(t, open("too much noise", nil), ErrProtocol, "is not pinion-store", "prints too much")
	var warned []string
	if err := open("noise", func(text string) { warned = append(warned, text) }); err != nil {
		t.Error(err)
	}
	if len(warned) != 1 || !strings.Contains(warned[0], "a login profile in qube storage sent") || !strings.Contains(warned[0], `\x1b[1mstorage`) {
		t.Errorf("the warnings are %q", warned)
	}
	if q := ended("storage", helperIdle, true, ""); !strings.Contains(q.Error(), "heard nothing from here") {
		t.Errorf("an idle helper's end is %q", q)
	}
	// A helper that has answered has all its time.
	c := newConn(nil, "storage", protocol.FrameTimeout)
	c.owe("hello")
	now := c.owing.Add(protocol.FrameTimeout - time.Second)
	if err := c.late(now); !errors.Is(err, ErrTimeout) {
		t.Errorf("error is %v", err)
	}
	c.greeted = true
	if err := c.late(now); err != nil {
		t.Error(err)
	}
}

// TestOtherVersions: which of the two programs has to be updated, and where.
func TestOtherVersions(t *testing.T) {
	for fake, hint := range map[string]string{
		"older helper": "pinion-store there is too old: update the package pinion-vm in the template of storage",
		"newer helper": "pinion here is too old: update the package pinion-dom0",
		"vague helper": "update the package pinion-vm in the template of storage, or pinion-dom0 here",
	} {
		_, err := Open(context.Background(), inQube(t), Options{Command: command(t, fake)})
		asQubeError(t, err, ErrVersion, "speaks no version of the protocol", hint)
	}
}

// TestStartOfAQube: the qube is started before anything is sent to it, and if
// that fails nothing is.
func TestStartOfAQube(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	refused := errors.New("no memory")
	o := Options{
		Command: []string{"/bin/sh", "-c", "touch " + ran + "; exit 127"},
		Start: func(_ context.Context, qube string) error {
			if _, err := os.Stat(ran); err == nil || qube != "storage" {
				return fmt.Errorf("%s is started late: %v", qube, err)
			}
			return refused
		},
	}
	_, err := Open(context.Background(), inQube(t), o)
	if !errors.Is(err, refused) || !strings.Contains(err.Error(), "start the qube") {
		t.Errorf("error is %v", err)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the client was started")
	}
	refused = nil
	if _, err := Open(context.Background(), inQube(t), o); !errors.Is(err, ErrGone) {
		t.Errorf("error is %v", err)
	}
	// A directory needs no qube.
	o.Start = func(context.Context, string) error { return errors.New("called") }
	o.Command = command(t, "good")
	c, err := Open(context.Background(), destination(t), o)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestNoClient: without qrexec's client this is not dom0.
func TestNoClient(t *testing.T) {
	_, err := Open(context.Background(), inQube(t), Options{QrexecClient: "/no/such/qrexec-client"})
	asQubeError(t, err, os.ErrNotExist, "/no/such/qrexec-client", "this is not dom0, or its package qubes-core-qrexec-dom0 is missing")
}

// TestLostInTheMiddle: a call that ends in the middle of a request names the
// qube, and is what ends a connection to everybody who asks.
func TestLostInTheMiddle(t *testing.T) {
	fake := command(t, "gone between")
	c, err := Open(context.Background(), inQube(t), Options{Command: append([]string{"/bin/sh", "-c", `"$@"; exit 255`, "sh"}, fake...)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Get(context.Background(), packName(1), tenBytes, make([]byte, 10)).Wait()
	q := (*QubeError)(nil)
	if !errors.As(err, &q) || !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "was it shut down?") {
		t.Errorf("error is %v", err)
	}
}
