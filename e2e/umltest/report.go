package umltest

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A report turns what the tests inside print into subtests.
type report struct {
	t       *testing.T
	order   []string // tests in the order of their start
	current string   // whose lines come now; empty: nobody's
	lines   map[string][]string
	results map[string]string // PASS, FAIL or SKIP
	shown   int               // of order
	loose   []string          // lines of no test
}

var (
	// startLine is where lines of a test begin; its first part is the name
	// of the test that isn't a subtest.
	startLine = regexp.MustCompile(`^=== (RUN|CONT|NAME)\s+([^/\s]+)`)
	// resultLine is the end of a test or, indented, of a subtest.
	resultLine = regexp.MustCompile(`^(\s*)--- (PASS|FAIL|SKIP): ([^/\s]+)`)
)

// line takes one line of output.
func (r *report) line(s string) {
	if m := startLine.FindStringSubmatch(s); m != nil {
		r.begin(m[2])
	} else if m := resultLine.FindStringSubmatch(s); m != nil {
		r.current = m[3]
		if m[1] == "" {
			if r.results == nil {
				r.results = map[string]string{}
			}
			r.results[m[3]] = m[2]
		}
	}
	if s == "PASS" || s == "FAIL" { // the program's last word
		r.current = ""
	}
	if r.current == "" {
		r.loose = append(r.loose, s)
		return
	}
	r.lines[r.current] = append(r.lines[r.current], s)
}

// begin makes name the test whose lines come now. Tests before it that have
// ended are shown: nothing more is said of them.
func (r *report) begin(name string) {
	if !slices.Contains(r.order, name) {
		for r.shown < len(r.order) && r.results[r.order[r.shown]] != "" {
			r.show()
		}
		r.order = append(r.order, name)
	}
	r.current = name
}

// show makes a subtest of the next test that wasn't shown.
func (r *report) show() {
	name := r.order[r.shown]
	r.shown++
	r.t.Run(name, func(t *testing.T) {
		var failed []string
		for _, s := range r.lines[name] {
			fmt.Fprintln(t.Output(), s)
			if m := resultLine.FindStringSubmatch(s); m != nil && m[2] == "FAIL" {
				failed = append(failed, strings.TrimSpace(s))
			}
		}
		switch r.results[name] {
		case "PASS":
		case "SKIP":
			t.Skip("skipped inside")
		case "FAIL":
			t.Errorf("inside: %s", strings.Join(failed, "; "))
		default:
			t.Error("inside: it didn't end")
		}
	})
}

// end shows the rest, and fails the outer test for what no inner one failed
// for: err, or that none ran.
func (r *report) end(err error) {
	for r.shown < len(r.order) {
		r.show()
	}
	if err == nil && len(r.order) > 0 {
		return
	}
	for _, s := range r.loose {
		fmt.Fprintln(r.t.Output(), s)
	}
	if err != nil {
		r.t.Errorf("User Mode Linux: %v", err)
	} else {
		r.t.Error("User Mode Linux: no test ran inside")
	}
}

// narrowed is the pattern of inner tests that go test -run asked for behind a
// slash, or the whole.
func narrowed(pattern string) string {
	f := flag.Lookup("test.run")
	if f == nil {
		return pattern
	}
	if _, inner, found := strings.Cut(f.Value.String(), "/"); found && inner != "" {
		return inner
	}
	return pattern
}
