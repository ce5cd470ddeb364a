package qubesxml

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// features are as many elements as a qube announces.
func features(n int, value string) string {
	var b strings.Builder
	b.WriteString("<features>\n")
	for i := range n {
		fmt.Fprintf(&b, "          <feature name=\"supported-feature.%06d\">%s</feature>\n", i, value)
	}
	b.WriteString("</features>")
	return b.String()
}

// qube is a qube of a file.
func qube(class, name, parts string) string {
	return fmt.Sprintf("<domain class=%q><properties><property name=\"name\">%s</property></properties>%s</domain>\n", class, name, parts)
}

func system(qubes ...string) string {
	return "<qubes><labels/><domains>\n" + strings.Join(qubes, "") + "</domains></qubes>"
}

// TestTooLarge: a qube of which there is too much costs itself, and no other.
func TestTooLarge(t *testing.T) {
	little, work := features(3, "1"), qube("AppVM", "work", features(3, "1"))
	var many []string // each of which might be, but not all together
	for i := range 30 {
		many = append(many, qube("AppVM", fmt.Sprint("q", i), features(5000+i, "1")))
	}
	unnamed := "<domain class='AppVM'>" + features(11_000, "1") + "</domain>"
	for what, x := range map[string]struct {
		text           string
		domains, large []string
	}{
		"features":   {system(qube("StandaloneVM", "evil", features(126_000, "1")), work), []string{"work"}, []string{"evil"}},
		"more":       {system(work, qube("StandaloneVM", "evil", features(290_000, "1"))), []string{"work"}, []string{"evil"}},
		"bytes":      {system(work, qube("AppVM", "evil", features(80, strings.Repeat("x", 64_000)))), []string{"work"}, []string{"evil"}},
		"a value":    {system(work, qube("AppVM", "long", features(1, strings.Repeat("x", maxToken-100)))), []string{"work", "long"}, nil},
		"two":        {system(qube("AppVM", "a", features(11_000, "1")), work, qube("AppVM", "b", features(12_000, "1"))), []string{"work"}, []string{"a", "b"}},
		"dom0":       {system(qube("AdminVM", "x", features(11_000, "1")), work), []string{"work"}, []string{"dom0"}},
		"nameless":   {system(unnamed, work), []string{"work"}, nil},
		"name comes": {system("<domain class='AppVM'>"+features(11_000, "1")+"<properties><property name='label'>red</property><property name='name'>l<![CDATA[at]]>e<!-- x -->r</property></properties></domain>", work), []string{"work"}, []string{"late"}},
		"elsewhere": {
			"<qubes><domains><domain class='AppVM'><properties><property name='name'>a</property></properties><domains><domain>" + little +
				"</domain></domains></domain></domains></qubes>", []string{"a"}, nil,
		},
	} {
		s, err := Parse([]byte(x.text))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		var names []string
		for _, d := range s.Domains {
			names = append(names, d.Name)
		}
		if !slices.Equal(names, x.domains) || !slices.Equal(s.TooLarge, x.large) {
			t.Errorf("%s: the qubes are %q, too large are %q", what, names, s.TooLarge)
		}
		if (len(x.large) > 0 || what == "nameless") && !strings.Contains(strings.Join(s.Odd, "\n"), "passed over: it takes ") {
			t.Errorf("%s: odd is %q", what, s.Odd)
		}
	}
	s, err := Parse([]byte(system(append(many, work)...)))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.TooLarge) == 0 || len(s.TooLarge)+len(s.Domains) != 31 || slices.Contains(s.TooLarge, "q0") || !slices.Contains(s.TooLarge, "q29") || s.Domain("work") == nil {
		t.Errorf("too large are %q, %d are not", s.TooLarge, len(s.Domains))
	}
	for what, text := range map[string]string{
		"called work": system(work, qube("AppVM", "work", features(11_000, "1"))),
		"called evil": system(qube("AppVM", "evil", features(11_000, "1")), qube("AppVM", "evil", features(11_000, "1"))),
		"more than":   system(strings.Repeat(work, 25_000)), // which are none of them large
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %q", err, what)
		}
	}
}

// TestTooLargeOfSample: whichever qube of a real file it is, it is the one that
// is cut out, and the others are read as before.
func TestTooLargeOfSample(t *testing.T) {
	much := strings.Repeat("<x/>", maxDomainNodes)
	for _, name := range samples {
		text, err := os.ReadFile("testdata/" + name + ".xml")
		if err != nil {
			t.Fatal(err)
		}
		whole, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(string(text), "</domain>")
		if len(parts) != len(whole.Domains)+1 {
			t.Fatalf("%d qubes in %d parts", len(whole.Domains), len(parts))
		}
		for i, d := range whole.Domains {
			larger := slices.Clone(parts)
			larger[i] += much
			s, err := Parse([]byte(strings.Join(larger, "</domain>")))
			if err != nil {
				t.Fatal(err)
			}
			want := *whole
			want.Domains = slices.Delete(slices.Clone(whole.Domains), i, i+1)
			want.TooLarge, want.Odd = []string{d.Name}, s.Odd
			if len(s.Odd) != 1 || !reflect.DeepEqual(*s, want) {
				t.Errorf("%s: without %s it is read as %+v", name, d.Name, s)
			}
		}
	}
}
