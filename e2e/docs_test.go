package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pinion/e2e/qubesd"
)

// page reads a page of the documentation, by its path from the top.
func page(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// forPeople are the pages that tell people what to type.
var forPeople = []string{"README.md", "docs/operation.md", "docs/qubes.md", "docs/threat-model.md"}

var (
	longOption    = regexp.MustCompile(`--[a-z][a-z0-9-]*[a-z0-9]`)
	helpedOption  = regexp.MustCompile(`(?m)^\s+(?:-\w, |)\s*(--[a-z0-9-]+[a-z0-9])`)
	helpedCommand = regexp.MustCompile(`(?m)^  ([a-z-]+)  +[A-Z]`)
)

// helps returns the help of pinion and each of its commands, by the command's
// word.
func helps(t *testing.T, w *world) map[string]string {
	t.Helper()
	all := map[string]string{"": w.ok("--help").stdout}
	_, list, ok := strings.Cut(all[""], "Available commands:")
	if !ok {
		t.Fatalf("no commands in the help:\n%s", all[""])
	}
	for _, m := range helpedCommand.FindAllStringSubmatch(list, -1) {
		all[m[1]] = w.ok(m[1], "--help").stdout
		// Of a group of commands the help is that of all of them.
		if _, group, ok := strings.Cut(all[m[1]], "Available commands:"); ok {
			for _, of := range helpedCommand.FindAllStringSubmatch(group, -1) {
				all[m[1]] += w.ok(m[1], of[1], "--help").stdout
			}
		}
	}
	return all
}

// TestDocsAndHelpHaveTheSameWords compares options and commands in the
// documentation with those that the programs know.
func TestDocsAndHelpHaveTheSameWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commands := helps(t, w)
	known := map[string]bool{}
	for _, help := range commands {
		for _, m := range helpedOption.FindAllStringSubmatch(help, -1) {
			known[m[1]] = true
		}
	}
	if len(known) < 30 || len(commands) < 5 {
		t.Fatalf("only %d options of %d commands were found in the help", len(known), len(commands))
	}
	operation := page(t, "docs/operation.md")
	for option := range known {
		if !regexp.MustCompile(regexp.QuoteMeta(option) + `\b[^-]`).MatchString(operation) {
			t.Errorf("docs/operation.md says nothing of %s", option)
		}
	}
	helper, err := exec.Command(filepath.Join(w.bin, "pinion-store"), "serve", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range helpedOption.FindAllStringSubmatch(string(helper), -1) {
		known[m[1]] = true
	}
	for _, path := range forPeople {
		// Options of Qubes OS's own tools, and of package managers, are theirs.
		ours := regexp.MustCompile("(?m)^ *qvm-.*$|sudo (rpm|dnf|apt) [^`\n]*").ReplaceAllString(page(t, path), "")
		for _, option := range longOption.FindAllString(ours, -1) {
			if !known[option] {
				t.Errorf("%s names %s, which no help knows", path, option)
			}
		}
	}
	_, sections, _ := strings.Cut(operation, "\n## Commands\n")
	sections, _, _ = strings.Cut(sections, "\n## ")
	for _, m := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllStringSubmatch(sections, -1) {
		if _, ok := commands[m[1]]; !ok {
			t.Errorf("docs/operation.md describes a command %q, which pinion doesn't have", m[1])
		}
		delete(commands, m[1])
	}
	delete(commands, "")
	for command := range commands {
		t.Errorf("docs/operation.md doesn't describe the command %q", command)
	}
}

// TestDocsAndHelpHaveTheSameStatuses compares the tables of exit statuses.
func TestDocsAndHelpHaveTheSameStatuses(t *testing.T) {
	t.Parallel()
	_, help, ok := strings.Cut(newWorld(t).ok("backup", "--help").stdout, "Exit status:")
	if !ok {
		t.Fatal("the help says nothing of exit statuses")
	}
	help, _, _ = strings.Cut(help, "\n\n")
	want := regexp.MustCompile(`\b\d+\b`).FindAllString(help, -1)
	for _, path := range []string{"README.md", "docs/operation.md"} {
		var got []string
		for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(page(t, path), -1) {
			got = append(got, m[1])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s lists the statuses %v, the help %v", path, got, want)
		}
	}
}

// TestLinksOfTheDocs looks for what the documentation links to.
func TestLinksOfTheDocs(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages in docs: %v", err)
	}
	for _, path := range append(pages, "../README.md") {
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(page(t, path[len("../"):]), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: %v", path[len("../"):], err)
			}
		}
	}
}

// TestFirstUseOfTheReadme runs what the README says is the first use, line by
// line, with other places for disk and image.
func TestFirstUseOfTheReadme(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.image("work.img", "text:3M:1", "hole:1M")
	_, script, ok := strings.Cut(page(t, "README.md"), "\n## First use\n\n```sh\n")
	script, _, ended := strings.Cut(script, "```")
	if !ok || !ended {
		t.Fatal("the README has no first use")
	}
	for there, here := range map[string]string{
		"/mnt/usb/backup": w.store, "/var/lib/images": w.dir, "/tmp/work.img": w.path("restored"),
	} {
		if !strings.Contains(script, there) {
			t.Fatalf("the first use has no %s:\n%s", there, script)
		}
		script = strings.ReplaceAll(script, there, here)
	}
	own := fmt.Sprintf("pinion() { command pinion --config %s --state-dir %s --cache-dir %s \"$@\"; }\n", w.config, w.state, w.cache)
	cmd := exec.Command("/bin/sh", "-e", "-c", own+script)
	cmd.Env = w.command().Env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	same(t, w.path("work.img"), w.path("restored"))
}

