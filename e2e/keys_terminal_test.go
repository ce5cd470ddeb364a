package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// recoveryText is what a recovery key looks like.
var recoveryText = regexp.MustCompile(`(?m)^([0-9A-HJKMNP-TV-Z]{4}-){13}[0-9A-HJKMNP-TV-Z]{4}\r?$`)

// A recovery key is shown on the terminal, once, and nowhere else; typed where a
// passphrase is asked for it opens the archive, however it is typed.
func TestRecoveryKey(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, build{static: true})
	w.ok("init")
	w.exits(2, "key", "recovery").oneLine().says("not a terminal")
	w.exits(2, "key", "recovery", "--json")
	toFile := w.command("key", "recovery")
	out, err := os.Create(w.path("out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	toFile.Stdout = out
	if err := toFile.Run(); err == nil || toFile.ProcessState.ExitCode() != 2 {
		t.Errorf("into a file: %v", err)
	}
	if n := len(w.slotObjects()); n != 1 {
		t.Fatalf("the archive has %d key slots", n)
	}
	code, shown := onTerminal(t, w.command("key", "recovery", "--json"))
	if code != 2 || recoveryText.MatchString(shown) {
		t.Errorf("with --json: exit status %d\n%s", code, shown)
	}
	code, shown = onTerminal(t, w.command("key", "recovery"))
	texts := recoveryText.FindAllString(shown, -1)
	if code != 0 || len(texts) != 1 || !strings.Contains(shown, "Write it down") {
		t.Fatalf("exit status %d\n%s", code, shown)
	}
	for _, line := range strings.Split(shown, "\n") {
		if !strings.HasPrefix(line, "pinion: ") && len(strings.TrimRight(line, "\r")) > 80 {
			t.Errorf("a line has more than 80 columns: %q", line)
		}
	}
	text := strings.TrimRight(texts[0], "\r")
	if keys := w.keys(w.key); len(keys) != 2 || keys[1].Kind != "key file" {
		t.Fatalf("the keys are %+v", keys)
	}

	// As it was shown, and as people type it.
	writeFile(t, w.config, []byte("[defaults]\n"))
	w.configWas = w.fingerprint()
	for _, typed := range []string{
		text, strings.ToLower(text), strings.ReplaceAll(text, "-", ""), strings.ReplaceAll(text, "-", " "),
		strings.NewReplacer("0", "O", "1", "l").Replace(text),
	} {
		if code, shown := onTerminal(t, w.command("list"), typed+"\n"); code != 0 || strings.Contains(shown, typed) {
			t.Errorf("typed as %q: exit status %d\n%s", typed, code, shown)
		}
	}
	pass := w.path("pass")
	writeFile(t, pass, []byte(text+"\n"))
	w.ok("list", "--passfile", pass)
	w.other("fresh").ok("list", "--passcmd", "cat "+pass)

	// One digit wrong: the group is named, and it is no damage.
	wrong := []byte(text)
	at := 5 * 4 // the first digit of the fifth group
	wrong[at] = "23"[map[bool]int{true: 1, false: 0}[wrong[at] == '2']]
	writeFile(t, pass, append(wrong, '\n'))
	r := w.exits(12, "list", "--passfile", pass).oneLine().says("recovery key", "mistyped")
	if !strings.Contains(r.stderr, "group 5 of 14") && !strings.Contains(r.stderr, "more than one place") {
		t.Errorf("%s\nwas to name the fifth group", r)
	}
	if strings.Contains(r.stderr, string(wrong[:9])) {
		t.Errorf("%s\nshows the key", r)
	}
	// A recovery key is no passphrase.
	w.exits(1, "key", "add", "--keyfile", w.key, "--new-passcmd", "echo "+text).oneLine().says("is a recovery key")
	// It can be removed like every other key.
	w.ok("key", "remove", w.keys(w.key)[1].ID, "--keyfile", w.key)
	writeFile(t, pass, []byte(text+"\n"))
	w.exits(12, "list", "--passfile", pass)
}

// The key that the command was given is removed after a question.
func TestKeyRemoveOnATerminal(t *testing.T) {
	t.Parallel()
	w := archive(t)
	w.ok("key", "add", "--new-keyfile", w.keyFile("second", 2))
	id := w.keys(w.key)[0].ID
	code, shown := answering(t, w.command("key", "remove", id), askedYesNo, "n\n")
	if code != 1 || !strings.Contains(shown, "the one you used just now?") || len(w.slotObjects()) != 2 {
		t.Errorf("exit status %d\n%s", code, shown)
	}
	if code, shown = answering(t, w.command("key", "remove", id), askedYesNo, "y\n"); code != 0 || len(w.slotObjects()) != 1 {
		t.Errorf("exit status %d\n%s", code, shown)
	}
	w.exits(12, "list").oneLine()
}

// On the terminal a new passphrase is asked for twice, after the old one.
func TestKeyChangeOnATerminal(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, build{static: true})
	writeFile(t, w.config, []byte("[defaults]\n"))
	w.configWas = w.fingerprint()
	old := w.path("old")
	writeFile(t, old, []byte("secret one\n"))
	w.ok("init", "--passfile", old)
	code, shown := onTerminal(t, w.command("key", "change"), "secret one\n", "secret two\n", "secret tow\n", "secret two\n", "secret two\n")
	if code != 0 || !strings.Contains(shown, "differ") || strings.Contains(shown, "secret one") || strings.Contains(shown, "secret t") ||
		!strings.Contains(shown, "New passphrase for") || !strings.Contains(shown, "Replaced key") {
		t.Fatalf("exit status %d\n%s", code, shown)
	}
	w.exits(12, "list", "--passfile", old)
	w.ok("list", "--passcmd", "echo secret two")
	// Interrupted at the question: nothing was changed.
	code, shown = onTerminal(t, w.command("key", "change"), "secret two\n", "\x03")
	if code != 130 || !strings.Contains(shown, "pinion key list") {
		t.Errorf("exit status %d\n%s", code, shown)
	}
	w.ok("list", "--passcmd", "echo secret two")
	if n := len(w.slotObjects()); n != 1 {
		t.Errorf("the archive has %d key slots", n)
	}
}
