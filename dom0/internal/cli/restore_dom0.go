package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pinion/dom0/internal/dom0files"
	"pinion/dom0/internal/durable"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/restore"
	"pinion/dom0/internal/ui"
)

// dom0Settings is the file that tells what dom0's settings were.
const dom0Settings = "dom0-settings.txt"

// errExtracted is what the stream of dom0's files gets that nobody reads any more.
var errExtracted = errors.New("the extraction has ended")

// dom0 restores dom0's files to a directory of their own, beside a text with its settings: neither is put over what is live.
func (q *restoringQubes) dom0(ctx context.Context) error {
	from := q.qubes[format.AdminQube]
	e := &q.c.entries[from.at]
	dir, err := q.dom0Dir()
	if err != nil {
		return err
	}
	// First whatever may fail or be interrupted: a directory that is there is whole.
	if from.unread != nil && !q.o.DataOnly {
		status, _ := statusOf(from.unread)
		return exit.With(status, fmt.Errorf("the settings of dom0 in session #%d: %w", e.Seq, from.unread), "--data-only restores dom0's files alone")
	}
	v := from.volumes["files"]
	if v == nil || q.o.SettingsOnly {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make the directory to restore dom0's settings to: %w", err)
		}
	} else {
		record, err := q.a.Record(ctx, v.Record)
		if err != nil {
			return err
		}
		if err := checkSpace([]restoreJob{{name: dom0files.Name, path: dir, need: record.Data}}); err != nil {
			return err
		}
		received := q.a.FetchedChunks()
		if err := q.extract(ctx, e, record, dir); err != nil {
			return err
		}
		q.doc.Volumes = append(q.doc.Volumes, restoredJSON{dom0files.Name, e.ID.String(), q.a.FetchedChunks() - received, record.Size})
	}
	if !q.o.DataOnly {
		if err := durable.WriteFile(filepath.Join(dir, dom0Settings), []byte(settingsText(from.config))); err != nil {
			return err
		}
	}
	q.doc.Dom0Dir = dir
	if !q.env.UI.Quiet() {
		q.env.UI.Printf("Restored dom0 of session #%d to %s.", e.Seq, dir)
	}
	return nil
}

// restoreDom0 brings dom0's files to the directory that was named, on any machine.
func (r *restoring) restoreDom0(ctx context.Context) error {
	if err := r.mustBeDir(); err != nil {
		return err
	}
	q := &restoringQubes{restoring: r, qubes: map[string]*qubeRestore{}}
	if _, err := q.wanted(ctx, []string{format.AdminQube}); err != nil {
		return err
	}
	if err := q.dom0(ctx); err != nil {
		return err
	}
	return r.env.UI.Result(r.doc)
}

// dom0Dir is the new directory to restore to.
func (q *restoringQubes) dom0Dir() (string, error) {
	if q.o.to != "" {
		return q.o.to, nil
	}
	home := os.Getenv("HOME")
	if !filepath.IsAbs(home) {
		return "", exit.With(exit.Failed, errors.New("there is no home directory to restore dom0's files to"), "set HOME")
	}
	first := filepath.Join(home, "dom0-restore-"+dom0Time(q.env.Now()))
	for dir, n := first, 2; ; n++ {
		_, err := os.Lstat(dir)
		_, partErr := os.Lstat(dir + dom0files.PartSuffix)
		switch {
		case errors.Is(err, fs.ErrNotExist) && errors.Is(partErr, fs.ErrNotExist):
			return dir, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("make the directory to restore dom0's files to: %w", err)
		}
		dir = fmt.Sprintf("%s-%d", first, n) // more than one in a second
	}
}

// extract streams the volume into the directory.
func (q *restoringQubes) extract(ctx context.Context, e *format.SessionEntry, record *format.VolumeRecord, dir string) error {
	q.meter.begin("restoring "+dom0files.Name, record.Size)
	defer q.meter.stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	streamed := make(chan error, 1)
	go func() {
		err := restore.Stream(ctx, q.a, dom0files.Name, e.Seq, record, w, q.meter.add)
		w.CloseWithError(err)
		streamed <- err
	}()
	got, err := dom0files.Extract(ctx, r, dir, dom0files.ExtractOptions{
		Max:  record.Size,
		Skip: func(path string, why error) { q.env.UI.Warn("dom0: %s: %s", ui.Quote(path), oneLine(why)) },
	})
	r.CloseWithError(errExtracted)
	if streamErr := <-streamed; streamErr != nil && err != nil && !errors.Is(streamErr, errExtracted) && !errors.Is(err, streamErr) {
		err = fmt.Errorf("%w: %w", err, streamErr) // where it came to, and the cause
	}
	if err != nil {
		return fmt.Errorf("restore %s: %w", dom0files.Name, err)
	}
	q.meter.done()
	if got.Skipped > 0 {
		q.env.UI.Warn("dom0: not restored as it was: %s", count(got.Skipped, "file"))
	}
	return nil
}

// settingsText is what dom0's settings were, for a person to read.
func settingsText(c *format.QubeConfig) string {
	var text strings.Builder
	fmt.Fprintf(&text, "# The settings of dom0 and of the system as they were saved.\n# They are here to be read, and were not put back.\n")
	section := func(title string, pairs []format.QubePair) {
		fmt.Fprintf(&text, "\n[%s]\n", title)
		for _, p := range pairs {
			fmt.Fprintf(&text, "%s = %q\n", p.Name, p.Value)
		}
	}
	section("global properties", c.Globals)
	section("properties of dom0", c.Properties)
	section("features of dom0", c.Features)
	fmt.Fprintf(&text, "\n[tags of dom0]\n")
	for _, tag := range c.Tags {
		fmt.Fprintf(&text, "%s\n", tag)
	}
	if c.Notes != "" {
		fmt.Fprintf(&text, "\n[notes of dom0]\n%s\n", c.Notes)
	}
	return text.String()
}
