// Package backup makes a session: it reads volumes and adds what the archive
// doesn't have yet.
//
// It owns the pipeline from a source to the archive's writer and what is said
// of each volume afterwards. It promises that a volume in a session is whole,
// that a source that fails is left out and named and costs the others nothing,
// and that the order of chunks never depends on which core was faster. It never
// changes a source and never prints.
package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source/plain"
	"pinion/dom0/internal/tree"
)

// A Source is a volume to back up.
type Source struct {
	Name string // in the archive
	Path string // of a regular file or a block device
}

// Options say how to back up.
type Options struct {
	Compression format.Compression
	Tags        []format.Tag
	Verify      bool // read everything new back before the commit
	Now         time.Time

	// Progress. Begin is called before a volume is read, with about how many
	// bytes that will be; Bytes with every further number of bytes read.
	Begin func(name string, size int64)
	Bytes func(n int64)
	Phase func(text string)
}

// A Result says what a backup did.
type Result struct {
	Session *format.Session
	Volumes []Volume // those in the session, in the order of the sources
	Failed  []Failed
	Limit   Limit // what the reading of all volumes was limited by
}

// A Volume says what was done with a volume. All numbers but NewChunks are
// bytes.
type Volume struct {
	Name      string
	Size      int64
	Mode      format.Mode
	Live      bool
	Read      int64 // from the source
	Changed   int64 // of the ranges that could have changed
	NewChunks uint64
	Stored    int64 // sealed bytes that are new with this volume
	id        format.ObjectID
	record    format.BlobID
}

// Failed is a source that is not in the session.
type Failed struct {
	Name string
	Err  error
}

// ErrNothing says that every source failed, so there is no session.
var ErrNothing = errors.New("no volume could be backed up")

// opened is a source that is ready to be read.
type opened struct {
	Source
	volume *plain.Volume
}

// Run backs the sources up as one session. If it returns an error there is no
// session; what was sent is used by the next run.
func Run(ctx context.Context, a *archive.Archive, sources []Source, o Options) (*Result, error) {
	res := &Result{}
	ready := openAll(sources, res)
	defer func() {
		for _, s := range ready {
			s.volume.Close()
		}
	}()
	if len(ready) == 0 {
		return res, ErrNothing
	}
	table, err := a.Volumes(ctx)
	if err != nil {
		return res, err
	}
	w, err := a.NewWriter(ctx, o.Compression, o.Verify)
	if err != nil {
		return res, err
	}
	p, err := newPipeline(ctx, a, w, o.Compression)
	if err != nil {
		return res, err
	}
	defer p.close()
	for _, s := range ready {
		o.Begin(s.Name, s.volume.Allocated())
		v, err := p.volume(ctx, s, table, o.Bytes)
		var failed errSource
		if errors.As(err, &failed) && ctx.Err() == nil {
			res.Failed = append(res.Failed, Failed{s.Name, failed.error})
			continue
		}
		if err != nil {
			return res, fmt.Errorf("back up %s: %w", s.Name, err)
		}
		res.Volumes = append(res.Volumes, v)
	}
	res.Limit = p.busy.limit()
	if len(res.Volumes) == 0 {
		return res, ErrNothing
	}
	return res, commit(ctx, a, w, table, res, o)
}

// openAll opens all sources before any is read, so that they are as close in
// time as they can be.
func openAll(sources []Source, res *Result) []opened {
	var ready []opened
	for _, s := range sources {
		v, err := plain.Open(s.Path)
		if err != nil {
			res.Failed = append(res.Failed, Failed{s.Name, err})
			continue
		}
		ready = append(ready, opened{s, v})
	}
	return ready
}

// volume reads one volume and stores its tree and record.
func (p *pipeline) volume(ctx context.Context, s opened, table *format.VolumeTable, progress func(int64)) (Volume, error) {
	v := Volume{Name: s.Name, Size: s.volume.Size(), Mode: format.ModeFull}
	for _, known := range table.Volumes {
		if known.Name == s.Name {
			v.id, v.Mode = known.ID, format.ModeScan
		}
	}
	if v.id.IsZero() {
		v.id = format.NewObjectID()
	}
	record := format.VolumeRecord{Volume: v.id, Size: v.Size, Source: format.SourceFile}
	if s.volume.Device() {
		record.Source = format.SourceDevice
	}
	b := tree.NewBuilder(format.Chunks(v.Size, p.chunkSize), func(plain []byte) (format.BlobID, error) {
		return p.metadata(ctx, &v, format.BlobNode, plain)
	})
	err := p.run(ctx, s.volume,
		func(n int64) { v.Read += n; progress(n) },
		func(index uint64, c *outcome) error {
			if c.id.IsZero() {
				return nil
			}
			record.Data += int64(format.ChunkLen(index, v.Size, p.chunkSize))
			if err := p.add(ctx, &v, c); err != nil {
				return err
			}
			return b.Add(index, c.id)
		})
	if err == nil {
		if err = s.volume.Check(); err != nil {
			err = errSource{err}
		}
	}
	if err != nil {
		return v, err
	}
	if record.Top, err = b.Finish(); err != nil {
		return v, err
	}
	v.Changed = v.Read
	v.record, err = p.metadata(ctx, &v, format.BlobVolumeRecord, record.Append(nil))
	return v, err
}

// add stores a chunk unless it came in since its worker looked.
func (p *pipeline) add(ctx context.Context, v *Volume, c *outcome) error {
	if !c.isNew {
		return nil
	}
	known, err := p.writer.Known(ctx, c.id)
	if err != nil || known {
		return err
	}
	v.NewChunks++
	v.Stored += int64(len(c.sealed))
	return timed(&p.busy.store, func() error { return p.writer.AddSealed(ctx, c.id, c.sealed) })
}

// metadata stores a metadata blob of a volume.
func (p *pipeline) metadata(ctx context.Context, v *Volume, t format.BlobType, plain []byte) (format.BlobID, error) {
	id, stored, err := p.writer.AddMetadata(ctx, t, plain)
	v.Stored += stored
	return id, err
}

// commit enters the new volumes into the volume table and makes the session.
func commit(ctx context.Context, a *archive.Archive, w *archive.Writer, table *format.VolumeTable, res *Result, o Options) error {
	_, host := archive.Host()
	zone, offset := o.Now.Zone()
	s := &format.Session{
		ID: format.NewObjectID(), Time: o.Now.UnixNano(), ZoneOffset: int32(offset),
		Zone: zone[:min(len(zone), format.MaxZone)], Host: host,
	}
	for _, v := range res.Volumes {
		s.Volumes = append(s.Volumes, format.SessionVolume{
			Volume: v.id, Record: v.record, Size: v.Size, Stored: v.Stored, NewChunks: v.NewChunks, Mode: v.Mode, Live: v.Live,
		})
		if v.Mode == format.ModeFull {
			table.Volumes = append(table.Volumes, format.NamedVolume{ID: v.id, Name: v.Name})
		}
	}
	if len(table.Volumes) > format.MaxVolumes {
		return fmt.Errorf("the archive would have %d volumes, and %d are allowed", len(table.Volumes), format.MaxVolumes)
	}
	archive.SortVolumes(table)
	var verify func() error
	if o.Verify {
		verify = func() error {
			o.Phase("reading back what is new")
			return w.ReadBack(ctx)
		}
	}
	res.Session = s
	return w.CommitSession(ctx, archive.Draft{Session: s, Tags: o.Tags, Table: table}, verify)
}
