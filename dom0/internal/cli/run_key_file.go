package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/durable"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/secret"
	"pinion/dom0/internal/ui"
	"pinion/protocol"
)

// exportJSON is the document of key export and key import.
type exportJSON struct {
	ID   string `json:"id"`
	File string `json:"file"`
}

func runKeyExport(ctx context.Context, env *Env, o *keyExportCommand) error {
	path := o.Args.File
	if _, err := os.Lstat(path); err == nil {
		return fileExists(path)
	}
	a, err := env.openBare(ctx, protocol.LockRead)
	if err != nil {
		return err
	}
	defer a.Close()
	id, object, err := a.OpenedSlot(ctx)
	if err != nil {
		return err
	}
	if err := durable.WriteNew(path, object); errors.Is(err, fs.ErrExist) {
		return fileExists(path)
	} else if err != nil {
		return fmt.Errorf("export key %s: %w", short(id.String()), err)
	}
	if !env.UI.Quiet() {
		env.UI.Printf("Wrote the slot of key %s to %s.", short(id.String()), ui.Quote(path))
	}
	env.UI.Notice("it is sealed: without the same secret it opens nothing. Keep it away from this machine and from the store")
	return env.UI.Result(exportJSON{id.String(), path})
}

func fileExists(path string) error {
	return exit.With(exit.Failed, fmt.Errorf("%s is there already", ui.Quote(path)), "choose another name: nothing is overwritten")
}

func runKeyImport(ctx context.Context, env *Env, o *keyImportCommand) error {
	slot, err := readSlotFile(ctx, o.Args.File)
	if err != nil {
		return err
	}
	opts, err := env.archiveOptions(protocol.LockExclusive)
	if err != nil {
		return err
	}
	// Only a slot that opens the archive may take the place of what is in the store.
	opts.Slot, opts.Remembered = slot, nil
	a, err := env.openWith(ctx, opts)
	if errors.Is(err, archive.ErrRemoved) {
		return exit.With(exit.WrongKey, fmt.Errorf("the key slot in %s: %w", ui.Quote(o.Args.File), err),
			"the secret is the right one, but the archive no longer has this key; pinion key list, given another one, shows those that it has")
	}
	if errors.Is(err, archive.ErrWrongKey) {
		return exit.With(exit.WrongKey, fmt.Errorf("the key slot in %s: %w", ui.Quote(o.Args.File), err), "give the secret that it was exported with")
	}
	if err != nil {
		return err
	}
	defer a.Close()
	put, err := a.PutBack(ctx)
	if err != nil {
		return err
	}
	id := slot.ID.String()
	switch {
	case env.UI.Quiet():
	case put:
		env.UI.Printf("Put the slot of key %s back into the store.", short(id))
	default:
		env.UI.Printf("The store has the slot of key %s.", short(id))
	}
	return env.UI.Result(struct {
		exportJSON
		Put bool `json:"put"`
	}{exportJSON{id, o.Args.File}, put})
}

// readSlotFile reads a key slot from a file that a person named. It may be a pipe, which nobody writes to, perhaps.
func readSlotFile(ctx context.Context, path string) (*format.KeySlot, error) {
	type answer struct {
		content []byte
		err     error
	}
	done := make(chan answer, 1)
	go func() {
		content, err := readUpTo(path, format.MaxKeySlot+1)
		done <- answer{content, err}
	}()
	var got answer
	select {
	case got = <-done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if got.err != nil {
		return nil, fmt.Errorf("read a key slot: %w", got.err)
	}
	slot, err := archive.ParseSlotObject(got.content)
	if err != nil {
		return nil, exit.With(exit.Failed, fmt.Errorf("%s holds no key slot: %w", ui.Quote(path), err), "pinion key export writes such files")
	}
	return slot, nil
}

// readUpTo reads the first max bytes of a file.
func readUpTo(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, max))
}

func runKeyRecovery(ctx context.Context, env *Env) error {
	if env.UI.JSON() {
		return exit.Usagef("key recovery: with --json it would be written down by a program; it is for paper")
	}
	if !env.UI.OnTerminal() {
		return exit.UsageHint("run it on a terminal, with its output not going into a file or another program", "key recovery: standard output is no terminal")
	}
	a, err := env.openBare(ctx, protocol.LockAppend)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := mayAddKey(a, false); err != nil {
		return err
	}
	key := secret.NewRecovery()
	defer clear(key)
	text := secret.RecoveryText(key)
	defer clear(text)
	added, err := a.AddKey(ctx, crypt.Secret{KeyFile: key}, 0)
	if err != nil {
		return err
	}
	env.UI.Printf("Recovery key %s of %s:", short(added.ID.String()), env.Dest)
	env.UI.Printf("%s", text)
	env.UI.Notice("write it down now: it is shown this once. It opens the archive like a passphrase, wherever that is asked for; " +
		"big and small letters are the same, and the dashes may be left out")
	return nil
}
