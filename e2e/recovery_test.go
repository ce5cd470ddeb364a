package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The script that does what docs/recovery-format.md says is in another
// language, and shares nothing with the programs but that page.

const recoverScript = "recovery/recover.py"

// installable fails a test that can't run on a machine where .ci/tools would
// have installed what it needs, and skips it elsewhere with a line in the log.
func installable(t testing.TB, there bool, what, debianPackage string) {
	t.Helper()
	if there {
		return
	}
	if os.Geteuid() == 0 && hasProgram("apt-get") {
		t.Fatalf("%s is missing: apt-get install %s", what, debianPackage)
	}
	t.Logf("SKIPPED: nothing is recovered by the script without %s (Debian package %s)", what, debianPackage)
	t.Skip("needs " + what)
}

// needRecovery skips or fails a test where the script can't run.
func needRecovery(t testing.TB) {
	t.Helper()
	installable(t, hasProgram("python3"), "python3", "python3")
	installable(t, hasProgram("zstd"), "zstd", "zstd")
}

// needArgon2 skips or fails a test where the script has no Argon2.
func needArgon2(t testing.TB) {
	t.Helper()
	needRecovery(t)
	load := exec.Command("python3", "-I", "-S", "-c", `import ctypes; ctypes.CDLL("libargon2.so.1")`)
	installable(t, load.Run() == nil, "libargon2", "libargon2-1")
}

// recoverer runs the script on one archive.
type recoverer struct {
	t      testing.TB
	dir    string   // where images go
	store  string   // the archive's directory
	secret []string // options
}

func newRecoverer(w *world) *recoverer {
	return &recoverer{t: w.t, dir: w.dir, store: w.store, secret: []string{"--keyfile", w.key}}
}

// command is the script with nothing of Python's but its standard library.
func (r *recoverer) command(args ...string) *exec.Cmd {
	r.t.Helper()
	script, err := filepath.Abs(recoverScript)
	if err == nil {
		_, err = os.Stat(script) // so that go test knows of it, and runs tests again that it changes
	}
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command("python3", append([]string{"-I", "-S", script}, args...)...)
	cmd.Dir = r.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	return cmd
}

// run runs the script on the archive.
func (r *recoverer) run(options []string, args ...string) *result {
	r.t.Helper()
	return r.script(append(append(slices.Clone(r.secret), options...), append([]string{r.store}, args...)...))
}

