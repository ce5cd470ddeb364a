package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/copying"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// openSource connects to the archive's store, takes the read lock and lists the roots. Where a key is at hand it opens the
// archive, too, and with --delete it asks for one. The connection is the caller's to close.
func (c *copyRun) openSource(ctx context.Context) (conn io.Closer, err error) {
	opts, err := c.env.archiveOptions(protocol.LockRead)
	if err != nil {
		return nil, err
	}
	c.state = opts.State
	if c.seen, err = c.remembered(); err != nil {
		return nil, err
	}
	if err := c.openArchive(ctx); err != nil {
		return nil, err
	}
	if c.open != nil {
		c.src, err = copying.ReadSource(ctx, c.open.Store())
		if err != nil {
			c.open.Close()
		}
		return c.open, err
	}
	plain, err := store.Open(ctx, c.env.Dest, opts.Store)
	if errors.Is(err, store.ErrMissing) {
		return nil, archive.NoRoot(ctx, nil, c.env.Dest, opts)
	}
	if err != nil {
		return nil, err
	}
	if err = c.lock(ctx, plain, protocol.LockRead); err == nil {
		c.src, err = copying.ReadSource(ctx, plain)
	}
	if errors.Is(err, archive.ErrNoArchive) {
		err = archive.NoRoot(ctx, plain, c.env.Dest, opts)
	}
	if err != nil {
		plain.Close()
		return nil, err
	}
	return plain, nil
}

// openArchive opens the archive if that is asked for, or can be done without asking anybody. A key that isn't asked for and
// opens nothing is none; but a root that is older than what was seen is never passed over.
func (c *copyRun) openArchive(ctx context.Context) (err error) {
	if c.o.Delete {
		if c.open, err = c.env.open(ctx, protocol.LockRead); err != nil {
			return err
		}
		if cause := c.open.Rootless(); cause != nil {
			c.open.Close()
			return &archive.RootError{Export: true, Err: cause}
		}
		return c.takeKey(ctx)
	}
	if !c.env.keyAtHand() {
		return nil
	}
	o, err := c.env.archiveOptions(protocol.LockRead)
	if err != nil {
		return err
	}
	given := c.env.Secret.KeyFile != "" || c.env.Secret.PassFile != ""
	var noSecret error
	ask := o.Secret
	o.Secret = func(ctx context.Context) (s crypt.Secret, err error) {
		if err = errNotAsked; given {
			s, err = ask(ctx)
		}
		noSecret = err
		return s, err
	}
	c.open, err = c.env.openWith(ctx, o)
	var root *archive.RootError
	switch {
	case err == nil && c.open.Rootless() != nil:
		c.env.UI.Warn("no root opens (%v); it is copied unopened", c.open.Rootless())
		c.open.Close()
		c.open = nil
		return nil
	case err == nil:
	case errors.Is(err, archive.ErrWrongKey), errors.Is(err, archive.ErrSlow), errors.Is(err, archive.ErrNoMemory), noSecret != nil && errors.Is(err, noSecret):
		c.env.UI.Detail("copied without the key: %v", err)
		return nil
	case errors.As(err, &root) && !root.Missing:
		c.env.UI.Warn("%v; it is copied unopened", err)
		return nil
	default:
		return err
	}
	if err := c.open.LoadIndex(ctx); err != nil {
		c.env.UI.Warn("%v; what the archive needs isn't known", err)
		c.key = c.keyOf(nil)
		return nil
	}
	return c.takeKey(ctx)
}

var errNotAsked = errors.New("nobody is asked for the passphrase of an archive that is copied")

// keyAtHand reports whether the archive can be opened without asking anybody, or running a command that may ask.
func (e *Env) keyAtHand() bool {
	if e.Secret.KeyFile != "" || e.Secret.PassFile != "" {
		return true
	}
	u := e.recall()
	if u != nil {
		u.Clear()
	}
	return u != nil
}

