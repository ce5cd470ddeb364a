package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// dryQubesDoc is what a dry run says.
type dryQubesDoc struct {
	Qubes   []struct{ Name string }
	Volumes []struct {
		Name, Mode string
		ReadBytes  int64 `json:"read_bytes"`
	}
	ReadBytes int64 `json:"read_bytes"`
	AtMost    int64 `json:"send_bytes_at_most"`
}

// A dry run is exact on what would be read, sends nothing, and changes nothing, neither in the store nor over the Admin
// API; what the run then does is what was said.
func TestQubesBackupDryRun(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"plain", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			q := newSmallQubes(t, kind, []string{"work", "other"})
			q.add(t, "RemoteVM", "away", "", "")
			for round := range 3 {
				if round > 0 {
					q.starts(t, "work")
					q.writes(t, "work", "private", 1<<20, "random:300K:7")
					if round == 1 {
						q.stops(t, "work")
					}
				}
				args := []string{"--json", "backup", "--all", q.dom0Files()}
				if round == 2 && kind == "xfs" {
					args = append(args, "--live")
				}
				before := digest(t, q.store)
				q.api.ForgetCalls()
				dry := document[dryQubesDoc](q.ok(append(slices.Clone(args), "--dry-run")...))
				if changes := q.api.Changes(); len(changes) != 0 || digest(t, q.store) != before {
					t.Errorf("a dry run changed something: %v", changes)
				}
				r := q.ok(args...)
				doc, sum := document[qubesBackupDoc](r), int64(0)
				for i, v := range doc.Volumes {
					sum += v.ReadBytes
					if d := dry.Volumes[i]; d.Name != v.Name || d.Mode != v.Mode || d.ReadBytes != v.ReadBytes {
						t.Errorf("round %d: %+v was to be %+v", round, v, d)
					}
				}
				sent := document[backupDoc](r).Sent
				if sum != dry.ReadBytes || sent > dry.AtMost || len(doc.Qubes) != len(dry.Qubes) || len(doc.Volumes) != len(dry.Volumes) {
					t.Errorf("round %d: %d bytes were read and %d sent: %+v", round, sum, sent, dry)
				}
			}
		})
	}
}

// What people read fits their terminal, what programs read parses, and who wants quiet gets it.
func TestQubesBackupOutput(t *testing.T) {
	t.Parallel()
	const long = "a-name-of-16-chr"
	q := newSmallQubes(t, "xfs", []string{long, "work"})
	q.add(t, "StandaloneVM", "solo", "", "")
	q.api.Must(t, "admin.label.Create", "midnight", "dom0", "0x000033")
	q.api.Must(t, "admin.vm.property.Set", "label", long, "midnight")
	q.starts(t, "work")
	runs := []*result{
		q.ok("backup", q.dom0Files()), q.ok("backup", "--live", "work", long), q.ok("backup", "--dry-run", long, "solo"),
		q.ok("list"), q.ok("list", long), q.ok("list", "--session", "latest"), q.ok("verify"), q.ok("check"),
	}
	if err := q.api.LosePower(); err != nil {
		t.Fatal(err)
	}
	q.api.Must(t, "admin.vm.volume.Set.revisions_to_keep", "private", long, "-1")
	q.starts(t, long)
	runs = append(runs, q.exits(3, "backup", long, "solo"), q.exits(3, "backup", "solo", "no-such-qube-at"))
	for _, r := range runs {
		r.plainText()
		for _, line := range append(lines(r.stdout), lines(r.stderr)...) {
			// What went wrong is said in full, and a crash is explained.
			explains := strings.HasPrefix(line, "pinion: error: ") || strings.Contains(line, "did not shut down cleanly")
			if n := utf8.RuneCountInString(line); n > 80 && !explains {
				t.Errorf("%s: a line has %d columns: %s", strings.Join(r.args, " "), n, line)
			}
		}
	}
	for _, args := range [][]string{{"backup", "work", "solo"}, {"backup", "--live", long}, {"backup", "dom0", q.dom0Files()}} {
		if r := q.ok(append([]string{"--quiet"}, args...)...); r.stdout+r.stderr != "" {
			t.Errorf("%s\nwas to be quiet", r)
		}
	}
	if r := q.exits(3, "--quiet", "backup", long, "solo"); r.stdout != "" || len(lines(r.stderr)) != 1 {
		t.Errorf("%s\nwas to name what failed, and no more", r)
	}
	for _, r := range []*result{
		q.ok("--json", "backup", "work"), q.exits(3, "--json", "backup", "work", "gone"), q.exits(1, "--json", "backup", "gone"),
		q.exits(2, "--json", "backup", "--all", "gone"), q.ok("--json", "list"), q.exits(3, "--json", "backup", long, "solo"),
	} {
		if !json.Valid([]byte(r.stdout)) {
			t.Errorf("%s\nprinted no document", r)
		}
		for _, line := range lines(r.stderr) {
			var m struct{ Type, Message, Label string }
			if err := json.Unmarshal([]byte(line), &m); err != nil || m.Type == "" || m.Message+m.Label == "" {
				t.Errorf("%s\nwrote the line %q", r, line)
			}
		}
		doc := document[struct {
			Error   *errorDoc
			Session any
		}](r)
		if (doc.Error != nil) != (r.code != 0) || doc.Error != nil && doc.Error.Code != r.code {
			t.Errorf("%s\nhas the error %+v", r, doc.Error)
		}
	}
	q.ok("--json", "backup", "work").says(`"type":"notice"`, "work:private: the qube did not shut down cleanly")
}
