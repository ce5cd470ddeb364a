package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs testdata/scripts: what a person types and sees, one topic a
// file. Each script has a directory and an archive's place of its own, and a
// configuration that names a key file. Beside testscript's own commands there
// are:
//
//	pinion ARGS...               run pinion; it has to exit with 0
//	exits N pinion ARGS...       the same, but it has to exit with N
//	lines stdout|stderr N        how many lines it has written
//	width N                      none of these lines has more columns
//	json PATH VALUE              the document that it has printed has that value
//	                             there, as in: json sessions.0.volumes.0.name disk
//	mkimage FILE PART...         write an image: see makeImage
//	overwrite FILE OFFSET PART...
//	same FILE FILE               two files are the same, byte for byte
//	flip OFFSET PATTERN          turn one bit of a file over
//	found PATTERN                there is such a file
//	write FILE LINE...           write lines of text
//	append FILE LINE...
//	sh COMMAND                   run a shell command
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	bin := programs(t, build{})
	testscript.Run(t, testscript.Params{
		Files: scripts,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+":/usr/bin:/bin:/usr/sbin:/sbin")
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("TZ", "UTC")
			env.Setenv("GORACE", goRace)
			env.Setenv("PINION_DEST", "file:"+env.WorkDir+"/store")
			writeFile(t, env.WorkDir+"/key", content("random:64:1"))
			writeFile(t, env.WorkDir+"/pinion.conf", fmt.Appendf(nil,
				"[defaults]\nkeyfile = %[1]s/key\nstate-dir = %[1]s/state\ncache-dir = %[1]s/cache\n", env.WorkDir))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"pinion": func(ts *testscript.TestScript, neg bool, args []string) { judge(ts, neg, runPinion(ts, 0, args)) },
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				code, err := strconv.Atoi(args[0])
				if err != nil || args[1] != "pinion" {
					ts.Fatalf("write: exits N pinion ARGS...")
				}
				judge(ts, neg, runPinion(ts, code, args[2:]))
			},
			"lines": with(countLines),
			"width": with(widest),
			"json":  with(jsonValue),
			"mkimage": with(func(ts *testscript.TestScript, args []string) error {
				return writeParts(ts.MkAbs(args[0]), 0, true, args[1:])
			}),
			"overwrite": with(overwriteFile),
			"same": with(func(ts *testscript.TestScript, args []string) error {
				return compare(ts.MkAbs(args[0]), ts.MkAbs(args[1]))
			}),
			"flip":   with(flipFile),
			"found":  with(func(ts *testscript.TestScript, args []string) error { _, err := theFile(ts, args[0]); return err }),
			"write":  with(func(ts *testscript.TestScript, args []string) error { return writeLines(ts, os.O_TRUNC, args) }),
			"append": with(func(ts *testscript.TestScript, args []string) error { return writeLines(ts, os.O_APPEND, args) }),
			"sh":     with(func(ts *testscript.TestScript, args []string) error { return ts.Exec("sh", "-c", args[0]) }),
		},
	})
}

// with makes a command of a function that may fail.
func with(fn func(ts *testscript.TestScript, args []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) { judge(ts, neg, fn(ts, args)) }
}

// judge fails the script if err isn't as the line wants it.
func judge(ts *testscript.TestScript, neg bool, err error) {
	if neg && err == nil {
		ts.Fatalf("it did not fail")
	}
	if !neg && err != nil {
		ts.Fatalf("%v", err)
	}
}

func runPinion(ts *testscript.TestScript, want int, args []string) error {
	err := ts.Exec("pinion", append([]string{"--config", ts.MkAbs("pinion.conf")}, args...)...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		return err
	}
	if stderr := ts.ReadFile("stderr"); strings.Contains(stderr, "panic:") || strings.Contains(stderr, "DATA RACE") {
		ts.Fatalf("pinion went down:\n%s", stderr)
	}
	if code != want {
		return fmt.Errorf("pinion exited with %d, and was to exit with %d", code, want)
	}
	return nil
}

func overwriteFile(ts *testscript.TestScript, args []string) error {
	off, err := parseSize(args[1])
	if err != nil {
		return err
	}
	return writeParts(ts.MkAbs(args[0]), off, false, args[2:])
}

// theFile is the one file that a pattern leads to, or the first of several.
func theFile(ts *testscript.TestScript, pattern string) (string, error) {
	found, err := filepath.Glob(ts.MkAbs(pattern))
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%s: %w", pattern, os.ErrNotExist)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

func flipFile(ts *testscript.TestScript, args []string) error {
	off, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return err
	}
	path, err := theFile(ts, args[1])
	if err != nil {
		return err
	}
	return flipByte(path, off)
}

func writeLines(ts *testscript.TestScript, flag int, args []string) error {
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY|os.O_CREATE|flag, 0o600)
	if err != nil {
		return err
	}
	for _, line := range args[1:] {
		if _, err := fmt.Fprintln(f, line); err != nil {
			return err
		}
	}
	return f.Close()
}

func countLines(ts *testscript.TestScript, args []string) error {
	if n := len(lines(ts.ReadFile(args[0]))); strconv.Itoa(n) != args[1] {
		return fmt.Errorf("there are %d lines", n)
	}
	return nil
}

func widest(ts *testscript.TestScript, args []string) error {
	most, err := strconv.Atoi(args[0])
	for _, line := range lines(ts.ReadFile("stdout") + ts.ReadFile("stderr")) {
		if n := utf8.RuneCountInString(line); n > most {
			err = fmt.Errorf("a line has %d columns: %s", n, line)
		}
	}
	return err
}

func jsonValue(ts *testscript.TestScript, args []string) error {
	var doc any
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		return err
	}
	if d.More() {
		return errors.New("there is more than one document")
	}
	for _, key := range strings.Split(args[0], ".") {
		switch v := doc.(type) {
		case map[string]any:
			doc = v[key]
		case []any:
			i, err := strconv.Atoi(key)
			switch {
			case key == "len":
				doc = len(v)
			case err != nil || i >= len(v):
				return fmt.Errorf("there are %d elements", len(v))
			default:
				doc = v[i]
			}
		default:
			doc = nil
		}
	}
	if got := fmt.Sprint(doc); got != args[1] {
		return fmt.Errorf("it is %s", got)
	}
	return nil
}
