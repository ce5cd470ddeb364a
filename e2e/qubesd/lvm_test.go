package qubesd

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/e2e/umltest"
)

// TestLVM runs the tests of the driver lvm_thin where LVM is.
func TestLVM(t *testing.T) {
	umltest.Run(t, umltest.Options{Disks: []int64{2 << 30}, Timeout: 15 * time.Minute}, "TestReal.*")
}

// TestRealDance follows the volumes of a qube through starts, stops and an
// import, with a name full of dashes.
func TestRealDance(t *testing.T) {
	umltest.Only(t)
	for _, args := range [][]string{
		{"vgcreate", "-q", "qubes_dom0", umltest.Disk(0)},
		{"lvcreate", "-q", "--type", "thin-pool", "-L", "1G", "--poolmetadatasize", "8M", "-n", "vm-pool", "qubes_dom0"},
	} {
		if out, err := exec.Command("lvm", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	s := Start(t, Options{
		RootSize: 8 << 20, PrivateSize: 4 << 20,
		Pools: []Pool{{Name: "varlibqubes", Driver: "lvm_thin", VolumeGroup: "qubes_dom0", ThinPool: "vm-pool", Revisions: 1}},
	})
	s.Must(t, "admin.vm.Create.TemplateVM", "", "dom0", "name=base label=black")
	s.Must(t, "admin.vm.Create.AppVM", "base", "dom0", "name=a-private-1-back label=red")
	const q = "a-private-1-back"
	// volumes are the qube's, without the time of a revision.
	volumes := func() string {
		out, err := exec.Command("lvm", "lvs", "--noheadings", "-o", "lv_name", "qubes_dom0").Output()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, name := range strings.Fields(string(out)) {
			rest, found := strings.CutPrefix(name, "vm-"+q+"-")
			if !found {
				continue
			}
			if volume, id, found := strings.Cut(rest, "-"); found && strings.HasSuffix(id, "-back") {
				rest = volume + "-N-back"
			}
			names = append(names, rest)
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	check := func(when, want string) {
		t.Helper()
		if got := volumes(); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check("halted", "private")
	fatal(s.Fill(q, "private", 0, []byte("old")))
	fatal(s.StartQube(q))
	check("running", "private private-snap root-snap volatile")
	fatal(s.Write(q, "private", 0, []byte("new")))
	var seen []string
	s.SetHook(func(step Step) {
		if step.Volume == "private" {
			seen = append(seen, fmt.Sprintf("%s: %s, %s", step.Name, volumes(), begins(t, s.Committed(q, "private"), 3)))
		}
	})
	fatal(s.StopQube(q))
	s.SetHook(nil)
	want := []string{
		"away: private-N-back private-snap volatile, old",
		"committed: private private-N-back volatile, new",
		"pruned: private private-N-back volatile, new",
	}
	if !slices.Equal(seen, want) {
		t.Errorf("the dance was %q", seen)
	}
	check("stopped", "private private-N-back")
	fatal(s.StartQube(q))
	fatal(s.StopQube(q))
	check("stopped twice", "private private-N-back")
	answer := s.Must(t, "internal.vm.volume.ImportBegin", "private", q, "8388608")
	_, path, _ := strings.Cut(answer, " ")
	if err := s.StartQube(q); err == nil || !strings.Contains(err.Error(), "Import operation in progress") {
		t.Errorf("a start in an import: %v", err)
	}
	if _, err := s.Request("internal.vm.volume.ImportBegin", "private", q, ""); err == nil {
		t.Error("a second import begins")
	}
	if got := begins(t, path, 3); got != "\x00\x00\x00" {
		t.Errorf("an import begins with %q", got)
	}
	fatal(writeAt(path, 0, []byte("imp")))
	s.Must(t, "internal.vm.volume.ImportEnd", "private", q, "ok")
	if got := begins(t, s.Committed(q, "private"), 3); got != "imp" {
		t.Errorf("after the import it is %q", got)
	}
	check("imported", "private private-N-back")
	if _, err := s.Request("admin.vm.volume.Resize", "private", q, "4194304"); err == nil {
		t.Error("it shrinks")
	}
	s.Must(t, "admin.vm.volume.Resize", "private", q, "16777216")
	s.Must(t, "admin.vm.Remove", "", q, "")
	check("removed", "")
}
