package qubesd

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// begins reads the first bytes of an image.
func begins(t *testing.T, path string, n int) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// have lists a directory.
func have(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), "@")
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// TestReflinkCycle follows the files of a qube through a start and a stop, as
// they were seen on the real one.
func TestReflinkCycle(t *testing.T) {
	s := testSystem(t, R43)
	dir := filepath.Join(s.Dir(), "appvms/work")
	if err := s.Fill("work", "private", 0, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if got := have(t, dir); got != "private-precache.img private.img" {
		t.Errorf("halted: %s", got)
	}
	var steps []string
	s.SetHook(func(step Step) {
		if step.Qube == "work" && (step.Volume == "private" || step.Volume == "") {
			steps = append(steps, step.Name+":"+begins(t, s.Committed("work", "private"), 3))
		}
	})
	if err := s.StartQube("work"); err != nil {
		t.Fatal(err)
	}
	if got := have(t, dir); got != "private-dirty.img private.img root-dirty.img root.img volatile-dirty.img" {
		t.Errorf("running: %s", got)
	}
	if s.State("sys-firewall") != running || s.State("sys-net") != running {
		t.Error("it has no network")
	}
	root, _ := os.Stat(filepath.Join(dir, "root.img"))
	template, _ := os.Stat(filepath.Join(s.Dir(), "vm-templates/fedora-42-xfce/root.img"))
	if !os.SameFile(root, template) {
		t.Error("root.img is no link to the template's")
	}
	if err := s.Write("work", "private", 0, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if got := begins(t, s.Committed("work", "private"), 3); got != "old" {
		t.Errorf("committed while it runs is %q", got)
	}
	before, _ := os.Stat(filepath.Join(dir, "private.img"))
	if err := s.StopQube("work"); err != nil {
		t.Fatal(err)
	}
	after, _ := os.Stat(filepath.Join(dir, "private.img"))
	if got := have(t, dir); os.SameFile(before, after) || got != "private-precache.img private.img private.img.1" {
		t.Errorf("stopped: %s", got)
	}
	want := []string{"start:old", "live:old", "boot:old", "stop:old", "revision:old", "pruned:old", "committed:new"}
	if !slices.Equal(steps, want) {
		t.Errorf("the steps are %q", steps)
	}
	// The next cycle begins with the new state, and keeps one revision.
	if err := s.StartQube("work"); err != nil {
		t.Fatal(err)
	}
	if got := begins(t, s.Live("work", "private"), 3); got != "new" {
		t.Errorf("the next time it starts with %q", got)
	}
	if err := s.StopQube("work"); err != nil {
		t.Fatal(err)
	}
	if got := have(t, dir); got != "private-precache.img private.img private.img.2" {
		t.Errorf("stopped twice: %s", got)
	}
	if got := s.Must(t, "admin.vm.volume.ListSnapshots", "private", "work", ""); got != "2\n" {
		t.Errorf("revisions: %q", got)
	}
}

// TestNoSnapshots: with revisions_to_keep=-1 there is no committed image
// while the qube runs.
func TestNoSnapshots(t *testing.T) {
	s := testSystem(t, R43)
	dir := filepath.Join(s.Dir(), "appvms/vault")
	s.Must(t, "admin.vm.volume.Set.revisions_to_keep", "private", "vault", "-1")
	if err := s.StartQube("vault"); err != nil {
		t.Fatal(err)
	}
	if got := have(t, dir); strings.Contains(got, "private.img") || !strings.Contains(got, "private-dirty.img") {
		t.Errorf("running: %s", got)
	}
	if err := s.Write("vault", "private", 0, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := s.StopQube("vault"); err != nil {
		t.Fatal(err)
	}
	if got := have(t, dir); got != "private.img" {
		t.Errorf("halted: %s", got)
	}
	old := testSystem(t, R42)
	if _, err := old.Request("admin.vm.volume.Set.revisions_to_keep", "private", "vault", "-1"); err == nil {
		t.Error("R4.2 can do that too")
	}
}

// TestPowerLoss: after it the live images are there, and go on at the next
// start.
func TestPowerLoss(t *testing.T) {
	s := testSystem(t, R43)
	if err := s.StartQube("vault"); err != nil {
		t.Fatal(err)
	}
	if err := s.Write("vault", "private", 0, []byte("half")); err != nil {
		t.Fatal(err)
	}
	if err := s.LosePower(); err != nil {
		t.Fatal(err)
	}
	if got := begins(t, s.Live("vault", "private"), 4); s.State("vault") != halted || got != "half" {
		t.Errorf("%s with %q", s.State("vault"), got)
	}
	if err := s.StartQube("vault"); err != nil {
		t.Fatal(err)
	}
	if got := begins(t, s.Live("vault", "private"), 4); got != "half" {
		t.Errorf("it goes on with %q", got)
	}
}

// TestImport: refused while the qube runs; a fresh volume of the size that
// was asked for; committed with a revision, or discarded.
func TestImport(t *testing.T) {
	for _, driver := range []string{"file-reflink", "file", "callback"} {
		t.Run(driver, func(t *testing.T) {
			s := testSystem(t, R43, Pool{Name: "varlibqubes", Driver: driver, Revisions: 1})
			if err := s.Fill("vault", "private", 0, []byte("old")); err != nil {
				t.Fatal(err)
			}
			if err := s.StartQube("vault"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Request("internal.vm.volume.ImportBegin", "private", "vault", "4096"); err == nil || !strings.HasPrefix(err.Error(), "QubesVMNotHalted") {
				t.Errorf("while it runs: %v", err)
			}
			if err := s.StopQube("vault"); err != nil {
				t.Fatal(err)
			}
			for _, end := range []string{"fail\nbecause", "ok"} {
				answer := s.Must(t, "internal.vm.volume.ImportBegin", "private", "vault", "3145728")
				size, path, _ := strings.Cut(answer, " ")
				b, err := os.ReadFile(path)
				if err != nil || size != "3145728" || !bytes.Equal(b, make([]byte, 3145728)) {
					t.Fatalf("%q: %d bytes, %v", answer, len(b), err)
				}
				if err := writeAt(path, 0, []byte("new")); err != nil {
					t.Fatal(err)
				}
				_, err = s.Request("internal.vm.volume.ImportEnd", "private", "vault", end)
				want := "old"
				if end == "ok" {
					want = "new"
				} else if err == nil || !strings.Contains(err.Error(), "Data import failed: because") {
					t.Errorf("the failure is answered with %v", err)
				}
				if got := begins(t, s.Committed("vault", "private"), 3); got != want || exists(path) {
					t.Errorf("after %q it is %q", end, got)
				}
			}
			if info := s.Must(t, "admin.vm.volume.Info", "private", "vault", ""); !strings.Contains(info, "size=3145728\n") {
				t.Errorf("the size is not the import's: %s", info)
			}
		})
	}
}

// TestResize: file-reflink shrinks without a word, file refuses.
func TestResize(t *testing.T) {
	s := testSystem(t, R43)
	s.Must(t, "admin.vm.volume.Resize", "private", "vault", "1048576")
	s.Must(t, "admin.vm.volume.Resize", "volatile", "vault", "1048576")
	if info, err := os.Stat(s.Committed("vault", "private")); err != nil || info.Size() != 1<<20 {
		t.Errorf("%v, %v", info, err)
	}
	s = testSystem(t, R43, Pool{Name: "varlibqubes", Driver: "file"})
	if _, err := s.Request("admin.vm.volume.Resize", "private", "vault", "1048576"); err == nil || !strings.Contains(err.Error(), "shrinking of private is disabled") {
		t.Errorf("file shrinks: %v", err)
	}
	s.Must(t, "admin.vm.volume.Resize", "private", "vault", "8388608")
}
