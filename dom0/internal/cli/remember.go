package cli

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/keyring"
)

// remember is the value of --remember; 0 if it wasn't given.
type remember time.Duration

const (
	minRemember = time.Minute
	maxRemember = 24 * time.Hour
)

// rememberForm is a whole number of minutes or hours.
var rememberForm = regexp.MustCompile(`^([1-9][0-9]{0,3})([mh])$`)

// UnmarshalFlag reads a whole number of minutes or hours, as in 15m.
func (r *remember) UnmarshalFlag(word string) error {
	unit := map[string]time.Duration{"m": time.Minute, "h": time.Hour}
	if m := rememberForm.FindStringSubmatch(word); m != nil {
		n, err := strconv.Atoi(m[1])
		if d := time.Duration(n) * unit[m[2]]; err == nil && d >= minRemember && d <= maxRemember {
			*r = remember(d)
			return nil
		}
	}
	return flagError("--remember %q: a time is a whole number of minutes or hours, from 1m to 24h", word)
}

// A remembered key is kept in the kernel under a name that is made of destination and state directory. Its layout is for
// this program only:
//
//	version (1) ‖ master key (32) ‖ archive id (16) ‖ id of the key slot (8)
//
// Whoever can read it can read the archive; the slot's id is there so that a key whose slot was removed is given up.
const (
	rememberedVersion = 2
	rememberedSize    = 1 + 32 + 16 + 8
)

func (e *Env) rememberedName() keyring.Name { return keyring.NameOf(e.Dest.String(), e.StateDir) }

// recall returns what an earlier run has kept of the archive, or nil. A secret that is named on the command line is
// always used, and so is a key export: it may be there to be tried.
func (e *Env) recall() *archive.Unlocked {
	if e.secretGiven || e.keyExport != nil {
		return nil
	}
	u := e.remembered()
	if u != nil {
		e.UI.Detail("the key is the one that an earlier command remembered")
	}
	return u
}

// remembered is what the kernel keeps of the archive, or nil.
func (e *Env) remembered() *archive.Unlocked {
	entry, err := keyring.Get(e.rememberedName())
	defer clear(entry)
	if err != nil {
		if !errors.Is(err, keyring.ErrNone) && !errors.Is(err, keyring.ErrUnsupported) {
			e.UI.Detail("no remembered key: %v", err)
		}
		return nil
	}
	if len(entry) != rememberedSize || entry[0] != rememberedVersion {
		return nil // another version's; this one's takes its place
	}
	u := &archive.Unlocked{}
	rest := entry[1:]
	rest = rest[copy(u.Master[:], rest):]
	rest = rest[copy(u.Archive[:], rest):]
	copy(u.Slot[:], rest)
	return u
}

// forgetRemoved drops what the kernel keeps of the archive if it is of a key that the root, as it is by now, doesn't
// list: also where the change of the keys failed after that.
func (e *Env) forgetRemoved(a *archive.Archive) {
	u := e.remembered()
	if u == nil {
		return
	}
	defer u.Clear()
	root := a.Root()
	if u.Archive == root.Archive && !slices.Contains(root.SlotIDs(), u.Slot) {
		e.forgetKey()
	}
}

// keep lets the kernel keep what opens the archive, if that is wanted, until the time since the secret was given is over.
// It is called when one was given; a key that was remembered isn't remembered for longer because it is used.
func (e *Env) keep(u *archive.Unlocked) {
	if e.remember == 0 {
		return
	}
	left := e.remember
	if !e.secretAt.IsZero() {
		left -= time.Since(e.secretAt) // it may have waited for the lock
	}
	if left < time.Second {
		return
	}
	entry := make([]byte, 0, rememberedSize)
	defer func() { clear(entry[:cap(entry)]) }()
	entry = append(entry, rememberedVersion)
	entry = append(entry, u.Master[:]...)
	entry = append(entry, u.Archive[:]...)
	entry = append(entry, u.Slot[:]...)
	if err := keyring.Keep(e.rememberedName(), entry, left); err != nil {
		e.UI.Warn("the key can't be remembered: %v", err)
	}
}

// forgetKey drops what the kernel keeps of the archive.
func (e *Env) forgetKey() {
	err := keyring.Forget(e.rememberedName())
	if err != nil && !errors.Is(err, keyring.ErrNone) && !errors.Is(err, keyring.ErrUnsupported) {
		e.UI.Warn("the remembered key can't be forgotten: %v", err)
	}
}
