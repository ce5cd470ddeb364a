package qubesxml

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"pinion/dom0/internal/format"
)

var update = flag.Bool("update", false, "write the golden files")

// samples are files that real ones of the two releases wrote.
var samples = []string{"qubes-r4.2", "qubes-r4.3"}

// TestSamples: what is read of a real file stands in testdata, to be looked at.
func TestSamples(t *testing.T) {
	for _, name := range samples {
		s, err := Read("testdata/" + name + ".xml")
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Odd) > 0 {
			t.Errorf("%s: odd: %q", name, s.Odd)
		}
		got, err := json.MarshalIndent(s, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		golden := "testdata/" + name + ".json"
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is read as\n%s", name, got)
		}
	}
}

// TestSampleFacts says by hand what matters in the samples.
func TestSampleFacts(t *testing.T) {
	for _, name := range samples {
		s, err := Read("testdata/" + name + ".xml")
		if err != nil {
			t.Fatal(err)
		}
		work, dom0, net := s.Domain("work"), s.Domain("dom0"), s.Domain("sys-net")
		if work == nil || dom0 == nil || net == nil || s.Domain("nobody") != nil {
			t.Fatalf("%s: qubes are missing", name)
		}
		if v, ok := net.Property("netvm"); v != "" || !ok {
			t.Errorf("%s: netvm of sys-net is %q, %v: an empty one stands there", name, v, ok)
		}
		if _, ok := work.Property("netvm"); ok {
			t.Errorf("%s: work has a netvm, it is at its default", name)
		}
		if dom0.Class != "AdminVM" || work.Class != "AppVM" || s.Color("blue") != "0x3465a4" || s.Color("mauve") != "" {
			t.Errorf("%s: classes %s, %s, blue %s", name, dom0.Class, work.Class, s.Color("blue"))
		}
		want := format.QubeVolume{
			Name: "private", Pool: "varlibqubes", VID: "appvms/work/private", Size: 2 << 30, Revisions: 1,
			Flags: format.QubeVolumeWritable | format.QubeVolumeSaved,
		}
		if got := work.Volumes[1]; got.QubeVolume != want || !got.HasSize || got.HasEphemeral {
			t.Errorf("%s: %+v", name, got)
		}
		if got := work.Volumes[3]; got.Flags != 0 || got.HasSize || got.Name != "kernel" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	s, _ := Read("testdata/qubes-r4.3.xml")
	want := []format.QubeDevice{{
		Class: "pci", Backend: "dom0", Port: "00_14.3", Mode: "required", Identity: "0x8086:0x51f0::p028000",
		Options: []format.QubePair{{Name: "no-strict-reset", Value: "True"}},
	}}
	if got := s.Domain("sys-net").Devices; !reflect.DeepEqual(got, want) {
		t.Errorf("devices of sys-net: %+v", got)
	}
	if s.Domain("remote-backup").Class != "RemoteVM" {
		t.Error("no RemoteVM")
	}
}

// document is a file with one qube, whose parts are given.
func document(parts string) string {
	return `<qubes><labels/><domains><domain id="domain-1" class="AppVM"><properties><property name="name">a</property></properties>` +
		parts + `</domain></domains></qubes>`
}

// TestOldDevices: R4.2 gives devices no mode and no identity.
func TestOldDevices(t *testing.T) {
	s, err := Parse([]byte(document(`<devices class="pci"><device backend-domain="dom0" id="00_1f.6"/></devices>`)))
	if err != nil || len(s.Odd) > 0 {
		t.Fatal(err, s)
	}
	want := []format.QubeDevice{{Class: "pci", Backend: "dom0", Port: "00_1f.6"}}
	if got := s.Domain("a").Devices; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func inUTF16(s string) string {
	b := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

// TestRefused: files that can't be used, and what is said of them.
func TestRefused(t *testing.T) {
	good := document("<features/>")
	var laughs strings.Builder
	laughs.WriteString(`<!DOCTYPE qubes [<!ENTITY l0 "ha">`)
	for i := range 9 {
		fmt.Fprintf(&laughs, `<!ENTITY l%d "%s">`, i+1, strings.Repeat(fmt.Sprintf("&l%d;", i), 10))
	}
	laughs.WriteString(`]>` + document("<features><feature name='x'>&l9;</feature></features>"))
	nodes := strings.Repeat("<x/>", maxNodes)
	for name, c := range map[string]struct{ text, want string }{
		"empty":            {"", "nothing in it"},
		"white":            {" \n ", "nothing in it"},
		"cut in a tag":     {good[:len(good)-4], "unexpected EOF"},
		"cut between":      {strings.TrimSuffix(good, "</qubes>"), "ends in the middle"},
		"UTF-16":           {inUTF16(good), "UTF-16"},
		"UTF-16 unmarked":  {inUTF16(good)[2:], "UTF-16"},
		"Latin-1":          {strings.Replace(good, ">a<", ">\xe9<", 1), "not in UTF-8"},
		"says Latin-1":     {`<?xml version="1.0" encoding="ISO-8859-1"?>` + good, "only UTF-8"},
		"XML 1.1":          {`<?xml version="1.1"?>` + good, "1.1"},
		"billion laughs":   {laughs.String(), "DOCTYPE"},
		"external entity":  {`<!DOCTYPE q SYSTEM "file:///etc/passwd">` + good, "DOCTYPE"},
		"external in text": {document("<features><feature name='x'>&xxe;</feature></features>"), "&xxe;"},
		"parameter entity": {`<!ENTITY % a SYSTEM "http://x/">` + good, "DOCTYPE"},
		"instruction":      {`<?xml-stylesheet href="x"?>` + good, "xml-stylesheet"},
		"late declaration": {good + `<?xml version="1.0"?>`, "instruction"},
		"depth":            {strings.Repeat("<a>", 100_000) + strings.Repeat("</a>", 100_000), "nested"},
		"nodes":            {"<qubes>" + nodes + "</qubes>", "more than 500000"},
		"attributes":       {"<qubes" + attributes(1_000_000) + "/>", "more than 2 MiB"},
		"some attributes":  {"<qubes" + attributes(maxAttributes+1) + "/>", "attributes"},
		"long text":        {document("<features>" + strings.Repeat("x", maxToken+1) + "</features>"), "more than 2 MiB"},
		"two roots":        {good + good, "more than one root"},
		"text outside":     {good + "x", "outside"},
		"closes too much":  {good + "</qubes>", "closes nothing"},
		"other root":       {"<quebes><domains/></quebes>", "<quebes>"},
		"root elsewhere":   {"<x:qubes><domains/></x:qubes>", "<x:qubes>"},
		"no domains":       {"<qubes/>", "no <domains>"},
		"domains twice":    {"<qubes><domains/><domains/></qubes>", "twice"},
		"crossed":          {"<qubes><domains></qubes></domains>", "invalid XML"},
		"attribute twice":  {`<qubes a="1" a="2"><domains/></qubes>`, "twice"},
		"qube twice":       {twice(), `two qubes are called a`},
		"null":             {document("<features><feature name='x'>&#0;</feature></features>"), "illegal character"},
		"escape":           {document("<features><feature name='x'>\x1b[2J</feature></features>"), "illegal character"},
	} {
		s, err := Parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if s != nil {
			t.Errorf("%s: gives a system", name)
		}
		if err != nil && len(err.Error()) > 300 {
			t.Errorf("%s: the message has %d bytes", name, len(err.Error()))
		}
	}
}

func attributes(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ` a%d=""`, i)
	}
	return b.String()
}

func twice() string {
	d := `<domain class="AppVM"><properties><property name="name">a</property></properties></domain>`
	return "<qubes><domains>" + d + d + "</domains></qubes>"
}

// TestTolerated: what a later release may write, and what was written by hand.
func TestTolerated(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		odd  string // of one remark; empty for none
	}{
		"mark":              {"\ufeff" + document(""), ""},
		"declaration":       {`<?xml version='1.0' encoding='utf-8'?>` + document(""), ""},
		"comment":           {"<!-- by hand -->" + document("<!-- here, too -->"), ""},
		"CDATA":             {document("<features><feature name='x'><![CDATA[<&]]></feature></features>"), ""},
		"unknown element":   {document("<quantum/><quantum/>"), "<quantum> in <domain>"},
		"at the top":        {strings.Replace(document(""), "<labels/>", "<gadgets/>", 1), "<gadgets> in <qubes>"},
		"in properties":     {document("<features><feeture name='x'/></features>"), "<feeture> in <features>"},
		"in a value":        {document("<features><feature name='x'>1<b/></feature></features>"), "<b> in <feature>"},
		"other namespace":   {document("<x:features/>"), "<x:features>"},
		"unknown attribute": {document("<features><feature name='x' since='5'/></features>"), "attribute since of <feature>"},
		"property twice": {
			document("<properties><property name='memory'>1</property><property name='memory'>2</property></properties>"),
			"qube a has the property memory twice",
		},
		"feature twice": {document("<features><feature name='x'/><feature name='x'/></features>"), "the feature x twice"},
		"size":          {document("<volume-config><volume name='root' size='-1'/></volume-config>"), "size=-1"},
		"size in hex":   {document("<volume-config><volume name='root' size='0x10'/></volume-config>"), "size=0x10"},
		"large size":    {document("<volume-config><volume name='root' size='9223372036854775808'/></volume-config>"), "size="},
		"revisions":     {document("<volume-config><volume name='root' revisions_to_keep='-2'/></volume-config>"), "revisions_to_keep=-2"},
		"flag":          {document("<volume-config><volume name='root' rw='maybe'/></volume-config>"), "rw=maybe"},
		"no name": {
			strings.Replace(document(""), "</domains>", `<domain class="AppVM"/></domains>`, 1), "qube of class AppVM has no name",
		},
		"terminal": {document("<features><feature name='\u202ex'/><feature name='\u202ex'/></features>"), `"\u202ex"`},
	} {
		s, err := Parse([]byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s.Domain("a") == nil || len(s.Domains) != 1 {
			t.Errorf("%s: the qube is not there", name)
		}
		if c.odd == "" && len(s.Odd) > 0 || c.odd != "" && (len(s.Odd) != 1 || !strings.Contains(s.Odd[0], c.odd)) {
			t.Errorf("%s: %q, want %q", name, s.Odd, c.odd)
		}
	}
}

// TestValues: which text a value is.
func TestValues(t *testing.T) {
	long := strings.Repeat("v", 1<<20)
	for in, want := range map[string]string{
		"":                                 "",
		"../../etc/passwd":                 "../../etc/passwd",
		"a\nb":                             "a\nb",
		"a&#10;&#x9;&lt;&amp;&quot;&apos;": "a\n\t<&\"'",
		" spaces ":                         " spaces ",
		"<![CDATA[<x>]]>":                  "<x>",
		"before<!-- c -->after":            "before", // as qubesd reads it
		"&#xD800;":                         "\ufffd",
		long:                               long,
	} {
		s, err := Parse([]byte(document("<features><feature name='f'>" + in + "</feature></features>")))
		if err != nil {
			t.Fatalf("%.50q: %v", in, err)
		}
		if got := s.Domain("a").Features; len(got) != 1 || got[0].Value != want {
			t.Errorf("%.50q is %.50q", in, got)
		}
	}
	// The last of two counts, wherever it stands.
	s, err := Parse([]byte(document("<features><feature name='f'>1</feature></features><features><feature name='f'>2</feature></features>")))
	if want := []format.QubePair{{Name: "f", Value: "2"}}; err != nil || !reflect.DeepEqual(s.Domain("a").Features, want) {
		t.Error(s, err)
	}
	// A class of a later release is kept.
	s, err = Parse([]byte(strings.Replace(document(""), "AppVM", "QuantumVM", 1)))
	if err != nil || s.Domain("a").Class != "QuantumVM" || len(s.Odd) > 0 {
		t.Error(s, err)
	}
}

// TestOddIsBounded: a thousand oddities are not a thousand lines.
func TestOddIsBounded(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "<x%d/>", i)
	}
	s, err := Parse([]byte(document(b.String() + "<" + strings.Repeat("y", 100_000) + "/>")))
	if err != nil || len(s.Odd) != maxOdd {
		t.Fatal(err, len(s.Odd))
	}
	s, err = Parse([]byte(document("<" + strings.Repeat("y", 100_000) + "/>")))
	if err != nil || len(s.Odd) != 1 || len(s.Odd[0]) > 200 {
		t.Errorf("%v, %.300q", err, s.Odd)
	}
}

