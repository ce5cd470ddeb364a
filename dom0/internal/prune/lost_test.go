package prune

import (
	"errors"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// TestLostSession: a session that is marked as lost stops a prune, which says that it is
// that one, until it is given up.
func TestLostSession(t *testing.T) {
	p := archivetest.New(t).Init(t)
	for range 3 {
		session(t, p, map[string]string{"a": "ab"})
	}
	a := p.Open(t, protocol.LockExclusive)
	c := content(t, a)
	c.Entries[1] = format.SessionEntry{Seq: 2, State: format.EntryLost, Reason: format.ReasonMissing, Noted: a.Root().Generation}
	w, err := a.NewWriter(ctx, a.Root().Compression, false)
	if err != nil {
		t.Fatal(err)
	}
	next, err := (&archive.Edit{Entries: c.Entries, Table: c.Table}).Apply(ctx, a, w.PutMetadata(ctx))
	if err == nil {
		err = w.CommitEdit(ctx, next)
	}
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Phase: func(string) {}, Warn: func(string) {}}
	var lost *LostError
	if _, err := Run(ctx, a, content(t, a), whole(1), o); !errors.As(err, &lost) || lost.Seq != 2 {
		t.Errorf("it ends with %v", err)
	}
	a.Close()
	if res := prunes(t, p, whole(1, 2), Options{}); res.Removed != 2 || res.Sessions != 1 {
		t.Errorf("%+v", res)
	}
}