// takeKey takes what the open archive knows. On an error it is closed.
func (c *copyRun) takeKey(ctx context.Context) error {
	packs, index, whole, err := c.open.Needed(ctx)
	if err != nil {
		c.open.Close()
		return err
	}
	var needed *copying.Needed
	if whole {
		needed = &copying.Needed{Packs: packs, Index: index}
	}
	c.key = c.keyOf(needed)
	return nil
}

func (c *copyRun) keyOf(needed *copying.Needed) *copying.Key {
	r := c.open.Root()
	return &copying.Key{Archive: r.Archive, Root: c.open.SealedRoot(), Generation: r.Generation, Open: c.open.OpenRoot, Forked: c.open.Forked, Needed: needed}
}

// sourceMemory is what this host knows of the archive's place.
type sourceMemory struct {
	copied     [32]byte // SHA-256 of the root that it copied there, as the newest it had seen; zero: it didn't
	newest     [32]byte // SHA-256 of the newest root that it has seen of the archive; zero: none
	generation uint64   // of newest
}

// isNewest reports whether a root is the newest that was seen, or was when it was copied there.
func (m sourceMemory) isNewest(hash [32]byte) bool {
	return hash != [32]byte{} && (hash == m.newest || hash == m.copied)
}

// remembered reads what is known. That counts which was known before the roots are listed: another command of this host may
// have committed since.
func (c *copyRun) remembered() (m sourceMemory, err error) {
	copied, ok, err := c.state.Copy(c.env.Dest.String())
	if err != nil {
		return m, err
	}
	if ok && copied.Newest {
		if m.copied, err = parseHash(copied.RootHash); err != nil {
			return m, err
		}
	}
	pin, pinned, err := c.state.Pin(c.env.Dest.String())
	if err != nil || !pinned {
		return m, err
	}
	id, err := format.ParseObjectID(pin.Archive)
	if err != nil {
		return m, fmt.Errorf("state of %s: %w", c.env.Dest, err)
	}
	memory, err := c.state.Memory(id)
	if err != nil {
		return m, err
	}
	branch := memory.Branches[pin.Branch]
	if branch.RootHash == "" {
		return m, nil
	}
	m.generation = branch.Generation
	m.newest, err = parseHash(branch.RootHash)
	return m, err
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

// compare compares the roots that the archive shows with what this host knows of it, and with those of the copy. Without
// the key that is all that there is to compare; with it the archive was opened, and is no older than what is known. What
// was copied does no harm either way: whoever reads the copy judges what it has.
func (c *copyRun) compare(res *copying.Result) error {
	if c.open != nil {
		return nil
	}
	none := [32]byte{}
	if c.seen.copied != none && c.src.Shows(c.seen.copied) || c.seen.newest != none && c.src.Shows(c.seen.newest) {
		if res.Newer > 0 {
			c.env.UI.Notice("the copy has a root of generation %d, above all of the archive's: it doesn't come from there", res.Newer)
		}
		return nil
	}
	var err error
	switch {
	case c.seen.newest != none && c.src.Highest() < c.seen.generation:
		err = fmt.Errorf("%s shows generation %d, and %d was seen: %w", c.env.Dest, c.src.Highest(), c.seen.generation, archive.ErrRolledBack)
	case c.seen.newest != none && c.src.Above(c.seen.generation) < protocol.KeptRoots:
		err = fmt.Errorf("%s doesn't show the root of generation %d that was seen there: %w", c.env.Dest, c.seen.generation, archive.ErrRolledBack)
	case c.seen.newest != none:
		c.unsure = true
		c.env.UI.Notice("%s no longer shows the root of generation %d that was seen there: pinion list, which opens the archive, finds out whether it follows",
			c.env.Dest, c.seen.generation)
		return nil
	case res.Newer > 0:
		err = fmt.Errorf("the copy has a root of generation %d, and %s shows %d at most: %w", res.Newer, c.env.Dest, c.src.Highest(), archive.ErrRolledBack)
	default:
		return nil
	}
	if c.env.AllowRollback {
		c.env.UI.Notice("%v", err)
		return nil
	}
	return exit.With(exit.RolledBack, err,
		"nothing of the copy was lost, and what is newest in it stays so; pinion list, which opens the archive, finds out more, and --allow-rollback accepts it")
}
