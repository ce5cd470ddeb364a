package qrexec

import (
	"os"
	"path/filepath"
	"strings"
)

// A service is one that was found in a qube.
type service struct {
	path string
	user string // of force-user; empty: the call's
}

// searchPath is where services are, the first first: what is of this boot,
// what is the qube's own, what comes from its template.
var searchPath = []string{"run", "usr/local/etc", "etc"}

// Limits of the real agent.
const (
	maxName   = 255  // bytes of SERVICE+ARG that are looked up as one file
	maxConfig = 4096 // bytes of a file of rpc-config
)

// cutArgument splits SERVICE+ARG at the first +.
func cutArgument(name string) (service, argument string, given bool) {
	return strings.Cut(name, "+")
}

// find looks for a file below each of the directories of the search path:
// first of the whole name, then of the service alone.
func (q qube) find(below, name string) string {
	plain, _, _ := cutArgument(name)
	for _, file := range []string{name, plain} {
		if len(file) > maxName || strings.Contains(file, "/") {
			continue
		}
		for _, dir := range searchPath {
			path := filepath.Join(q.root, dir, below, file)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				return path
			}
		}
	}
	return ""
}

// findService returns the service for SERVICE+ARG, or the exit status of the
// call: 127 if there is none, 125 if it can't be run or its configuration is
// wrong.
func findService(q qube, name string, syslog func(string, ...any)) (service, int) {
	s := service{path: q.find("qubes-rpc", name)}
	if s.path == "" {
		syslog("%s: no such service", name)
		return s, exitMissing
	}
	if info, err := os.Stat(s.path); err != nil || info.Mode().Perm()&0o111 == 0 {
		syslog("%s: not executable", s.path)
		return s, exitProblem
	}
	path := q.find("qubes/rpc-config", name)
	if path == "" {
		return s, 0
	}
	text, err := os.ReadFile(path)
	if err != nil || len(text) > maxConfig {
		syslog("%s: can't be read, or too large: %v", path, err)
		return s, exitProblem
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		value = strings.TrimSpace(value)
		text, quoted := unquote(value)
		if !ok || !quoted && value != "true" && value != "false" {
			// A syntax error fails the call.
			syslog("%s: bad line %q", path, line)
			return s, exitProblem
		}
		switch key = strings.TrimSpace(key); {
		case key == "force-user" && quoted && (text == "user" || text == "root"):
			s.user = text
		case key == "force-user":
			syslog("%s: bad user", path)
			return s, exitProblem
		case key == "wait-for-session":
		default:
			// A key that isn't known is logged and has no effect.
			syslog("%s: unknown key %s", path, key)
		}
	}
	return s, 0
}

// unquote takes the quotation marks off a text of the file.
func unquote(value string) (string, bool) {
	for _, mark := range []string{"'", `"`} {
		if inside, ok := strings.CutPrefix(value, mark); ok && strings.HasSuffix(inside, mark) && len(value) >= 2 {
			return inside[:len(inside)-1], true
		}
	}
	return "", false
}
