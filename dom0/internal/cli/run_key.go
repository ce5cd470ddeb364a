package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/keyring"
	"pinion/dom0/internal/ui"
	"pinion/protocol"
)

// keyJSON is a key in the documents of the key commands.
type keyJSON struct {
	ID string `json:"id"`
	// Kind is "passphrase", "key file", which recovery keys are too, or empty: not known.
	Kind    string `json:"kind"`
	Label   string `json:"label"`
	Created string `json:"created"`
	// State is "live", "damaged", or "newer": made by a newer program.
	State  string `json:"state"`
	Opened bool   `json:"opened"` // it opened the archive in this run
}

// The states of a key.
const (
	keyLive    = "live"
	keyDamaged = "damaged"
	keyNewer   = "newer"
)

func keyDocument(k archive.Key) keyJSON {
	doc := keyJSON{ID: k.ID.String(), Label: k.Label, State: keyLive, Opened: k.Opened}
	switch {
	case k.Damaged:
		doc.State = keyDamaged
	case k.KDF == format.KDFArgon2id:
		doc.Kind = "passphrase"
	case k.KDF == format.KDFKeyFile:
		doc.Kind = "key file"
	default:
		doc.State = keyNewer
	}
	if k.Created != 0 {
		doc.Created = jsonTime(k.Created)
	}
	return doc
}

func runKeyList(ctx context.Context, env *Env) error {
	a, err := env.openBare(ctx, protocol.LockRead)
	if err != nil {
		return err
	}
	defer a.Close()
	doc := struct {
		Keys []keyJSON `json:"keys"`
	}{Keys: []keyJSON{}}
	var rows [][]string
	for _, k := range a.Keys() {
		d := keyDocument(k)
		doc.Keys = append(doc.Keys, d)
		created := "-"
		if k.Created != 0 {
			created = env.showDay(d.Created)
		}
		label := ""
		if d.Label != "" {
			label = ui.Quote(d.Label)
		}
		rows = append(rows, []string{d.ID, showKind(k.KDF), label, created, d.showState()})
	}
	env.UI.Table([]string{"ID", "KIND", "LABEL", "CREATED", "STATE"}, rows)
	return env.UI.Result(doc)
}

// showKind is what opens a key slot. A recovery key is a key file that people can write down, and its slot is alike.
func showKind(k format.KDF) string {
	switch k {
	case format.KDFArgon2id:
		return "passphrase"
	case format.KDFKeyFile:
		return "key file/recovery"
	}
	return "-"
}

func (d *keyJSON) showState() string {
	switch {
	case d.Opened:
		return "used just now"
	case d.State == keyLive:
		return ""
	}
	return d.State
}

func runKeyAdd(ctx context.Context, env *Env, o *keyAddCommand) error {
	a, s, err := env.openWithNewSecret(ctx, false, &o.newSecretOptions)
	if err != nil {
		return err
	}
	defer a.Close()
	defer clearSecret(s)
	key, err := a.AddKey(ctx, s, crypt.DefaultCost(), o.Label)
	if err != nil {
		return err
	}
	if !env.UI.Quiet() {
		env.UI.Printf("Added key %s; the archive now has %s.", key.ID, count(len(a.Keys()), "key"))
	}
	return env.UI.Result(struct {
		Key keyJSON `json:"key"`
	}{keyDocument(key)})
}

func runKeyChange(ctx context.Context, env *Env, o *keyChangeCommand) error {
	a, s, err := env.openWithNewSecret(ctx, true, &o.newSecretOptions)
	if err != nil {
		return err
	}
	defer a.Close()
	defer clearSecret(s)
	added, removed, err := a.ReplaceKey(ctx, a.OpenedBy(), s, crypt.DefaultCost(), o.Label)
	env.forgetRemoved(a)
	if err != nil {
		return err
	}
	if !env.UI.Quiet() {
		env.UI.Printf("Replaced key %s with %s.", removed.ID, added.ID)
	}
	kept, err := env.keptSlot(ctx, a, removed)
	if err != nil {
		return err
	}
	return env.UI.Result(struct {
		Key     keyJSON     `json:"key"`
		Removed removedJSON `json:"removed"`
		keptJSON
	}{keyDocument(added), removedJSON{removed.ID.String(), removed.Opened}, kept})
}

