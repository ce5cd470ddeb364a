package lvmthin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/durable"
	"pinion/dom0/internal/flock"
	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/thinmeta"
)

// The metadata snapshot has no owner in the kernel, and outlives the process
// that took it, and even the host's next start. So that it is given back all
// the same, and nobody else's is, the pool's directory has two files:
//
//	lock                locked as long as a metadata snapshot may be held
//	metadata-snapshot   note of what is held, or about to be; without it,
//	                    nothing is ours
//
// The note is durable before the kernel is asked, when it says that nobody
// held one at that moment, and is written once more with the place that the
// kernel gave. Whoever has the lock and finds a note is told by a dead
// process. If there is a place in it, what is held in that place is ours. If
// there is none, the process was killed in the milliseconds in between, before
// or after the kernel did it. What is held then is taken for ours if the host
// hasn't started anew and the pool has counted nothing since: otherwise
// somebody else would have to have taken theirs in the same milliseconds, or
// later, after this process was killed in the shorter first part of them.

// noteName is the file with the note.
const noteName = "metadata-snapshot"

// noteVersion is its version.
const noteVersion = 1

// A note is what a process holds, or is about to.
type note struct {
	Version int       `json:"version"`
	Pool    string    `json:"pool"` // for people
	Boot    string    `json:"boot"` // id of the host's start
	Time    time.Time `json:"time"`
	// Clock and Transaction are the pool's when it was about to ask.
	Clock       uint32 `json:"clock"`
	Transaction uint64 `json:"transaction"`
	// Block is where the kernel put it; 0 says that it wasn't asked yet.
	Block uint64 `json:"block"`
}

// A hold is a metadata snapshot that this process has taken.
type hold struct {
	p     *Pool
	g     *group
	lock  *os.File
	dev   *thinmeta.DeviceFile
	block uint64
	copy  thinmeta.Superblock // at block
	root  uint64              // block again, as the pool's superblock has it; 0 if that can't be read
}

func (p *Pool) lockPath() string { return filepath.Join(p.dir, "lock") }

// giveBackLeft gives back what a run that was killed holds, if it left its
// note. While somebody has the lock, the note is theirs, and they are at work.
func (p *Pool) giveBackLeft(ctx context.Context) (err error) {
	h := &hold{p: p}
	if _, err := os.Stat(h.notePath()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	h.lock, err = flock.Try(p.lockPath(), os.O_RDWR|os.O_CREATE, unix.LOCK_EX)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.drop()
	if h.g, err = p.look(ctx); err != nil {
		return err
	}
	if h.dev, err = h.g.open(); err != nil {
		return err
	}
	if err = h.recover(); errors.Is(err, ErrHeld) {
		return nil // not ours
	}
	return err
}

// hold takes a metadata snapshot. What a dead process holds is given back
// first; what somebody else holds gives ErrHeld.
func (p *Pool) hold(ctx context.Context) (h *hold, err error) {
	h = &hold{p: p}
	defer func() {
		if err != nil {
			h.drop()
			h = nil
		}
	}()
	if h.g, err = p.look(ctx); err != nil {
		return h, err
	}
	if h.lock, err = flock.Lock(ctx, p.lockPath()); err != nil {
		return h, err
	}
	if h.dev, err = h.g.open(); err != nil {
		return h, err
	}
	if err := h.recover(); err != nil {
		return h, err
	}
	return h, h.take()
}

// heldError is ErrHeld, with what a person can do.
func (h *hold) heldError() error {
	return fmt.Errorf("%w %s; if no program uses it, release it: dmsetup message %s 0 release_metadata_snap",
		ErrHeld, h.g.pool.FullName(), h.g.target)
}

// recover gives back what a dead process holds.
func (h *hold) recover() error {
	n, err := h.readNote()
	if err != nil {
		return err
	}
	s, err := h.g.status()
	if err != nil {
		return err
	}
	switch {
	case s.Held == 0 && n == nil:
		return nil
	case s.Held == 0:
		return h.removeNote() // given back already, or never taken
	case n == nil:
		return h.heldError()
	}
	held, err := h.superblock(s.Held)
	if err != nil {
		return fmt.Errorf("read what is held of the thin pool %s: %w", h.g.pool.FullName(), err)
	}
	if !n.covers(s.Held, held) {
		return h.heldError()
	}
	if err := lvm.Message(h.g.target, "release_metadata_snap"); err != nil {
		return fmt.Errorf("give back what a run that was killed has held of the thin pool %s: %w", h.g.pool.FullName(), err)
	}
	return h.removeNote()
}

// covers says whether what is held at block, with this superblock, is what
// the process that wrote the note has taken.
func (n *note) covers(block uint64, held thinmeta.Superblock) bool {
	if n.Clock != held.Time || n.Transaction != held.TransactionID {
		return false // it was taken at another time
	}
	if n.Block != 0 {
		return n.Block == block
	}
	return n.Boot == bootID()
}

// take asks the kernel, between two notes.
func (h *hold) take() error {
	name := h.g.pool.FullName()
	n := note{Version: noteVersion, Pool: name, Boot: bootID(), Time: time.Now().UTC()}
	live, err := h.live()
	if err != nil {
		return fmt.Errorf("read the metadata of the thin pool %s: %w", name, err)
	}
	if live.HeldRoot != 0 {
		return h.heldError()
	}
	n.Clock, n.Transaction = live.Time, live.TransactionID
	if err := h.writeNote(n); err != nil {
		return err
	}
	h.p.step("noted")
	if err := lvm.Message(h.g.target, "reserve_metadata_snap"); err != nil {
		if errors.Is(err, lvm.ErrBusy) { // somebody came in between
			return errors.Join(h.heldError(), h.removeNote())
		}
		// Whether the kernel did it, the next run finds out by the note.
		return fmt.Errorf("take a metadata snapshot of the thin pool %s: %w", name, err)
	}
	h.p.step("taken")
	s, err := h.g.status()
	if err != nil {
		return errors.Join(err, h.release())
	}
	h.block = s.Held
	if h.copy, err = h.superblock(h.block); err == nil && h.block == 0 {
		err = errors.New("the kernel says that there is none")
	}
	if err == nil {
		live, err = h.live()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("read the metadata snapshot of the thin pool %s: %w", name, err), h.release())
	}
	h.root = live.HeldRoot
	n.Block, n.Clock, n.Transaction = h.block, h.copy.Time, h.copy.TransactionID
	if err := h.writeNote(n); err != nil {
		return errors.Join(err, h.release())
	}
	h.p.step("held")
	return nil
}

