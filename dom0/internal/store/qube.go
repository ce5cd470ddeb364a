package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// DefaultQrexecClient is the program of dom0's that calls a service in a qube.
const DefaultQrexecClient = "/usr/lib/qubes/qrexec-client"

// A QubeError is a failure of the helper in a qube, or of the way to it, with
// what a person can do about it.
type QubeError struct {
	Qube string
	Text string // one line, safe to show; empty: the text of Err
	Hint string // empty if nothing useful can be said
	Err  error  // what kind of failure it is: ErrGone, ErrTimeout, …
}

// Error is one line.
func (e *QubeError) Error() string {
	if e.Text == "" {
		return e.Err.Error()
	}
	return e.Text
}

// Unwrap gives the kind of failure.
func (e *QubeError) Unwrap() error { return e.Err }

// Exit statuses of the helper's that mean something before it has said hello.
const (
	helperFailed  = 1
	helperUsage   = 2
	helperCaller  = 3
	helperConfig  = 4
	helperName    = 5
	helperNoHello = 6
)

// helperIdle is the exit status of a helper that this side was silent to for
// too long.
const helperIdle = 7

// Exit statuses of qrexec's own. A service could end with the same.
const (
	qrexecProblem = 125
	qrexecRefused = 126
	qrexecMissing = 127
	qrexecSignal  = 128 // and the signal's number
	qrexecLost    = 255
)

// profiles are where a qube's owner looks when something else than the helper
// speaks or listens.
const profiles = "/etc/profile, /etc/profile.d, ~/.profile"

// ended makes an error of the exit status of a call to the qube. greeted says
// that the helper had answered the hello by then; lastWords is a clause that
// begins with a space, or empty.
func ended(qube string, status int, greeted bool, lastWords string) *QubeError {
	text, hint := explainEnd(qube, status, greeted)
	return &QubeError{Qube: qube, Text: text + lastWords, Hint: hint, Err: ErrGone}
}

func explainEnd(qube string, status int, greeted bool) (text, hint string) {
	again := "nothing that was committed is lost; run the same command again"
	switch {
	case status == qrexecLost:
		return fmt.Sprintf("the connection to qube %s was lost: was it shut down?", qube), again
	case status > qrexecSignal:
		text = fmt.Sprintf("pinion-store in qube %s was killed by %s", qube, signalName(syscall.Signal(status-qrexecSignal)))
		return text, "see whether " + qube + " has enough memory; " + again
	case greeted && status == helperIdle:
		return fmt.Sprintf("pinion-store in qube %s heard nothing from here for a long time, and ended", qube), again
	case greeted:
		return fmt.Sprintf("pinion-store in qube %s ended with exit status %d", qube, status), again
	}
	update := "update the package pinion-vm in the template of " + qube + " and restart " + qube
	switch status {
	case 0:
		return fmt.Sprintf("what runs as pinion.Store in qube %s ended and said nothing", qube),
			fmt.Sprintf("see whether a login profile in %s (%s) reads its standard input", qube, profiles)
	case qrexecProblem:
		return fmt.Sprintf("qrexec could not start pinion.Store in qube %s (status 125)", qube),
			fmt.Sprintf("see that %s runs, and in it that /etc/qubes-rpc/pinion.Store can be run: journalctl -u qubes-qrexec-agent", qube)
	case qrexecRefused:
		return fmt.Sprintf("the call of pinion.Store in qube %s was refused (status 126)", qube),
			fmt.Sprintf("see that /usr/bin/pinion-store in %s can be run; %s", qube, update)
	case qrexecMissing:
		return fmt.Sprintf("qube %s has no service pinion.Store", qube),
			fmt.Sprintf("install the package pinion-vm in the template of %s and restart %s, or put the service into /usr/local/etc/qubes-rpc there", qube, qube)
	case helperUsage:
		return fmt.Sprintf("pinion-store in qube %s does not know the command that it was given", qube), update
	case helperCaller:
		return fmt.Sprintf("pinion-store in qube %s refuses calls of dom0", qube), update
	case helperConfig:
		return fmt.Sprintf("the configuration of pinion-store in qube %s is wrong", qube),
			fmt.Sprintf("mend the file that the message names, in %s: /rw/config/pinion/store.conf or /etc/pinion/store.conf", qube)
	case helperName:
		return fmt.Sprintf("pinion-store in qube %s does not take the archive's name", qube), update
	case helperNoHello:
		return fmt.Sprintf("something in qube %s took part of what was sent to pinion-store there", qube),
			fmt.Sprintf("most likely a login profile in %s (%s) reads its standard input: it must not", qube, profiles)
	case helperFailed:
		return fmt.Sprintf("pinion-store in qube %s failed", qube), again
	}
	return fmt.Sprintf("what runs as pinion.Store in qube %s ended with exit status %d", qube, status), update
}

func signalName(s syscall.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(s))
}

// notStarted is the error of a client that could not be started.
func notStarted(qube string, err error) error {
	hint := ""
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		hint = "this is not dom0, or its package qubes-core-qrexec-dom0 is missing"
	}
	return &QubeError{Qube: qube, Hint: hint, Err: err}
}

// noAnswer is the error of a helper that says nothing at all for what.
func noAnswer(qube, what string) error {
	return &QubeError{
		Qube: qube, Err: ErrTimeout,
		Text: fmt.Sprintf("qube %s does not answer: no word of pinion-store there for %s", qube, what),
		Hint: fmt.Sprintf("most likely a login profile in %s (%s) waits for something, or reads its standard input", qube, profiles),
	}
}

// stranger is the error of something that speaks, and is no helper.
func stranger(qube, untrusted string) error {
	return &QubeError{
		Qube: qube, Err: ErrProtocol,
		Text: fmt.Sprintf("what answers in qube %s is not pinion-store; it says: %s", qube, sanitize(untrusted)),
		Hint: fmt.Sprintf("most likely a login profile in %s (%s) prints too much: it must be silent without a terminal", qube, profiles),
	}
}

// spoken finds the version in a helper's words. They serve a hint alone.
var spoken = regexp.MustCompile(`this helper speaks (\d{1,5})\z`)

// otherVersion adds to a hello's error which of the two programs is older.
func otherVersion(qube string, err error) error {
	there := "the package pinion-vm in the template of " + qube
	hint := "update " + there + ", or pinion-dom0 here: both have to be of the same version"
	if e := (*Error)(nil); errors.As(err, &e) {
		if m := spoken.FindStringSubmatch(e.Text); m != nil {
			switch n, _ := strconv.Atoi(m[1]); {
			case n < protocol.Version:
				hint = "pinion-store there is too old: update " + there + " and restart " + qube
			case n > protocol.Version:
				hint = "pinion here is too old: update the package pinion-dom0 in dom0"
			}
		}
	}
	return &QubeError{Qube: qube, Hint: hint, Err: err}
}
