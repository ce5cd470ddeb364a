package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/secret"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
	"pinion/dom0/internal/when"
	"pinion/protocol"
)

// archiveOptions says how this run opens its archive.
func (e *Env) archiveOptions(lock protocol.LockMode) (archive.Options, error) {
	helper, err := e.Helper()
	if err != nil {
		return archive.Options{}, err
	}
	dir, err := state.Open(e.StateDir)
	if err != nil {
		return archive.Options{}, exit.With(exit.Failed, err, "name a directory that can be written with --state-dir")
	}
	return archive.Options{
		Store: store.Options{
			Helper: helper,
			Stderr: func(line string) { e.UI.Warn("%s: %s", helperName, line) },
			Warn:   func(text string) { e.UI.Warn("%s", text) },
		},
		State: dir, CacheDir: e.CacheDir, Lock: lock,
		Wait: e.Wait, AllowRollback: e.AllowRollback, Adopt: e.Adopt,
		Secret: func(ctx context.Context) (crypt.Secret, error) {
			s, err := e.Secret.Get(ctx, fmt.Sprintf("Passphrase of %s", e.Dest))
			return cryptSecret(s), err
		},
		Warn: func(text string) { e.UI.Warn("%s", text) },
		Now:  e.Now,
	}, nil
}

func cryptSecret(s secret.Secret) crypt.Secret {
	if s.Kind == secret.KeyFile {
		return crypt.Secret{KeyFile: s.Bytes}
	}
	return crypt.Secret{Passphrase: s.Bytes}
}

// open opens the archive and makes its blobs readable. The caller closes it.
func (e *Env) open(ctx context.Context, lock protocol.LockMode) (*archive.Archive, error) {
	a, err := e.openBare(ctx, lock)
	if err != nil {
		return nil, err
	}
	if err := a.LoadIndex(ctx); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// openBare opens the archive without its index.
func (e *Env) openBare(ctx context.Context, lock protocol.LockMode) (*archive.Archive, error) {
	o, err := e.archiveOptions(lock)
	if err != nil {
		return nil, err
	}
	return e.openWith(ctx, o)
}

// openToRepair opens the archive without its index, alone, and although its key slots may be lost.
func (e *Env) openToRepair(ctx context.Context) (*archive.Archive, error) {
	o, err := e.archiveOptions(protocol.LockExclusive)
	if err != nil {
		return nil, err
	}
	o.SlotCopies = true
	return e.openWith(ctx, o)
}

func (e *Env) openWith(ctx context.Context, o archive.Options) (*archive.Archive, error) {
	a, err := archive.Open(ctx, e.Dest, o)
	if err != nil {
		return nil, err
	}
	if a.Fresh() {
		r := a.Root()
		e.UI.Notice("first use of this archive here: generation %d, last written %s by host %q",
			r.Generation, e.showTime(r.Written), r.Host)
	}
	return a, nil
}

// showTime is a time as people read it, in this host's zone.
func (e *Env) showTime(unixNano int64) string {
	return time.Unix(0, unixNano).In(e.Zone).Format("2006-01-02 15:04:05 MST")
}

// jsonTime is a time as machines read it.
func jsonTime(unixNano int64) string {
	return time.Unix(0, unixNano).UTC().Format(time.RFC3339Nano)
}

// errNotFound says that a name or session is well-formed and not in the archive.
var errNotFound = errors.New("not found")

// find picks the session that a word means; nil means latest. has, if set, accepts only sessions with certain volumes.
func find(sessions []format.SessionEntry, spec *when.Session, has func(i int) bool) (int, error) {
	if spec == nil {
		spec = &when.Session{Kind: when.Latest}
	}
	found, several := -1, false
	for i := len(sessions) - 1; i >= 0; i-- {
		if !matches(&sessions[i], spec) || has != nil && !has(i) {
			continue
		}
		if found < 0 {
			found = i
		} else if spec.Kind == when.ID {
			several = true
		}
	}
	if several {
		return 0, exit.With(exit.Usage, fmt.Errorf("--session %s: several sessions begin like this", spec), "give more digits of the id")
	}
	if found < 0 {
		return 0, exit.With(exit.Failed, fmt.Errorf("session %s: %w", spec, errNotFound), "pinion list shows the sessions")
	}
	return found, nil
}

func matches(s *format.SessionEntry, spec *when.Session) bool {
	switch spec.Kind {
	case when.ID:
		return len(spec.Prefix) <= 32 && s.ID.String()[:len(spec.Prefix)] == spec.Prefix
	case when.Number:
		return s.Seq == spec.Number
	case when.Tag:
		for _, t := range s.Tags {
			if t.Name == spec.Tag {
				return true
			}
		}
		return false
	case when.Time:
		return s.Time <= spec.At.UnixNano()
	}
	return true
}

// catalog is what commands need to know of an archive's sessions.
type catalog struct {
	entries  []format.SessionEntry
	sessions []*format.Session // nil where damaged
	errs     []error
	names    map[format.ObjectID]string
	ids      map[string]format.ObjectID
}

// readCatalog reads the session list, all sessions and the volume table.
func readCatalog(ctx context.Context, a *archive.Archive) (*catalog, error) {
	c := &catalog{names: map[format.ObjectID]string{}, ids: map[string]format.ObjectID{}}
	table, err := a.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range table.Volumes {
		c.names[v.ID], c.ids[v.Name] = v.Name, v.ID
	}
	if c.entries, err = a.Sessions(ctx, nil); err != nil {
		return nil, err
	}
	c.sessions, c.errs, err = a.ReadSessions(ctx, c.entries)
	return c, err
}

// volume returns the line of a named volume in session i, or nil.
func (c *catalog) volume(i int, name string) *format.SessionVolume {
	id, ok := c.ids[name]
	if !ok || c.sessions[i] == nil {
		return nil
	}
	for k := range c.sessions[i].Volumes {
		if v := &c.sessions[i].Volumes[k]; v.Volume == id {
			return v
		}
	}
	return nil
}

// findVolume picks the session that a word means for a volume: of those that match, the newest that has it.
func (c *catalog) findVolume(name string, spec *when.Session) (int, *format.SessionVolume, error) {
	if _, ok := c.ids[name]; !ok {
		return 0, nil, exit.With(exit.Failed, fmt.Errorf("volume %q: %w", name, errNotFound), "pinion list shows the names of an archive's volumes")
	}
	i, err := find(c.entries, spec, func(i int) bool { return c.errs[i] == nil && c.volume(i, name) != nil })
	if errors.Is(err, errNotFound) {
		// A damaged session may be the very one.
		if k, e := find(c.entries, spec, nil); e == nil && c.errs[k] != nil {
			return 0, nil, fmt.Errorf("session #%d: %w", c.entries[k].Seq, c.errs[k])
		}
		return 0, nil, exit.With(exit.Failed, fmt.Errorf("%s has no session %s: %w", name, spec, errNotFound), "pinion list "+name+" shows its sessions")
	}
	if err != nil {
		return 0, nil, err
	}
	return i, c.volume(i, name), nil
}

// parseJSONTime reads what jsonTime wrote.
func parseJSONTime(text string) (time.Time, error) { return time.Parse(time.RFC3339Nano, text) }
