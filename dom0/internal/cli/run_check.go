package cli

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/store"
	"pinion/dom0/internal/ui"
	"pinion/dom0/internal/verify"
	"pinion/protocol"
)

func runCheck(ctx context.Context, env *Env, o *checkCommand) error {
	a, restored, err := env.openToCheck(ctx, o.Repair)
	if err != nil {
		return err
	}
	defer a.Close()
	m := &meter{ui: env.UI}
	defer m.stop()
	var list damage.List
	options := verify.CheckOptions{
		ReadData: int(o.ReadData), Repair: o.Repair, KeepAll: restored,
		Begin: m.begin, Bytes: m.add,
		Warn: func(text string) { env.UI.Warn("%s", text) },
	}
	report, err := verify.Check(ctx, a, &list, options)
	if err != nil && !errors.Is(err, verify.ErrTooMuch) {
		return err
	}
	m.done()
	dropped := []droppedJSON{}
	if o.DropDamaged && restored {
		env.UI.Warn("nothing is dropped this time: the root was put back, and may be an old one; look at pinion list first")
	} else if o.DropDamaged && !list.Empty() {
		repaired := report.Repaired
		if dropped, err = env.dropDamaged(ctx, a, &list, m); err != nil {
			return err
		}
		if report, err = checkAgain(ctx, a, &list, options); err != nil && !errors.Is(err, verify.ErrTooMuch) {
			return err
		}
		report.Repaired = repaired
		m.done()
	}
	if report.Repaired {
		env.UI.Notice("the index was made anew from what is in the store")
	}
	if err := reportDamage(env, a, &list, report.Damaged, dropped, report.Repaired, err); err != nil {
		return err
	}
	sayStrays(env, report)
	if !env.UI.Quiet() {
		whole := "the structure is whole"
		if o.ReadData == 100 {
			whole = "structure and data are whole"
		}
		env.UI.Printf("%s, %s: %s, %s read.",
			count(report.Sessions, "session"), count(report.Packs, "pack"), whole, ui.Bytes(a.Store().Received()))
		if o.ReadData == 0 {
			env.UI.Printf("Data was not looked at: --read-data does.")
		}
	}
	return nil
}

// openToCheck opens the archive without its index. For a repair, a root that the store lost is put back first; then
// restored is true.
func (e *Env) openToCheck(ctx context.Context, repair bool) (a *archive.Archive, restored bool, err error) {
	if !repair {
		a, err = e.openBare(ctx, protocol.LockRead)
		return a, false, err
	}
	q := &oneAnswer{}
	defer q.forget()
	a, err = e.openToRepair(ctx, q)
	var root *archive.RootError
	if errors.As(err, &root) && root.Unreadable {
		return nil, false, exit.With(exit.Damaged, err, "move the object root out of the archive's directory by hand, then run the same command again")
	}
	if errors.As(err, &root) {
		a, err = e.restoreRoot(ctx, root, q)
		return a, err == nil, err
	}
	return a, false, err
}

// restoreRoot puts back the newest root that is left and opens the archive again; bad is why it is needed.
func (e *Env) restoreRoot(ctx context.Context, bad *archive.RootError, q *oneAnswer) (*archive.Archive, error) {
	opts, err := e.archiveOptions(protocol.LockExclusive)
	if err != nil {
		return nil, err
	}
	opts.Secret = q.of(opts.Secret)
	restored, err := archive.RestoreRoot(ctx, e.Dest, opts, bad)
	switch {
	case errors.Is(err, store.ErrLocked), errors.Is(err, context.Canceled):
		return nil, err // whoever that is may be putting it back
	case errors.Is(err, archive.ErrWrongKey) && e.mistyped != nil:
		return nil, exit.With(exit.WrongKey, err, e.mistyped.Error())
	case errors.Is(err, archive.ErrWrongKey):
		return nil, err
	case errors.Is(err, archive.ErrKeyNotListed):
		return nil, exit.With(exit.Damaged, fmt.Errorf("the store's root is damaged or missing, and can't be put back: %w", err),
			"use a key of that time, or the host that changed the keys; pinion check --roots lists what roots there are")
	case err != nil:
		e.UI.Warn("the root can't be put back: %v", err)
		return nil, bad
	}
	if restored.Kept != "" {
		e.UI.Notice("the store's root was damaged or missing; %s, of generation %d, was put back", restored.Kept, restored.Root.Generation)
	} else {
		e.UI.Notice("the store's root was damaged or missing; the newest one that this host saw was put back")
	}
	return e.openToRepair(ctx, q)
}
