package cli

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/prune"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
	"pinion/dom0/internal/target"
)

// statusOf is the one place where errors become exit statuses. An error that carries its status has the last word.
func statusOf(err error) (status exit.Status, hint string) {
	if e, ok := exit.Of(err); ok {
		return e.Status, e.Hint
	}
	var damage *archive.DamageError
	var root *archive.RootError
	var older *archive.OlderError
	var badState *state.DamagedError
	var lost *prune.LostError
	switch {
	case errors.As(err, &lost):
		return exit.Damaged, fmt.Sprintf("pinion check --repair takes it back if what it needs is there again; pinion prune --session '#%d' gives it up", lost.Seq)
	case errors.Is(err, format.ErrNewer):
		return exit.Failed, "it needs a newer pinion"
	case errors.Is(err, archive.ErrDoubt):
		return exit.Damaged, "pinion check --repair reads everything and finds out; then run this again"
	case errors.Is(err, archive.ErrOtherExport):
		return exit.Failed, "use the key export of the archive that is there"
	case errors.As(err, &root) && root.Export:
		return exit.Damaged, "pinion check --repair with the same --key-export writes a new root; then this works again"
	case errors.As(err, &root):
		return exit.Damaged, "pinion check --repair on a host that used this archive puts its root back; elsewhere --key-export FILE reads the archive without a root, and check --repair with it writes a new one"
	case errors.As(err, &damage):
		return exit.Damaged, "pinion check lists all damage, pinion check --repair --read-data repairs what it can"
	case errors.Is(err, archive.ErrUnmounted):
		return exit.NoArchive, "if it was removed on purpose, pinion init --allow-rollback makes a new one"
	case errors.Is(err, archive.ErrNoArchive) && errors.Is(err, archive.ErrNotEmpty):
		return exit.NoArchive, "if a first copy was interrupted, run the same pinion copy again; with a key export, --key-export FILE reads what is there; see \"the root is missing\" in docs/operation.md"
	case errors.Is(err, archive.ErrNoArchive):
		return exit.NoArchive, "if one was there, is the disk mounted? to create one: pinion init"
	case errors.Is(err, archive.ErrSlow):
		return exit.WrongKey, "if it may be the right one, --slow-key tries it"
	case errors.Is(err, archive.ErrNoMemory):
		return exit.Failed, "stop other programs, or use a key file or a recovery key, which need no memory"
	case errors.Is(err, archive.ErrWrongKey):
		return exit.WrongKey, ""
	case errors.Is(err, archive.ErrNoRoot):
		return exit.Failed, "pinion check --roots lists the roots of the store"
	case errors.Is(err, archive.ErrSeveral):
		return exit.Usage, "give the whole name of one; pinion check --roots shows them"
	case errors.As(err, &older):
		return exit.RolledBack, "pinion check --repair puts the newest root back that this host saw; pinion check --roots lists what is there"
	case errors.Is(err, archive.ErrRolledBack):
		return exit.RolledBack, "if you know why, for example because you put back an old copy, accept it with --allow-rollback"
	case errors.Is(err, prune.ErrUnlisted):
		return exit.Damaged, "pinion check --repair takes in what is whole of it, and lets go of the rest"
	case errors.Is(err, archive.ErrAdoptCopy):
		return exit.NeedsAdopt, "use --adopt to back up here from now on: it is an archive of its own then, and pinion copy can't bring it up to date any more"
	case errors.Is(err, archive.ErrAdopt):
		return exit.NeedsAdopt, "use --adopt to back up here from now on"
	case errors.Is(err, archive.ErrNotEmpty):
		return exit.Failed, "choose another place; pinion list shows what an archive there holds"
	case errors.Is(err, context.Canceled):
		return exit.Interrupted, ""
	}
	return statusOfStore(err, badState)
}

// statusOfStore continues with what a store, a target or the state directory can fail with.
func statusOfStore(err error, badState *state.DamagedError) (status exit.Status, hint string) {
	var qube *store.QubeError
	switch {
	case errors.As(err, &qube) && qube.Hint != "":
		return exit.Failed, qube.Hint
	case errors.Is(err, store.ErrLocked):
		return exit.Locked, "--wait waits for it"
	case errors.Is(err, store.ErrConflict):
		return exit.Failed, "another command committed meanwhile; run this one again"
	case errors.Is(err, store.ErrNoSpace):
		return exit.StoreFull, "make room in the store, for example with pinion prune; the next run sends nothing twice that had arrived"
	case errors.Is(err, store.ErrReadOnly):
		return exit.Failed, "commands that only read work; to write, look at the mount, the directory's owner, and read-only in the helper's configuration"
	case errors.Is(err, store.ErrMissing):
		return exit.Failed, "create its parent directory, or mount the disk"
	case errors.Is(err, store.ErrFailed), errors.Is(err, store.ErrUnreadable):
		return exit.Failed, "look at the store's disk, then run the same command again"
	case errors.Is(err, store.ErrRefused):
		return exit.Failed, "the store keeps its newest roots, and those of the last 30 days"
	case errors.Is(err, store.ErrTimeout):
		return exit.Failed, "see whether the store's disk and machine still work, then run the same command again"
	case errors.Is(err, store.ErrProtocol), errors.Is(err, store.ErrGone):
		return exit.Failed, "nothing that was committed is lost; look at the store, then run the same command again"
	case errors.Is(err, store.ErrVersion):
		return exit.Failed, "install the same version of pinion and pinion-store"
	case errors.Is(err, target.ErrTooSmall):
		return exit.Failed, "choose a device at least as large as the volume"
	case errors.As(err, &badState):
		return exit.Failed, "if you remove that file, pinion forgets what it has seen of the archive and can't tell an older one"
	case errors.Is(err, backup.ErrNothing):
		return exit.Failed, ""
	}
	return exit.Failed, ""
}
