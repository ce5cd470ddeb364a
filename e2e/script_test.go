package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestScripts runs testdata/scripts: what a person types and sees, one topic a
// file. Each script has a directory and an archive's place of its own, and a
// configuration that names a key file. A line is a command, its words parted by
// spaces, quoted with ” where they hold some; $WORK is the directory; # begins
// a comment, and ! wants a command to fail:
//
//	pinion ARGS...               run pinion; it has to exit with 0
//	exits N pinion ARGS...       the same, but it has to exit with N
//	stdout REGEXP                what pinion has just printed matches
//	stderr REGEXP
//	lines stdout|stderr N        how many lines it has written
//	width N                      none of these lines has more columns
//	json PATH VALUE              the document that it has printed has that value
//	                             there, as in: json sessions.0.volumes.0.name disk
//	mkimage FILE PART...         write an image: see makeImage
//	overwrite FILE OFFSET PART...
//	same FILE FILE               two files are the same, byte for byte
//	flip OFFSET FILE             turn one bit over
//	write FILE LINE...           write lines of text
//	append FILE LINE...
//	exists FILE                  FILE may be a pattern, here and for flip
//	sh COMMAND                   run a shell command
//	env NAME=VALUE               for all that is run from here on
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	bin := programs(t, build{})
	for _, path := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			s := &script{t: t, dir: t.TempDir()}
			s.env = []string{
				"PATH=" + bin + ":/usr/bin:/bin:/usr/sbin:/sbin", "HOME=" + s.dir, "TZ=UTC", "WORK=" + s.dir,
				"GORACE=" + goRace, "PINION_DEST=file:" + s.dir + "/store",
			}
			s.program = filepath.Join(bin, "pinion")
			writeFile(t, s.dir+"/key", content("random:64:1"))
			writeFile(t, s.dir+"/pinion.conf", fmt.Appendf(nil,
				"[defaults]\nkeyfile = %[1]s/key\nstate-dir = %[1]s/state\ncache-dir = %[1]s/cache\n", s.dir))
			s.play(path)
		})
	}
}

// script is a script that runs.
type script struct {
	t              *testing.T
	dir, program   string
	env            []string
	stdout, stderr string
}

var scriptCommands = map[string]func(s *script, args []string) error{
	"pinion": func(s *script, args []string) error { return s.pinion(0, args) },
	"exits": func(s *script, args []string) error {
		code, err := strconv.Atoi(args[0])
		if err != nil || args[1] != "pinion" {
			return errors.New("write: exits N pinion ARGS...")
		}
		return s.pinion(code, args[2:])
	},
	"stdout":    func(s *script, args []string) error { return match(s.stdout, args[0]) },
	"stderr":    func(s *script, args []string) error { return match(s.stderr, args[0]) },
	"lines":     (*script).lines,
	"width":     (*script).width,
	"json":      (*script).json,
	"mkimage":   func(s *script, args []string) error { return writeParts(s.path(args[0]), 0, true, args[1:]) },
	"overwrite": (*script).overwrite,
	"same":      func(s *script, args []string) error { return compare(s.path(args[0]), s.path(args[1])) },
	"flip":      (*script).flip,
	"write":     func(s *script, args []string) error { return s.write(os.O_TRUNC, args) },
	"append":    func(s *script, args []string) error { return s.write(os.O_APPEND, args) },
	"exists": func(s *script, args []string) error {
		found, err := filepath.Glob(s.path(args[0]))
		if err == nil && len(found) == 0 {
			err = os.ErrNotExist
		}
		return err
	},
	"sh": func(s *script, args []string) error {
		cmd := exec.Command("sh", "-c", args[0])
		cmd.Dir, cmd.Env = s.dir, s.env
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
		return err
	},
	"env": func(s *script, args []string) error { s.env = append(s.env, args[0]); return nil },
}

