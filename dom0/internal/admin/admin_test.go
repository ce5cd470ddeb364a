package admin_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/e2e/qubesd"
)

// system starts a stand-in for qubesd with a system as the real one wrote it,
// and a client of it.
func system(t *testing.T, release string) (*qubesd.Server, *admin.Client) {
	t.Helper()
	s := qubesd.Start(t, qubesd.Options{
		Release: release, Load: "../../../e2e/testdata/qubes/qubes-r" + release + ".xml", RootSize: 4 << 20, PrivateSize: 2 << 20,
	})
	return s, client(s, time.Minute)
}

func client(s *qubesd.Server, timeout time.Duration) *admin.Client {
	return admin.New(admin.Options{Socket: s.Socket(), InternalSocket: s.InternalSocket(), Timeout: timeout})
}

// both runs a test as R4.2 and as R4.3.
func both(t *testing.T, test func(t *testing.T, s *qubesd.Server, c *admin.Client, release string)) {
	for _, release := range []string{qubesd.R42, qubesd.R43} {
		t.Run(release, func(t *testing.T) {
			s, c := system(t, release)
			test(t, s, c, release)
		})
	}
}

// check returns a function that fails the test with what was being done.
func check(t *testing.T) func(what string, err error) {
	return func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func TestRead(t *testing.T) {
	both(t, func(t *testing.T, s *qubesd.Server, c *admin.Client, release string) {
		ctx, check := t.Context(), check(t)
		if !c.Available() {
			t.Error("it isn't there")
		}
		vms, err := c.List(ctx)
		check("list", err)
		i := slices.IndexFunc(vms, func(v admin.VM) bool { return v.Name == "work" })
		if len(vms) < 11 || vms[0].Name != "dom0" || i < 0 || vms[i].Class != "AppVM" || vms[i].State != "Halted" ||
			(vms[i].UUID == "") != (release == qubesd.R42) {
			t.Errorf("the list is %+v", vms)
		}
		if state, err := c.State(ctx, "dom0"); err != nil || state != "Running" {
			t.Errorf("dom0 is %s, %v", state, err)
		}
		all, err := c.Properties(ctx, "vault")
		check("properties", err)
		for _, want := range []admin.Property{
			{Name: "netvm", Type: "vm"},
			{Name: "include_in_backups", Type: "bool", Value: "True"},
			{Name: "label", Type: "label", Value: "black"},
			{Name: "maxmem", Type: "int", Value: "4000", Default: true},
		} {
			if !slices.Contains(all, want) {
				t.Errorf("vault lacks %+v", want)
			}
			if got, err := c.Property(ctx, "vault", want.Name); err != nil || got != want {
				t.Errorf("vault has %+v, %v", got, err)
			}
		}
		globals, err := c.Globals(ctx)
		check("globals", err)
		if !slices.Contains(globals, admin.Property{Name: "default_template", Type: "vm", Value: "fedora-42-xfce"}) {
			t.Errorf("the globals are %+v", globals)
		}
		features, err := c.Features(ctx, "work")
		check("features", err)
		if want := []admin.Feature{{"internal", ""}, {"menu-items", "org.gnome.Terminal.desktop firefox.desktop"}, {"service.cups", ""}}; !slices.Equal(features, want) {
			t.Errorf("the features are %q", features)
		}
		tags, err := c.Tags(ctx, "work")
		check("tags", err)
		if want := []string{"anon-vm-not", "audiovm-dom0", "created-by-dom0", "guivm-dom0", "project-x"}; !slices.Equal(tags, want) {
			t.Errorf("the tags are %q", tags)
		}
		labels, err := c.Labels(ctx)
		check("labels", err)
		if len(labels) != 8 || labels[5] != (admin.Label{Name: "blue", Color: "0x3465a4"}) {
			t.Errorf("the labels are %q", labels)
		}
		if classes, err := c.DeviceClasses(ctx); err != nil || !slices.Equal(classes, []string{"block", "mic", "pci", "usb"}) {
			t.Errorf("the device classes are %q, %v", classes, err)
		}
	})
}

func TestStorage(t *testing.T) {
	both(t, func(t *testing.T, s *qubesd.Server, c *admin.Client, release string) {
		ctx, check := t.Context(), check(t)
		pools, err := c.Pools(ctx)
		check("pools", err)
		if !slices.Equal(pools, []string{"varlibqubes", "linux-kernel"}) {
			t.Errorf("the pools are %q", pools)
		}
		pool, err := c.Pool(ctx, "varlibqubes")
		check("pool", err)
		if pool["driver"] != "file-reflink" || !strings.HasPrefix(pool["dir_path"], s.Dir()) {
			t.Errorf("the pool is %q", pool)
		}
		volumes, err := c.Volumes(ctx, "work")
		check("volumes", err)
		if !slices.Equal(volumes, []string{"root", "private", "volatile", "kernel"}) {
			t.Errorf("the volumes are %q", volumes)
		}
		if none, err := c.Volumes(ctx, "dom0"); err != nil || len(none) != 0 {
			t.Errorf("dom0 has %q, %v", none, err)
		}
		v, err := c.Volume(ctx, "work", "root")
		check("volume", err)
		want := admin.VolumeInfo{
			Pool: "varlibqubes", VID: "appvms/work/root", Source: "vm-templates/fedora-42-xfce/root", Path: s.Live("work", "root"),
			Size: 4 << 20, Revisions: 1, RW: true, SnapOnStart: true,
		}
		if v != want {
			t.Errorf("the volume is %+v, want %+v", v, want)
		}
		check("resize", c.Resize(ctx, "vault", "private", 8<<20))
		check("two revisions", c.SetRevisions(ctx, "vault", "private", 2))
		v, err = c.Volume(ctx, "vault", "private")
		check("volume", err)
		if v.Size != 8<<20 || v.Revisions != 2 || !v.SaveOnStop {
			t.Errorf("the volume is %+v", v)
		}
		err = c.SetRevisions(ctx, "vault", "private", -1)
		if (err == nil) != (release == qubesd.R43) {
			t.Errorf("without snapshots: %v", err)
		}
	})
}

func TestImport(t *testing.T) {
	both(t, func(t *testing.T, s *qubesd.Server, c *admin.Client, release string) {
		ctx, check := t.Context(), check(t)
		check("start", c.Start(ctx, "vault"))
		if _, err := c.ImportBegin(ctx, "vault", "private", 1<<20); !errors.Is(err, admin.ErrNotHalted) {
			t.Errorf("an import while it runs: %v", err)
		}
		check("stop", s.StopQube("vault"))
		for _, failure := range []string{"the archive\nis gone", ""} {
			i, err := c.ImportBegin(ctx, "vault", "private", 3<<20)
			check("begin", err)
			if info, err := os.Stat(i.Path); err != nil || info.Size() != 3<<20 || i.Size != 3<<20 {
				t.Fatalf("the import is %+v, %v", i, err)
			}
			check("write", os.WriteFile(i.Path, slices.Repeat([]byte("new"), 1<<20), 0o600))
			check("end", c.ImportEnd(ctx, "vault", "private", failure))
			b, err := os.ReadFile(s.Committed("vault", "private"))
			check("read", err)
			if strings.HasPrefix(string(b), "new") != (failure == "") {
				t.Errorf("after the failure %q the volume begins with %q", failure, b[:3])
			}
		}
		revisions, err := c.Revisions(ctx, "vault", "private")
		if check("revisions", err); len(revisions) != 1 {
			t.Errorf("the revisions are %q", revisions)
		}
		// An end without a begin isn't taken for a success.
		if err := c.ImportEnd(ctx, "vault", "private", ""); !errors.Is(err, admin.ErrRefused) {
			t.Error("an import ends that never began")
		}
		if i, err := c.ImportBegin(ctx, "vault", "private", 0); err != nil || i.Size != 3<<20 {
			t.Errorf("without a size: %+v, %v", i, err)
		}
	})
}

func TestSettings(t *testing.T) {
	both(t, func(t *testing.T, s *qubesd.Server, c *admin.Client, release string) {
		ctx, check := t.Context(), check(t)
		check("create", c.Create(ctx, admin.CreateRequest{Class: "AppVM", Template: "debian-13-xfce", Name: "new-1", Label: "blue"}))
		check("label", c.CreateLabel(ctx, "pink", "0xFF00ff"))
		check("alone", c.Create(ctx, admin.CreateRequest{Class: "StandaloneVM", Name: "alone", Label: "pink",
			Pools: map[string]string{"private": "varlibqubes", "root": "varlibqubes"}}))
		check("pooled", c.Create(ctx, admin.CreateRequest{Class: "TemplateVM", Name: "pooled", Label: "pink", Pool: "varlibqubes"}))
		check("set", c.SetProperty(ctx, "new-1", "memory", "777"))
		check("none", c.SetProperty(ctx, "new-1", "netvm", ""))
		check("multiline", c.SetProperty(ctx, "new-1", "default_user", "a\\b\nc +d"))
		check("set and reset", errors.Join(c.SetProperty(ctx, "new-1", "vcpus", "3"), c.ResetProperty(ctx, "new-1", "vcpus")))
		check("feature", errors.Join(c.SetFeature(ctx, "new-1", "x", "a b"), c.SetFeature(ctx, "new-1", "y", ""), c.RemoveFeature(ctx, "new-1", "y")))
		check("tag", errors.Join(c.SetTag(ctx, "new-1", "mine"), c.SetTag(ctx, "new-1", "b"), c.RemoveTag(ctx, "new-1", "b")))
		rules := []string{"action=accept dst4=1.2.3.4/32 dstports=22-22 proto=tcp comment=with words", "action=drop"}
		check("firewall", c.SetFirewall(ctx, "new-1", rules))
		if got, err := c.Firewall(ctx, "new-1"); err != nil || !slices.Equal(got, rules) {
			t.Errorf("the firewall is %q, %v", got, err)
		}
		all, err := c.Properties(ctx, "new-1")
		check("properties", err)
		for _, want := range []admin.Property{
			{Name: "memory", Type: "int", Value: "777"}, {Name: "netvm", Type: "vm"}, {Name: "default_user", Type: "str", Value: "a\\b\nc +d"},
			{Name: "vcpus", Type: "int", Value: "2", Default: true},
		} {
			got, err := c.Property(ctx, "new-1", want.Name)
			if err != nil || got != want || !slices.Contains(all, want) {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		}
		if got, err := c.Features(ctx, "new-1"); err != nil || !slices.Equal(got, []admin.Feature{{"x", "a b"}}) {
			t.Errorf("the features are %q, %v", got, err)
		}
		notes := "first\nsecond é"
		err = c.SetNotes(ctx, "new-1", notes)
		got, getErr := c.Notes(ctx, "new-1")
		if release == qubesd.R42 {
			if !errors.Is(err, admin.ErrNoSuchCall) || !errors.Is(getErr, admin.ErrNoSuchCall) {
				t.Errorf("R4.2 has notes: %v, %v", err, getErr)
			}
		} else if err != nil || getErr != nil || got != notes {
			t.Errorf("the notes are %q, %v, %v", got, err, getErr)
		}
		if _, err := c.Notes(ctx, "dom0"); release == qubesd.R43 && (!errors.Is(err, admin.ErrRefused) || errors.Is(err, admin.ErrNoSuchCall)) {
			t.Errorf("dom0's notes: %v", err)
		}
		check("remove", c.Remove(ctx, "new-1"))
		if _, err := c.State(ctx, "new-1"); !errors.Is(err, admin.ErrNotFound) {
			t.Errorf("a removed qube: %v", err)
		}
	})
}

func TestDevices(t *testing.T) {
	both(t, func(t *testing.T, s *qubesd.Server, c *admin.Client, release string) {
		ctx, check := t.Context(), check(t)
		sample := []admin.Assignment{{Backend: "dom0", Port: "00_14.3", Identity: "0x8086:0x51f0::p028000", Mode: "required",
			Options: []admin.Option{{Name: "no-strict-reset", Value: "True"}}}}
		old := release == qubesd.R42
		if old {
			sample = []admin.Assignment{}
		}
		if got, err := c.Assigned(ctx, "sys-net", "pci"); err != nil || !reflect.DeepEqual(got, sample) {
			t.Errorf("the sample has %+v, %v", got, err)
		}
		want := []admin.Assignment{
			{Backend: "sys-usb", Port: "2-1", Identity: "0951:1666:O'Neil:u08", Mode: "ask-to-attach",
				Options: []admin.Option{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}}},
			{Backend: "sys-usb", Port: "2-2", Identity: "*", Mode: "auto-attach"},
		}
		for _, a := range want {
			check("assign", c.Assign(ctx, "work", "usb", a))
		}
		if old {
			for i := range want { // it knows neither
				want[i].Identity, want[i].Mode = "*", ""
			}
		}
		got, err := c.Assigned(ctx, "work", "usb")
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("assigned are %+v, %v, want %+v", got, err, want)
		}
		var exception *admin.Error
		if err := c.Assign(ctx, "work", "usb", want[0]); !errors.As(err, &exception) || !strings.HasPrefix(exception.Type, "DeviceAlready") {
			t.Errorf("assigned twice: %v", err)
		}
		if err := c.Assign(ctx, "work", "usb", admin.Assignment{Backend: "nobody", Port: "1"}); old == false && !errors.Is(err, admin.ErrNotFound) {
			t.Errorf("of nobody: %v", err)
		}
		for _, a := range want {
			check("unassign", c.Unassign(ctx, "work", "usb", a))
		}
		if got, err := c.Assigned(ctx, "work", "usb"); err != nil || len(got) != 0 {
			t.Errorf("left are %+v, %v", got, err)
		}
		if err := c.Unassign(ctx, "work", "usb", want[0]); !errors.Is(err, admin.ErrNotFound) {
			t.Errorf("taken twice: %v", err)
		}
	})
}

