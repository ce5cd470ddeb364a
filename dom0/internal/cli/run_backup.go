package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/tracker"
	"pinion/dom0/internal/ui"
	"pinion/protocol"
)

// backupJSON is the document of "pinion backup --json".
type backupJSON struct {
	Session    *sessionIDJSON     `json:"session"` // null: there is none
	Qubes      []backupQubeJSON   `json:"qubes"`
	Volumes    []backupVolumeJSON `json:"volumes"`
	Failed     []failedJSON       `json:"failed"`
	SentBytes  int64              `json:"sent_bytes"`
	KDFSeconds float64            `json:"kdf_seconds"`
	LimitedBy  string             `json:"limited_by"` // source, cores or store
	Pruned     *pruneJSON         `json:"pruned"`     // null: it didn't come to that
	// MissingObjects is how many packs and index objects the archive needs and the store doesn't have, or in another size; -1:
	// that can't be told. Listed is when all of them were listed last; empty: never.
	MissingObjects int    `json:"missing_objects"`
	Listed         string `json:"listed"`
}

// dryRunJSON is the document of "pinion backup --dry-run --json".
type dryRunJSON struct {
	Qubes   []backupQubeJSON `json:"qubes"`
	Volumes []dryVolumeJSON  `json:"volumes"`
	Failed  []failedJSON     `json:"failed"`
	// ReadBytes is exact; SendBytesAtMost is what would be sent if the archive had nothing of what is read.
	ReadBytes       int64   `json:"read_bytes"`
	SendBytesAtMost int64   `json:"send_bytes_at_most"`
	KDFSeconds      float64 `json:"kdf_seconds"`
}

type sessionIDJSON struct {
	ID   string `json:"id"`
	Seq  uint64 `json:"seq"`
	Time string `json:"time"`
}

// dryVolumeJSON is what is known of a volume before it is read.
type dryVolumeJSON struct {
	Name         string `json:"name"`
	Size         int64  `json:"size"`
	Mode         string `json:"mode"`
	Why          string `json:"why"` // why all of it is read
	Live         bool   `json:"live"`
	ReadBytes    int64  `json:"read_bytes"`
	ChangedBytes int64  `json:"changed_bytes"`
}

type backupVolumeJSON struct {
	dryVolumeJSON
	NewChunks   uint64 `json:"new_chunks"`
	StoredBytes int64  `json:"stored_bytes"`
}

type failedJSON struct {
	Name    string `json:"name"`
	Message string `json:"message"`
}

// backingUp is one run of the command.
type backingUp struct {
	env     *Env
	o       *backupCommand
	sources []backup.Source
	failed  []backup.Failed // sources that there are none of
	// plain are sources whose storage was never seen to tell what changed: that all of them is read goes without saying.
	plain map[string]bool
	// qubes are those whose settings are saved, in order; saving says of each what is.
	qubes  []backup.Qube
	saving map[string]*savedQube
	// pruned is what autoprune did.
	pruned *pruneJSON
	// presence is whether the store has what the archive needs; nil: that can't be told, and unasked says why.
	presence *archive.Presence
	unasked  error
	// hint is what to do about sources that were left out.
	hint string
}

