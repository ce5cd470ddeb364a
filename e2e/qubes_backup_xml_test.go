package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"pinion/e2e/qubesd"
)

// A qubes.xml that can't be read ends the backup with an error that names it, whatever is wrong with it; what isn't about
// qubes is saved.
func TestQubesBackupBadXML(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", []string{"work"})
	path := filepath.Join(q.api.Dir(), "qubes.xml")
	good := readFile(t, path)
	file := q.image("v", "random:64K:5")
	wide := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(string(good))) {
		wide = append(wide, byte(u), byte(u>>8))
	}
	change := func(old, by string) []byte {
		b := bytes.Replace(good, []byte(old), []byte(by), 1)
		if bytes.Equal(b, good) {
			t.Fatalf("there is no %q", old)
		}
		return b
	}
	for name, text := range map[string][]byte{
		"nothing":      {},
		"cut":          good[:len(good)/2],
		"cut at a tag": good[:bytes.Index(good, []byte("</domains>"))],
		"UTF-16":       wide,
		"Latin-1":      change("<qubes>", "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?><qubes>"),
		"entities":     change("<qubes>", `<!DOCTYPE q [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><qubes>`),
		"a file":       change("<qubes>", `<!DOCTYPE q [<!ENTITY x SYSTEM "file:///etc/passwd">]><qubes>`),
		"deep":         change("<domains>", strings.Repeat("<x>", 1<<20)),
		"two of work":  change(">base<", ">work<"),
		"zeros":        make([]byte, 1<<20),
		"not ours":     []byte("<html/>"),
	} {
		t.Run(name, func(t *testing.T) {
			writeFile(t, path, text)
			r := q.exits(1, "backup", "work")
			r.oneLine().plainText().says("qubes.xml can't be used: ")
			if len(r.stderr) > 500 {
				t.Errorf("%s\nis long", r)
			}
			if mb := r.maxRSS >> 20; mb > 700 { // of a program under the race detector
				t.Errorf("it took %d MiB", mb)
			}
		})
	}
	t.Run("100 MB", func(t *testing.T) {
		if err := os.Truncate(path, 100<<20); err != nil {
			t.Fatal(err)
		}
		q.exits(1, "backup", "work").oneLine().says("it has 100 MiB, at most 64 MiB are read")
	})
	t.Run("gone", func(t *testing.T) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		q.exits(1, "backup", "work").oneLine().says("no such file")
		q.exits(3, "backup", "work", "file:"+file).says("work: ", "1 of 2 qubes and volumes are not in the session")
		q.exits(3, "backup", "--all", "file:"+file).says("--all: can't read ")
		if qubes, volumes := q.sessionQubes(t); len(qubes) != 0 || !slices.Equal(volumes, []string{"v"}) {
			t.Errorf("the session has %q and %q", qubes, volumes)
		}
	})
	writeFile(t, path, good)
	q.ok("backup", "work")
}

