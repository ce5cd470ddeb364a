package recreate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/capture"
	"pinion/dom0/internal/format"
	. "pinion/dom0/internal/recreate"
	"pinion/e2e/qubesd"
)

// Sizes of the volumes of the tests.
const (
	rootSize    = 256 << 10
	privateSize = 64 << 10
)

// world is a host that a stand-in for qubesd plays.
type world struct {
	t       testing.TB
	s       *qubesd.Server
	api     *admin.Client
	dir     string // of the journal
	journal *Journal
}

func newWorld(t testing.TB, o qubesd.Options) *world {
	t.Helper()
	o.RootSize, o.PrivateSize = rootSize, privateSize
	s := qubesd.Start(t, o)
	dir := filepath.Join(s.Dir(), "restores")
	journal, err := OpenJournal(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { journal.Close() })
	return &world{t, s, admin.New(admin.Options{Socket: s.Socket(), InternalSocket: s.InternalSocket()}), dir, journal}
}

// must ends the test at an error.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// backup is what a session has.
type backup struct {
	wanted []Wanted
	data   map[string][]byte // by qube:volume
}

// backup captures all qubes, and what is in their volumes.
func (w *world) backup() backup {
	w.t.Helper()
	names := w.s.Qubes()
	list, err := capture.Take(w.t.Context(), w.api, filepath.Join(w.s.Dir(), "qubes.xml"), names)
	w.must(err)
	b := backup{data: map[string][]byte{}}
	for i, c := range list {
		w.must(c.Err)
		one := Wanted{Name: names[i], Config: c.Config, Sizes: map[string]int64{}, From: Origin{Archive: "archive", Session: "1", Qube: names[i]}}
		for _, v := range c.Config.Volumes {
			if v.Flags&format.QubeVolumeSaved != 0 {
				data, err := os.ReadFile(w.s.Committed(names[i], v.Name))
				w.must(err)
				one.Volumes = append(one.Volumes, v.Name)
				one.Sizes[v.Name] = int64(len(data))
				b.data[names[i]+":"+v.Name] = data
			}
		}
		b.wanted = append(b.wanted, one)
	}
	return b
}

// only leaves out all but some qubes.
func (b backup) only(names ...string) backup {
	b.wanted = slices.DeleteFunc(slices.Clone(b.wanted), func(w Wanted) bool { return !slices.Contains(names, w.Name) })
	return b
}

