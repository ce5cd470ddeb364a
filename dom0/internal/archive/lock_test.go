package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// lockedOut opens an archive that somebody holds, and returns who that is.
func lockedOut(t *testing.T, p *archivetest.Place, lock protocol.LockMode) *archive.LockedError {
	t.Helper()
	_, err := p.Try(t, lock, nil)
	var locked *archive.LockedError
	if !errors.As(err, &locked) || !errors.Is(err, store.ErrLocked) {
		t.Fatalf("a held archive gave %v", err)
	}
	return locked
}

// TestLockedSaysWho: who finds the archive locked is told by whom and since
// when, and one who needs it alone that others read.
func TestLockedSaysWho(t *testing.T) {
	t.Parallel()
	p := archivetest.New(t).Init(t)
	begin := time.Now().Add(-time.Second)
	holder := p.Open(t, protocol.LockAppend)
	e := lockedOut(t, p, protocol.LockAppend)
	if e.Note == nil || e.Readers || !e.Here || e.Note.Command != "test" || e.Note.Process != uint32(os.Getpid()) ||
		e.Since.Before(begin) || e.Since.After(time.Now()) {
		t.Errorf("the holder is %+v", e)
	}
	if s := e.Error(); !strings.HasPrefix(s, "the archive is locked by this host (pinion test, process ") || !strings.Contains(s, ") since ") {
		t.Errorf("the error is %q", s)
	}
	p.Open(t, protocol.LockRead).Close() // an append is in no reader's way
	holder.Close()
	reader := p.Open(t, protocol.LockRead)
	if e := lockedOut(t, p, protocol.LockExclusive); !e.Readers || e.Note != nil || !strings.Contains(e.Error(), "is being read") {
		t.Errorf("the holder is %+v: %v", e, e)
	}
	p.Open(t, protocol.LockAppend).Close() // and readers are in no append's
	reader.Close()
	p.Open(t, protocol.LockExclusive)
	if e := lockedOut(t, p, protocol.LockRead); e.Note == nil {
		t.Errorf("the holder is %+v", e)
	}
}

// TestLockedText: the message is one line, whatever the note says, and has the
// day where that isn't today.
func TestLockedText(t *testing.T) {
	t.Parallel()
	p := archivetest.New(t).Init(t)
	other := archivetest.New(t).Init(t)
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.FixedZone("there", 3*3600))
	note := &format.LockNote{Host: "dom0", Command: "check", Process: 123, Time: noon.Add(-90 * time.Minute).UnixNano()}
	mine, foreign := p.Open(t, protocol.LockRead), other.Open(t, protocol.LockRead)
	odd := *note
	odd.Host, odd.Time = "a\x1b[2J\n\u202e\"", noon.AddDate(0, 0, -1).UTC().UnixNano()
	sealed := mine.SealNote(note.Append(nil))
	flipped := bytes.Clone(sealed)
	flipped[100] ^= 1
	newer := bytes.Clone(sealed)
	newer[7]++
	bad := note.Append(nil)
	bad[len(bad)-1] = 1
	const unknown = "the archive is locked by another command since 12:00:0"
	for what, tt := range map[string]struct {
		note []byte
		want string
	}{
		"another host":     {sealed, `the archive is locked by host "dom0" (pinion check, process 123) since 10:30:00`},
		"an odd name":      {mine.SealNote(odd.Append(nil)), `the archive is locked by host "a\x1b[2J\n\u202e\"" (pinion check, process 123) since 2026-11-19 12:00:00`},
		"another archive":  {foreign.SealNote(note.Append(nil)), unknown},
		"a bit flipped":    {flipped, unknown},
		"a newer version":  {newer, unknown},
		"sealed rubbish":   {mine.SealNote(bad), unknown},
		"a sealed nothing": {mine.SealNote(nil), unknown},
		"no note of ours":  {[]byte("\x1b[2J"), unknown},
		"a header alone":   {sealed[:format.HeaderSize], unknown},
		"the longest":      {bytes.Repeat([]byte{0xff}, protocol.MaxNote), unknown},
		"none":             {nil, "the archive is locked by another command"},
	} {
		t.Run(what, func(t *testing.T) {
			conn, err := store.Open(ctx, p.Dest, p.Options(protocol.LockAppend).Store)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.Lock(ctx, protocol.LockAppend); err != nil {
				t.Fatal(err)
			}
			if tt.note != nil {
				if err := conn.Note(ctx, tt.note); err != nil {
					t.Fatal(err)
				}
			}
			// The clock that counts is this command's; the store says how old a note is.
			var said string
			stop, cancel := context.WithCancel(ctx)
			defer cancel()
			o := p.Options(protocol.LockAppend)
			o.Wait, o.Now = true, func() time.Time { return noon.Add(9 * time.Second) }
			o.Warn = func(text string) { said = text; cancel() }
			if _, err := archive.Open(stop, p.Dest, o); !errors.Is(err, context.Canceled) {
				t.Errorf("the open gave %v", err)
			}
			if said != "waiting: "+tt.want && !(tt.want == unknown && strings.HasPrefix(said, "waiting: "+unknown) && strings.HasSuffix(said, ", as the store says")) {
				t.Errorf("it was said %q, want %q", said, tt.want)
			}
		})
	}
}

