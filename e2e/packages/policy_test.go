package packages_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// One file with a wrong name, and one line that is no rule, make dom0 refuse
// every call in the system. These are the forms that it takes, as far as this
// package uses them.
var (
	policyName = regexp.MustCompile(`\A[0-9a-z_.-]+\.policy\z`)
	policyRule = regexp.MustCompile(`\Apinion\.Store\s+(\*|\+[A-Za-z0-9._-]{1,64})\s+(@anyvm|@tag:[a-z-]+)\s+(@anyvm|@adminvm|@tag:[a-z-]+)\s+(deny|allow( (user=user|autostart=yes|notify=yes))*)\z`)
)

// TestPolicy: as it is installed the policy lets nobody through, and its
// example is a rule, too.
func TestPolicy(t *testing.T) {
	t.Parallel()
	const place = "qrexec-policy"
	files, err := os.ReadDir(filepath.Join(top, place))
	if err != nil {
		t.Fatal(err)
	}
	rules, examples := 0, 0
	for _, f := range files {
		if !policyName.MatchString(f.Name()) {
			t.Errorf("%s: dom0 refuses a policy file of that name", f.Name())
		}
		for n, line := range strings.Split(read(t, top, filepath.Join(place, f.Name())), "\n") {
			example, commented := strings.CutPrefix(line, "##")
			example = strings.TrimSpace(example)
			switch {
			case example == "":
			case commented && !strings.HasPrefix(example, "pinion.Store "):
			case !policyRule.MatchString(example):
				t.Errorf("%s:%d is no rule: %s", f.Name(), n+1, line)
			case commented:
				examples++
			case !strings.HasSuffix(line, " deny"):
				t.Errorf("%s:%d lets somebody through: %s", f.Name(), n+1, line)
			default:
				rules++
			}
		}
	}
	if rules == 0 || examples == 0 {
		t.Errorf("%s has %d rules and %d examples", place, rules, examples)
	}
}
