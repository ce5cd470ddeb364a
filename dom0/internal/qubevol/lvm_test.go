package qubevol_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/qubevol"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/find"
	"pinion/dom0/internal/testenv"
	"pinion/dom0/internal/tracker"
	"pinion/e2e/umltest"
)

// TestInUML runs the tests that need a thin pool.
func TestInUML(t *testing.T) {
	umltest.Run(t, umltest.Options{Disks: []int64{2 << 30}, Timeout: 40 * time.Minute}, "TestReal.*")
}

// A dancer is a qube that starts, writes and stops, over and over, with the
// commands that qubesd gives.
type dancer struct {
	name  string // of its volume
	clock int64
	turns int

	mu     sync.Mutex
	states [][]byte // all that were committed, or are about to be
	err    error
}

const group = "qubes_dom0"

// do runs commands, until one fails.
func (d *dancer) do(commands ...[]string) {
	for _, c := range commands {
		if d.err != nil {
			return
		}
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			d.err = fmt.Errorf("%v: %w: %s", c, err, out)
		}
	}
}

// write writes into what the qube writes to.
func (d *dancer) write(off int64) {
	d.turns++
	f, err := os.OpenFile("/dev/"+group+"/"+d.name+"-snap", os.O_WRONLY|unix.O_SYNC, 0)
	if err == nil {
		_, err = f.WriteAt(bytes.Repeat(fmt.Appendf(nil, "turn %10d\n", d.turns), 4096), off)
		f.Close()
	}
	d.err = errors.Join(d.err, err)
}

// remember takes down what is about to be committed.
func (d *dancer) remember(volume string) {
	b, err := os.ReadFile("/dev/" + group + "/" + volume)
	d.err = errors.Join(d.err, err)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.states = append(d.states, b)
}

// start starts the qube; stop stops it, and keeps one older state.
func (d *dancer) start() {
	d.do([]string{"lvcreate", "-q", "-kn", "-s", "-n", d.name + "-snap", group + "/" + d.name})
	d.write(int64(d.turns%50) << 17)
}

func (d *dancer) stop() {
	d.write(int64(d.turns%50)<<17 + 4096)
	d.remember(d.name + "-snap")
	before := d.older()
	d.clock++
	d.do([]string{"lvrename", "-q", group, d.name, d.older()}, []string{"lvrename", "-q", group, d.name + "-snap", d.name})
	if _, err := os.Stat("/dev/" + group + "/" + before); err == nil || d.clock > 1700000001 {
		d.do([]string{"lvchange", "-q", "-ay", "-K", group + "/" + before}, []string{"blkdiscard", "/dev/" + group + "/" + before},
			[]string{"lvremove", "-q", "-f", group + "/" + before})
	}
}

func (d *dancer) older() string { return d.name + "-" + strconv.FormatInt(d.clock, 10) + "-back" }

// which is the number of a committed state, or -1.
func (d *dancer) which(content []byte) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.states) - 1; i >= 0; i-- {
		if bytes.Equal(d.states[i], content) {
			return i
		}
	}
	return -1
}

