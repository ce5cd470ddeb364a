package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pinion/e2e/qubesd"
	"pinion/protocol"
)

// property is the value of a property of a qube, as qubesd has it.
func (q *savedQubes) property(t testing.TB, qube, name string) string {
	t.Helper()
	_, _, found := strings.Cut(q.api.Must(t, "admin.vm.property.Get", name, qube, ""), " type=")
	if !found {
		t.Fatalf("%s of %s is odd", name, qube)
	}
	words := strings.SplitN(q.api.Must(t, "admin.vm.property.Get", name, qube, ""), " ", 3)
	return words[2]
}

// The second backup of what didn't change stores no settings, reads no volume, and sends next to nothing. The time of
// backup is noted with exactly the qubes of the session, and doesn't count as a change of them.
func TestQubesBackupUnchanged(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", []string{"work", "other", "third"})
	begin := time.Now().Unix()
	q.ok("backup", "work", "base", "dom0", q.dom0Files())
	for name, stamped := range map[string]bool{"work": true, "base": true, "other": false, "third": false} {
		value := q.property(t, name, "backup_timestamp")
		at, err := strconv.ParseInt(value, 10, 64)
		if (err == nil) != stamped || stamped && (at < begin || at > time.Now().Unix()) {
			t.Errorf("the time of backup of %s is %q", name, value)
		}
	}
	q.ok("backup", "other", "third")
	q.api.ForgetCalls()
	r := q.ok("--json", "backup", "work", "base", "other", "third", "dom0", q.dom0Files())
	doc := document[qubesBackupDoc](r)
	for _, x := range doc.Qubes {
		if x.NewSettings {
			t.Errorf("the settings of %s are new", x.Name)
		}
	}
	for _, v := range doc.Volumes {
		if v.NewChunks != 0 || v.Name != "dom0:files" && (v.Mode != "unchanged" || v.ReadBytes != 0) {
			t.Errorf("%+v", v)
		}
	}
	// A root, a metadata pack and an index object, each twice and each padded to 4 KiB at least.
	if sent := document[backupDoc](r).Sent; sent > 32<<10 {
		t.Errorf("%d bytes were sent for nothing new", sent)
	}
	for _, c := range q.api.Changes() {
		if c.Method != "admin.vm.property.Set" || c.Arg != "backup_timestamp" {
			t.Errorf("a backup made the call %v", c)
		}
	}
	// A setting that changes is new, and no other's.
	q.api.Must(t, "admin.vm.feature.Set", "service.x", "other", "1")
	doc = document[qubesBackupDoc](q.ok("--json", "backup", "work", "other"))
	for _, x := range doc.Qubes {
		if x.NewSettings != (x.Name == "other") {
			t.Errorf("%+v", x)
		}
	}
}

// A backup that comes to nothing leaves no time of backup behind.
func TestQubesBackupNotStamped(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", []string{"work", "half"})
	// Half of it: a volume can't be read, so the qube isn't in the session.
	gone := q.api.Committed("half", "private")
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	q.exits(3, "backup", "work", "half").says("half: ", "1 of 2")
	if at := q.property(t, "half", "backup_timestamp"); at != "" {
		t.Errorf("half has the time of backup %s", at)
	}
	was := q.property(t, "work", "backup_timestamp")
	time.Sleep(1100 * time.Millisecond) // the time is in seconds
	// The helper dies before it makes the new head.
	q.write(t, "work", "private", 0, "random:64K:99")
	if r := q.proxied(proxyPlan{Fault: "kill-helper-before", Type: protocol.TypeCommit, At: 1}).run("backup", "work"); r.code == 0 {
		t.Fatalf("%s\nwas to fail", r)
	}
	if at := q.property(t, "work", "backup_timestamp"); at != was {
		t.Errorf("a backup without a session noted the time %s", at)
	}
	// What can't be noted is no failure.
	defer q.api.Inject(qubesd.Fault{Method: "admin.vm.property.Set", Effect: qubesd.Refuse})()
	q.ok("backup", "work").says("warning: work is saved, but its time of backup could not be noted")
}