// TestMemory: the largest files that are read take a bounded part of what the
// program may have.
func TestMemory(t *testing.T) {
	var b strings.Builder
	for range maxNodes/2 - 1000 {
		b.WriteString("<x>y</x>")
	}
	for name, text := range map[string]string{
		"nodes":      document(b.String()),
		"attributes": "<qubes" + attributes(200_000) + "/>",
		"value":      document("<features><feature name='x'>" + strings.Repeat("v", maxToken-100) + "</feature></features>"),
	} {
		data := []byte(text)
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s, _ := Parse(data)
		runtime.GC()
		runtime.ReadMemStats(&after)
		if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > 8<<20 {
			t.Errorf("%s: %d bytes are still held", name, held)
		}
		if all := after.TotalAlloc - before.TotalAlloc; all > 256<<20 {
			t.Errorf("%s: %d bytes were asked for altogether", name, all)
		}
		runtime.KeepAlive(s)
		runtime.KeepAlive(data)
	}
}

// TestRead: what is no file of qubesd's is named, and takes no time.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 100<<20); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut")
	if err := os.WriteFile(cut, []byte("<qubes><domains>"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		large:                        "100 MiB",
		fifo:                         "regular",
		dir:                          "regular",
		cut:                          "ends in the middle",
		filepath.Join(dir, "nobody"): "no such file",
	} {
		begin := time.Now()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Read(path)
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
		if after.TotalAlloc-before.TotalAlloc > 4<<20 || time.Since(begin) > 5*time.Second {
			t.Errorf("%s: took %v and %d bytes", path, time.Since(begin), after.TotalAlloc-before.TotalAlloc)
		}
	}
}