// play runs all lines up to the first that fails.
func (s *script) play(path string) {
	f, err := os.Open(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	for n := 1; in.Scan(); n++ {
		fail := func(format string, args ...any) {
			s.t.Fatalf("%s:%d: %s\n%s\nstdout: %s\nstderr: %s", path, n, in.Text(), fmt.Sprintf(format, args...), cut(s.stdout), cut(s.stderr))
		}
		args, err := words(in.Text())
		if err != nil {
			fail("%v", err)
		}
		if len(args) == 0 {
			continue
		}
		neg := args[0] == "!"
		if neg {
			args = args[1:]
		}
		command, ok := scriptCommands[args[0]]
		if !ok {
			fail("there is no command %q", args[0])
		}
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "$WORK", s.dir)
		}
		if err := command(s, args[1:]); (err != nil) != neg {
			fail("%v", err)
		}
	}
	if err := in.Err(); err != nil {
		s.t.Fatal(err)
	}
}

// words cuts a line.
func words(line string) (args []string, err error) {
	for {
		line = strings.TrimLeft(line, " \t")
		switch {
		case line == "" || line[0] == '#' && len(args) == 0:
			return args, nil
		case strings.Contains(line, "'") && !strings.Contains(strings.SplitN(line, "'", 2)[0], " "):
			// A word with a quoted part.
			before, rest, _ := strings.Cut(line, "'")
			quoted, after, ok := strings.Cut(rest, "'")
			if !ok {
				return nil, errors.New("a quote is open")
			}
			tail, next, _ := strings.Cut(after, " ")
			args, line = append(args, before+quoted+tail), next
		default:
			word, next, _ := strings.Cut(line, " ")
			args, line = append(args, word), next
		}
	}
}

func (s *script) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(s.dir, name)
}

func (s *script) pinion(want int, args []string) error {
	args = append([]string{"--config", s.dir + "/pinion.conf"}, args...)
	cmd := exec.Command(s.program, args...)
	var stdout, stderr strings.Builder
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, s.env, &stdout, &stderr
	err := cmd.Run()
	s.stdout, s.stderr = stdout.String(), stderr.String()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	if strings.Contains(s.stderr, "panic:") || strings.Contains(s.stderr, "DATA RACE") {
		return errors.New("pinion went down")
	}
	if code := cmd.ProcessState.ExitCode(); code != want {
		return fmt.Errorf("pinion exited with %d, and was to exit with %d", code, want)
	}
	return nil
}

func match(text, expression string) error {
	re, err := regexp.Compile("(?m)" + expression)
	if err != nil {
		return err
	}
	if !re.MatchString(text) {
		return errors.New("no match")
	}
	return nil
}

func (s *script) overwrite(args []string) error {
	off, err := parseSize(args[1])
	if err != nil {
		return err
	}
	return writeParts(s.path(args[0]), off, false, args[2:])
}

func (s *script) flip(args []string) error {
	off, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return err
	}
	found, err := filepath.Glob(s.path(args[1]))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%s leads to %d files", args[1], len(found))
	}
	if err != nil {
		return err
	}
	return flipByte(found[0], off)
}

func (s *script) write(flag int, args []string) error {
	f, err := os.OpenFile(s.path(args[0]), os.O_WRONLY|os.O_CREATE|flag, 0o600)
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

func (s *script) lines(args []string) error {
	text := map[string]string{"stdout": s.stdout, "stderr": s.stderr}[args[0]]
	if n := len(lines(text)); strconv.Itoa(n) != args[1] {
		return fmt.Errorf("there are %d lines", n)
	}
	return nil
}

func (s *script) width(args []string) error {
	most, err := strconv.Atoi(args[0])
	for _, line := range lines(s.stdout + s.stderr) {
		if n := utf8.RuneCountInString(line); n > most {
			err = fmt.Errorf("a line has %d columns: %s", n, line)
		}
	}
	return err
}

func (s *script) json(args []string) error {
	var doc any
	d := json.NewDecoder(strings.NewReader(s.stdout))
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
