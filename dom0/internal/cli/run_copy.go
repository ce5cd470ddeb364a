package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/copying"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
	"pinion/dom0/internal/ui"
	"pinion/protocol"
)

// copyJSON is the document of "pinion copy --json". All but CopiedBytes count objects, without the root.
type copyJSON struct {
	Objects        int64        `json:"objects"` // of the archive
	CopiedObjects  int64        `json:"copied_objects"`
	CopiedBytes    int64        `json:"copied_bytes"`
	SkippedObjects int64        `json:"skipped_objects"` // the copy had them
	DeletedObjects int64        `json:"deleted_objects"`
	Current        bool         `json:"current"` // the copy is what the archive was when the command began
	Failed         []failedJSON `json:"failed"`
}

// copyRun is one run of the command.
type copyRun struct {
	env   *Env // of the archive
	to    *Env // of the copy
	o     *copyCommand
	state *state.Dir

	src    *copying.Source
	open   *archive.Archive // the archive, with --delete
	newest bool             // its root is the newest that this host has seen
	failed []failedJSON
}

func runCopy(ctx context.Context, env *Env, o *copyCommand) error {
	to := *env
	to.Dest = o.to
	if err := notTheSame(env.Dest, o.to); err != nil {
		return err
	}
	c := &copyRun{env: env, to: &to, o: o, failed: []failedJSON{}}
	from, err := c.openSource(ctx)
	if err != nil {
		return err
	}
	defer from.Close()
	last, seen, err := c.recall()
	if err != nil {
		return err
	}
	dst, err := c.openCopy(ctx, seen)
	if err != nil {
		return err
	}
	defer dst.Close()
	m := &meter{ui: env.UI}
	defer m.stop()
	res, err := c.src.To(ctx, dst, copying.Options{
		Seen: seen, Last: last, Descends: c.descends(), Removes: o.Delete,
		Again: func(ctx context.Context) (*store.Conn, error) { return c.reach(ctx, &to, false) },
		Begin: func(n int64) { m.begin("copying", n) }, Bytes: m.add,
		Failed: func(object string, err error) { c.failed = append(c.failed, failedJSON{object, err.Error()}) },
	})
	if err != nil {
		return c.explain(err)
	}
	m.done()
	if res.Current {
		if err := c.remember(res.First); err != nil {
			return err
		}
	}
	deleted, err := c.remove(ctx, dst, res)
	if err != nil {
		return err
	}
	return c.report(res, deleted)
}

// notTheSame refuses to copy an archive to itself, also by another name.
func notTheSame(a, b store.Destination) error {
	same := a == b
	if !same && a.Path() != "" && b.Path() != "" {
		x, errX := os.Stat(a.Path())
		y, errY := os.Stat(b.Path())
		same = errX == nil && errY == nil && os.SameFile(x, y)
	}
	if same {
		return exit.UsageHint("--dest is the archive, --to the place of its copy", "copy: --to %s is the archive itself", b)
	}
	return nil
}

// reach connects to a store.
func (c *copyRun) reach(ctx context.Context, at *Env, create bool) (*store.Conn, error) {
	o, err := at.storeOptions()
	if err != nil {
		return nil, err
	}
	o.Create = create
	return store.Open(ctx, at.Dest, o)
}

func (c *copyRun) lock(ctx context.Context, conn *store.Conn, mode protocol.LockMode) error {
	return archive.TakeLock(ctx, conn, mode, c.env.Wait, func(text string) { c.env.UI.Warn("%s", text) })
}

// openSource connects to the archive's store, takes the read lock and reads the root. With --delete it opens the archive
// too. The connection is the caller's to close.
func (c *copyRun) openSource(ctx context.Context) (conn io.Closer, err error) {
	opts, err := c.env.archiveOptions(protocol.LockRead)
	if err != nil {
		return nil, err
	}
	c.state = opts.State
	if c.o.Delete {
		if c.open, err = c.env.open(ctx, protocol.LockRead); err != nil {
			return nil, err
		}
		hash := c.open.RootHash()
		c.newest = true
		c.src, err = copying.ReadSource(ctx, c.open.Store(), &hash)
		if err != nil {
			c.open.Close()
		}
		return c.open, err
	}
	plain, err := store.Open(ctx, c.env.Dest, opts.Store)
	if errors.Is(err, store.ErrNotFound) {
		return nil, c.nothingThere()
	}
	if err != nil {
		return nil, err
	}
	var before sourceMemory
	if err = c.lock(ctx, plain, protocol.LockRead); err == nil {
		before, err = c.remembered()
	}
	if err == nil {
		c.src, err = copying.ReadSource(ctx, plain, nil)
	}
	if errors.Is(err, archive.ErrNoArchive) {
		err = c.nothingThere()
	}
	if err == nil {
		err = c.compareWithSeen(ctx, before)
	}
	if err != nil {
		plain.Close()
		return nil, err
	}
	return plain, nil
}

