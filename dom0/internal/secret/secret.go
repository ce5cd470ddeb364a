// Package secret owns the ways by which a passphrase or a key file reaches pinion.
//
// Promises: secrets come from a command, a file or the terminal, never from the command line or the environment; they
// are in no error, warning or prompt; every buffer that held one is cleared, save the result, which the caller owns
// and clears. What is read is bounded.
//
// It never derives keys and knows no archive.
package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/exit"
)

const (
	// MinLength is the least length of a new passphrase, in characters. The key derivation makes one guess cost about
	// a second and 256 MiB, so eight random characters stand for long; whatever is shorter can be tried out in full.
	// Passphrases of existing archives are taken at any length but 0.
	MinLength = 8
	// MaxPassphrase bounds a passphrase, in bytes. It is also what a terminal takes as one line.
	MaxPassphrase = 4095
	// MinKeyFile and MaxKeyFile bound a key file, in bytes. 32 random bytes are as strong as the keys made from
	// them; the upper bound keeps a wrong path, say of a disk image, from being read.
	MinKeyFile = 32
	MaxKeyFile = 64 << 10
	// maxTries is how often a new passphrase that was mistyped, or is too short, is asked for again.
	maxTries = 3
)

// Kind tells passphrases, which need a slow key derivation, from key files, which don't.
type Kind int

// The kinds of secrets.
const (
	Passphrase Kind = iota + 1
	KeyFile
)

// Secret is what unlocks an archive.
type Secret struct {
	Kind Kind
	// Bytes is a passphrase of 1 to MaxPassphrase bytes, or the content of a key file.
	Bytes []byte
}

// Recovery makes a recovery key of a passphrase that is the text of one; other secrets stay as they are. A passphrase
// that looks like a recovery key and isn't one stays, too, and is a MistypedError: somebody may have such a passphrase.
func (s *Secret) Recovery() error {
	if s.Kind != Passphrase {
		return nil
	}
	key, err := ParseRecovery(s.Bytes)
	if errors.Is(err, ErrNotRecovery) {
		return nil
	}
	if err == nil {
		s.Clear()
		s.Kind, s.Bytes = KeyFile, key
	}
	return err
}

// Clear overwrites the secret.
func (s *Secret) Clear() { clear(s.Bytes) }

// Source says where the secret comes from: at most one of PassCmd, PassFile and KeyFile is set, and without any of
// them the terminal is asked.
type Source struct {
	// PassCmd is run by /bin/sh; the first line of its output is the passphrase.
	PassCmd string
	// PassFile is the path of a file whose first line is the passphrase.
	PassFile string
	// KeyFile is the path of a file whose whole content is the key.
	KeyFile string
	// ForNew says that the options which these came from are those for a new secret: --new-passfile for --passfile.
	ForNew bool
	// Unattended forbids to ask the terminal.
	Unattended bool
	// Prompt asks the terminal for one line, without echo. It returns a buffer that becomes this package's, and
	// ctx's error if ctx ends first.
	Prompt func(ctx context.Context, prompt string) ([]byte, error)
	// Warn takes remarks for the person, such as on a file that others can read.
	Warn func(format string, args ...any)
}

// option is how an option for the source is written.
func (s Source) option(name string) string {
	if s.ForNew {
		return "--new-" + name
	}
	return "--" + name
}

// hint names the ways that need no terminal.
func (s Source) hint() string {
	return fmt.Sprintf("give the passphrase with %s or %s, or a key with %s", s.option("passcmd"), s.option("passfile"), s.option("keyfile"))
}

// Check refuses contradictory sources. It reads nothing.
func (s Source) Check() error {
	var given []string
	for _, o := range []struct{ name, value string }{
		{"passcmd", s.PassCmd}, {"passfile", s.PassFile}, {"keyfile", s.KeyFile},
	} {
		if o.value != "" {
			given = append(given, s.option(o.name))
		}
	}
	if len(given) > 1 {
		return exit.Usagef("%s exclude each other", strings.Join(given, " and "))
	}
	return nil
}