func runBackup(ctx context.Context, env *Env, o *backupCommand) error {
	b := &backingUp{env: env, o: o, plain: map[string]bool{}, saving: map[string]*savedQube{}}
	if err := o.checkQubes(env); err != nil {
		return err
	}
	dir, err := env.trackers()
	if err != nil {
		return err
	}
	if err := b.find(ctx, dir); err != nil {
		return err
	}
	if len(b.sources) == 0 && !b.settingsOnly() {
		return b.nothing(0)
	}
	lock := protocol.LockAppend
	if o.DryRun {
		lock = protocol.LockRead
	}
	a, err := env.open(ctx, lock)
	if err != nil {
		return err
	}
	defer a.Close()
	m := &meter{ui: env.UI}
	defer m.stop()
	options := b.options(a, dir, m)
	if o.DryRun {
		return b.dryRun(ctx, a, options)
	}
	env.noticeClock(a)
	if err := b.autopruneBefore(ctx, a); err != nil {
		return err
	}
	res, err := backup.Run(ctx, a, b.sources, options)
	if err == nil {
		m.done()
	}
	m.stop()
	if res.Warning != nil {
		env.UI.Warn("%s", oneLine(res.Warning))
	}
	if res.Untracked != nil {
		env.UI.Warn("the session is whole, but the next one will read as much again: %s", oneLine(res.Untracked))
	}
	b.fail(res.Failed)
	if errors.Is(err, backup.ErrNothing) {
		return b.nothing(a.Store().Sent())
	}
	if err != nil {
		return err
	}
	b.stamp(ctx, res)
	b.presence, b.unasked = a.Presence(ctx)
	return b.report(ctx, a, res)
}

// noticeClock says that the clock stands before the last write to the archive: it, or the one of the host that wrote, is
// wrong. Nothing depends on it; the order of sessions is that of their numbers.
func (e *Env) noticeClock(a *archive.Archive) {
	if now, written := e.Now(), time.Unix(0, a.Root().Written); now.Before(written) {
		e.UI.Notice("the clock went back: it is %s, and the archive was last written %s; the order of sessions is that of their numbers",
			e.showTime(now.UnixNano()), e.showTime(written.UnixNano()))
	}
}

// find finds the sources; those that are none are left out.
func (b *backingUp) find(ctx context.Context, dir *tracker.Dir) error {
	found, err := b.env.findSources(ctx, b.o.sources)
	if err != nil {
		return err
	}
	tracked := map[string]bool{}
	known, _ := dir.List(ctx) // what is wrong with others is no concern of this run
	for _, t := range known {
		tracked[t.Locator] = t.Base != nil
	}
	var none []backup.Failed
	for _, f := range found {
		if f.err != nil {
			none = append(none, backup.Failed{Name: f.Name, Err: f.err})
			continue
		}
		b.add(backup.Source{Name: f.Name, Source: f.found}, tracked)
	}
	b.fail(none)
	words := len(b.sources)
	err = b.findQubes(ctx, tracked)
	if e, _ := exit.Of(err); err == nil || words == 0 || ctx.Err() != nil || e != nil {
		return err
	}
	// That nothing is known of qubes costs the other sources nothing.
	b.sources, b.qubes = b.sources[:words], nil
	what := b.o.qubes
	if b.o.All {
		what = []string{"--all"}
	}
	for _, name := range what {
		b.fail([]backup.Failed{{Name: name, Err: err}})
	}
	return nil
}

// add enters a source. tracked says of which locators there is a base snapshot.
func (b *backingUp) add(s backup.Source, tracked map[string]bool) {
	if v, ok := b.env.volumes.VolumeOf(s.Name); ok {
		s.Domain, s.Stored = v.Domain, v.Stored
	}
	b.sources = append(b.sources, s)
	b.plain[s.Name] = !s.Source.Kind.Tracks() && !tracked[s.Source.Locator]
}

// fail tells of sources that are left out.
func (b *backingUp) fail(failed []backup.Failed) {
	for _, f := range failed {
		b.env.UI.PartFailed("%s: %s", ui.Quote(f.Name), oneLine(f.Err))
		if errors.Is(f.Err, fs.ErrPermission) && os.Geteuid() != 0 {
			b.hint = "what only root may read needs root: sudo pinion backup"
		} else if _, hint := statusOf(f.Err); hint != "" && b.hint == "" {
			b.hint = hint
		}
	}
	b.failed = append(b.failed, failed...)
}

func (b *backingUp) failedJSON() []failedJSON {
	failed := []failedJSON{}
	for _, f := range b.failed {
		failed = append(failed, failedJSON{f.Name, oneLine(f.Err)})
	}
	return failed
}