// nothingThere is the error for a place without an archive.
func (c *copyRun) nothingThere() error {
	_, pinned, err := c.state.Pin(c.env.Dest.String())
	if err == nil && pinned {
		return fmt.Errorf("no archive at %s, where one was seen: %w", c.env.Dest, archive.ErrUnmounted)
	}
	return errors.Join(err, fmt.Errorf("no archive at %s: %w", c.env.Dest, archive.ErrNoArchive))
}

// compareWithSeen compares the archive's root with the newest that this host has seen there. Without the passphrase it
// can only be known to be that one, or to have come in its place. What counts is what was known before the root was read:
// another command of this host may have committed since.
func (c *copyRun) compareWithSeen(ctx context.Context, before sourceMemory) error {
	hash := c.src.Hash()
	shown := hex.EncodeToString(hash[:])
	now, _, err := c.state.Copy(c.env.Dest.String())
	if err != nil {
		return err
	}
	for _, copied := range []state.Copy{before.copied, now} {
		if copied.Newest && copied.RootHash == shown {
			c.newest = true // a copy itself, and as this host made it
			return nil
		}
	}
	known := before.newest
	if known == "" {
		return nil
	}
	if c.newest = known == shown; c.newest || c.env.AllowRollback {
		return nil
	}
	seen, err := parseHash(known)
	if err != nil {
		return err
	}
	replaced, err := c.src.Replaced(ctx, seen)
	if err != nil || replaced {
		return err
	}
	return exit.With(exit.RolledBack, fmt.Errorf("%s doesn't show the newest root that was seen there, nor one that came after it: %w", c.env.Dest, archive.ErrRolledBack),
		"pinion list, which opens the archive, finds out; --allow-rollback copies it as it is")
}

// sourceMemory is what this host knows of the archive's place.
type sourceMemory struct {
	copied state.Copy // what it copied there, if it did
	newest string     // hash of the newest root that it has seen there, or empty
}

func (c *copyRun) remembered() (m sourceMemory, err error) {
	if m.copied, _, err = c.state.Copy(c.env.Dest.String()); err == nil {
		m.newest, err = c.known()
	}
	return m, err
}

// known is the hash of the newest root that this host has seen of the archive, or empty.
func (c *copyRun) known() (string, error) {
	pin, pinned, err := c.state.Pin(c.env.Dest.String())
	if err != nil || !pinned {
		return "", err
	}
	id, err := format.ParseObjectID(pin.Archive)
	if err != nil {
		return "", fmt.Errorf("state of %s: %w", c.env.Dest, err)
	}
	memory, err := c.state.Memory(id)
	if err != nil {
		return "", err
	}
	return memory.Branches[pin.Branch].RootHash, nil
}

func parseHash(text string) (hash [32]byte, err error) {
	b, err := hex.DecodeString(text)
	if err == nil && len(b) != len(hash) {
		err = errors.New("has another length")
	}
	if err != nil {
		return hash, fmt.Errorf("hash of a root in the state directory: %w", err)
	}
	return [32]byte(b), nil
}

// recall returns what this host knows of the copy: the last one from here, and whether there was any archive.
func (c *copyRun) recall() (last *copying.Last, seen bool, err error) {
	known, seen, err := c.state.Copy(c.to.Dest.String())
	if err != nil {
		return nil, false, err
	}
	if seen && known.Source == c.env.Dest.String() {
		hash, err := parseHash(known.RootHash)
		if err != nil {
			return nil, false, err
		}
		last = &copying.Last{Root: hash, Kept: known.Kept}
	}
	_, pinned, err := c.state.Pin(c.to.Dest.String())
	return last, (seen || pinned) && !c.env.AllowRollback, err
}

