package cli

import (
	"fmt"
	"testing"
	"time"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/prune"
	"pinion/dom0/internal/retention"
)

// TestNewestIsAcknowledged: a session that was never acknowledged doesn't take from the
// newest acknowledged one of a volume that it stays whatever the rules say.
func TestNewestIsAcknowledged(t *testing.T) {
	volume := format.ObjectID{1}
	c := &catalog{names: map[format.ObjectID]string{volume: "a"}, ids: map[string]format.ObjectID{"a": volume}}
	for seq, state := range []format.EntryState{format.EntryWhole, format.EntryWhole, format.EntryUnacknowledged} {
		c.entries = append(c.entries, format.SessionEntry{Seq: uint64(seq) + 1, Time: int64(seq) * int64(time.Hour), State: state})
		c.sessions = append(c.sessions, &format.Session{Volumes: []format.SessionVolume{{Volume: volume}}})
	}
	units := []*unit{{name: "a", volume: volume, sessions: []int{0, 1, 2}}}
	c.judge(units, &retention.Rules{Tags: []string{"none has it"}}, time.Unix(1e6, 0), time.UTC)
	for k, keep := range []bool{false, true, true} {
		if v := units[0].verdicts[k]; v.Keep != keep {
			t.Errorf("session #%d: %+v", k+1, v)
		}
	}
}

// TestStatusOfALostSession: a prune that a lost session stops says how it goes on.
func TestStatusOfALostSession(t *testing.T) {
	status, hint := statusOf(fmt.Errorf("prune: %w", &prune.LostError{Seq: 7}))
	if want := "pinion prune --session '#7' gives it up"; status != exit.Damaged || len(hint) < len(want) || hint[len(hint)-len(want):] != want {
		t.Errorf("status %d, hint %q", status, hint)
	}
}