func runKeyRemove(ctx context.Context, env *Env, o *keyRemoveCommand) error {
	opts, err := env.archiveOptions(protocol.LockAppend)
	if err != nil {
		return err
	}
	var key archive.Key
	opts.BeforeLock = func(ctx context.Context, a *archive.Archive) (err error) {
		if err = a.MayAddKey(true); err == nil {
			key, err = findKey(a.Keys(), o.Args.ID)
		}
		if err == nil && key.Opened && len(a.Keys()) > 1 && !o.Yes {
			err = env.mayRemoveOpened(ctx, key)
		}
		return err
	}
	a, err := env.openWith(ctx, opts)
	if err != nil {
		return err
	}
	defer a.Close()
	removed, err := a.RemoveKey(ctx, key.ID)
	env.forgetRemoved(a)
	if errors.Is(err, archive.ErrLastKey) {
		return exit.With(exit.Failed, err, "add another one first: pinion key add, or pinion key change to replace it")
	}
	if err != nil {
		return err
	}
	if removed.Opened {
		env.UI.Notice("you removed the key you used; the archive now opens with the others only")
	}
	if !env.UI.Quiet() {
		env.UI.Printf("Removed key %s; %s left.", removed.ID, count(len(a.Keys()), "key"))
	}
	kept, err := env.keptSlot(ctx, a, removed)
	if err != nil {
		return err
	}
	return env.UI.Result(struct {
		Removed removedJSON `json:"removed"`
		keptJSON
	}{removedJSON{removed.ID.String(), removed.Opened}, kept})
}

// mayRemoveOpened asks before the key goes that the archive was opened with.
func (e *Env) mayRemoveOpened(ctx context.Context, key archive.Key) error {
	yes, err := e.UI.Confirm(ctx, fmt.Sprintf("Remove key %s, the one you used just now?", key.ID))
	switch {
	case errors.Is(err, ui.ErrNoTerminal):
		return exit.With(exit.Failed, fmt.Errorf("key %s is the one that opened the archive; to remove it needs confirmation: %w", key.ID, err),
			"give another key, or --yes")
	case err != nil:
		return err
	case !yes:
		return exit.With(exit.Failed, fmt.Errorf("key %s was not removed", key.ID), "")
	}
	return nil
}

// findKey finds the key that the digits of an id mean.
func findKey(keys []archive.Key, digits string) (found archive.Key, err error) {
	n := 0
	for _, k := range keys {
		if strings.HasPrefix(k.ID.String(), digits) {
			found, n = k, n+1
		}
	}
	switch {
	case n > 1:
		return found, exit.With(exit.Usage, fmt.Errorf("key remove: several keys begin with %s", digits), "give more digits of the id")
	case n == 0:
		return found, exit.With(exit.Failed, fmt.Errorf("key %s: %w", digits, errNotFound), "pinion key list shows the keys")
	}
	return found, nil
}

// openWithNewSecret opens the archive to add a key, or to replace one, and gets the secret of the new key. Nobody is kept
// waiting while somebody types: it is asked for before the lock is taken. The caller clears it.
func (e *Env) openWithNewSecret(ctx context.Context, replace bool, from *newSecretOptions) (*archive.Archive, crypt.Secret, error) {
	o, err := e.archiveOptions(protocol.LockAppend)
	if err != nil {
		return nil, crypt.Secret{}, err
	}
	var s crypt.Secret
	var before []archive.Key
	o.BeforeLock = func(ctx context.Context, a *archive.Archive) (err error) {
		before = a.Keys()
		if err = mayAddKey(a, replace); err == nil {
			s, err = e.newSecret(ctx, from)
		}
		if err == nil {
			err = isNewSecret(ctx, a, s)
		}
		return err
	}
	a, err := e.openWith(ctx, o)
	if err == nil {
		if err = mayAddKey(a, replace); err == nil && !slices.Equal(before, a.Keys()) { // somebody was faster
			err = isNewSecret(ctx, a, s)
		}
		if err == nil {
			return a, s, nil
		}
		a.Close()
	}
	clearSecret(s)
	return nil, crypt.Secret{}, err
}

