package cli

import (
	"context"
	"regexp"
	"strings"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/secret"
)

// newSecretOptions say what a new key is to be.
type newSecretOptions struct {
	PassCmd  string `long:"new-passcmd" value-name:"COMMAND" no-ini:"true" unquote:"false" description:"a shell command whose first line of output is the new passphrase"`
	PassFile string `long:"new-passfile" value-name:"FILE" no-ini:"true" unquote:"false" description:"a file whose first line is the new passphrase"`
	KeyFile  string `long:"new-keyfile" value-name:"FILE" no-ini:"true" unquote:"false" description:"a file whose content is the new key, 32 bytes to 64 KiB"`
	labelOption
}

func (o *newSecretOptions) validate(check) error {
	if err := o.source().Check(); err != nil {
		return err
	}
	return o.checkLabel()
}

// labelOption names a new key.
type labelOption struct {
	Label string `long:"label" value-name:"TEXT" no-ini:"true" unquote:"false" description:"what key list shows of the key, at most 64 bytes"`
}

func (o *labelOption) checkLabel() error {
	if err := format.CheckLabel(o.Label); err != nil {
		return exit.Usagef("--label: %w", err)
	}
	return nil
}

// source returns the source of the new secret, without the means to ask and to warn.
func (o *newSecretOptions) source() secret.Source {
	return secret.Source{PassCmd: o.PassCmd, PassFile: o.PassFile, KeyFile: o.KeyFile, ForNew: true}
}

type keyListCommand struct{ aboutArchive }

func (o *keyListCommand) validate(check) error                    { return nil }
func (o *keyListCommand) run(ctx context.Context, env *Env) error { return runKeyList(ctx, env) }

// changesKeys is embedded in commands that change keys.
type changesKeys struct{ aboutArchive }

func (changesKeys) afterInterrupt() string {
	return "pinion key list shows the keys; the old ones or the new ones open the archive"
}

type keyAddCommand struct {
	changesKeys
	newSecretOptions
}

func (o *keyAddCommand) run(ctx context.Context, env *Env) error { return runKeyAdd(ctx, env, o) }

type keyChangeCommand struct {
	changesKeys
	newSecretOptions
}

func (o *keyChangeCommand) run(ctx context.Context, env *Env) error { return runKeyChange(ctx, env, o) }

type keyRemoveCommand struct {
	changesKeys
	Yes  bool `long:"yes" no-ini:"true" description:"remove it without asking"`
	Args struct {
		ID string `positional-arg-name:"ID" description:"the key's id, or its beginning; pinion key list shows it"`
	} `positional-args:"yes"`
}

// keyID is what names a key: at least so many digits of its id.
var keyID = regexp.MustCompile(`^[0-9a-f]{4,16}$`)

func (o *keyRemoveCommand) validate(check) error {
	const hint = "pinion key list shows the ids"
	if o.Args.ID == "" {
		return exit.UsageHint(hint, "key remove: no key given")
	}
	o.Args.ID = strings.ToLower(o.Args.ID)
	if !keyID.MatchString(o.Args.ID) {
		return exit.UsageHint(hint, "key remove: %q is not a key's id, or its first 4 or more digits", o.Args.ID)
	}
	return nil
}

func (o *keyRemoveCommand) run(ctx context.Context, env *Env) error { return runKeyRemove(ctx, env, o) }

// withFile is embedded in commands whose name is that of a file.
type withFile struct {
	Args struct {
		File string `positional-arg-name:"FILE" description:"a key export"`
	} `positional-args:"yes"`
}

// path makes the name absolute.
func (o *withFile) path(command string) (err error) {
	if o.Args.File == "" {
		return exit.Usagef("%s: no file given", command)
	}
	o.Args.File, err = absolute(command, o.Args.File)
	return err
}

type keyExportCommand struct {
	aboutArchive
	withFile
}

func (o *keyExportCommand) validate(check) error                    { return o.path("key export") }
func (o *keyExportCommand) run(ctx context.Context, env *Env) error { return runKeyExport(ctx, env, o) }

type keyImportCommand struct {
	aboutArchive
	withFile
}

func (o *keyImportCommand) validate(check) error                    { return o.path("key import") }
func (o *keyImportCommand) run(ctx context.Context, env *Env) error { return runKeyImport(ctx, env, o) }

type keyRecoveryCommand struct {
	changesKeys
	labelOption
}

func (o *keyRecoveryCommand) validate(check) error { return o.checkLabel() }
func (o *keyRecoveryCommand) run(ctx context.Context, env *Env) error {
	return runKeyRecovery(ctx, env, o)
}

type keyForgetCommand struct {
	aboutArchive
	All bool `long:"all" no-ini:"true" description:"those of all archives"`
}

func (o *keyForgetCommand) needs() need {
	if o.All {
		return needNothing
	}
	return needArchive
}

func (o *keyForgetCommand) validate(check) error                    { return nil }
func (o *keyForgetCommand) run(ctx context.Context, env *Env) error { return runKeyForget(env, o) }
