package verify

import (
	"context"
	"errors"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/format"
)

// A Config is the configuration of a qube in a session that is to be verified.
type Config struct {
	Name string // of the qube
	Seq  uint64 // of the session
	Blob format.BlobID
}

// Configs reads the configurations and adds to list those that can't be had:
// ranges without a length, of a volume that is called as the qube is. bad gets
// each such blob.
func Configs(ctx context.Context, a *archive.Archive, configs []Config, list *damage.List, bad func(format.BlobID)) error {
	ids := make([]format.BlobID, len(configs))
	for i, c := range configs {
		ids[i] = c.Blob
	}
	broken := map[format.BlobID]error{}
	err := a.QubeConfigs(ctx, ids, func(id format.BlobID, _ *format.QubeConfig, err error) error {
		var d *archive.DamageError
		if err == nil || !errors.As(err, &d) || errors.Is(err, format.ErrNewer) {
			return err
		}
		broken[id] = err
		bad(id)
		return nil
	})
	if err != nil {
		return err
	}
	for _, c := range configs {
		if err := broken[c.Blob]; err != nil {
			list.Add(damage.Range{Volume: c.Name, Session: c.Seq, Settings: true}, err)
		}
	}
	return nil
}
