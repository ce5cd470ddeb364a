package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const policyFile = "../qrexec-policy/80-pinion.policy"

// What a line of a policy may have: the format of R4.1 and later, as far as
// this project's file could ever use it. One bad line, or one bad file name,
// makes the whole policy of a system unloadable, and denies every call in it.
var (
	policyName    = regexp.MustCompile(`\A[0-9]{2}-[0-9a-z_.-]+\.policy\z`)
	policyService = regexp.MustCompile(`\A(\*|[A-Za-z0-9_.-]{1,255})\z`)
	policyArg     = regexp.MustCompile(`\A(\*|\+[A-Za-z0-9_.-]*)\z`)
	policyQube    = `[A-Za-z][A-Za-z0-9_.-]{0,30}`
	policyAnyone  = `@anyvm|@type:[A-Za-z]+|@tag:[A-Za-z0-9_-]+|@dispvm:` + policyQube + `|@dispvm:@tag:[A-Za-z0-9_-]+|` + policyQube
	policySource  = regexp.MustCompile(`\A(\*|@adminvm|` + policyAnyone + `)\z`)
	policyTarget  = regexp.MustCompile(`\A(\*|@adminvm|@dispvm|@default|` + policyAnyone + `)\z`)
	policyParam   = map[string][]string{
		"allow": {"target", "user", "notify", "autostart"},
		"ask":   {"target", "user", "notify", "autostart", "default_target"},
		"deny":  {"notify"},
	}
	policyTruth = []string{"yes", "no"}
)

// lintPolicy returns what is wrong with a policy file.
func lintPolicy(name, text string) (wrong []string) {
	if !policyName.MatchString(name) {
		wrong = append(wrong, fmt.Sprintf("the name %q makes the policy unloadable, or is out of order", name))
	}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := lintRule(strings.Fields(line)); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s:%d: %v", name, n, err))
		}
	}
	if !strings.HasSuffix(text, "\n") {
		wrong = append(wrong, name+" doesn't end with a line feed")
	}
	return wrong
}

func lintRule(words []string) error {
	if len(words) < 5 {
		return fmt.Errorf("a rule has SERVICE ARGUMENT SOURCE TARGET ACTION, this has %d words", len(words))
	}
	for i, want := range []*regexp.Regexp{policyService, policyArg, policySource, policyTarget} {
		if !want.MatchString(words[i]) {
			return fmt.Errorf("word %d, %q, is wrong", i+1, words[i])
		}
	}
	known, ok := policyParam[words[4]]
	if !ok {
		return fmt.Errorf("unknown action %q", words[4])
	}
	seen := map[string]bool{}
	for _, param := range words[5:] {
		key, value, found := strings.Cut(param, "=")
		switch {
		case !found, !slices.Contains(known, key), value == "", seen[key]:
			return fmt.Errorf("%s takes no %q, or not twice", words[4], param)
		case (key == "notify" || key == "autostart") && !slices.Contains(policyTruth, value):
			return fmt.Errorf("%s is yes or no, not %q", key, value)
		}
		seen[key] = true
	}
	if words[4] == "allow" && words[3] == "@default" && !seen["target"] {
		return fmt.Errorf("allow with @default needs a target")
	}
	return nil
}

// The policy that is shipped is sound, denies, and has nothing else; the line
// that it proposes is sound as well.
func TestQrexecPolicy(t *testing.T) {
	t.Parallel()
	text := string(readFile(t, policyFile))
	name := filepath.Base(policyFile)
	for _, wrong := range lintPolicy(name, text) {
		t.Error(wrong)
	}
	entries, err := os.ReadDir(filepath.Dir(policyFile))
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory of the policy has %v, %v", entries, err)
	}
	var rules, proposed []string
	for line := range strings.Lines(text) {
		words := strings.Join(strings.Fields(strings.TrimLeft(line, "#")), " ")
		switch {
		case words == "":
		case line[0] != '#':
			rules = append(rules, words)
		case strings.HasPrefix(words, "pinion.Store "):
			proposed = append(proposed, words)
		}
	}
	if want := []string{"pinion.Store * @anyvm @adminvm deny", "pinion.Store * @anyvm @anyvm deny"}; !slices.Equal(rules, want) {
		t.Errorf("the rules are %q", rules)
	}
	if want := []string{"pinion.Store +laptop @tag:pinion-mgmt @tag:pinion-storage allow user=user autostart=yes notify=yes"}; !slices.Equal(proposed, want) {
		t.Errorf("the proposed rules are %q", proposed)
	}
	for _, wrong := range lintPolicy("30-user.policy", strings.Join(proposed, "\n")+"\n") {
		t.Error(wrong)
	}
	lint, err := exec.LookPath("qubes-policy-lint")
	if err != nil {
		t.Log("SKIPPED: the lint of Qubes OS, which is not installed here; the one of this test has looked at the file")
		return
	}
	run(t, lint, policyFile)
}

// The lint finds what Qubes OS would stumble over.
func TestQrexecPolicyLintFinds(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"80-Pinion.policy", "80-pinion.policy.rpmnew", "80 pinion.policy", "80-pinion", "pinion.policy", "80-pinion+.policy"} {
		if len(lintPolicy(name, "\n")) == 0 {
			t.Errorf("the name %q is let through", name)
		}
	}
	for _, line := range []string{
		"pinion.Store * @anyvm deny", "pinion.Store", "* * * *", "pinion/Store * @anyvm @anyvm deny",
		"pinion.Store laptop @anyvm @anyvm deny", "pinion.Store +lap* @anyvm @anyvm deny", "pinion.Store ++ @anyvm @anyvm deny",
		"pinion.Store * @any @anyvm deny", "pinion.Store * @default @anyvm deny", "pinion.Store * @dispvm @anyvm deny", "pinion.Store * $anyvm @anyvm deny",
		"pinion.Store * @anyvm @tag: deny", "pinion.Store * @anyvm 1vm deny", "pinion.Store * @anyvm " + strings.Repeat("a", 32) + " deny",
		"pinion.Store * @anyvm @anyvm Deny", "pinion.Store * @anyvm @anyvm deny,notify=no", "pinion.Store * @anyvm @anyvm deny user=user",
		"pinion.Store * @anyvm @anyvm allow user", "pinion.Store * @anyvm @anyvm allow user=", "pinion.Store * @anyvm @anyvm allow notify=true",
		"pinion.Store * @anyvm @anyvm allow user=a user=b", "pinion.Store * @anyvm @default allow", "pinion.Store * @anyvm @anyvm allow default_target=x",
		"pinion.Store * @anyvm @anyvm deny # a comment",
	} {
		if len(lintPolicy("80-pinion.policy", line+"\n")) != 1 {
			t.Errorf("the line %q is let through", line)
		}
	}
	if len(lintPolicy("80-pinion.policy", "pinion.Store * @anyvm @anyvm deny")) != 1 {
		t.Error("a line without its end is let through")
	}
	for _, line := range []string{"# x", "## pinion", "pinion.Store + * @dispvm:x ask default_target=y", "* * @dispvm:@tag:a-b @default allow target=x"} {
		if wrong := lintPolicy("30-user.policy", line+"\n"); len(wrong) > 0 {
			t.Errorf("%q: %v", line, wrong)
		}
	}
}