// nothing is the end of a run without a session.
func (b *backingUp) nothing(sent int64) error {
	var doc any = backupJSON{Qubes: []backupQubeJSON{}, Volumes: []backupVolumeJSON{}, Failed: b.failedJSON(), SentBytes: sent, MissingObjects: -1}
	if b.o.DryRun {
		doc = dryRunJSON{Qubes: []backupQubeJSON{}, Volumes: []dryVolumeJSON{}, Failed: b.failedJSON()}
	}
	if err := b.env.UI.Result(doc); err != nil {
		return err
	}
	if b.o.DryRun {
		return exit.With(exit.Failed, backup.ErrNothing, b.hint)
	}
	return exit.With(exit.Failed, fmt.Errorf("no session was made: %w", backup.ErrNothing), b.hint)
}

// partly is the end of a run that left sources out.
func (b *backingUp) partly(done int) error {
	n := len(b.failed)
	if n == 0 {
		return nil
	}
	what, whole := "are not in the session", fmt.Sprintf("%d of %d volumes", n, n+done)
	if b.o.DryRun {
		what = "can't be read"
	}
	if b.o.choosesQubes() || len(b.o.qubes) > 0 {
		whole = fmt.Sprintf("%d of %d qubes and volumes", n, n+done)
	}
	return exit.With(exit.Partial, fmt.Errorf("%s %s", whole, what), b.hint)
}

func (b *backingUp) options(a *archive.Archive, dir *tracker.Dir, m *meter) backup.Options {
	o := backup.Options{
		Qubes: b.qubes, Tracker: dir, Rescan: b.o.Rescan, Compression: a.Root().Compression, Tags: b.o.tags, Verify: b.o.Verify,
		Now:   b.env.Now().In(b.env.Zone),
		Begin: func(name string, size int64) { m.begin("backing up "+ui.Quote(name), size) },
		Bytes: m.add,
		Phase: func(text string) { m.begin(text, 0) },
	}
	if b.o.Compression != compressionUnset {
		o.Compression = b.o.Compression.params()
	}
	return o
}

// explain says why all of a volume was read, where that was not to be expected.
func (b *backingUp) explain(v *backup.Volume) {
	if v.Moved {
		b.env.UI.Notice("%s is in another domain now: all %s of it were read and stored anew; older sessions keep their chunks, which stay open to guessing until they are pruned",
			ui.Quote(v.Name), ui.Bytes(v.Size))
	}
	if v.Mode != format.ModeScan || v.Why == "" {
		return
	}
	say := b.env.UI.Notice
	if b.plain[v.Name] || b.o.Rescan {
		say = b.env.UI.Detail
	}
	say("%s: scanned: %s", ui.Quote(v.Name), v.Why)
}

func dryDocument(v *backup.Volume) dryVolumeJSON {
	return dryVolumeJSON{
		Name: v.Name, Size: v.Size, Mode: v.Mode.String(), Why: v.Why, Live: v.Live, ReadBytes: v.Read, ChangedBytes: v.Changed,
	}
}

