package archive_test

import (
	"errors"
	"testing"

	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/protocol"
	"pinion/protocol/wire"
)

// TestNeededToWrite: an archive in which a newer program uses something that has to
// be known to write is read, and neither written to nor pruned.
func TestNeededToWrite(t *testing.T) {
	p := archivetest.New(t).Init(t)
	p.Commit(t)
	forgeNext(t, p, func(r *format.Root) {
		r.Needed = []format.NeededTag{{Structure: format.StructVolumeRecord, Tag: 0x8001}}
	})
	a := opens(t, p, 1, nil)
	defer a.Close()
	if _, err := archivetest.Commit(a, nil); !errors.Is(err, format.ErrNewer) {
		t.Errorf("it was written to: %v", err)
	}
}

// TestRootExtensions: what a newer program says in a root and may be kept is kept by
// one that doesn't know it, and what may not outlive a change goes.
func TestRootExtensions(t *testing.T) {
	p := archivetest.New(t).Init(t)
	keep, drop := wire.Extension{Tag: 0x0001, Data: []byte("keep")}, wire.Extension{Tag: 0x4001, Data: []byte("drop")}
	forgeNext(t, p, func(r *format.Root) { r.Ext = format.Extensions{keep, drop} })
	p.Commit(t)
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	if x := a.Root().Ext; len(x) != 1 || x[0].Tag != keep.Tag || string(x[0].Data) != "keep" {
		t.Errorf("the root has the extensions %v", x)
	}
}
