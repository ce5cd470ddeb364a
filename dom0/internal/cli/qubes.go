package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
)

// Where Qubes OS keeps what pinion needs, if not at the usual places.
const (
	envQubesdSocket         = "PINION_QUBESD_SOCKET"
	envQubesdInternalSocket = "PINION_QUBESD_INTERNAL_SOCKET"
	envQubesDir             = "PINION_QUBES_DIR"

	defaultQubesDir = "/var/lib/qubes"
)

// qubesd is the way to the Admin API.
func (e *Env) qubesd() *admin.Client {
	return admin.New(admin.Options{Socket: os.Getenv(envQubesdSocket), InternalSocket: os.Getenv(envQubesdInternalSocket)})
}

// qubesXML is the path of the file that describes all qubes.
func qubesXML() string {
	dir := os.Getenv(envQubesDir)
	if dir == "" {
		dir = defaultQubesDir
	}
	return filepath.Join(dir, "qubes.xml")
}

// isQubeWord tells the name of a qube from a source: it has no ":", "/" or "=".
func isQubeWord(word string) bool { return word != "" && !strings.ContainsAny(word, ":/=") }

// splitQubes takes the names of qubes out of a command's words.
func splitQubes(command string, words []string) (qubes, sources []string, err error) {
	seen := map[string]bool{}
	for _, word := range words {
		if !isQubeWord(word) {
			sources = append(sources, word)
			continue
		}
		if err := format.CheckAnyQubeName(word); err != nil {
			return nil, nil, exit.UsageHint(sourceHint, "%s: %w", command, err)
		}
		if seen[word] {
			return nil, nil, exit.Usagef("%s: %q is named twice", command, word)
		}
		seen[word] = true
		qubes = append(qubes, word)
	}
	return qubes, sources, nil
}

// needsRoot is the error where a command is about qubes and could do half of it at most: who may talk to qubesd may not
// read volumes, nor write them. With other sockets than dom0's, it is not dom0.
func needsRoot(command string) error {
	if os.Geteuid() == 0 || os.Getenv(envQubesdSocket) != "" {
		return nil
	}
	return exit.With(exit.Failed, errors.New(command+": volumes of qubes are root's"), "sudo pinion "+command)
}

// notQubes is the error where a command names qubes and there are none here.
func notQubes(what string) error {
	return exit.UsageHint(sourceHint, "%s, and this is not dom0 of Qubes OS: nobody listens at qubesd's socket", what)
}