// An opening is an Open that waits for the lock.
type opening struct {
	a   *archive.Archive
	err error
}

// waits starts to open an archive that is held, and returns when the root was
// read without a lock.
func waits(t *testing.T, p *archivetest.Place, lock protocol.LockMode, change func(*archive.Options)) <-chan opening {
	t.Helper()
	asked := make(chan struct{})
	opened := make(chan opening, 1)
	go func() {
		a, err := p.Try(t, lock, func(o *archive.Options) {
			secret := o.Secret
			o.Wait = true
			o.Secret = func(ctx context.Context) (crypt.Secret, error) {
				defer close(asked)
				return secret(ctx)
			}
			if change != nil {
				change(o)
			}
		})
		opened <- opening{a, err}
	}()
	select {
	case <-asked: // although the archive is locked
	case <-time.After(time.Minute):
		t.Fatal("no secret was asked for")
	}
	return opened
}

// TestRootThatCountsIsReadUnderTheLock: what was committed while a command
// waited is there for it, and counts as known.
func TestRootThatCountsIsReadUnderTheLock(t *testing.T) {
	t.Parallel()
	p := archivetest.New(t).Init(t)
	holder := p.Open(t, protocol.LockAppend)
	opened := waits(t, p, protocol.LockAppend, nil)
	seq, err := archivetest.Commit(holder, nil, chunk(1, 1000))
	if err != nil {
		t.Fatal(err)
	}
	holder.Close()
	w := <-opened
	if w.err != nil {
		t.Fatal(w.err)
	}
	next, err := archivetest.Commit(w.a, nil, chunk(2, 1000))
	if err != nil || next != seq+1 {
		t.Errorf("session %d after %d, %v", next, seq, err)
	}
	w.a.Close()
	opens(t, p, 2, nil)
}

// TestWhileWaiting: what the store shows under the lock is judged as if it had
// been the first that was seen.
func TestWhileWaiting(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T) (*archivetest.Place, func(change func()) opening) {
		p := archivetest.New(t).Init(t)
		p.Commit(t, chunk(1, 1000))
		holder := p.Open(t, protocol.LockAppend)
		opened := waits(t, p, protocol.LockAppend, nil)
		return p, func(change func()) opening {
			change()
			holder.Close()
			return <-opened
		}
	}
	t.Run("the root is damaged", func(t *testing.T) {
		for _, cut := range []int{0, 5, format.HeaderSize, 100} {
			p, end := begin(t)
			w := end(func() {
				removeAllBut(t, p, 2)
				p.DamageRoots(t, func(b []byte) []byte { return b[:cut] })
			})
			// What was read before is what was written: it is gone on with, and a
			// check finds that the store has lost it.
			if w.err != nil || w.a.Root().Generation != 2 {
				t.Errorf("cut to %d bytes: %v", cut, w.err)
			}
		}
	})
	t.Run("the root is gone", func(t *testing.T) {
		p, end := begin(t)
		w := end(func() { removeRoots(t, p) })
		var root *archive.RootError
		if !errors.As(w.err, &root) || !root.Missing {
			t.Errorf("error is %v", w.err)
		}
	})
	t.Run("the root is older", func(t *testing.T) {
		p, end := begin(t)
		if w := end(func() { removeAllBut(t, p, 1) }); !errors.Is(w.err, archive.ErrRolledBack) {
			t.Errorf("error is %v", w.err)
		}
	})
	t.Run("the key slot is removed", func(t *testing.T) {
		p, end := begin(t)
		slot := newSlot(t, p, crypt.Secret{KeyFile: bytes.Repeat([]byte("other"), 8)})
		w := end(func() {
			forgeNext(t, p, func(r *format.Root) { r.Slots = [][]byte{slot} })
		})
		if !errors.Is(w.err, archive.ErrRemoved) {
			t.Errorf("error is %v", w.err)
		}
	})
	t.Run("another archive's root", func(t *testing.T) {
		p, end := begin(t)
		other := archivetest.New(t).Init(t)
		w := end(func() { setRoot(t, p, readRoot(t, other)) })
		if !archive.IsDamage(w.err) && !errors.Is(w.err, archive.ErrRolledBack) {
			t.Errorf("error is %v", w.err)
		}
	})
	t.Run("a key slot is added", func(t *testing.T) {
		p, end := begin(t)
		slot := newSlot(t, p, crypt.Secret{KeyFile: bytes.Repeat([]byte("added"), 8)})
		w := end(func() {
			forgeNext(t, p, func(r *format.Root) {
				r.Slots, r.SlotInfo = append(r.Slots, slot), append(r.SlotInfo, format.SlotInfo{})
			})
		})
		if w.err != nil {
			t.Fatal(w.err)
		}
		if n := len(w.a.Root().Slots); n != 2 {
			t.Errorf("the archive has %d keys", n)
		}
	})
}