// TestRealStopsAndStarts backs a qube's volume up, with another's, over and
// over, while the qube starts and stops all the time: what is saved is always a
// committed state, whole, no older than what was saved before, and a difference
// has all that differs.
func TestRealStopsAndStarts(t *testing.T) {
	umltest.Only(t)
	umltest.Long(t)
	run := func(args ...string) { t.Helper(); testenv.Run(t, args[0], args[1:]...) }
	run("vgcreate", "-q", group, umltest.Disk(0))
	run("lvcreate", "-q", "--type", "thin-pool", "-L", "512M", "-c", "64k", "--poolmetadatasize", "8M", "-n", "vm-pool", group)
	d := &dancer{name: "vm-a-private", clock: 1700000000}
	const still = "vm-a-private-1-private"
	for _, name := range []string{d.name, still} {
		run("lvcreate", "-q", "-V", "8M", "--thinpool", group+"/vm-pool", "-n", name)
	}
	d.remember(d.name)
	d.start()
	state := t.TempDir()
	finder := func() *qubevol.Finder {
		return &qubevol.Finder{Find: (&find.Finder{StateDir: state, Warn: func(line string) { t.Log(line) }}).Locator}
	}
	place := func(f *qubevol.Finder, qube string, live bool) qubevol.Place {
		t.Helper()
		p, err := f.Volume(ctx, admin.VM{Name: qube, State: "Running"}, "private", info(group+"/vm-"+qube+"-private", 1), thinPool, live)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := place(finder(), "a", false); p.Live || time.Since(p.Saved).Abs() > time.Hour || p.Source.LV != "" {
		t.Errorf("before it ever stopped: %+v", p) // it was saved when it was made
	}
	d.stop()
	d.start()
	if p := place(finder(), "a", false); p.Live || p.Saved.Unix() != 1700000001 || p.Note != "" {
		t.Errorf("%+v", p)
	}
	if p := place(finder(), "a", true); !p.Live || p.Source.Locator != "lvm:"+group+"/vm-a-private" || p.Source.LV != group+"/vm-a-private-snap" {
		t.Errorf("%+v", p)
	}
	if d.err != nil {
		t.Fatal(d.err)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for d.err == nil {
			select {
			case <-done:
				return
			default:
				d.stop()
				d.start()
			}
		}
	}()
	b := &backups{t: t, state: state, last: map[string][]byte{}}
	newest, deltas := -1, 0
	for range 5 {
		f := finder()
		got, delta := b.back(place(f, "a", false).Source, place(f, "a-private-1", false).Source)
		n := d.which(got)
		if n < newest || n < 0 {
			t.Errorf("state %d was saved after %d", n, newest)
		}
		if delta {
			deltas++
		}
		newest = n
		t.Logf("state %d was saved", n) // a sign of life
	}
	close(done)
	<-ended
	if d.err != nil {
		t.Fatal(d.err)
	}
	t.Logf("%d states, the last saved is %d, %d differences", len(d.states), newest, deltas)
	if len(d.states) < 4 || newest < 2 || deltas != 4 {
		t.Errorf("%d states, the last saved is %d, %d differences", len(d.states), newest, deltas)
	}
	run("lvrename", "-q", group, d.name, "vm-a-private-1800000000-back") // and nothing comes after it
	run("lvremove", "-q", "-f", group+"/"+d.name+"-snap")
	p := place(finder(), "a", false)
	if p.Source.Locator != "lvm:"+group+"/vm-a-private" || p.Source.LV != group+"/vm-a-private-1800000000-back" || p.Note == "" {
		t.Errorf("the newest older state: %+v", p)
	}
	if got, delta := b.back(p.Source); !delta || d.which(got) != len(d.states)-1 {
		t.Errorf("state %d of %d was saved", d.which(got), len(d.states))
	}
	if _, err := finder().Volume(ctx, admin.VM{Name: "b", State: "Running"}, "private", info(group+"/vm-b-private", 1), thinPool, false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a qube that is gone: %v", err)
	}
}

// backups are those of one archive, which is in memory.
type backups struct {
	t     *testing.T
	state string
	seq   uint64
	last  map[string][]byte // content of the last session of a volume, by locator
}

// back backs volumes up, and returns what was saved of the first, and whether
// that was a difference.
func (b *backups) back(sources ...*source.Source) ([]byte, bool) {
	b.t.Helper()
	dir, err := tracker.Open(b.state)
	if err != nil {
		b.t.Fatal(err)
	}
	var requests []tracker.Request
	for i, s := range sources {
		k := tracker.Key{Archive: format.ObjectID{1}, Branch: format.ObjectID{2}, Volume: format.ObjectID{3, byte(i)}}
		since, err := dir.Paired(s.Locator, k)
		if err != nil {
			b.t.Fatal(err)
		}
		requests = append(requests, tracker.Request{Source: s, Key: k, Name: s.Locator, Since: since})
	}
	r, err := dir.Begin(context.Background(), requests)
	if err != nil {
		b.t.Fatal(err)
	}
	if r.Warning != nil {
		b.t.Error(r.Warning)
	}
	var sessions []*tracker.Session
	for _, v := range r.Volumes {
		if v.Err != nil {
			b.t.Fatal(v.Err)
		}
		now := make([]byte, v.Data.Size())
		if _, err := v.Data.ReadAt(now, 0); err != nil {
			b.t.Fatal(err)
		}
		const grain = 64 << 10
		for at := 0; v.Since != nil && at < len(now); at += grain {
			same := bytes.Equal(b.last[v.Request.Name][at:at+grain], now[at:at+grain])
			if !same && !v.Candidates.Overlaps(source.Range{Start: int64(at), End: int64(at + grain)}) {
				b.t.Fatalf("%s: what differs at %d is not in the difference", v.Request.Name, at)
			}
		}
		b.last[v.Request.Name] = now
		b.seq++
		sessions = append(sessions, &tracker.Session{ID: format.ObjectID{byte(b.seq)}, Seq: b.seq, Record: format.BlobID{byte(b.seq)}})
	}
	delta := r.Volumes[0].Since != nil
	if err := r.Commit(context.Background(), sessions); err != nil {
		b.t.Error(err)
	}
	return b.last[sources[0].Locator], delta
}
