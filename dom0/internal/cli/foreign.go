package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/exit"
)

// wyngHead is how the file archive.ini of a Wyng archive begins.
var wyngHead = regexp.MustCompile(`\A\[WYNG0?([1-9][0-9]?)\]`)

// nameForeign says of a place without an archive what else is there, as far as that can be told: a backup that another
// program made must not look like nothing.
func (e *Env) nameForeign(err error) error {
	if !errors.Is(err, archive.ErrNoArchive) || e.Dest.Path() == "" {
		return err
	}
	f, openErr := os.Open(filepath.Join(e.Dest.Path(), "archive.ini"))
	if openErr != nil {
		return err
	}
	defer f.Close()
	untrustedHead := make([]byte, 16)
	n, _ := io.ReadFull(f, untrustedHead)
	m := wyngHead.FindSubmatch(untrustedHead[:n])
	if m == nil {
		return err
	}
	return exit.With(exit.NoArchive, fmt.Errorf("what is at %s is a Wyng archive (format V%s): %w", e.Dest, m[1], archive.ErrNoArchive),
		"pinion reads its own archives only; choose another place, and keep that one as long as you need it")
}