// superblock reads the one at a block, past all caches. Of a format that only
// the tools know, nothing is known.
func (h *hold) superblock(block uint64) (thinmeta.Superblock, error) {
	if h.p.tools {
		return thinmeta.Superblock{}, nil
	}
	s, err := thinmeta.ReadSuperblock(h.dev, block)
	if errors.Is(err, thinmeta.ErrFormat) {
		return thinmeta.Superblock{}, nil
	}
	return s, err
}

// live reads the pool's own superblock, which may just be written to.
func (h *hold) live() (thinmeta.Superblock, error) {
	for try := 1; ; try++ {
		s, err := h.superblock(0)
		if err == nil || try == stableTries || !errors.Is(restless(err), errRestless) {
			return s, err
		}
		time.Sleep(stablePause)
	}
}

// changed reports that what is held isn't what was taken: somebody else has
// released it, and what it led to may have been overwritten while it was read.
func (h *hold) changed() (bool, error) {
	s, err := h.g.status()
	if err != nil {
		return false, err
	}
	live, err := h.live()
	if err != nil {
		return false, err
	}
	now, err := h.superblock(h.block)
	return err != nil || s.Held != h.block || live.HeldRoot != h.root || now != h.copy, nil
}

// giveBack ends the hold. An error says that it wasn't whole until now. What
// is not ours any more is left alone; if that can't be told, the note stays,
// for the next run.
func (h *hold) giveBack() error {
	defer h.drop()
	h.p.step("closing")
	changed, err := h.changed()
	if err != nil {
		return fmt.Errorf("look whether the metadata snapshot of the thin pool %s is still held: %w", h.g.pool.FullName(), err)
	}
	if changed {
		err := fmt.Errorf("somebody else has released the metadata snapshot of the thin pool %s while it was read", h.g.pool.FullName())
		return errors.Join(err, h.removeNote())
	}
	return h.release()
}

// release gives back what this process has just taken.
func (h *hold) release() error {
	if err := lvm.Message(h.g.target, "release_metadata_snap"); err != nil {
		return fmt.Errorf("give back the metadata snapshot of the thin pool %s: %w", h.g.pool.FullName(), err)
	}
	h.p.step("released")
	return h.removeNote()
}

// drop closes what is open, the lock last.
func (h *hold) drop() {
	if h.dev != nil {
		h.dev.Close()
	}
	if h.lock != nil {
		h.lock.Close()
	}
}

func (h *hold) notePath() string { return filepath.Join(h.p.dir, noteName) }

func (h *hold) writeNote(n note) error {
	text, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(h.notePath(), append(text, '\n'))
}

// readNote returns nil if there is none. One that can't be read says nothing:
// then nothing is ours. It is overwritten by the next.
func (h *hold) readNote() (*note, error) {
	text, err := os.ReadFile(h.notePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var n note
	if json.Unmarshal(text, &n) != nil || n.Version != noteVersion {
		return nil, nil
	}
	return &n, nil
}

func (h *hold) removeNote() error {
	if err := os.Remove(h.notePath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return durable.SyncDir(h.p.dir)
}

// bootID is the kernel's id of this start of the host; empty if it can't be
// told, which then is no other's.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