// newSlot makes another slot for the archive's master key.
func newSlot(t *testing.T, p *archivetest.Place, s crypt.Secret) []byte {
	t.Helper()
	_, clearPart, _, err := format.SplitRoot(readRoot(t, p))
	if err != nil {
		t.Fatal(err)
	}
	c, err := format.ParseClear(clearPart)
	if err != nil {
		t.Fatal(err)
	}
	slot, err := format.ParseKeySlot(c.Slots[0])
	if err != nil {
		t.Fatal(err)
	}
	master, err := crypt.UnlockMaster(crypt.Secret{KeyFile: p.Key}, slot, c.Archive)
	if err != nil {
		t.Fatal(err)
	}
	cost := crypt.Cost{Memory: format.MinArgonMemory, Passes: 1, Lanes: 1}
	added, err := crypt.LockMaster(s, cost, master, c.Archive)
	if err != nil {
		t.Fatal(err)
	}
	return added.Append(nil)
}

// forgeNext is forge for a root that follows the newest.
func forgeNext(t *testing.T, p *archivetest.Place, change func(*format.Root)) {
	t.Helper()
	before := readRoot(t, p)
	forge(t, p, func(r *format.Root) {
		r.Predecessors = append([]format.RootHash{format.RootHash(firstHalf(before))}, r.Predecessors...)
		r.Generation++
		change(r)
		for len(r.SlotInfo) < len(r.Slots) {
			r.SlotInfo = append(r.SlotInfo, format.SlotInfo{})
		}
		r.SlotInfo = r.SlotInfo[:len(r.Slots)]
	})
}

// removeAllBut takes all roots out of the store but those of one generation.
func removeAllBut(t *testing.T, p *archivetest.Place, generation uint64) {
	t.Helper()
	for _, prefix := range []string{protocol.PrefixHead, protocol.PrefixRoots} {
		for _, name := range p.Objects(t, prefix) {
			n, _ := protocol.ParseHead(name)
			if m, _, ok := protocol.ParseRootName(name); ok {
				n = m
			}
			if n != generation {
				if err := os.Remove(p.Path(name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// firstHalf is what a root says of a predecessor.
func firstHalf(sealed []byte) (h [16]byte) {
	sum := sha256.Sum256(sealed)
	copy(h[:], sum[:])
	return h
}

// TestReadOnlyIsSaidFirst: nobody types a passphrase to write where nothing can
// be written.
func TestReadOnlyIsSaidFirst(t *testing.T) {
	p := archivetest.New(t).Init(t)
	asked := false
	for _, lock := range []protocol.LockMode{protocol.LockAppend, protocol.LockExclusive} {
		_, err := p.Try(t, lock, func(o *archive.Options) {
			o.Store.Command = []string{o.Store.Helper, "serve", "--read-only", p.Dir}
			o.Secret = func(context.Context) (crypt.Secret, error) { asked = true; return crypt.Secret{}, nil }
		})
		if !errors.Is(err, store.ErrReadOnly) || asked {
			t.Errorf("%s: %v, asked: %v", lock, err, asked)
		}
	}
}