// One volume of two that fails: the qube is not in the session, and is named.
func TestQubesBackupHalfAQube(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", []string{"work"})
	path := q.api.Committed("base", "root")
	q.ok("backup", "base")
	// Once before it is looked for, once between that and the snapshot.
	for _, found := range []bool{false, true} {
		q.api.ForgetCalls()
		at := map[bool]string{true: "work", false: "base"}[found]
		remove := q.api.Inject(qubesd.Fault{Method: "admin.vm.volume.List", Dest: at, Effect: qubesd.Late, Delay: 200 * time.Millisecond})
		r := q.start("--json", "backup", "base", "work")
		q.awaitCall(t, "admin.vm.volume.List", at, "")
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		res := q.wait(r).expect(3)
		remove()
		res.says(map[bool]string{true: "base:root: ", false: "base: volume root: "}[found])
		if in := q.accounted(t, document[qubesBackupDoc](res), "base", "work"); !slices.Equal(in, []string{"work"}) {
			t.Errorf("in the session are %q: %s", in, res)
		}
		q.inSession(t, "work")
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
	if got := document[qubesListDoc](q.ok("--json", "list", "base")); len(got.Qubes) != 1 || got.Qubes[0].Session != 1 {
		t.Errorf("%+v", got.Qubes)
	}
	q.ok("backup", "base", "work")
	q.inSession(t, "base", "work")
}

// What no other qube's backup, and nobody who has the store, may see.
func TestQubesBackupPrivacy(t *testing.T) {
	t.Parallel()
	const secret = "zwiebelkuchen"
	q := newSmallQubes(t, "plain", []string{"work", secret + "-vm"})
	q.api.Must(t, "admin.label.Create", secret+"-label", "dom0", "0x123456")
	for _, name := range []string{"work", secret + "-vm"} {
		q.api.Must(t, "admin.vm.property.Set", "label", name, secret+"-label")
		q.api.Must(t, "admin.vm.feature.Set", "vm-config.x", name, secret+"-feature "+strings.Repeat("pad ", 300))
		q.api.Must(t, "admin.vm.tag.Set", secret+"-tag", name, "")
		q.api.Must(t, "admin.vm.notes.Set", "", name, secret+" notes\n"+strings.Repeat(secret, 100))
		q.api.Must(t, "admin.vm.firewall.Set", "", name, "action=accept dsthost="+secret+".example\naction=drop\n")
	}
	q.ok("backup", "work")
	q.inSession(t, "work")
	list := q.ok("--json", "list")
	if strings.Contains(list.stdout, secret+"-vm") {
		t.Errorf("%s\nshows another qube", list)
	}
	if !strings.Contains(list.stdout, secret+"-label") {
		t.Errorf("%s\nwas to show the label", list)
	}
	q.ok("backup")
	one := readPacks(t, q.store)
	for path, b := range one {
		for _, word := range []string{secret, "work", "private", "pad pad"} {
			if bytes.Contains(b, []byte(word)) || strings.Contains(path, secret) {
				t.Errorf("the store has %q in clear, in %s", word, path)
			}
		}
	}
}

// readPacks reads all files of a store, by name.
func readPacks(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all[path] = readFile(t, path)
		}
		return err
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("%d files, %v", len(all), err)
	}
	return all
}

// Values that try the terminal, the format and the bounds: nothing of them gets to a terminal as it is, and the archive
// reads back.
func TestQubesBackupHostileSettings(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", []string{"work", "other"})
	nasty := "a\x1b[2J\x1b]0;title\x07\r\nb\x9b31m\u202eevil\x00"
	path := filepath.Join(q.api.Dir(), "qubes.xml")
	escape := strings.NewReplacer("\x1b", "&#x9b;", "\x07", "", "\x00", "", "\x9b", "&#x9b;", "\r", "&#13;", "\n", "&#10;").Replace
	good := string(readFile(t, path))
	at := strings.Index(good, `<property name="name">work<`)
	put := func(text string) { writeFile(t, path, []byte(good[:at]+text+good[at:])) }
	big := strings.Repeat("M", 1<<20)
	notes := filepath.Join(q.api.Dir(), "appvms/work/notes.txt")
	writeFile(t, notes, []byte(strings.ReplaceAll(nasty, "\x9b", "")))
	for name, text := range map[string]string{
		"a value":       `<property name="default_user">` + escape(nasty) + `</property>`,
		"a name":        `<property name="` + escape(nasty) + `">1</property>`,
		"1 MiB":         `<property name="default_user">` + big + `</property>`,
		"1 MiB of name": `<property name="` + big + `">1</property>`,
		"5000 pairs": func() string {
			var b strings.Builder
			for i := range 5000 {
				fmt.Fprintf(&b, `<property name="p%d">%d</property>`, i, i)
			}
			return b.String()
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			put(text)
			r := q.ok("backup", "work", "other")
			r.plainText().says("warning: work: ")
			if len(r.stderr) > 64<<10 {
				t.Errorf("%d bytes were said", len(r.stderr))
			}
			q.ok("list", "work").plainText()
		})
	}
	q.ok("list").plainText()
	q.ok("verify", "--all-sessions").plainText()
	q.ok("check", "--read-data")
}