// openCopy connects to the copy's store and takes the append lock. The directory is made if nothing was seen there.
func (c *copyRun) openCopy(ctx context.Context, seen bool) (*store.Conn, error) {
	conn, err := c.reach(ctx, c.to, !seen)
	if seen && errors.Is(err, store.ErrNotFound) {
		return nil, c.explain(archive.ErrUnmounted)
	}
	if err != nil {
		return nil, err
	}
	if c.o.Delete && conn.Info().AppendOnly {
		err = exit.With(exit.Failed, fmt.Errorf("%s is append-only: nothing can be removed there: %w", c.to.Dest, store.ErrReadOnly), "leave out --delete")
	} else {
		err = c.lock(ctx, conn, protocol.LockAppend)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (c *copyRun) descends() func([32]byte) bool {
	if c.open == nil {
		return nil
	}
	return c.open.Descends
}

// explain says what to do about an error of a copy.
func (c *copyRun) explain(err error) error {
	var damage *archive.DamageError
	err = fmt.Errorf("copy to %s: %w", c.to.Dest, err)
	switch {
	case errors.Is(err, copying.ErrForeign) && errors.Is(err, archive.ErrNotEmpty):
		return exit.With(exit.Failed, err, "choose an empty place for a new copy")
	case errors.Is(err, copying.ErrForeign):
		return exit.With(exit.RolledBack, err, "it was written to, or is newer than this archive, or another one's: choose another place; see \"copy\" in docs/operation.md")
	case errors.Is(err, copying.ErrTooManySlots):
		return exit.With(exit.Failed, err, "pinion check --repair, where they are, removes those that open nothing")
	case errors.Is(err, copying.ErrDiffers):
		return exit.With(exit.Damaged, err, "one of the two is damaged: pinion check says which; if it is the copy's, remove that file and run the same command again")
	case errors.Is(err, archive.ErrUnmounted):
		return exit.With(exit.NoArchive, err, "if the copy was removed on purpose, --allow-rollback makes a new one")
	case errors.As(err, &damage) && damage.Object == protocol.RootName:
		return exit.With(exit.Damaged, err, "a copy that lost its root: see \"the root is missing\" in docs/operation.md, or choose another place")
	case errors.Is(err, store.ErrNoSpace):
		return exit.With(exit.StoreFull, err, "make room there, then run the same command again: it goes on from here")
	}
	return err
}

// remember notes what the copy holds now. Where it was begun anew, what was seen at its place before is gone.
func (c *copyRun) remember(first bool) error {
	if first {
		if err := c.state.DropPin(c.to.Dest.String()); err != nil {
			return err
		}
	}
	hash := c.src.Hash()
	return c.state.SetCopy(state.Copy{
		Destination: c.to.Dest.String(), Source: c.env.Dest.String(),
		RootHash: hex.EncodeToString(hash[:]), Kept: c.src.Kept(), Newest: c.newest,
	})
}

// remove does what --delete asks for. A copy that was begun by this run, or that isn't whole, is left alone: what else is
// there may be all that is left of something.
func (c *copyRun) remove(ctx context.Context, dst *store.Conn, res *copying.Result) (deleted int64, err error) {
	if c.open == nil || res.Extra == 0 || res.First || !res.Current || len(c.failed) > 0 {
		return 0, nil
	}
	if err := c.lock(ctx, dst, protocol.LockExclusive); err != nil {
		if errors.Is(err, store.ErrLocked) {
			return 0, exit.With(exit.Locked, fmt.Errorf("the copy is up to date, but nothing was removed: %w", err), "somebody reads the copy; run the same command again, or with --wait")
		}
		return 0, err
	}
	deleted, err = c.src.Remove(ctx, dst, c.open.Needs)
	if err != nil {
		return deleted, fmt.Errorf("the copy is up to date, but not all was removed: %w", err)
	}
	return deleted, nil
}

// report says what was done.
func (c *copyRun) report(res *copying.Result, deleted int64) error {
	u := c.env.UI
	err := u.Result(copyJSON{
		Objects: res.Objects, CopiedObjects: res.Copied, CopiedBytes: res.CopiedBytes, SkippedObjects: res.Skipped,
		DeletedObjects: deleted, Current: res.Current, Failed: c.failed,
	})
	if err != nil {
		return err
	}
	if !u.Quiet() {
		switch {
		case res.Copied+res.Failed+deleted == 0 && res.Current:
			u.Printf("Nothing to copy: %s has all %s.", c.to.Dest, count(int(res.Objects), "object"))
		case res.Skipped == 0:
			u.Printf("Copied %s, %s.", count(int(res.Copied), "object"), ui.Bytes(res.CopiedBytes))
		default:
			u.Printf("Copied %s, %s; the copy had %d.", count(int(res.Copied), "object"), ui.Bytes(res.CopiedBytes), res.Skipped)
		}
		if deleted > 0 {
			u.Printf("Removed %s that the archive no longer has.", count(int(deleted), "object"))
		}
	}
	if left := res.Extra - deleted; left > 0 && c.open == nil && !res.First {
		u.Notice("the copy has %s that the archive no longer has; --delete removes them", count(int(left), "object"))
	}
	if len(c.failed) > 0 {
		return c.partly(res)
	}
	if res.First {
		u.Notice("nothing was opened; this checks the copy: pinion verify --dest %s", c.to.Dest)
	}
	return nil
}

// partly names what could not be copied.
func (c *copyRun) partly(res *copying.Result) error {
	for _, f := range c.failed {
		c.env.UI.Printf("not copied: %s: %s", f.Name, f.Message)
	}
	what := "the copy stays at its older state"
	if res.Current {
		what = "the copy is as whole as the archive"
	}
	return exit.With(exit.Damaged, fmt.Errorf("%s of the archive can't be had; %s", count(len(c.failed), "object"), what),
		"pinion check says what is damaged; run the same command again once it is mended")
}