// TestJSONOfTheDocs compares the members of the documents in the documentation
// with those of the real ones, in both directions.
func TestJSONOfTheDocs(t *testing.T) {
	t.Parallel()
	q := newQubesWorld(t, "plain", "4.3")
	q.fill(t)
	w := q.world
	image := w.image("work.img", "random:1M:1")
	real := map[string]any{}
	takeAs := func(name string, code int, args ...string) {
		real[name] = document[any](w.exits(code, append([]string{"--json"}, args...)...))
	}
	take := func(code int, args ...string) { takeAs(args[0], code, args...) }
	take(0, "init")
	take(3, "backup", "work", "file:"+image, "extra=file:"+w.image("extra.img", "random:1M:9"), "file:"+w.path("gone.img"), "--tag", "weekly")
	take(0, "list")
	defer q.api.Inject(qubesd.Fault{Method: "admin.vm.property.Set", Dest: "other", Arg: "maxmem", Effect: qubesd.Raise, Type: "QubesValueError"})()
	take(3, "restore", "work", "--as", "other")
	overwrite(t, image, 0, "random:1K:2")
	takeAs("dry-run", 0, "backup", "--dry-run", "work", "file:"+image)
	take(0, "monitor", "file:"+image)
	take(0, "status")
	take(0, "diff", "work.img", "--full")
	take(0, "forget-local", "--all")
	cut := w.store + "/packs/ab/" + strings.Repeat("ab", 16)
	if err := os.MkdirAll(filepath.Dir(cut), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, cut, nil)
	take(13, "copy", "--to", "file:"+w.path("copy"))
	if err := os.Remove(cut); err != nil {
		t.Fatal(err)
	}
	takeAs("tag", 0, "tag", "add", "weekly")
	take(0, "rename", "work.img", "image")
	take(0, "rename", "image", "work.img")
	take(0, "delete", "extra", "--yes")
	take(0, "prune", "--keep-last", "1", "--dry-run")
	second, third, exported := w.keyFile("second", 2), w.keyFile("third", 3), w.path("exported")
	takeAs("key-add", 0, "key", "add", "--new-keyfile", second)
	takeAs("key-list", 0, "key", "list")
	takeAs("key-export", 0, "key", "export", exported)
	takeAs("key-change", 0, "key", "change", "--keyfile", second, "--new-keyfile", third)
	takeAs("key-import", 0, "key", "import", exported)
	takeAs("key-remove", 0, "key", "remove", w.keys(third)[2].ID, "--keyfile", third)
	takeAs("key-forget", 0, "key", "forget")
	take(0, "version")
	takeAs("roots", 0, "check", "--roots")
	packs, err := filepath.Glob(w.store + "/packs/*/*")
	if err != nil || len(packs) == 0 {
		t.Fatalf("no packs: %v", err)
	}
	for _, path := range packs {
		overwrite(t, path, 5000, "random:1")
	}
	take(13, "verify")
	take(13, "check", "--read-data")

	example := regexp.MustCompile("(?s)<!-- json: ([a-z -]+) -->\n```json\n(.*?)```")
	found := map[string]bool{}
	for _, m := range example.FindAllStringSubmatch(page(t, "docs/operation.md"), -1) {
		var doc any
		if err := json.Unmarshal([]byte(m[2]), &doc); err != nil {
			t.Errorf("the JSON of %s: %v", m[1], err)
		}
		for _, command := range strings.Fields(m[1]) {
			found[command] = true
			want, got := members(real[command], "", map[string]bool{}), members(doc, "", map[string]bool{})
			for path := range want {
				if value := at(real[command], path); value == nil {
					// What isn't there here has no members, and may have some elsewhere.
					maps.DeleteFunc(got, func(p string, _ bool) bool { return strings.HasPrefix(p, path+".") })
				}
			}
			delete(want, ".error") // on any failure, and described once
			delete(want, ".error.code")
			delete(want, ".error.message")
			delete(want, ".error.hint")
			if !maps.Equal(want, got) {
				t.Errorf("the document of %s has %v, the documentation shows %v", command, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
			}
		}
	}
	for command := range real {
		if !found[command] {
			t.Errorf("the documentation doesn't show the document of %s", command)
		}
	}
}

// at is the value of the first member with a path as members lists it.
func at(doc any, path string) any {
	for _, name := range strings.Split(path, ".")[1:] {
		name, isList := strings.CutSuffix(name, "[]")
		object, _ := doc.(map[string]any)
		doc = object[name]
		if list, _ := doc.([]any); isList && len(list) > 0 {
			doc = list[0]
		}
	}
	return doc
}

// members lists the paths of all members of a document.
func members(doc any, path string, all map[string]bool) map[string]bool {
	switch v := doc.(type) {
	case map[string]any:
		for name, member := range v {
			all[path+"."+name] = true
			members(member, path+"."+name, all)
		}
	case []any:
		for _, element := range v {
			members(element, path+"[]", all)
		}
	}
	return all
}
