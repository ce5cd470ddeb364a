package archive_test

import (
	"errors"
	"os"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/protocol"
)

// TestRestoreRootNeedsToWrite: where writing needs what this program doesn't know, as
// this host's copy of the root says, or a root of the store that it would take the place
// of, no root is put back.
func TestRestoreRootNeedsToWrite(t *testing.T) {
	needs := func(r *format.Root) {
		r.Needed = []format.NeededTag{{Structure: format.StructVolumeRecord, Tag: 0x8001}}
	}
	for what, inCopy := range map[string]bool{"this host's copy": true, "the store's root": false} {
		t.Run(what, func(t *testing.T) {
			p := archivetest.New(t).Init(t)
			p.Commit(t)
			if inCopy {
				forgeNext(t, p, needs)
				p.Open(t, protocol.LockRead).Close()
				removeRoots(t, p)
			} else {
				forge(t, p, func(r *format.Root) { needs(r); r.Predecessors, r.Generation = nil, 9 })
			}
			before := len(p.Objects(t, protocol.PrefixRoots))
			o := p.Options(protocol.LockExclusive)
			o.AllowRollback = true
			if r, err := archive.RestoreRoot(ctx, p.Dest, o); !errors.Is(err, format.ErrNewer) {
				t.Errorf("%+v, %v", r, err)
			}
			if n := len(p.Objects(t, protocol.PrefixRoots)); n != before {
				t.Errorf("roots/ has %d, and had %d", n, before)
			}
		})
	}
}

// TestNameThatIsNoFile: something that isn't a file and has the name of the next head
// uses that number up, and no more.
func TestNameThatIsNoFile(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	if err := os.Mkdir(p.Path(protocol.HeadName(3)), 0o700); err != nil {
		t.Fatal(err)
	}
	p.Commit(t)
	a := opens(t, p, 2, nil)
	if g := a.Root().Generation; g != 4 {
		t.Errorf("generation %d", g)
	}
}

// TestSeenNumbersAreNeverGiven: however many numbers a rollback took away, the next
// session's is above them.
func TestSeenNumbersAreNeverGiven(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	a := p.Open(t, protocol.LockAppend)
	r := a.Root()
	const seen = 70_000
	err := p.State.Update(r.Archive, func(m *state.Memory) {
		b := m.Branches[r.Branch.String()]
		b.NextSeq = seen
		m.Branches[r.Branch.String()] = b
	})
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if seq := p.Commit(t); seq != seen {
		t.Errorf("the next session is #%d", seq)
	}
}
