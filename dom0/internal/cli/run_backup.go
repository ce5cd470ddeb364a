package cli

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
	"pinion/protocol"
)

// backupJSON is the document of "pinion backup --json".
type backupJSON struct {
	Session    *sessionIDJSON     `json:"session"` // null: there is none
	Volumes    []backupVolumeJSON `json:"volumes"`
	Failed     []failedJSON       `json:"failed"`
	SentBytes  int64              `json:"sent_bytes"`
	KDFSeconds float64            `json:"kdf_seconds"`
	LimitedBy  string             `json:"limited_by"` // source, cores or store
}

type sessionIDJSON struct {
	ID   string `json:"id"`
	Seq  uint64 `json:"seq"`
	Time string `json:"time"`
}

type backupVolumeJSON struct {
	Name         string `json:"name"`
	Size         int64  `json:"size"`
	Mode         string `json:"mode"`
	Live         bool   `json:"live"`
	ReadBytes    int64  `json:"read_bytes"`
	ChangedBytes int64  `json:"changed_bytes"`
	NewChunks    uint64 `json:"new_chunks"`
	StoredBytes  int64  `json:"stored_bytes"`
}

type failedJSON struct {
	Name    string `json:"name"`
	Message string `json:"message"`
}

func runBackup(ctx context.Context, env *Env, o *backupCommand) error {
	a, err := env.open(ctx, protocol.LockAppend)
	if err != nil {
		return err
	}
	defer a.Close()
	options := backupOptions(env, a, o)
	m := &meter{ui: env.UI}
	defer m.stop()
	options.Begin = func(name string, size int64) { m.begin("backing up "+ui.Quote(name), size) }
	options.Bytes = m.add
	options.Phase = func(text string) { m.begin(text, 0) }
	if options.Tracker, err = tracker.Open(env.StateDir); err != nil {
		return err
	}
	var sources []backup.Source
	for _, s := range o.sources {
		sources = append(sources, backup.Source{Name: s.Name, Source: &source.Source{
			Locator: "file:" + s.Path, Path: s.Path, Kind: source.Plain, Why: "it was not asked",
		}})
	}
	res, err := backup.Run(ctx, a, sources, options)
	if err == nil {
		m.done()
	}
	m.stop()
	for _, f := range res.Failed {
		env.UI.PartFailed("%s: %v", ui.Quote(f.Name), f.Err)
	}
	if errors.Is(err, backup.ErrNothing) && len(res.Failed) == 1 {
		return exit.With(exit.Failed, fmt.Errorf("no session was made: %w", err), "")
	}
	if err != nil {
		return err
	}
	return reportBackup(env, a, res)
}

func backupOptions(env *Env, a *archive.Archive, o *backupCommand) backup.Options {
	options := backup.Options{Compression: a.Root().Params.Compression, Tags: o.tags, Verify: o.Verify, Now: env.Now().In(env.Zone)}
	if o.Compression != compressionUnset {
		options.Compression = o.Compression.params()
	}
	return options
}

// reportBackup says what a session holds, and ends with Partial if a source is not in it.
func reportBackup(env *Env, a *archive.Archive, res *backup.Result) error {
	s := res.Session
	doc := backupJSON{
		Session: &sessionIDJSON{s.ID.String(), s.Seq, jsonTime(s.Time)},
		Volumes: []backupVolumeJSON{}, Failed: []failedJSON{},
		SentBytes: a.Store().Sent(), KDFSeconds: a.KDFTime().Seconds(), LimitedBy: res.Limit.Stage,
	}
	var rows [][]string
	for _, v := range res.Volumes {
		doc.Volumes = append(doc.Volumes, backupVolumeJSON{
			Name: v.Name, Size: v.Size, Mode: v.Mode.String(), Live: v.Live, ReadBytes: v.Read,
			ChangedBytes: v.Changed, NewChunks: v.NewChunks, StoredBytes: v.Stored,
		})
		rows = append(rows, []string{ui.Quote(v.Name), ui.Bytes(v.Size), ui.Bytes(v.Read), fmt.Sprint(v.NewChunks), ui.Bytes(v.Stored)})
	}
	for _, f := range res.Failed {
		doc.Failed = append(doc.Failed, failedJSON{f.Name, f.Err.Error()})
	}
	if !env.UI.Quiet() {
		env.UI.Printf("Session #%d (%s), %s sent:", s.Seq, s.ID.String()[:8], ui.Bytes(doc.SentBytes))
		env.UI.Table([]string{"VOLUME", "SIZE", "READ", "NEW CHUNKS", "STORED"}, rows)
	}
	env.UI.Detail("%s", res.Limit)
	if err := env.UI.Result(doc); err != nil {
		return err
	}
	if n := len(res.Failed); n > 0 {
		return exit.With(exit.Partial, fmt.Errorf("%d of %d volumes are not in the session", n, n+len(res.Volumes)), "")
	}
	return nil
}

// meter shows one phase of a command after the other.
type meter struct {
	ui       *ui.UI
	progress *ui.Progress
}

func (m *meter) begin(label string, total int64) {
	m.done()
	m.progress = m.ui.Start(label, total)
}

// add counts bytes; safe for concurrent use while no phase begins or ends.
func (m *meter) add(n int64) { m.progress.Add(n) }

// done ends a phase that was gone through.
func (m *meter) done() {
	if m.progress != nil {
		m.progress.Done()
		m.progress = nil
	}
}

// stop ends a phase that may not have been.
func (m *meter) stop() {
	if m.progress != nil {
		m.progress.Stop()
		m.progress = nil
	}
}