// isNewSecret refuses a secret that a key of the archive has: to remove one of two such keys would close nothing.
func isNewSecret(ctx context.Context, a *archive.Archive, s crypt.Secret) error {
	key, err := a.Holder(ctx, s)
	if err != nil || key.KDF == 0 {
		return err
	}
	return exit.With(exit.Failed, fmt.Errorf("key %s has that secret already", key.ID), "choose another one; nothing was changed")
}

// mayAddKey is why no key can be added, or with replace none replaced.
func mayAddKey(a *archive.Archive, replace bool) error {
	err := a.MayAddKey(replace)
	if errors.Is(err, archive.ErrKeysFull) {
		return exit.With(exit.Failed, err, "remove one first: pinion key list, pinion key remove ID")
	}
	return err
}

// newSecret gets the secret of a new key. The caller clears it.
func (e *Env) newSecret(ctx context.Context, o *newSecretOptions) (crypt.Secret, error) {
	from := o.source()
	from.Unattended, from.Prompt, from.Warn = e.Secret.Unattended, e.Secret.Prompt, e.Secret.Warn
	s, err := from.New(ctx, fmt.Sprintf("New passphrase for %s", e.Dest))
	return cryptSecret(s), err
}

func clearSecret(s crypt.Secret) {
	clear(s.Passphrase)
	clear(s.KeyFile)
}

// removedJSON is a key that was removed.
type removedJSON struct {
	ID     string `json:"id"`
	Opened bool   `json:"opened"` // it was the one that this run was opened with
}

// keptJSON says what the store still has of a key that was removed.
type keptJSON struct {
	KeptRoots int `json:"kept_roots"` // older roots with its slot
	// KeptUntil is when prunes will have removed the last of them; empty where there is none, or never.
	KeptUntil string `json:"kept_until"`
}

// keepYear is how long a prune keeps one root a day.
const keepYear = 365 * 24 * time.Hour

// keptSlot tells how long the store has the slot of a key that was removed. That can't be found out where the connection
// is lost by now: the key is removed all the same.
func (e *Env) keptSlot(ctx context.Context, a *archive.Archive, removed archive.Key) (keptJSON, error) {
	n, err := a.KeptWith(ctx, removed.ID)
	switch {
	case ctx.Err() != nil:
		return keptJSON{}, err
	case err != nil:
		e.UI.Warn("the key is removed, but which older roots still have its slot is not known: %v", err)
		return keptJSON{}, nil
	case n == 0:
		return keptJSON{}, nil
	}
	have := count(n, "older root") + " in the store still have"
	if n == 1 {
		have = "1 older root in the store still has"
	}
	have += " its key slot: whoever gets at one and has the old secret can open the archive"
	if a.KeepsForEver() {
		e.UI.Notice("%s; the store is append-only and keeps them for ever", have)
		return keptJSON{KeptRoots: n}, nil
	}
	until := e.Now().Add(keepYear)
	e.UI.Notice("%s; prunes remove them by %s, but always keep the newest %d roots", have, e.showDay(jsonTime(until.UnixNano())), protocol.KeptRoots)
	return keptJSON{n, jsonTime(until.UnixNano())}, nil
}

func runKeyForget(env *Env, o *keyForgetCommand) error {
	n, err := 0, error(nil)
	if o.All {
		n, err = keyring.ForgetAll()
	} else if err = keyring.Forget(env.rememberedName()); err == nil {
		n = 1
	}
	switch {
	case errors.Is(err, keyring.ErrUnsupported):
		env.UI.Notice("%v, so there is nothing to forget", keyring.ErrUnsupported)
	case err != nil && !errors.Is(err, keyring.ErrNone):
		return err
	case n == 0:
		env.UI.Notice("no key was remembered")
	case !env.UI.Quiet():
		env.UI.Printf("Forgot %s.", count(n, "key"))
	}
	return env.UI.Result(struct {
		Forgotten int `json:"forgotten"`
	}{n})
}