// script runs the script with these arguments alone.
func (r *recoverer) script(all []string) *result {
	r.t.Helper()
	cmd := r.command(all...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // what came of it is in the state
	if cmd.ProcessState == nil {
		r.t.Fatalf("python3 %s did not start", strings.Join(all, " "))
	}
	res := &result{t: r.t, args: all, code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	if strings.Contains(res.stderr, "Traceback") {
		r.t.Errorf("%s\nends with an error of the script's own", res)
	}
	return res
}

// gives expects that the script gets out, sparsely, what a file holds. A
// session of 0 is the newest that has the volume.
func (r *recoverer) gives(volume string, session int, like string) {
	r.t.Helper()
	image := filepath.Join(r.t.TempDir(), "image")
	args := []string{"restore", volume, image}
	if session != 0 {
		args = append(args, "--session", fmt.Sprint(session))
	}
	r.run(nil, args...).expect(0)
	same(r.t, image, like)
	// A hole is missing where data shares its chunk, which has 4 MiB at the most.
	if got, original := allocated(r.t, image), allocated(r.t, like); got > original+8<<20 {
		r.t.Errorf("%s of session %d takes %d bytes of the disk, its original %d", volume, session, got, original)
	}
}

// refuses expects that the script ends with an error that has these words, and
// leaves nothing behind that looks like an image.
func (r *recoverer) refuses(what, volume string, words ...string) {
	r.t.Helper()
	image := filepath.Join(r.dir, "refused")
	res := r.run(nil, "restore", volume, image)
	if res.code != 1 || !strings.Contains(res.stderr, "recover: error: ") {
		r.t.Errorf("%s: %s\nwas to be refused", what, res)
	}
	res.says(words...)
	if left, _ := filepath.Glob(image + "*"); len(left) > 0 {
		r.t.Errorf("%s: refused, and left %v behind", what, left)
		os.Remove(image)
	}
}

// TestRecovery: the script gets every volume of every session out of archives
// of all sorts.
func TestRecovery(t *testing.T) {
	t.Parallel()
	needRecovery(t)
	for _, params := range [][]string{
		nil,
		{"--chunk-size", "64K"},
		{"--chunk-size", "4M", "--compression", "zstd:19"},
		{"--chunk-size", "64K", "--compression", "none"},
	} {
		t.Run(strings.Join(params, " "), func(t *testing.T) {
			w := archive(t, params...)
			images := map[string]string{
				"random":  w.image("random", "random:700001:1"),
				"text":    w.image("text", "text:900K:2"),
				"mixed":   w.image("mixed", "text:300K:3", "hole:1M", "random:300K:4", "zero:400K", "text:12345:5"),
				"levels":  w.image("levels", "text:5M:6", "hole:140M", "random:100K:7", "hole:100K"),
				"holes":   w.image("holes", "hole:50M"),
				"empty":   w.image("empty", "hole:0"),
				"one":     w.image("one", "random:1:8"),
				"größe 1": w.image("größe 1", "random:64K:9"),
			}
			var sources []string
			for name, image := range images {
				sources = append(sources, name+"=file:"+image)
			}
			w.ok(append([]string{"backup"}, sources...)...)
			was := copyFile(t, images["mixed"], w.path("mixed-1"))
			overwrite(t, images["mixed"], 100000, "random:200000:10")
			w.ok("backup", "mixed=file:"+images["mixed"], "--tag", "changed")
			if err := os.Truncate(images["text"], 333333); err != nil {
				t.Fatal(err)
			}
			w.ok("backup", "text=file:"+images["text"])

			r := newRecoverer(w)
			for name, image := range images {
				r.gives(name, 0, image)
			}
			r.gives("mixed", 1, was)
			r.gives("mixed", 2, images["mixed"])
			list := r.run(nil, "list").expect(0)
			list.prints("#1 ", "#2 ", "#3 ", "^changed", "größe 1")
			if n := strings.Count(list.stdout, "\n"); n != 3+len(images)+2 {
				t.Errorf("%s\nhas %d lines", list, n)
			}
			all := w.path("all")
			r.run(nil, "restore-all", all, "--session", "1").expect(0)
			for name, image := range images {
				switch name {
				case "mixed", "text": // they were changed afterwards
				default:
					same(t, filepath.Join(all, name), image)
				}
			}
			same(t, filepath.Join(all, "mixed"), was)
			r.run(nil, "restore-all", all, "--session", "1").expect(1).says("is there already", "8 of 8 volumes")
			r.run(nil, "restore", "mixed", w.path("new"), "--session", "3").expect(1).says("'mixed' is not in a session #3")
			r.run(nil, "restore", "another", w.path("new")).expect(1).says("no volume 'another'")
			r.run(nil, "restore", "one", images["one"]).expect(1).says("is there already")
		})
	}
}

// TestRecoveryOfManySessions has a list of sessions of two levels, and what
// many backups leave of an index.
func TestRecoveryOfManySessions(t *testing.T) {
	t.Parallel()
	needRecovery(t)
	const sessions = 34
	w := archive(t, "--chunk-size", "64K")
	old := w.image("old", "text:200K:1")
	image, copies := w.image("image", "random:300K:2"), []string{""}
	w.ok("backup", "old=file:"+old, "image=file:"+image)
	copies = append(copies, copyFile(t, image, w.path("image-1")))
	for i := 2; i <= sessions; i++ {
		overwrite(t, image, int64(i)*7000, fmt.Sprintf("random:3000:%d", i))
		w.ok("backup", "image=file:"+image)
		copies = append(copies, copyFile(t, image, w.path(fmt.Sprint("image-", i))))
	}
	r := newRecoverer(w)
	for _, i := range []int{1, 2, 17, 31, 32, 33, sessions} { // #32 begins the second leaf
		r.gives("image", i, copies[i])
	}
	r.gives("image", 0, image)
	r.gives("old", 0, old)

	// An older root leads to the sessions that it knows; init made the first.
	for _, n := range []int{2, sessions} {
		if list := r.run([]string{"--root", fmt.Sprint(n)}, "list").expect(0); strings.Count(list.stdout, "#") != n-1 {
			t.Errorf("%s\nshows another number of sessions than %d", list, n-1)
		}
	}

	// Without roots and index a key export opens what is in packs.
	export := w.path("export")
	w.ok("key", "export", export)
	for _, dir := range []string{"head", "roots", "index"} {
		if err := os.RemoveAll(filepath.Join(w.store, dir)); err != nil {
			t.Fatal(err)
		}
	}
	r.run(nil, "list").expect(1).says("the archive has no root", "--key-export")
	r.secret = append(r.secret, "--key-export", export)
	r.gives("image", 0, image)
	r.gives("image", 17, copies[17])
	if list := r.run(nil, "list").expect(0); strings.Count(list.stdout, "#") != sessions {
		t.Errorf("%s\nshows another number of sessions than %d", list, sessions)
	}
}

// TestRecoveryByPassphrase needs a library with Argon2 on this machine.
func TestRecoveryByPassphrase(t *testing.T) {
	t.Parallel()
	needArgon2(t)
	w := newWorld(t)
	pass := w.path("pass")
	writeFile(t, pass, []byte("grüne Äpfel, \\ \" $HOME\r\nthe second line is no part of it\n"))
	decomposed := "gru\u0308ne A\u0308pfel, \\ \" $HOME"
	image := w.image("image", "random:200K:1", "text:100K:2")
	w.ok("init", "--passfile", pass)
	w.ok("backup", "--passfile", pass, "file:"+image)
	r := newRecoverer(w)
	r.secret = []string{"--passfile", pass}
	r.gives("image", 0, image)
	writeFile(t, pass, []byte(decomposed))
	r.gives("image", 0, image)
	writeFile(t, pass, []byte("grüne Äpfel"))
	r.refuses("another passphrase", "image", "is of another passphrase")
	r.secret = []string{"--keyfile", w.key}
	r.refuses("a key file", "image", "is for the other kind of secret")
}

// TestRecoveryByRecoveryKey: the script takes a recovery key where it takes a
// passphrase, as pinion does, and needs no Argon2 for it.
func TestRecoveryByRecoveryKey(t *testing.T) {
	t.Parallel()
	needRecovery(t)
	w := newWorldOf(t, build{static: true})
	image := w.image("image", "random:200K:1", "text:100K:2")
	w.ok("init")
	w.ok("backup", "file:"+image)
	code, shown := onTerminal(t, w.command("key", "recovery"))
	text := strings.TrimRight(recoveryText.FindString(shown), "\r")
	if code != 0 || text == "" {
		t.Fatalf("exit status %d\n%s", code, shown)
	}
	r, pass := newRecoverer(w), w.path("pass")
	r.secret = []string{"--passfile", pass}
	for _, typed := range []string{
		text + "\n", text, strings.ToLower(text) + "\r\nthe second line\n", strings.ReplaceAll(text, "-", " ") + "\n",
		strings.NewReplacer("0", "O", "1", "l", "-", "").Replace(text) + "\n",
	} {
		writeFile(t, pass, []byte(typed))
		r.gives("image", 0, image)
	}
	code, shown = onTerminal(t, r.command(w.store, "list"), text+"\n")
	if code != 0 || !strings.Contains(shown, "recovery key: ") || !strings.Contains(shown, "  image") || strings.Contains(shown, text[:9]) {
		t.Errorf("typed: exit status %d\n%s", code, shown)
	}

	wrong := []byte(text)
	wrong[20] = "23"[map[bool]int{true: 1, false: 0}[wrong[20] == '2']]
	writeFile(t, pass, wrong)
	r.refuses("a digit is wrong", "image", "looks like a recovery key that was mistyped", "is for the other kind of secret")
	w.ok("key", "remove", w.keys(w.key)[1].ID, "--keyfile", w.key)
	writeFile(t, pass, []byte(text))
	r.refuses("a recovery key that was removed", "image", "this key was removed", "--root")
	r.run([]string{"--root", "3"}, "list").expect(0)
}
