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

// exportJSON is the document of key export.
type exportJSON struct {
	File string    `json:"file"`
	Keys []keyJSON `json:"keys"` // whose slots are in it
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
	if err := durable.WriteNew(path, a.Export()); errors.Is(err, fs.ErrExist) {
		return fileExists(path)
	} else if err != nil {
		return fmt.Errorf("export the key slots: %w", err)
	}
	doc := exportJSON{File: path, Keys: []keyJSON{}}
	for _, k := range a.Keys() {
		doc.Keys = append(doc.Keys, keyDocument(k))
	}
	if !env.UI.Quiet() {
		env.UI.Printf("Wrote %s to %s.", count(len(doc.Keys), "key slot"), ui.Quote(path))
	}
	env.UI.Notice("it opens nothing without one of their secrets; keep it away from this machine and from the store")
	return env.UI.Result(doc)
}

func fileExists(path string) error {
	return exit.With(exit.Failed, fmt.Errorf("%s exists already", ui.Quote(path)), "choose another name: nothing is overwritten")
}

// importJSON is the document of key import.
type importJSON struct {
	File string    `json:"file"`
	Keys []keyJSON `json:"keys"` // that the archive didn't have
}

func runKeyImport(ctx context.Context, env *Env, o *keyImportCommand) error {
	untrusted, err := readExport(ctx, o.Args.File)
	if err != nil {
		return err
	}
	if _, err := archive.ParseExport(untrusted); err != nil {
		return notExport(o.Args.File, err)
	}
	a, err := env.openBare(ctx, protocol.LockAppend)
	if err != nil {
		return withoutRoot(o.Args.File, err)
	}
	defer a.Close()
	export, err := a.OpenExport(untrusted)
	if err != nil {
		return notExport(o.Args.File, err)
	}
	added, err := a.ImportKeys(ctx, export)
	if errors.Is(err, archive.ErrKeysFull) {
		return exit.With(exit.Failed, err, "remove one first: pinion key list, pinion key remove ID")
	}
	if err != nil {
		return err
	}
	doc := importJSON{File: o.Args.File, Keys: []keyJSON{}}
	for _, k := range added {
		doc.Keys = append(doc.Keys, keyDocument(k))
		if !env.UI.Quiet() {
			env.UI.Printf("Added key %s.", k.ID)
		}
	}
	if len(added) == 0 && !env.UI.Quiet() {
		env.UI.Printf("All keys in it are already in the archive; nothing to do.")
	}
	return env.UI.Result(doc)
}

// withoutRoot says what to do with a key export where no root opens that could get its keys.
func withoutRoot(path string, err error) error {
	var root *archive.RootError
	if !errors.As(err, &root) && !(errors.Is(err, archive.ErrNoArchive) && errors.Is(err, archive.ErrNotEmpty)) {
		return err
	}
	status, _ := statusOf(err)
	return exit.With(status, err, fmt.Sprintf("pinion --key-export %s check --repair writes a root with these keys", path))
}

// notExport is the error for a file that is not a key export, or not one of the archive's.
func notExport(path string, err error) error {
	return exit.With(exit.Failed, fmt.Errorf("%s is not a key export of this archive: %w", ui.Quote(path), err), "pinion key export writes such files")
}

// readExport reads a key export from a file that a person named. It may be a pipe, which nobody writes to, perhaps.
func readExport(ctx context.Context, path string) (untrusted []byte, err error) {
	type answer struct {
		content []byte
		err     error
	}
	done := make(chan answer, 1)
	go func() {
		content, err := readUpTo(path, format.MaxRoot+1)
		done <- answer{content, err}
	}()
	select {
	case got := <-done:
		if got.err != nil {
			return nil, fmt.Errorf("read a key export: %w", got.err)
		}
		return got.content, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// readKeyExport reads the file that --key-export names.
func (e *Env) readKeyExport(ctx context.Context) error {
	if e.keyExportFile == "" {
		return nil
	}
	untrusted, err := readExport(ctx, e.keyExportFile)
	if err != nil {
		return fmt.Errorf("--key-export: %w", err)
	}
	if e.keyExport, err = archive.ParseExport(untrusted); err != nil {
		return exit.With(exit.Failed, fmt.Errorf("--key-export: %s is not a key export: %w", ui.Quote(e.keyExportFile), err), "pinion key export writes such files")
	}
	return nil
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

func runKeyRecovery(ctx context.Context, env *Env, o *keyRecoveryCommand) error {
	if env.UI.JSON() {
		return exit.Usagef("key recovery: --json can't be used: the key is for paper, not for a program")
	}
	if !env.UI.OnTerminal() {
		return exit.UsageHint("run it on a terminal, without redirecting its output", "key recovery: standard output is not a terminal")
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
	added, err := a.AddKey(ctx, crypt.Secret{KeyFile: key}, crypt.Cost{}, o.Label)
	if err != nil {
		return err
	}
	env.UI.Printf("Recovery key %s of %s:", added.ID, env.Dest)
	env.UI.Printf("%s", text)
	env.UI.Notice("Write it down: it is not shown again. Use it wherever a passphrase is asked for. Case, dashes and spaces don't matter.")
	return nil
}
