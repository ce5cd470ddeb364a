package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A qube is pruned, renamed and deleted as one thing: its settings and its
// volumes; what goes of one qube leaves the others' sessions as they were.
func TestQubesPruneRenameDelete(t *testing.T) {
	t.Parallel()
	q := newQubesWorld(t, "plain", "4.3")
	q.ok("init")
	for i := range 4 {
		q.write(t, "work", "private", int64(i)*70_000, fmt.Sprintf("random:300K:%d", i+1))
		q.ok("backup", "work", "vault", "dom0")
	}
	settings, data := q.of(t, "work"), q.volume(t, "work", "private")
	d := document[pruneDoc](q.ok("prune", "--keep-last", "2", "work", "--json"))
	if len(d.goes()) != 0 || len(d.Sessions[0].Volumes) != 1 || d.Sessions[0].Volumes[0].Name != "work" || d.Sessions[0].Volumes[0].Keep {
		t.Errorf("%+v", d.Sessions[0])
	}
	r := q.ok("list", "--json")
	for _, s := range document[listDoc](r).Sessions {
		has := slices.ContainsFunc(s.Volumes, func(v struct {
			Name         string
			Size, Stored int64
		}) bool {
			return v.Name == "work:private"
		})
		if has != (s.Seq > 2) {
			t.Errorf("session #%d: work is there: %v", s.Seq, has)
		}
	}
	q.exits(1, "restore", "work", "--session", "#1").says("work")
	q.ok("verify", "--all-sessions")

	// Renamed in the archive, it comes back under that name.
	q.exits(1, "rename", "work", "vault").says("has vault already")
	q.exits(1, "rename", "dom0", "x").says("dom0 keeps its name")
	q.exits(1, "rename", "work:private", "x").says("goes with it", "pinion rename work")
	q.ok("rename", "work", "job").prints("work is called job now", "work:private is called job:private now")
	q.ok("restore", "job")
	sameBytes(t, "job", q.volume(t, "job", "private"), data)
	if got := q.of(t, "job"); len(got) != len(settings) {
		t.Errorf("job has\n%s\nwork had\n%s", strings.Join(got, "\n"), strings.Join(settings, "\n"))
	}
	q.remove(t, "job")

	q.ok("delete", "job", "--yes")
	q.exits(1, "restore", "job").says("not found")
	q.exits(1, "restore", "work").says("not found")
	q.ok("restore", "vault", "--as", "vault-2")
	q.ok("verify", "--all-sessions")
	q.ok("check", "--read-data")
	// It begins anew.
	q.ok("backup", "work")
	q.ok("check")
}