// hooks write what the backup has.
func (b backup) hooks() Hooks {
	return Hooks{Write: func(ctx context.Context, s *Step, volume string, imp admin.Import) error {
		f, err := os.OpenFile(imp.Path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(b.data[s.Wanted.Name+":"+volume], 0)
		return errors.Join(err, f.Close())
	}}
}

// plan looks at the host and plans.
func (w *world) plan(api *admin.Client, b backup, o Options) *Plan {
	w.t.Helper()
	h, err := Look(w.t.Context(), api, w.journal)
	w.must(err)
	p, err := h.Plan(b.wanted, o)
	w.must(err)
	return p
}

// interrupt begins a restore that ends after n calls that change something.
func (w *world) interrupt(b backup, o Options, n int) []Result {
	w.t.Helper()
	k := newKiller(w.t, w.s, -1)
	p := w.plan(k.client(), b, o) // may look, but no more than n changes
	k.mu.Lock()
	k.left = n
	k.mu.Unlock()
	return p.Run(w.t.Context(), b.hooks())
}

// restore does a whole restore.
func (w *world) restore(b backup, o Options) []Result {
	w.t.Helper()
	return w.plan(w.api, b, o).Run(w.t.Context(), b.hooks())
}

// whole fails unless everything was restored and nothing refused.
func whole(t *testing.T, results []Result) {
	t.Helper()
	for _, r := range results {
		if r.Step.Skip != "" {
			continue
		}
		if r.Err != nil || r.Unfinished || len(r.Refused) > 0 {
			t.Errorf("%s: error %v, unfinished %v, refused %+v", r.Step.Name, r.Err, r.Unfinished, r.Refused)
		}
		for _, v := range r.Volumes {
			if v.Outcome != Done {
				t.Errorf("%s: volume %s %s: %v", r.Step.Name, v.Name, v.Outcome, v.Err)
			}
		}
	}
}

// describe is all that makes up a qube.
func (w *world) describe(name string) string {
	w.t.Helper()
	lines, err := w.s.Describe(name)
	w.must(err)
	return strings.Join(lines, "\n")
}

// same fails unless a qube is what it was in another world, data and all.
func (w *world) same(name, want string, b backup) {
	w.t.Helper()
	if got := w.describe(name); got != want {
		w.t.Errorf("%s is\n%s\nand was\n%s", name, got, want)
	}
	for _, volume := range []string{"root", "private"} {
		data, saved := b.data[name+":"+volume]
		if !saved {
			continue
		}
		if got, err := os.ReadFile(w.s.Committed(name, volume)); err != nil || !bytes.Equal(got, data) {
			w.t.Errorf("%s of %s isn't what it was: %d bytes (%v)", volume, name, len(got), err)
		}
	}
}

// refused returns what was refused in a line each.
func refused(r Result) []string {
	var lines []string
	for _, f := range r.Refused {
		lines = append(lines, strings.Join(strings.Fields(f.What+" "+f.Name+" "+f.Value), " ")+": "+f.Why)
	}
	return lines
}

// of returns the result of a qube.
func of(t *testing.T, results []Result, name string) Result {
	t.Helper()
	i := slices.IndexFunc(results, func(r Result) bool { return r.Step.Wanted.Name == name })
	if i < 0 {
		t.Fatalf("no result of %s", name)
	}
	return results[i]
}

// small is a system of one qube of each kind that matters to the order.
func small(t *testing.T, release string) (*world, backup) {
	w := newWorld(t, qubesd.Options{Release: release})
	ctx := t.Context()
	create := func(class, name, template string) {
		w.must(w.api.Create(ctx, admin.CreateRequest{Class: class, Name: name, Template: template, Label: "blue"}))
	}
	set := func(name string, settings ...string) {
		for _, s := range settings {
			property, value, _ := strings.Cut(s, "=")
			w.must(w.api.SetProperty(ctx, name, property, value))
		}
	}
	create("TemplateVM", "fedora", "")
	create("AppVM", "dvm", "fedora")
	set("dvm", "template_for_dispvms=True")
	create("DispVM", "a-disp", "dvm")
	create("AppVM", "sys-net", "fedora")
	set("sys-net", "provides_network=True", "netvm=", "virt_mode=hvm", "memory=300")
	create("AppVM", "a-work", "fedora")
	set("a-work", "netvm=sys-net", "default_dispvm=dvm", "maxmem=2000", "include_in_backups=True")
	w.must(w.api.SetFeature(ctx, "a-work", "service.cups", ""))
	w.must(w.api.SetFeature(ctx, "a-work", "menu-items", "a.desktop b.desktop"))
	w.must(w.api.SetFeature(ctx, "dvm", "preload-dispvm-max", "2"))
	w.must(w.api.SetTag(ctx, "a-work", "project-x"))
	w.must(w.api.SetFirewall(ctx, "a-work", []string{"action=accept dst4=192.168.1.10/32 proto=tcp dstports=22-22 comment=nas ssh", "action=drop"}))
	w.must(w.api.Assign(ctx, "sys-net", "pci", admin.Assignment{
		Backend: "dom0", Port: "00_14.3", Identity: "*", Mode: "required", Options: []admin.Option{{Name: "no-strict-reset", Value: "True"}},
	}))
	if release != qubesd.R42 {
		w.must(w.api.SetNotes(ctx, "a-work", "first line\nsecond line"))
		w.must(w.api.Assign(ctx, "a-work", "usb", admin.Assignment{Backend: "sys-net", Port: "2-1", Identity: "0627:0001:serial:u030000", Mode: "ask-to-attach"}))
		w.must(w.api.Assign(ctx, "a-work", "mic", admin.Assignment{Backend: "dom0", Port: "mic", Identity: "*", Mode: "auto-attach"}))
	}
	w.must(w.api.Resize(ctx, "a-work", "private", 2*privateSize))
	w.must(w.api.SetRevisions(ctx, "a-work", "private", 3))
	for _, name := range []string{"fedora:root", "fedora:private", "dvm:private", "sys-net:private", "a-work:private"} {
		qube, volume, _ := strings.Cut(name, ":")
		w.must(w.s.Fill(qube, volume, 4096, []byte("the data of "+name)))
	}
	return w, w.backup()
}

// killer passes calls on until a number of them have changed something, and
// then none at all: to qubesd it is as if the caller had been killed.
type killer struct {
	mu       sync.Mutex
	left     int                 // calls that may change something; negative: all
	before   func(method string) // called before each call that changes something
	sockets  [2]string
	listener [2]net.Listener
}

func newKiller(t testing.TB, s *qubesd.Server, left int) *killer {
	k := &killer{left: left}
	dir, err := os.MkdirTemp("", "killer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var done sync.WaitGroup
	for i, to := range []string{s.Socket(), s.InternalSocket()} {
		k.sockets[i] = filepath.Join(dir, fmt.Sprint(i))
		if k.listener[i], err = net.Listen("unix", k.sockets[i]); err != nil {
			t.Fatal(err)
		}
		done.Go(func() {
			for {
				conn, err := k.listener[i].Accept()
				if err != nil {
					return
				}
				done.Go(func() { k.serve(conn.(*net.UnixConn), to) })
			}
		})
	}
	t.Cleanup(func() {
		for _, l := range k.listener {
			l.Close()
		}
		done.Wait()
	})
	return k
}

func (k *killer) client() *admin.Client {
	return admin.New(admin.Options{Socket: k.sockets[0], InternalSocket: k.sockets[1], Timeout: time.Minute})
}

func (k *killer) serve(from *net.UnixConn, address string) {
	defer from.Close()
	request, err := io.ReadAll(from)
	if err != nil {
		return
	}
	line, _, _ := strings.Cut(string(request), "\x00")
	method, rest, _ := strings.Cut(line, "+")
	arg, _, _ := strings.Cut(rest, " ")
	k.mu.Lock()
	dead := k.left == 0
	if k.left > 0 && (qubesd.Call{Method: method}).Changes() {
		k.left--
	}
	before := k.before
	k.mu.Unlock()
	if dead {
		from.Write([]byte("0")) // nothing at all would be a refusal
		return
	}
	if before != nil {
		before(method + "+" + arg)
	}
	to, err := net.Dial("unix", address)
	if err != nil {
		return
	}
	defer to.Close()
	to.Write(request)
	to.(*net.UnixConn).CloseWrite()
	io.Copy(from, to)
}