func TestPower(t *testing.T) {
	s, c := system(t, qubesd.R43)
	ctx, check := t.Context(), check(t)
	check("start", c.Start(ctx, "work"))
	check("start it again", c.Start(ctx, "work"))
	check("pause", s.PauseQube("work"))
	if state, err := c.State(ctx, "work"); err != nil || state != "Paused" {
		t.Errorf("it is %s, %v", state, err)
	}
	check("unpause", c.Unpause(ctx, "work"))
	check("shut down", c.Shutdown(ctx, "work"))
	for deadline := time.Now().Add(time.Minute); s.State("work") != "Halted"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it doesn't end")
		}
	}
	check("tag", c.SetTag(ctx, "work", "backup-restore-in-progress"))
	var exception *admin.Error
	if err := c.Start(ctx, "work"); !errors.As(err, &exception) || exception.Type != "QubesVMError" || exception.Dest != "work" ||
		!strings.Contains(err.Error(), "admin.vm.Start of work: Restore of this domain in progress") {
		t.Errorf("a half-restored qube: %v", err)
	}
}

// TestNotThere: no socket, and one that nobody listens on.
func TestNotThere(t *testing.T) {
	dir, err := os.MkdirTemp("", "admin")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c := admin.New(admin.Options{Socket: filepath.Join(dir, "none")})
	if _, err := c.List(context.Background()); !errors.Is(err, admin.ErrUnreachable) || c.Available() {
		t.Errorf("without a socket: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "none"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.List(context.Background()); !errors.Is(err, admin.ErrUnreachable) || c.Available() {
		t.Errorf("a file in its place: %v", err)
	}
}
