package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/plain"
)

// A pool is storage that can be compared, of plain files: a snapshot is a copy
// of one.
type pool struct {
	dir   string       // of the snapshots
	read  atomic.Int64 // bytes read of all snapshots
	claim source.Range // a range that every difference has, changed or not
	kin   bool         // the snapshots that differ least are of clones
}

func newPool(dir string) *pool { return &pool{dir: dir} }

// source is a volume of the pool.
func (p *pool) source(name, path string) backup.Source {
	return backup.Source{Name: name, Source: &source.Source{
		Locator: "file:" + path, Path: path, Kind: source.Reflink, Pool: p,
	}}
}

func (p *pool) ID() string { return "pool of " + p.dir }

func (p *pool) Snapshot(_ context.Context, wanted []source.Wanted) []source.Taken {
	var taken []source.Taken
	for _, w := range wanted {
		content, err := os.ReadFile(w.Source.Path)
		if err != nil {
			taken = append(taken, source.Taken{Err: err})
			continue
		}
		name := filepath.Join(p.dir, fmt.Sprintf("%s.%s.%d", w.Label.Owner, w.Label.Volume, w.Label.Serial))
		err = os.WriteFile(name, content, 0o600)
		taken = append(taken, source.Taken{Err: err, Base: &source.Base{
			Kind: source.Reflink, Pool: p.ID(), Name: name, Size: int64(len(content)), Taken: time.Now(),
			Identity: map[string]string{"sum": fmt.Sprintf("%x", sha256.Sum256(content))},
		}})
	}
	return taken
}

func (p *pool) Check(_ context.Context, b *source.Base) error {
	content, err := os.ReadFile(b.Name)
	if err != nil {
		return errors.New("the base snapshot is gone")
	}
	if fmt.Sprintf("%x", sha256.Sum256(content)) != b.Identity["sum"] {
		return errors.New("the base snapshot was written to")
	}
	return nil
}

// counted is a snapshot that is open.
type counted struct {
	*plain.Volume
	pool *pool
}

func (c counted) ReadAt(b []byte, off int64) (int, error) {
	c.pool.read.Add(int64(len(b)))
	return c.Volume.ReadAt(b, off)
}

func (p *pool) Open(_ context.Context, b *source.Base) (source.Volume, error) {
	v, err := plain.Open(b.Name)
	return counted{v, p}, err
}

func (p *pool) Compare(context.Context) (source.Comparison, error) { return comparison{p}, nil }

func (p *pool) Owned(_ context.Context, owner, volume string) ([]string, error) {
	return filepath.Glob(filepath.Join(p.dir, owner+"."+volume+"*"))
}

func (p *pool) Drop(_ context.Context, owner string, names ...string) error {
	var errs []error
	for _, name := range names {
		if !strings.HasPrefix(filepath.Base(name), owner+".") {
			errs = append(errs, fmt.Errorf("%s isn't ours", name))
		} else if err := os.Remove(name); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

type comparison struct{ p *pool }

func (c comparison) Unchanged(context.Context, *source.Source, *source.Base) (bool, error) {
	return false, nil
}

func (c comparison) Diff(_ context.Context, old, now *source.Base, yield func(source.Range) error) error {
	a, err := os.ReadFile(old.Name)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(now.Name)
	if err != nil {
		return err
	}
	for at := 0; at < min(len(a), len(b)); at += dirty.Grain {
		end := min(at+dirty.Grain, len(a), len(b))
		claimed := int64(at) < c.p.claim.End && int64(end) > c.p.claim.Start
		if claimed || !bytes.Equal(a[at:end], b[at:end]) {
			if err := yield(source.Range{Start: int64(at), End: int64(end)}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c comparison) Data(_ context.Context, b *source.Base, yield func(source.Range) error) error {
	f, err := os.Open(b.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	for off := int64(0); ; {
		start, end, err := source.NextData(f, off, b.Size)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = yield(source.Range{Start: start, End: end})
		}
		if err != nil {
			return err
		}
		off = end
	}
}

func (c comparison) Held(context.Context, *source.Source, *source.Base) (int64, error) { return 0, nil }

func (c comparison) Kin(ctx context.Context, b *source.Base, others []*source.Base) (int, error) {
	if !c.p.kin {
		return -1, nil
	}
	best, least := -1, b.Size
	for i, o := range others {
		differ := int64(0)
		err := c.Diff(ctx, o, b, func(r source.Range) error { differ += r.Len(); return nil })
		if err != nil {
			return 0, err
		}
		if differ < least {
			best, least = i, differ
		}
	}
	return best, nil
}

func (c comparison) Close() error { return nil }
