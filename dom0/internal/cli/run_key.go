package cli

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/keyring"
	"pinion/protocol"
)

// keyJSON is a key in the documents of the key commands.
type keyJSON struct {
	ID string `json:"id"`
	// Kind is "passphrase", "key file", which recovery keys are too, or empty: not known.
	Kind string `json:"kind"`
	// Created is empty where that isn't known.
	Created string           `json:"created"`
	State   archive.KeyState `json:"state"`
	Opened  bool             `json:"opened"`
}

// removedJSON is a key that was removed.
type removedJSON struct {
	ID string `json:"id"`
	// Opened says that it was the one that this run was opened with, Deleted that the store has deleted its slot.
	Opened  bool `json:"opened"`
	Deleted bool `json:"deleted"`
}

func keyDocument(k archive.Key) keyJSON {
	doc := keyJSON{ID: k.ID.String(), State: k.State, Opened: k.Opened}
	switch k.KDF {
	case format.KDFArgon2id:
		doc.Kind = "passphrase"
	case format.KDFKeyFile:
		doc.Kind = "key file"
	}
	if k.Created != 0 {
		doc.Created = jsonTime(k.Created)
	}
	return doc
}

// namedUnlisted is how many key slots that count for nothing a list shows one by one: a store may have any number.
const namedUnlisted = 100

