package lvmthin

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"

	"pinion/dom0/internal/source/lvm"
	"pinion/dom0/internal/thinmeta"
)

// byTools asks the thin-provisioning-tools about the metadata snapshot. They
// read all that two devices map, and know formats that this program may not
// know yet.
type byTools struct {
	path         string
	block        int64
	now, highest uint64
	devices      map[uint64]device
}

// lookWithTools lets look see the metadata through a metadata snapshot: the
// tools refuse a pool that is in use otherwise.
func (p *Pool) lookWithTools(ctx context.Context, g *group, look func(metadata) error) error {
	h, err := p.hold(ctx)
	if err != nil {
		return err
	}
	m, err := readTools(ctx, g.metadata)
	if err == nil {
		err = look(m)
	}
	return errors.Join(err, h.giveBack())
}

// readTools reads what there is of every device but its mappings.
func readTools(ctx context.Context, path string) (*byTools, error) {
	t := &byTools{path: path, devices: map[uint64]device{}}
	err := t.stream(ctx, func(e element) error {
		switch e.name {
		case "superblock":
			t.block = int64(e.number("data_block_size")) * 512
			t.now = e.number("time")
		case "device":
			d := device{id: e.number("dev_id"), mapped: e.number("mapped_blocks"), created: e.number("creation_time")}
			t.devices[d.id] = d
			t.highest = max(t.highest, d.id)
		}
		return e.err
	}, "thin_dump", "--metadata-snap", "--skip-mappings")
	if err == nil && (t.block <= 0 || t.block > maxBlock) {
		err = fmt.Errorf("thin_dump tells of blocks of %d bytes", t.block)
	}
	return t, err
}

// maxBlock is the largest block of a thin pool: 1 GiB.
const maxBlock = 1 << 30

func (t *byTools) blockBytes() int64 { return t.block }

func (t *byTools) clock(context.Context) (now, highest uint64, err error) {
	return t.now, t.highest, nil
}

func (t *byTools) device(_ context.Context, id uint64) (device, error) {
	d, found := t.devices[id]
	if !found {
		return device{}, fmt.Errorf("look up thin device %d: %w", id, thinmeta.ErrNoDevice)
	}
	return d, nil
}

func (t *byTools) diff(ctx context.Context, left, right device, yield func(run) error) (bool, error) {
	written := false
	err := t.dump(ctx, left, func(_ run, time uint64) error {
		written = written || time >= left.created
		return nil
	})
	if err != nil {
		return false, err
	}
	err = t.stream(ctx, func(e element) error {
		switch e.name {
		case "different", "left_only", "right_only":
			r := run{e.number("begin"), e.number("length"), e.name != "right_only"}
			if e.err == nil {
				return yield(r)
			}
		}
		return e.err
	}, "thin_delta", "--metadata-snap", "--thin1", decimal(left.id), "--thin2", decimal(right.id))
	return written, err
}

func (t *byTools) mappings(ctx context.Context, d device, yield func(run) error) error {
	return t.dump(ctx, d, func(r run, _ uint64) error { return yield(r) })
}

// dump calls yield with the runs that a device maps and the times of their
// mappings.
func (t *byTools) dump(ctx context.Context, d device, yield func(r run, time uint64) error) error {
	return t.stream(ctx, func(e element) error {
		var r run
		switch e.name {
		case "single_mapping":
			r = run{e.number("origin_block"), 1, true}
		case "range_mapping":
			r = run{e.number("origin_begin"), e.number("length"), true}
		default:
			return nil
		}
		time := e.number("time")
		if e.err != nil {
			return e.err
		}
		return yield(r, time)
	}, "thin_dump", "--metadata-snap", "--dev-id", decimal(d.id))
}

// shared knows nothing: the tools take no samples.
func (t *byTools) shared(context.Context, device, device) (float64, error) { return 0, nil }

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// An element is the start of one of the XML that a tool writes.
type element struct {
	name  string
	attrs []xml.Attr
	err   error
}

// maxNumber is more than any number of blocks, so that two can be added.
const maxNumber = 1 << 62

// number is an attribute's value; err says that it is none.
func (e *element) number(name string) uint64 {
	for _, a := range e.attrs {
		if a.Name.Local == name {
			n, err := strconv.ParseUint(a.Value, 10, 64)
			if err == nil && n <= maxNumber {
				return n
			}
		}
	}
	e.err = fmt.Errorf("it writes an element %q without a good %q", e.name, name)
	return 0
}

// stream runs a tool on the metadata, and calls see with each element that it
// writes, as it writes it. Nothing is kept.
func (t *byTools) stream(ctx context.Context, see func(element) error, tool string, args ...string) error {
	path, err := lvm.Program(tool)
	if err != nil {
		return fmt.Errorf("%w (package thin-provisioning-tools or device-mapper-persistent-data)", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := lvm.Command(ctx, path, append(args, t.path)...)
	cmd.Cancel = func() error { return cmd.Process.Kill() } // it only reads
	var said tail
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	seen := seeElements(out, see)
	if seen != nil {
		cancel()
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case seen != nil && errors.As(err, &exit) && exit.Exited(): // it stopped by itself: why says more
		return fmt.Errorf("%s: %w", tool, lvm.Complaint(said.text, err))
	case seen != nil:
		return fmt.Errorf("%s: %w", tool, seen)
	case err != nil:
		return fmt.Errorf("%s: %w", tool, lvm.Complaint(said.text, err))
	}
	return nil
}

// seeElements reads XML to its end, which has to be where its first element
// ends.
func seeElements(r io.Reader, see func(element) error) error {
	d := xml.NewDecoder(r)
	depth, whole := 0, false
	for {
		token, err := d.RawToken()
		if err == io.EOF {
			if !whole || depth != 0 {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		if err != nil {
			return err
		}
		switch token := token.(type) {
		case xml.StartElement:
			depth++
			whole = true
			if err := see(element{name: token.Name.Local, attrs: token.Attr}); err != nil {
				return err
			}
		case xml.EndElement:
			depth--
		}
	}
}

// tail keeps the first few kilobytes of what a tool complains about.
type tail struct{ text []byte }

// Write never fails: a tool that complains for long isn't stopped by that.
func (t *tail) Write(p []byte) (int, error) {
	const kept = 4096
	t.text = append(t.text, p[:min(len(p), kept-len(t.text))]...)
	return len(p), nil
}
