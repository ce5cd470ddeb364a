package cli

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/copying"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/store"
	"pinion/dom0/internal/ui"
	"pinion/dom0/internal/verify"
)

const seeCopies = "see \"copies\" in docs/operation.md"

// findLost looks whether the archive's sessions need what it doesn't have, where it lost something once and the copy has
// what its index no longer names. A repair makes the newest root forget a lost pack, and the last of it may be in the copy.
func (c *copyRun) findLost(ctx context.Context, res *copying.Result) error {
	if c.key == nil || c.key.Needed == nil || res.First || res.Extra == 0 || c.open.Root().Heal == 0 {
		return nil
	}
	m := &meter{ui: c.env.UI}
	defer m.stop()
	var list damage.List
	_, err := verify.Check(ctx, c.open, &list, verify.CheckOptions{
		Begin: m.begin, Bytes: m.add, Warn: func(text string) { c.env.UI.Warn("%s", text) },
	})
	if err != nil && !errors.Is(err, verify.ErrTooMuch) {
		return fmt.Errorf("look for what the archive lost: %w", err)
	}
	m.done()
	ranges, more := list.Ranges()
	c.lost = len(ranges) + more
	return nil
}

// findAside looks, before anything is removed, whether the copy has a state beside the archive's: one that was written
// there, or that the archive had before it went back.
func (c *copyRun) findAside(ctx context.Context, dst *store.Conn, res *copying.Result) (err error) {
	if c.o.Delete && !res.First && !c.env.AllowRollback {
		c.aside, err = copying.Aside(ctx, dst, c.key)
	}
	return err
}

// notRemoved is the error for what the copy alone may have, and for what --delete left.
func (c *copyRun) notRemoved(res *copying.Result) error {
	switch {
	case c.lost > 0:
		return exit.With(exit.Damaged, fmt.Errorf("%s of the archive can't be had, and may be in the %s that the copy alone has, %s; nothing was removed",
			count(c.lost, "part"), count(int(res.Extra), "object"), ui.Bytes(res.ExtraBytes)),
			"put them back from the copy, then run pinion check --repair --read-data; "+seeCopies)
	case c.aside != "":
		return exit.With(exit.RolledBack, fmt.Errorf("the copy is up to date, but nothing was removed: its root %s is of a state that the archive's newest doesn't follow: %w",
			c.aside, archive.ErrForked), "pinion list --dest COPY --root NAME shows that state; --allow-rollback gives up what it alone has")
	case c.o.Delete && c.key.Needed == nil:
		return exit.With(exit.Damaged, errors.New("nothing was removed from the copy: parts of the archive's index are lost"), "pinion check --repair makes it anew")
	}
	return nil
}
