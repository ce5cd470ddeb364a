package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/copying"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// maxFailed is how many of the objects that can't be copied are named.
const maxFailed = 1000

// copyRun is one run of the command.
type copyRun struct {
	env   *Env // of the archive
	to    *Env // of the copy
	o     *copyCommand
	state *state.Dir

	src  *copying.Source
	open *archive.Archive // the archive; nil: without its key
	key  *copying.Key     // what it knows
	seen sourceMemory     // what was known before its roots were listed

	unsure bool // whether the archive shows the newest root that this host has seen

	failed     []failedJSON // the first maxFailed
	unreadable int          // of all that failed, those that can't be read now, and may be whole
	onlyThere  int          // of all that failed, those that the copy has
	aside      string       // a root of the copy that the archive's newest doesn't follow
	lost       int          // what the archive's sessions need and it doesn't have, though it may be in the copy
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
	seen, err := c.recall()
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
		Seen: seen, Key: c.key, AllowFork: env.AllowRollback && !o.Delete, Known: c.seen.newest, MaxNew: int64(o.MaxNew),
		Begin: func(n int64) { m.begin("copying", n) }, Bytes: m.add, Failed: c.notCopied,
	})
	if errors.Is(err, copying.ErrForeign) && !env.AllowRollback {
		if older := c.compare(&copying.Result{}); older != nil {
			return older // which is why
		}
	}
	if err != nil {
		return c.explain(err)
	}
	m.done()
	older := c.compare(res)
	if err := c.remember(res, older == nil); err != nil {
		return err
	}
	if err := c.findLost(ctx, res); err != nil {
		return err
	}
	if err := c.findAside(ctx, dst, res); err != nil {
		return err
	}
	gone, err := c.remove(ctx, dst, res)
	if err != nil {
		return err
	}
	return c.report(res, gone, older)
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

// notCopied notes an object that the archive can't give.
func (c *copyRun) notCopied(object string, err error) {
	if errors.Is(err, store.ErrUnreadable) {
		c.unreadable++
	}
	if errors.Is(err, copying.ErrMissingThere) {
		c.onlyThere++
	}
	if len(c.failed) < maxFailed {
		c.failed = append(c.failed, failedJSON{object, err.Error()})
	}
}

// recall reports whether this host knows of any archive at the place of the copy.
func (c *copyRun) recall() (seen bool, err error) {
	_, copied, err := c.state.Copy(c.to.Dest.String())
	if err != nil {
		return false, err
	}
	_, pinned, err := c.state.Pin(c.to.Dest.String())
	return (copied || pinned) && !c.env.AllowRollback, err
}

// openCopy connects to the copy's store and takes the append lock. The directory is made if nothing was seen there.
func (c *copyRun) openCopy(ctx context.Context, seen bool) (*store.Conn, error) {
	conn, err := c.reach(ctx, c.to, !seen)
	if seen && errors.Is(err, store.ErrMissing) {
		return nil, c.explain(archive.ErrUnmounted)
	}
	if err != nil {
		return nil, err
	}
	if c.o.Delete && conn.Info().AppendOnly {
		err = exit.With(exit.Failed, fmt.Errorf("%s is append-only: nothing can be removed there: %w", c.to.Dest, store.ErrAppendOnly), "leave out --delete")
	} else {
		err = c.lock(ctx, conn, protocol.LockAppend)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// explain says what to do about an error of a copy.
func (c *copyRun) explain(err error) error {
	err = fmt.Errorf("copy to %s: %w", c.to.Dest, err)
	switch {
	case errors.Is(err, copying.ErrForeign) && errors.Is(err, archive.ErrNotEmpty):
		return exit.With(exit.Failed, err, "choose an empty place for a new copy")
	case errors.Is(err, copying.ErrForeign):
		return exit.With(exit.RolledBack, err, "it was written to, or is newer than this archive, or another one's: choose another place, or with --allow-rollback leave in it what it has of its own; see \"copy\" in docs/operation.md")
	case errors.Is(err, archive.ErrUnmounted):
		return exit.With(exit.NoArchive, err, "if the copy was removed on purpose, --allow-rollback makes a new one")
	case errors.Is(err, store.ErrNoSpace):
		return exit.With(exit.StoreFull, err, "make room there, then run the same command again: it goes on from here")
	}
	return err
}

// remember notes what the copy holds now. Where it was begun anew, what was seen at its place before is gone. What an
// archive that went back has copied is noted only where nothing better is known.
func (c *copyRun) remember(res *copying.Result, newest bool) error {
	if res.Root == [32]byte{} {
		return nil
	}
	if res.First {
		if err := c.state.DropPin(c.to.Dest.String()); err != nil {
			return err
		}
	}
	now := state.Copy{
		Destination: c.to.Dest.String(), Source: c.env.Dest.String(), RootHash: hex.EncodeToString(res.Root[:]),
		Newest: newest && (c.open != nil || c.seen.isNewest(res.Root)),
	}
	old, known, err := c.state.Copy(now.Destination)
	if err != nil {
		return err
	}
	if known && !res.First && old.Source == now.Source && old.Newest && !now.Newest {
		return nil
	}
	return c.state.SetCopy(now)
}

// removed is what --delete took away.
type removed struct{ objects, roots int64 }

// remove does what --delete asks for. A copy that was begun by this run, or that isn't whole, is left alone: what else is
// there may be all that is left of something.
func (c *copyRun) remove(ctx context.Context, dst *store.Conn, res *copying.Result) (gone removed, err error) {
	if !c.o.Delete || res.First || !res.Current || res.Failed > 0 || c.lost > 0 || c.aside != "" || c.key.Needed == nil {
		return gone, nil
	}
	if err := c.lock(ctx, dst, protocol.LockExclusive); err != nil {
		if errors.Is(err, store.ErrLocked) {
			return gone, exit.With(exit.Locked, fmt.Errorf("the copy is up to date, but nothing was removed: %w", err), "somebody reads the copy; run the same command again, or with --wait")
		}
		return gone, err
	}
	if res.Extra > 0 {
		if gone.objects, err = c.src.Remove(ctx, dst, c.key, res); err != nil {
			return gone, fmt.Errorf("the copy is up to date, but not all was removed: %w", err)
		}
	}
	roots, err := c.open.ThinCopy(ctx, dst)
	gone.roots = int64(roots)
	if err != nil {
		return gone, fmt.Errorf("the copy is up to date, but not all was removed: %w", err)
	}
	return gone, nil
}