// A file with things of a later release, or that qubesd doesn't agree with: named, kept as it promises, and no trouble to
// other qubes. What isn't known to be worth saving is never left out in silence.
func TestQubesBackupOddXML(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "plain", []string{"work", "other"})
	path := filepath.Join(q.api.Dir(), "qubes.xml")
	good := string(readFile(t, path))
	at := strings.Index(good, `<property name="name">work<`)
	begin, end := strings.LastIndex(good[:at], "<domain "), at+strings.Index(good[at:], "</domain>")
	work := good[begin:end]
	for name, x := range map[string]struct {
		old, by string
		code    int
		says    []string
	}{
		"an unknown element":   {"<tags", `<aura color="red"/><tags`, 0, []string{"qubes.xml: element <aura> in <domain> is unknown"}},
		"an unknown attribute": {`rw="True"`, `rw="True" glow="2"`, 0, []string{"attribute glow of <volume> is unknown"}},
		"another label":        {`"label">red<`, `"label">blue<`, 0, []string{"work: label: qubes.xml has", "which is kept"}},
		"another class":        {`class="AppVM"`, `class="NovelVM"`, 0, []string{"work: class: qubes.xml has"}},
		"a hostile class":      {`class="AppVM"`, "class=\"App&#xA;&#x9b;VM\"", 3, []string{"work: a qube can't be of the class"}},
		"a property":           {`<property name="name">`, `<property name="we&#x9b;ird">1` + "\n" + `2</property><property name="name">`, 0, []string{"work: "}},
		"a tag too many":       {"<tags>", `<tags><tag name="` + strings.Repeat("x", 70000) + `"/>`, 0, []string{"work: tag", "is not kept"}},
		"nothing is saved":     {`save_on_stop="True"`, `save_on_stop="False"`, 3, []string{"work: qubes.xml and qubesd don't agree on whether its volume private outlasts a shutdown"}},
		"who knows":            {`save_on_stop="True"`, `save_on_stop="perhaps"`, 3, []string{"has save_on_stop=perhaps", "don't agree"}},
		"root too":             {`save_on_stop="False" snap_on_start="True"`, `save_on_stop="True" snap_on_start="True"`, 3, []string{"don't agree on whether its volume root"}},
		"another volume":       {`<volume name="private"`, `<volume name="extra"`, 3, []string{"qubes.xml has a volume extra to save, and qubesd has none"}},
		"no volumes":           {"<volume-config>", "</domain><domain><volume-config>", 3, []string{"work: qubes.xml and qubesd don't agree"}},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(work, x.old) {
				t.Fatalf("there is no %q in %s", x.old, work)
			}
			writeFile(t, path, []byte(good[:begin]+strings.Replace(work, x.old, x.by, 1)+good[end:]))
			r := q.exits(x.code, "--json", "backup", "work", "other")
			r.plainText()
			for _, said := range x.says {
				if !strings.Contains(strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\"`, `"`).Replace(r.stderr), said) {
					t.Errorf("%s\nwas to say %q", r, said)
				}
			}
			in := q.accounted(t, document[qubesBackupDoc](r), "work", "other")
			if !slices.Contains(in, "other") || slices.Contains(in, "work") != (x.code == 0) {
				t.Errorf("in the session are %v", in)
			}
		})
	}
	// A list that is cut where a line ends looks like a whole one.
	writeFile(t, path, []byte(good))
	list := q.api.Must(t, "admin.vm.List", "", "dom0", "")
	remove := q.api.Inject(qubesd.Fault{Method: "admin.vm.List", Effect: qubesd.Cut, N: 2 + strings.Index(list, "work ")})
	q.ok("backup", q.dom0Files()).says(`warning: dom0: qubes.xml has a qube "work" that qubesd doesn't list`)
	remove()
	q.ok("verify", "--all-sessions")
}

// Two qubes that are said to have one volume: it is saved as that of one of them, and the other is named.
func TestQubesBackupSharedVolume(t *testing.T) {
	t.Parallel()
	q := newSmallQubes(t, "xfs", []string{"work", "twin"})
	q.ok("backup", "work")
	want := q.committed(t, "work", "private")
	q.api.Close()
	path := filepath.Join(q.api.Dir(), "qubes.xml")
	text := bytes.Replace(readFile(t, path), []byte(`vid="appvms/twin/private"`), []byte(`vid="appvms/work/private"`), 1)
	writeFile(t, path, text)
	q.env = q.env[:0]
	q.boot(t, &ground{t: t}, qubesd.Options{Dir: q.system})
	r := q.exits(3, "backup", "twin", "work")
	r.says("work: twin:private and work:private are one volume: file:")
	q.inSession(t, "twin")
	q.holds(t, "twin:private", "latest", want)
	q.exits(3, "backup", "work", "twin").says("twin: work:private and twin:private are one volume")
	q.holds(t, "work:private", "latest", want)
}
