package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinion/protocol"
)

// wouldSave are the qubes that a backup would have in its session.
func (q *savedQubes) wouldSave(code int, args ...string) []string {
	q.t.Helper()
	doc := document[qubesBackupDoc](q.exits(code, append([]string{"--json", "backup", "--dry-run", q.dom0Files()}, args...)...))
	names := []string{}
	for _, x := range doc.Qubes {
		names = append(names, x.Name)
	}
	return names
}

// Which qubes are saved: those that are to be in backups, all, some, or the named ones; never by itself a disposable that
// goes when it stops, nor the qube with the archive.
func TestQubesBackupChoice(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", []string{"dvm", "storage", "work"})
	q.api.Must(t, "admin.vm.property.Set", "template_for_dispvms", "dvm", "True")
	q.add(t, "DispVM", "disp12", "dvm", "", "auto_cleanup=True")
	q.add(t, "DispVM", "sys-usb", "dvm", "")
	q.add(t, "RemoteVM", "away", "", "")
	q.add(t, "AppVM", "games", "base", "", "include_in_backups=False")
	for _, x := range []struct {
		args []string
		want string
	}{
		{nil, "dom0 away base dvm storage sys-usb work"},
		{[]string{"--exclude", "base", "--exclude", "dom0", "--exclude", "base"}, "away dvm storage sys-usb work"},
		{[]string{"--all"}, "dom0 away base dvm games storage sys-usb work"},
		{[]string{"--all", "--exclude=games", "--exclude=away"}, "dom0 base dvm storage sys-usb work"},
		{[]string{"work", "games"}, "work games"},
		{[]string{"disp12", "sys-usb", "away"}, "disp12 sys-usb away"},
		{[]string{"dom0"}, "dom0"},
	} {
		if got := strings.Join(q.wouldSave(0, x.args...), " "); got != x.want {
			t.Errorf("%q: %s, want %s", x.args, got, x.want)
		}
	}
	if got := q.wouldSave(3, "work", "worc"); !slices.Equal(got, []string{"work"}) {
		t.Errorf("beside a slip: %q", got)
	}
	if changes := q.api.Changes(); len(changes) > 0 {
		t.Errorf("a dry run changed something: %v", changes)
	}
	for _, x := range []struct {
		code int
		args []string
		says string
	}{
		{1, []string{"--all", "--exclude", "worc"}, "--exclude: there is no qube worc"},
		{2, []string{"--exclude", "no name"}, "--exclude"},
		{2, []string{"work", "--exclude", "base"}, "--exclude is of use with"},
		{2, []string{"work", "--all"}, "exclude each other"},
		{2, []string{"work", "work"}, "named twice"},
		{1, []string{"worc"}, "there is no such qube"},
	} {
		q.exits(x.code, append([]string{"backup"}, x.args...)...).says(x.says)
	}

	// Settings only: of a disposable and of a qube that is elsewhere.
	q.ok("backup", "sys-usb", "away").prints("sys-usb  -     settings", "away     -     settings")
	if qubes, volumes := q.sessionQubes(t); !slices.Equal(qubes, []string{"away", "sys-usb"}) || len(volumes) != 0 {
		t.Errorf("the session has %q and %q", qubes, volumes)
	}
	// They make a session even where nothing else can.
	if err := os.Remove(q.api.Committed("work", "private")); err != nil {
		t.Fatal(err)
	}
	q.exits(3, "backup", "away", "work").says("1 of 2 qubes and volumes are not in the session")
	q.inSession(t, "away")
	q.ok("verify", "--all-sessions")
	q.ok("check")
}

// Names that look like something else: none is taken apart, and no two volumes of a session are of one name.
func TestQubesBackupNames(t *testing.T) {
	t.Parallel()
	names := []string{"a", "a-private-1", "a.b", "work.img", "x-root"}
	q := newSmallQubes(t, "xfs", names)
	want := q.contents(t)
	file := q.image("work.img", "random:700K:3")
	q.ok("backup", "a", "a-private-1", "a.b", "x-root", "work.img", "file:"+file)
	q.inSession(t, names...)
	for _, name := range names {
		q.holds(t, name+":private", "latest", want[name+":private"])
	}
	q.ok("list", "work.img").prints("work.img")
	q.holds(t, "work.img", "latest", readFile(t, file))
	q.ok("verify", "work.img", "a.b")

	// A file that is called like the volume of a qube, and a file that is one.
	trick := q.path("a:private")
	writeFile(t, trick, content("random:64K:8"))
	q.exits(2, "backup", "a", "file:"+trick).oneLine().says("both called a:private", "hint: leave it out, or give it another name: NAME=")
	q.exits(2, "backup", "file:"+trick, "a.b", "a").oneLine()
	q.exits(2, "backup", "a", "mine=file:"+q.api.Committed("a", "private")).oneLine().says("mine and a:private are one volume: file:")
	q.exits(2, "backup", "dom0", q.dom0Files(), "file:"+copyFile(t, trick, q.path("dom0:files"))).oneLine()
	q.holds(t, "a:private", "latest", want["a:private"])
	q.ok("backup", "a", "mine=file:"+trick)
	q.ok("check")
}

// The qube that has the archive is left out, and that is said, but not where it is named. What is written to it meanwhile
// is the backup itself.
func TestQubesBackupStorageQube(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", []string{"storage", "work"})
	s := q.throughQrexec(t)
	q.ok("init").says("starting qube storage")
	q.ok("backup", q.dom0Files()).says("storage holds the archive and is left out; name it to have it saved")
	q.inSession(t, "base", "dom0", "work")
	before := q.committed(t, "storage", "private")
	r := q.ok("backup", "storage", "work")
	r.says("storage is running: saved state of")
	q.inSession(t, "storage", "work")
	q.holds(t, "storage:private", "latest", before)
	if _, err := os.Stat(filepath.Join(s.root, "home/pinion/laptop", protocol.HeadName(1))); err != nil {
		t.Error(err)
	}
}
