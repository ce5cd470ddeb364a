// Package service leads from a qrexec call of the service pinion.Store to an
// archive's directory.
//
// It owns what qrexec says of a call (who calls, and for which archive), the
// helper's configuration, and the place of an archive that the configuration
// doesn't name. It promises that nobody but dom0 gets anywhere unless the
// configuration names the caller; that an archive's name can't lead out of the
// directory it is for; that whatever in the configuration is not understood is
// an error with file and line, and never silently without effect. It never
// makes, opens or changes an archive's directory, and its errors have no path
// in them but that of the configuration, since qrexec copies them into the
// qube's log.
package service

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"pinion/destvm/internal/dirstore"
	"pinion/protocol"
)

// dom0 is the caller that needs no permission.
const dom0 = "dom0"

// Why a call is refused, for errors.Is.
var (
	// ErrCaller: the configuration doesn't let this caller in, or there is
	// none.
	ErrCaller = errors.New("refused")
	// ErrConfig: the configuration is wrong, or can't be read.
	ErrConfig = errors.New("the configuration is wrong")
	// ErrName: the archive's name is none, or qrexec and the command line
	// don't agree on it.
	ErrName = errors.New("wrong archive")
)

// A Call is what qrexec says of a call. It has been checked.
type Call struct {
	Archive string
	Caller  string // a qube's name, or dom0
}

// qubeName is the rule for names of qubes, which dom0's own name follows too.
var qubeName = regexp.MustCompile(`\A[A-Za-z][A-Za-z0-9_.-]{0,30}\z`)

// ReadCall checks what the service was started with: the name of an archive,
// and the variables of qrexec's that getenv gives. dom0 writes the caller's
// name, so a qube can't forge it; the archive's name is the caller's to say.
func ReadCall(untrustedArchive string, getenv func(string) (string, bool)) (Call, error) {
	untrustedCaller, ok := getenv("QREXEC_REMOTE_DOMAIN")
	if !ok {
		return Call{}, fmt.Errorf("%w: qrexec did not start this: QREXEC_REMOTE_DOMAIN is not set", ErrCaller)
	}
	if !qubeName.MatchString(untrustedCaller) {
		return Call{}, fmt.Errorf("%w: QREXEC_REMOTE_DOMAIN is not the name of a qube", ErrCaller)
	}
	if err := protocol.CheckArchive(untrustedArchive); err != nil {
		return Call{}, fmt.Errorf("%w: %w", ErrName, err)
	}
	if argument, ok := getenv("QREXEC_SERVICE_ARGUMENT"); ok && argument != untrustedArchive {
		return Call{}, fmt.Errorf("%w: %q was asked for, and QREXEC_SERVICE_ARGUMENT says another", ErrName, untrustedArchive)
	}
	return Call{Archive: untrustedArchive, Caller: untrustedCaller}, nil
}

// A Place is where an archive is and what may be done there.
type Place struct {
	Dir     string // absolute and clean
	Options dirstore.Options
}

// Place returns the place of the call's archive, or an error if the caller may
// not have it. home is the home directory of whoever runs the service.
//
// An archive without a section of its own is ~/pinion/NAME. Nothing is mounted
// above that, so ~/pinion may be made together with it.
func (c *Config) Place(call Call, home string) (Place, error) {
	a, named := c.archives[call.Archive]
	if !named {
		a = c.defaults
	}
	if call.Caller != dom0 && !slices.Contains(a.callers, call.Caller) {
		return Place{}, fmt.Errorf("%w: the configuration does not let %s have the archive %s", ErrCaller, call.Caller, call.Archive)
	}
	p := Place{Dir: a.dir, Options: dirstore.Options{ReadOnly: a.readOnly, AppendOnly: a.appendOnly}}
	below, atHome := strings.CutPrefix(a.dir, "~/")
	if !named {
		below, atHome = filepath.Join("pinion", call.Archive), true
		p.Options.Parent = true
	}
	if atHome {
		if !filepath.IsAbs(home) {
			return Place{}, fmt.Errorf("%w: the archive %s is in the home directory, and HOME is no absolute path", ErrConfig, call.Archive)
		}
		p.Dir = filepath.Join(home, below)
	}
	return p, nil
}
