package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

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
	var older *archive.OlderError
	if errors.As(err, &root) || errors.As(err, &older) {
		a, err = e.restoreRoot(ctx, err, q)
		return a, err == nil, err
	}
	return a, false, err
}

// restoreRoot puts this host's copy of the newest root back and opens the archive again; bad is why it is needed.
func (e *Env) restoreRoot(ctx context.Context, bad error, q *oneAnswer) (*archive.Archive, error) {
	opts, err := e.archiveOptions(protocol.LockExclusive)
	if err != nil {
		return nil, err
	}
	opts.Secret = q.of(opts.Secret)
	restored, err := archive.RestoreRoot(ctx, e.Dest, opts)
	var lost *archive.RootError
	var damaged *archive.DamageError
	exported := errors.As(bad, &lost) && lost.Export
	switch {
	case errors.Is(err, store.ErrLocked), errors.Is(err, context.Canceled), errors.Is(err, archive.ErrForked):
		return nil, err // whoever that is may be putting it back
	case errors.Is(err, archive.ErrWrongKey), errors.Is(err, archive.ErrSlow), errors.Is(err, archive.ErrNoMemory):
		return nil, e.keyError(err)
	case errors.Is(err, archive.ErrKeyNotListed):
		return nil, exit.With(exit.Damaged, fmt.Errorf("the newest root can't be put back: %w", err),
			"use a key that it has, or the host that changed the keys; pinion check --roots lists the roots of the store")
	case exported && errors.Is(err, archive.ErrNoArchive):
		return e.rebuildRoot(ctx, q) // this host has no copy
	case exported && errors.As(err, &damaged):
		e.UI.Warn("this host's copy of the newest root can't be put back: %v", err)
		return e.rebuildRoot(ctx, q)
	case err != nil:
		e.UI.Warn("the newest root can't be put back: %v", err)
		return nil, bad
	}
	e.UI.Notice("the store's newest root was damaged or missing; put back the newest one that this host saw, as generation %d", restored.Root.Generation)
	if restored.Changed {
		var ids []string
		for _, id := range restored.Slots {
			ids = append(ids, id.String())
		}
		e.UI.Warn("the key slots are those of the newest root that opens; they differ from this host's in %s: see pinion key list", strings.Join(ids, ", "))
	}
	return e.openToRepair(ctx, q)
}

// rebuildRoot makes a root of the packs and of the key export, and opens the archive again.
func (e *Env) rebuildRoot(ctx context.Context, q *oneAnswer) (*archive.Archive, error) {
	opts, err := e.archiveOptions(protocol.LockExclusive)
	if err != nil {
		return nil, err
	}
	opts.Secret = q.of(opts.Secret)
	m := &meter{ui: e.UI}
	defer m.stop()
	rebuilt, err := archive.RebuildRoot(ctx, e.Dest, opts, func(total int64) { m.begin("reading packs for a new root", total) }, m.add)
	if err != nil {
		return nil, e.keyError(err)
	}
	m.done()
	if rebuilt.Packs > 0 {
		e.UI.Notice("no root opened; wrote a new root from %s, as generation %d", count(rebuilt.Packs, "pack"), rebuilt.Root.Generation)
		e.UI.Warn("the key slots are those of the key export of %s: keys added since then are gone, and keys removed since then open the archive again; see pinion key list",
			e.showTime(rebuilt.Slots))
	}
	return e.openToRepair(ctx, q)
}