// Get returns the secret of an existing archive; prompt is what the terminal is asked with, if it is. The caller
// clears the result.
func (s Source) Get(ctx context.Context, prompt string) (Secret, error) {
	if err := s.Check(); err != nil {
		return Secret{}, err
	}
	switch {
	case s.KeyFile != "":
		key, err := readKeyFile(ctx, s.KeyFile, s.Warn)
		return result(KeyFile, key, err)
	case s.PassFile != "":
		pass, err := readPassFile(ctx, s.PassFile, s.Warn)
		return result(Passphrase, pass, err)
	case s.PassCmd != "":
		pass, err := runPassCmd(ctx, s.option("passcmd"), s.PassCmd)
		return result(Passphrase, pass, err)
	}
	pass, err := s.ask(ctx, prompt)
	return result(Passphrase, pass, err)
}

// New returns the secret for a new key slot. A terminal is asked twice, and again, a few times, while the two answers
// differ or are too short; from elsewhere, a short passphrase is an error. The caller clears the result.
func (s Source) New(ctx context.Context, prompt string) (Secret, error) {
	if err := s.Check(); err != nil {
		return Secret{}, err
	}
	if s.PassCmd == "" && s.PassFile == "" && s.KeyFile == "" {
		return s.askNew(ctx, prompt)
	}
	got, err := s.Get(ctx, prompt)
	if err == nil && got.Kind == Passphrase {
		err = checkNew(got.Bytes)
	}
	if err != nil {
		got.Clear()
		return Secret{}, err
	}
	return got, nil
}

func (s Source) askNew(ctx context.Context, prompt string) (Secret, error) {
	for try := 1; ; try++ {
		got, err := s.askTwice(ctx, prompt)
		if err == nil {
			return Secret{Kind: Passphrase, Bytes: got}, nil
		}
		// Only what was typed can be mended by typing it again.
		if !errors.Is(err, errTyped) || try == maxTries {
			return Secret{}, err
		}
		s.Warn("%v; once more", err)
	}
}

// errTyped marks errors of the person at the terminal.
var errTyped = errors.New("passphrase not accepted")

func (s Source) askTwice(ctx context.Context, prompt string) ([]byte, error) {
	first, err := s.ask(ctx, prompt)
	if err != nil {
		return nil, err
	}
	if err := checkNew(first); err != nil {
		clear(first)
		return nil, err
	}
	second, err := s.ask(ctx, "the same once more")
	defer clear(second)
	if err == nil && !bytes.Equal(first, second) {
		err = fmt.Errorf("%w: the two differ", errTyped)
	}
	if err != nil {
		clear(first)
		return nil, err
	}
	return first, nil
}

func (s Source) ask(ctx context.Context, prompt string) ([]byte, error) {
	if s.Unattended {
		return nil, exit.With(exit.Failed, errors.New("no passphrase given, and --unattended forbids to ask for it"), s.hint())
	}
	pass, err := s.Prompt(ctx, prompt)
	if err == nil {
		err = checkPassphrase(pass, "the terminal")
		if err != nil {
			err = fmt.Errorf("%w: %w", errTyped, err)
		}
	}
	if err == nil {
		return pass, nil
	}
	clear(pass)
	if ctx.Err() == nil && !errors.Is(err, errTyped) {
		err = exit.With(exit.Failed, fmt.Errorf("ask for the passphrase: %w", err), s.hint())
	}
	return nil, err
}

func checkNew(pass []byte) error {
	if utf8.RuneCount(pass) < MinLength {
		return exit.With(exit.Failed, fmt.Errorf("%w: a new one has at least %d characters", errTyped, MinLength),
			"a few random words are easier to remember than a few random characters")
	}
	if err := crypt.CheckPassphrase(pass); err != nil {
		return exit.With(exit.Failed, fmt.Errorf("%w: %w", errTyped, err), "choose another passphrase")
	}
	// It would be taken for that key wherever it is asked for.
	if key, err := ParseRecovery(pass); err == nil {
		clear(key)
		return exit.With(exit.Failed, fmt.Errorf("%w: it is a recovery key", errTyped), "choose another passphrase; pinion key recovery makes recovery keys")
	}
	return nil
}

func checkPassphrase(pass []byte, from string) error {
	switch {
	case len(pass) == 0:
		return fmt.Errorf("the passphrase from %s is empty", from)
	case len(pass) > MaxPassphrase:
		return fmt.Errorf("the passphrase from %s is longer than %d bytes", from, MaxPassphrase)
	}
	return nil
}

func result(kind Kind, b []byte, err error) (Secret, error) {
	if err != nil {
		clear(b)
		return Secret{}, err
	}
	return Secret{Kind: kind, Bytes: b}, nil
}
