// Package recreate makes qubes again from what a backup says of them: it
// decides what they are called here, in which order they are made and what
// stands in for what is missing, and then does it over the Admin API.
//
// It owns the names, the conflicts, the fallbacks, the order of settings, the
// mark of unfinished qubes and the journal of restores. The bytes of volumes
// are the caller's: it gets a place to write to and says when all is there.
//
// It promises that a qube which runs is never touched, that a volume is
// replaced as a whole or not at all, that what fails in one qube stops no
// other, and that whatever was not restored is in the result with a reason. A
// qube whose network or template of disposables isn't here has none, also where
// it had the default of its system; a new one whose firewall rules aren't known
// lets nothing through. A configuration is authentic, but the qubes that it came
// from chose much of what is in it: every name, value and line is held to what
// its call may carry before it goes anywhere, and what doesn't fit is refused by
// itself. Texts in notes, results and errors are quoted and cut: they may go to
// a terminal.
//
// The tag backup-restore-in-progress keeps qubesd from starting a qube. It is
// set before the first change of a qube and goes when the qube is whole.
//
// A journal, a small file for each qube under way, says what was begun for
// whom. Only a qube that it has is gone on with: the mark alone may be that of
// another program. Who has the journal open restores alone on this host, so
// that what an import left behind is nobody's.
//
// The order, and what a run that is killed leaves behind each step:
//
//  0. The journal notes that the qube is to be made. Killed here, there is
//     no qube, and the note is forgotten.
//  1. A new qube is created. Killed here, it is empty and not marked; the
//     journal has it as one that the restore has made, and the next run goes on
//     with it, also if it is to skip what is here.
//  2. It is marked with the tag, and the journal notes that. From here on the
//     next run goes on with it for as long as it has the tag: if somebody takes
//     that away, the qube is theirs.
//  3. What other qubes need of it is set: that it is a template of disposables,
//     that it provides network. All qubes go through 1 to 3, templates first,
//     before any goes on, so that every qube that settings name is there.
//  4. Qube by qube: one that was there before is noted and marked now; killed
//     before the mark, nothing of it was changed, and the next run asks again.
//     Each volume is imported; killed within an import, the volume is what it
//     was, and the next run discards what the import left. The journal notes
//     when the end of an import begins, and when it is done. The next run
//     doesn't import again what it knows to be done of the same session. What
//     it imports again may be a second time: then the volume keeps a revision
//     more, so that what the qube held before is still among them.
//  5. Settings: properties, those that name qubes, features, tags, devices,
//     firewall, notes, revisions of volumes. Each is compared with what is here
//     and changed only if it differs, so doing it again is harmless.
//  6. The mark is removed, and then the note. The next run sees a qube that is
//     there, and asks or skips it, as it is told. Qubes of which a reference was refused come to
//     this when all are done: the reference is tried again first, since two
//     networks may have to change places.
//  7. Last of all comes the feature that has qubesd start disposables of a
//     qube: they would carry the mark along. Killed before, the next run sets
//     it if it restores over the qube.
//
// It never removes a qube but one that it has made a moment ago and couldn't
// mark, never starts or stops one, never makes a volume smaller than it is
// here, and never asks: the caller looks at the plan and takes out what is not
// wanted.
package recreate
