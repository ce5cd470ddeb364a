package cli

import (
	"bytes"
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
	"pinion/dom0/internal/ui"
	"pinion/dom0/internal/when"
	"pinion/protocol"
)

// archiveOptions says how this run opens its archive.
func (e *Env) archiveOptions(lock protocol.LockMode) (archive.Options, error) {
	reach, err := e.storeOptions()
	if err != nil {
		return archive.Options{}, err
	}
	dir, err := state.Open(e.StateDir)
	if err != nil {
		return archive.Options{}, exit.With(exit.Failed, err, "name a directory that can be written with --state-dir")
	}
	return archive.Options{
		Store: reach,
		State: dir, CacheDir: e.CacheDir, Lock: lock, Command: e.Command,
		Wait: e.Wait, AllowRollback: e.AllowRollback, Adopt: e.Adopt,
		SlowKey: e.SlowKey, KeyExport: e.keyExport,
		Trying: func(slot format.SlotID, mib, passes int) {
			e.UI.Notice("trying key slot %s: %d MiB, %s", slot, mib, countPasses(passes))
		},
		Secret: func(ctx context.Context) (crypt.Secret, error) {
			s, err := e.Secret.Get(ctx, fmt.Sprintf("Passphrase for %s", e.Dest))
			if err == nil {
				e.mistyped, e.secretAt = s.Recovery(), time.Now()
			}
			return cryptSecret(s), err
		},
		Remembered: e.recall, Remember: e.keep, Forget: e.forgetKey,
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

// An oneAnswer makes one question for the secret of many.
type oneAnswer struct {
	secret crypt.Secret
	known  bool
}

// of wraps what asks.
func (q *oneAnswer) of(ask func(context.Context) (crypt.Secret, error)) func(context.Context) (crypt.Secret, error) {
	return func(ctx context.Context) (crypt.Secret, error) {
		if !q.known {
			s, err := ask(ctx)
			if err != nil {
				return s, err
			}
			q.secret, q.known = s, true
		}
		return crypt.Secret{Passphrase: bytes.Clone(q.secret.Passphrase), KeyFile: bytes.Clone(q.secret.KeyFile)}, nil
	}
}

// forget clears the answer.
func (q *oneAnswer) forget() {
	clear(q.secret.Passphrase)
	clear(q.secret.KeyFile)
	*q = oneAnswer{}
}

// openToRepair opens the archive without its index, alone.
func (e *Env) openToRepair(ctx context.Context, q *oneAnswer) (*archive.Archive, error) {
	o, err := e.archiveOptions(protocol.LockExclusive)
	if err != nil {
		return nil, err
	}
	o.Secret = q.of(o.Secret)
	return e.openWith(ctx, o)
}

func (e *Env) openWith(ctx context.Context, o archive.Options) (*archive.Archive, error) {
	a, err := archive.Open(ctx, e.Dest, o)
	if err != nil {
		return nil, e.nameForeign(e.keyError(err))
	}
	if a.Fresh() {
		r := a.Root()
		e.UI.Notice("first use of this archive here: generation %d, last written %s by host %q",
			r.Generation, e.showTime(r.Written), r.Host)
	}
	if a.OldCopy() {
		e.UI.Notice("a copy, as the archive was on %s; that was written to since", e.showTime(a.Root().Written))
	}
	return a, nil
}

// keyError says what to do about a secret that opens nothing.
func (e *Env) keyError(err error) error {
	switch {
	case errors.Is(err, archive.ErrWrongKey) && e.mistyped != nil:
		return exit.With(exit.WrongKey, err, e.mistyped.Error())
	case errors.Is(err, archive.ErrRemoved) && e.keyExport != nil:
		return exit.With(exit.WrongKey, err, "the archive no longer has this key; use another one of the export's, or key import, opened with another key")
	case errors.Is(err, archive.ErrSlow) && e.SlowKey:
		return exit.With(exit.WrongKey, err, "a command tries no more than that; --key-export FILE opens the archive with the slots of an export alone")
	}
	return err
}

// countPasses is a number of passes.
func countPasses(n int) string {
	if n == 1 {
		return "1 pass"
	}
	return fmt.Sprintf("%d passes", n)
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

// find picks the session that a word means; nil means latest. has, if set, accepts only sessions with certain volumes;
// a damaged session may have any, so it is never passed over for an older one: the caller looks at c.errs. Nor are
// sessions that the damaged list no longer names.
func (c *catalog) find(spec *when.Session, has func(i int) bool) (int, error) {
	if spec == nil {
		spec = &when.Session{Kind: when.Latest}
	}
	found, several := -1, false
	for i := len(c.entries) - 1; i >= 0; i-- {
		if !matches(&c.entries[i], spec) || has != nil && c.errs[i] == nil && !has(i) {
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
	if err := c.hidden(spec, found); err != nil {
		return 0, err
	}
	if found < 0 {
		return 0, exit.With(exit.Failed, fmt.Errorf("session %s: %w", sessionWord(spec), errNotFound), "pinion list shows the sessions")
	}
	return found, nil
}

// sessionWord is how a session that was asked for is called in messages.
func sessionWord(spec *when.Session) string {
	if spec != nil && spec.Kind == when.Time {
		return "at or before " + spec.At.Format("2006-01-02 15:04")
	}
	return fmt.Sprint(spec)
}

// hidden is the error if what a word means may be a session that the damaged list doesn't show, or whose tags it lost,
// rather than entry i; -1 is none.
func (c *catalog) hidden(spec *when.Session, i int) error {
	seq := uint64(0)
	if i >= 0 {
		seq = c.entries[i].Seq
	}
	for _, g := range c.gaps {
		switch spec.Kind {
		case when.Number:
			if i >= 0 || spec.Number < g.First || spec.Number > g.Last {
				continue
			}
		case when.ID:
			if i >= 0 {
				continue
			}
		}
		if g.Last > seq {
			return exit.With(exit.Damaged, g, sessionHint)
		}
	}
	if n := len(c.untagged); spec.Kind == when.Tag && n > 0 && c.untagged[n-1] > seq {
		return exit.With(exit.Damaged, fmt.Errorf("session %s: the tags of sessions up to #%d are lost: %w", spec, c.untagged[n-1], c.damage[0]), sessionHint)
	}
	return nil
}

// sessionHint is what to do when the session that was meant is damaged.
const sessionHint = "name another session with --session '#N'; pinion list shows them, pinion check --repair --read-data mends what can be mended"

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
	names    map[format.ObjectID]string // of volumes
	ids      map[string]format.ObjectID

	qubeNames map[format.ObjectID]string
	qubeIDs   map[string]format.ObjectID

	listed   *format.VolumeTable
	damage   []error       // to the session list and the volume table
	gaps     []archive.Gap // sessions that can't be listed
	untagged []uint64      // sessions whose tags can't be had, ascending
	table    error         // why names may be missing
}

// readCatalog reads the session list, all sessions and the volume table. Damage to list and table is said, and what can
// be found in spite of it is there.
func readCatalog(ctx context.Context, env *Env, a *archive.Archive) (*catalog, error) {
	l, err := a.Listing(ctx)
	if err != nil {
		return nil, err
	}
	c := &catalog{
		names: map[format.ObjectID]string{}, ids: map[string]format.ObjectID{},
		qubeNames: map[format.ObjectID]string{}, qubeIDs: map[string]format.ObjectID{},
		entries: l.Entries, gaps: l.Gaps, untagged: l.Found, table: l.TableDamage, listed: l.Table,
	}
	for _, v := range l.Table.Volumes {
		c.names[v.ID], c.ids[v.Name] = v.Name, v.ID
	}
	for _, q := range l.Table.Qubes {
		c.qubeNames[q.ID], c.qubeIDs[q.Name] = q.Name, q.ID
	}
	for _, g := range l.ListDamage {
		c.damage = append(c.damage, fmt.Errorf("the session list is damaged: %w", g.Err))
	}
	if l.TableDamage != nil {
		c.damage = append(c.damage, fmt.Errorf("the names of volumes are damaged: %w", l.TableDamage))
	}
	for _, err := range c.damage {
		env.UI.Warn("%v", err)
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

// known is the error if there is no volume of a name.
func (c *catalog) known(name string) error {
	if _, ok := c.ids[name]; ok {
		return nil
	}
	return c.unknown("volume", name)
}

// unknown is the error for a name that no volume has, or no qube. Where the names are damaged, it may have been lost.
func (c *catalog) unknown(what, name string) error {
	if c.table != nil {
		return exit.With(exit.Damaged, fmt.Errorf("%s %q isn't among the names that are left: %w", what, name, c.table),
			fmt.Sprintf("pinion list shows the %ss, named by their ids where their names are lost", what))
	}
	return exit.With(exit.Failed, fmt.Errorf("%q: %w", name, errNotFound), "pinion list shows the qubes and volumes of an archive")
}

// findVolume picks the session that a word means for a volume: of those that match, the newest that has it.
func (c *catalog) findVolume(name string, spec *when.Session) (int, *format.SessionVolume, error) {
	if err := c.known(name); err != nil {
		return 0, nil, err
	}
	i, err := c.findFor(name, spec, func(i int) bool { return c.volume(i, name) != nil })
	if err != nil {
		return 0, nil, err
	}
	return i, c.volume(i, name), nil
}

// findFor is find for what is called name: the newest of those that match and have it. A damaged session that may be the
// one is the error: an older state is never given in its place.
func (c *catalog) findFor(name string, spec *when.Session, has func(i int) bool) (int, error) {
	i, err := c.find(spec, has)
	if errors.Is(err, errNotFound) {
		return 0, exit.With(exit.Failed, fmt.Errorf("%s has no session %s: %w", ui.Quote(name), sessionWord(spec), errNotFound), "pinion list "+name+" shows its sessions")
	}
	if err != nil {
		return 0, err
	}
	if c.errs[i] != nil {
		return 0, c.damaged(i)
	}
	return i, nil
}

// damaged is the error for a session that can't be read.
func (c *catalog) damaged(i int) error {
	return exit.With(exit.Damaged, fmt.Errorf("session #%d: %w", c.entries[i].Seq, c.errs[i]), sessionHint)
}

// parseJSONTime reads what jsonTime wrote.
func parseJSONTime(text string) (time.Time, error) { return time.Parse(time.RFC3339Nano, text) }
