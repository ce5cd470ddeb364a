package cli

import (
	"context"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// params turns --compression into the format's terms.
func (c compression) params() format.Compression {
	if c == compressionNone {
		return format.Compression{Method: format.CompressNone}
	}
	return format.Compression{Method: format.CompressZstd, Level: uint8(c)}
}

func runInit(ctx context.Context, env *Env, o *initCommand) error {
	opts, err := env.archiveOptions(protocol.LockExclusive)
	if err != nil {
		return err
	}
	opts.Secret = func(ctx context.Context) (crypt.Secret, error) {
		s, err := env.Secret.New(ctx, fmt.Sprintf("New passphrase for %s", env.Dest))
		return cryptSecret(s), err
	}
	params := archive.Params{ChunkSize: uint32(o.ChunkSize), Compression: o.Compression.params()}
	root, err := archive.Init(ctx, env.Dest, params, crypt.DefaultCost(), opts)
	if err != nil {
		return err
	}
	secret := "passphrase"
	if env.Secret.KeyFile != "" {
		secret = "key file"
	}
	if !env.UI.Quiet() {
		env.UI.Printf("Made archive %s at %s.", short(root.Archive.String()), env.Dest)
	}
	env.UI.Notice("Without the %s nobody can open this archive. Consider pinion key recovery.", secret)
	return env.UI.Result(struct {
		Archive archiveJSON `json:"archive"`
	}{archiveDocument(root)})
}
