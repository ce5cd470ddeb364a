package cli

import (
	"context"
	"errors"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
	"pinion/dom0/internal/target"
	"pinion/protocol"
)

// statusOf is the one place where errors become exit statuses. An error that carries its status has the last word.
func statusOf(err error) (status exit.Status, hint string) {
	if e, ok := exit.Of(err); ok {
		return e.Status, e.Hint
	}
	var damage *archive.DamageError
	var badState *state.DamagedError
	switch {
	case errors.Is(err, format.ErrNewer):
		return exit.Failed, "it needs a newer pinion"
	case errors.Is(err, archive.ErrManySlots):
		return exit.Damaged, "from a host that knows the archive, pinion check --repair removes what doesn't belong there; pinion key import opens it with a slot that was exported"
	case errors.Is(err, archive.ErrDoubt):
		return exit.Damaged, "pinion check --repair reads everything and finds out; then run this again"
	case errors.As(err, &damage) && damage.Object == "keys":
		return exit.Damaged, "pinion check --repair on a host that used this archive, or pinion key import FILE, puts a key slot back"
	case errors.As(err, &damage) && damage.Object == protocol.RootName:
		return exit.Damaged, "pinion check --repair on a host that used this archive puts its root back; pinion check --roots shows what is there"
	case errors.As(err, &damage):
		return exit.Damaged, "pinion check lists all damage, pinion check --repair --read-data mends what can be mended"
	case errors.Is(err, archive.ErrUnmounted):
		return exit.NoArchive, "if it was removed on purpose, pinion init --allow-rollback makes a new one"
	case errors.Is(err, archive.ErrNoArchive) && errors.Is(err, archive.ErrNotEmpty):
		return exit.NoArchive, "a copy that isn't complete is gone on with by the same pinion copy; its root may be lost, too: pinion check --roots lists the older ones; see \"the root is missing\" in docs/operation.md"
	case errors.Is(err, archive.ErrNoArchive):
		return exit.NoArchive, "if one was there, is the disk mounted? to create one: pinion init"
	case errors.Is(err, archive.ErrWrongKey):
		return exit.WrongKey, ""
	case errors.Is(err, archive.ErrRolledBack):
		return exit.RolledBack, "if you know why, for example because you put back an old copy, accept it with --allow-rollback"
	case errors.Is(err, archive.ErrAdopt):
		return exit.NeedsAdopt, "--adopt makes this place the one that is written to from now on"
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
		return exit.Locked, "another command is using the archive; --wait waits for it"
	case errors.Is(err, store.ErrNoSpace):
		return exit.StoreFull, "make room in the store, for example with pinion prune; the next run sends nothing twice that had arrived"
	case errors.Is(err, store.ErrReadOnly):
		return exit.Failed, "commands that only read work; to write, look at the mount, the directory's owner, and read-only in the helper's configuration"
	case errors.Is(err, store.ErrNotFound):
		return exit.Failed, "make the directory that it is to be in, or mount its disk"
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