func runKeyList(ctx context.Context, env *Env) error {
	a, err := env.openBare(ctx, protocol.LockRead)
	if err != nil {
		return err
	}
	defer a.Close()
	keys, more, err := a.Keys(ctx, namedUnlisted)
	if err != nil {
		return err
	}
	doc := struct {
		Keys         []keyJSON `json:"keys"`
		MoreUnlisted int       `json:"more_unlisted"`
	}{Keys: []keyJSON{}, MoreUnlisted: more}
	var rows [][]string
	for _, k := range keys {
		d := keyDocument(k)
		doc.Keys = append(doc.Keys, d)
		created := "-"
		if k.Created != 0 {
			created = env.showTime(k.Created)
		}
		rows = append(rows, []string{short(d.ID), showKind(k.KDF), created, showState(k)})
	}
	env.UI.Table([]string{"ID", "KIND", "CREATED", "STATE"}, rows)
	if more > 0 {
		env.UI.Printf("… and %d more that are not listed.", more)
	}
	if more > 0 || len(keys) > len(a.Root().Slots) {
		env.UI.Notice("what is not listed opens nothing; pinion check --repair removes it from the store")
	}
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

func showState(k archive.Key) string {
	switch {
	case k.State == archive.KeyUnlisted:
		return "not listed"
	case k.Opened && k.State == archive.KeyLive:
		return "used just now"
	case k.Opened:
		return string(k.State) + ", used just now"
	case k.State == archive.KeyLive:
		return "live"
	}
	return string(k.State)
}

func runKeyAdd(ctx context.Context, env *Env, o *keyAddCommand) error {
	a, s, err := env.openWithNewSecret(ctx, protocol.LockAppend, &o.newSecretOptions)
	if err != nil {
		return err
	}
	defer a.Close()
	defer clearSecret(s)
	key, err := a.AddKey(ctx, s, format.DefaultArgonMemory)
	if err != nil {
		return err
	}
	if !env.UI.Quiet() {
		env.UI.Printf("Added key %s; the archive has %s now.", short(key.ID.String()), count(len(a.Root().Slots), "key"))
	}
	return env.UI.Result(struct {
		Key keyJSON `json:"key"`
	}{keyDocument(key)})
}

func runKeyChange(ctx context.Context, env *Env, o *keyChangeCommand) error {
	a, s, err := env.openWithNewSecret(ctx, protocol.LockExclusive, &o.newSecretOptions)
	if err != nil {
		return err
	}
	defer a.Close()
	defer clearSecret(s)
	added, removed, err := a.ReplaceKey(ctx, s, format.DefaultArgonMemory)
	env.forgetRemoved(a)
	deleted, err := env.afterRemoval(ctx, err)
	if err != nil {
		return err
	}
	if !env.UI.Quiet() {
		env.UI.Printf("Key %s took the place of key %s.", short(added.ID.String()), short(removed.ID.String()))
	}
	return env.UI.Result(struct {
		Key     keyJSON     `json:"key"`
		Removed removedJSON `json:"removed"`
	}{keyDocument(added), removedJSON{removed.ID.String(), removed.Opened, deleted}})
}

func runKeyRemove(ctx context.Context, env *Env, o *keyRemoveCommand) error {
	a, err := env.openBare(ctx, protocol.LockExclusive)
	if err != nil {
		return err
	}
	defer a.Close()
	id, err := findKey(ctx, a, o.Args.ID)
	if err != nil {
		return err
	}
	removed, err := a.RemoveKey(ctx, id)
	env.forgetRemoved(a)
	if errors.Is(err, archive.ErrLastKey) {
		return exit.With(exit.Failed, err, "add another one first: pinion key add, or pinion key change to replace it")
	}
	deleted, err := env.afterRemoval(ctx, err)
	if err != nil {
		return err
	}
	if removed.Opened {
		env.UI.Notice("that was the key which was used just now: from now on only the others open the archive")
	}
	if !env.UI.Quiet() {
		env.UI.Printf("Removed key %s; %s left.", short(id.String()), count(len(a.Root().Slots), "key"))
	}
	return env.UI.Result(struct {
		Removed removedJSON `json:"removed"`
	}{removedJSON{id.String(), removed.Opened, deleted}})
}

// findKey finds the key that the digits of an id mean, among those that the root lists.
func findKey(ctx context.Context, a *archive.Archive, digits string) (found format.ObjectID, err error) {
	n := 0
	for _, ref := range a.Root().Slots {
		if ref.ID.String()[:len(digits)] == digits {
			found, n = ref.ID, n+1
		}
	}
	switch {
	case n == 1:
		return found, nil
	case n > 1:
		return found, exit.With(exit.Usage, fmt.Errorf("key remove: several keys begin with %s", digits), "give more digits of the id")
	}
	unlisted, _, err := a.UnlistedSlots(ctx)
	if err != nil {
		return found, err
	}
	for _, id := range unlisted {
		if id.String()[:len(digits)] == digits {
			return found, exit.With(exit.Failed, fmt.Errorf("key slot %s is in the store, but it is none of the archive's keys", short(id.String())),
				"it opens nothing; pinion check --repair removes it from the store")
		}
	}
	return found, exit.With(exit.Failed, fmt.Errorf("key %s: %w", digits, errNotFound), "pinion key list shows the keys")
}

// openWithNewSecret opens the archive with an append lock to add a key, or with an exclusive one to replace one, and gets
// the secret of the new key. Nobody is kept waiting while somebody types: it is asked for before the lock is taken. The
// caller clears it.
func (e *Env) openWithNewSecret(ctx context.Context, lock protocol.LockMode, from *newSecretOptions) (*archive.Archive, crypt.Secret, error) {
	o, err := e.archiveOptions(lock)
	if err != nil {
		return nil, crypt.Secret{}, err
	}
	var s crypt.Secret
	o.BeforeLock = func(ctx context.Context, a *archive.Archive) (err error) {
		if err = mayAddKey(a, lock == protocol.LockExclusive); err == nil {
			s, err = e.newSecret(ctx, from)
		}
		return err
	}
	a, err := e.openWith(ctx, o)
	if err == nil {
		if err = mayAddKey(a, lock == protocol.LockExclusive); err == nil { // still
			return a, s, nil
		}
		a.Close()
	}
	clearSecret(s)
	return nil, crypt.Secret{}, err
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
	s, err := from.New(ctx, fmt.Sprintf("New passphrase of %s", e.Dest))
	return cryptSecret(s), err
}

func clearSecret(s crypt.Secret) {
	clear(s.Passphrase)
	clear(s.KeyFile)
}

// afterRemoval sees to it that a key whose slot the store keeps counts as removed, which it is, but for the warning.
func (e *Env) afterRemoval(ctx context.Context, err error) (deleted bool, _ error) {
	var kept *archive.KeptError
	switch {
	case !errors.As(err, &kept):
		return err == nil, err
	case ctx.Err() != nil:
		return false, err
	case errors.Is(err, archive.ErrAppendOnly):
		e.UI.Warn("the store only appends, so the key's slot %s stays there; the archive no longer lists it", short(kept.Slot.String()))
	default:
		e.UI.Warn("the key is removed, but %v; pinion check --repair removes it there", kept)
	}
	return false, nil
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