// report says what a session holds, and ends with Partial if a source is not in it.
func (b *backingUp) report(ctx context.Context, a *archive.Archive, res *backup.Result) error {
	s := res.Session
	doc := backupJSON{
		Session: &sessionIDJSON{s.ID.String(), s.Seq, jsonTime(s.Time)},
		Qubes:   b.qubesJSON(res.Qubes), Volumes: []backupVolumeJSON{}, Failed: b.failedJSON(),
		SentBytes: a.Store().Sent(), KDFSeconds: a.KDFTime().Seconds(), LimitedBy: res.Limit.Stage, MissingObjects: -1,
	}
	if p := b.presence; p != nil {
		doc.MissingObjects, doc.Listed = p.Missing, listedJSON(p.Listed)
	}
	var rows [][]string
	for i := range res.Volumes {
		v := &res.Volumes[i]
		b.explain(v)
		doc.Volumes = append(doc.Volumes, backupVolumeJSON{dryDocument(v), v.NewChunks, v.Stored})
		rows = append(rows, []string{
			ui.Quote(v.Name), ui.Bytes(v.Size), v.Mode.String(), ui.Bytes(v.Read), fmt.Sprint(v.NewChunks), ui.Bytes(v.Stored),
		})
	}
	without := b.withoutVolumes(res.Qubes)
	for _, q := range without {
		rows = append(rows, []string{ui.Quote(q.Name), "-", "settings", "-", "-", ui.Bytes(q.Stored)})
	}
	if !b.env.UI.Quiet() {
		b.env.UI.Printf("Session #%d (%s), %s sent:", s.Seq, s.ID.String()[:8], ui.Bytes(doc.SentBytes))
		b.env.UI.Table([]string{"VOLUME", "SIZE", "MODE", "READ", "NEW CHUNKS", "STORED"}, rows)
	}
	b.env.UI.Detail("%s", res.Limit)
	failed := unpruned(b.autopruneAfter(ctx, a))
	doc.Pruned = b.pruned
	if err := b.env.UI.Result(doc); err != nil {
		return err
	}
	if err := b.incomplete(); err != nil {
		return err
	}
	if err := b.partly(len(res.Volumes) + len(without)); err != nil {
		return err
	}
	return failed
}

// incomplete is the end of a run whose session needs what the store doesn't have, or perhaps doesn't.
func (b *backingUp) incomplete() error {
	p := b.presence
	if b.unasked != nil {
		return fmt.Errorf("the session was made, but whether the store has all of the archive can't be told: %w", b.unasked)
	}
	if p == nil || p.Missing == 0 {
		return nil
	}
	return exit.With(exit.Damaged, fmt.Errorf("the session was made, but %s that the archive needs can't be had from the store: %s",
		count(p.Missing, "object"), p.First), "pinion check says what that means, and pinion check --repair --read-data mends what can be mended")
}

// listedJSON is when the store was listed, as machines read it.
func listedJSON(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return jsonTime(at.UnixNano())
}

// dryRun says what a backup would do.
func (b *backingUp) dryRun(ctx context.Context, a *archive.Archive, options backup.Options) error {
	f, err := backup.DryRun(ctx, a, b.sources, options)
	if err != nil {
		return err
	}
	if f.Warning != nil {
		b.env.UI.Warn("%s", oneLine(f.Warning))
	}
	b.fail(f.Failed)
	if len(f.Volumes) == 0 && len(f.Qubes) == 0 {
		return b.nothing(0)
	}
	doc := dryRunJSON{
		Qubes: b.qubesJSON(f.Qubes), Volumes: []dryVolumeJSON{}, Failed: b.failedJSON(), SendBytesAtMost: f.Sent, KDFSeconds: a.KDFTime().Seconds(),
	}
	var rows [][]string
	for i := range f.Volumes {
		v := &f.Volumes[i]
		b.explain(v)
		doc.Volumes = append(doc.Volumes, dryDocument(v))
		doc.ReadBytes += v.Read
		rows = append(rows, []string{ui.Quote(v.Name), ui.Bytes(v.Size), v.Mode.String(), ui.Bytes(v.Read)})
	}
	without := b.withoutVolumes(f.Qubes)
	for _, q := range without {
		rows = append(rows, []string{ui.Quote(q.Name), "-", "settings", "-"})
	}
	b.env.UI.Table([]string{"VOLUME", "SIZE", "MODE", "READ"}, rows)
	b.env.UI.Printf("A backup would read %s.", bytesExactly(doc.ReadBytes))
	b.env.UI.Printf("It would send at most %s.", bytesExactly(f.Sent))
	if err := b.env.UI.Result(doc); err != nil {
		return err
	}
	return b.partly(len(f.Volumes) + len(without))
}

// bytesExactly is a number of bytes, and in words.
func bytesExactly(n int64) string {
	if n < 1024 {
		return ui.Bytes(n)
	}
	return fmt.Sprintf("%d bytes (%s)", n, ui.Bytes(n))
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