// TestReadLeavesTheFile: reading changes neither the file nor its times, and
// does without the right to write.
func TestReadLeavesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	text, err := os.ReadFile("testdata/qubes-r4.3.xml")
	if err == nil {
		err = os.WriteFile(path, text, 0o440)
	}
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Errorf("%v became %v (%v)", before, after, err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, text) {
		t.Error("the file changed")
	}
}

// FuzzParse: whatever is read is valid UTF-8, and nothing panics.
func FuzzParse(f *testing.F) {
	for _, name := range samples {
		text, err := os.ReadFile("testdata/" + name + ".xml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(document("<devices class='pci'><device id='1'><option name='a'>&#9;</option></device></devices>")))
	f.Add([]byte("\ufeff<qubes><domains/><pools><pool a:b='c'/></pools></qubes>"))
	f.Add([]byte("<?xml version='1.0' encoding='utf-8'?><!DOCTYPE a><qubes>&#xD800;</qubes>"))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		s, err := Parse(untrusted)
		if err != nil {
			return
		}
		// %v shows every text as it is.
		if text := fmt.Sprintf("%v", *s); !utf8.ValidString(text) {
			t.Errorf("%q", text)
		}
		names := map[string]bool{}
		for _, d := range s.Domains {
			if names[d.Name] || d.Name == "" {
				t.Errorf("the name %q", d.Name)
			}
			names[d.Name] = true
			for _, v := range d.Volumes {
				if v.Size < 0 || v.Revisions < -1 {
					t.Errorf("%+v", v)
				}
			}
		}
	})
}
