package state_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"pinion/dom0/internal/format"
	ft "pinion/dom0/internal/formattest"
	"pinion/dom0/internal/state"
)

// updaterEnv makes the test program count in a state directory, in place of
// running tests.
const updaterEnv = "PINION_TEST_STATE_UPDATER"

// updates is how often every updater counts.
const updates = 50

func TestMain(m *testing.M) {
	for name, run := range map[string]func(dir string) error{updaterEnv: count, markerEnv: mark, faultyEnv: pinWithoutSync} {
		dir := os.Getenv(name)
		if dir == "" {
			continue
		}
		if err := run(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// count raises a branch's generation by one, many times.
func count(dir string) error {
	d, err := state.Open(dir)
	if err != nil {
		return err
	}
	for range updates {
		err := d.Update(ft.Archive(), func(m *state.Memory) {
			b := m.Branches["counter"]
			b.Generation++
			m.Branches["counter"] = b
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func open(t *testing.T) (*state.Dir, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a", "state")
	d, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return d, path
}

func TestNothingKnown(t *testing.T) {
	d, _ := open(t)
	if pin, ok, err := d.Pin("file:/a"); ok || err != nil || pin != (state.Pin{}) {
		t.Errorf("pin %+v, %v, %v", pin, ok, err)
	}
	if m, err := d.Memory(ft.Archive()); err != nil || m.Branches == nil || len(m.Branches) > 0 || m.Archive != ft.Archive().String() {
		t.Errorf("memory %+v, %v", m, err)
	}
	if b, err := d.Root(ft.Archive(), ft.ID(1)); b != nil || err != nil {
		t.Errorf("root %q, %v", b, err)
	}
	if unclean, suspect, err := d.Unclean(ft.Archive(), "file:/a"); unclean || suspect || err != nil {
		t.Errorf("unclean %v, %v, %v", unclean, suspect, err)
	}
	if err := d.MarkClean(ft.Archive(), "file:/a"); err != nil {
		t.Errorf("taking back a mark that isn't there: %v", err)
	}
}

// TestRemembered: what was answered is there for another process, in files
// that only their owner reads.
func TestRemembered(t *testing.T) {
	d, path := open(t)
	archive, branch := ft.Archive(), ft.ID(0xb0)
	known := state.Branch{Generation: 7, RootHash: strings.Repeat("ab", 32), Highest: 9, Written: "file:/a"}
	for _, err := range []error{
		d.SetPin("file:/a", archive, branch),
		d.Update(archive, func(m *state.Memory) { m.Branches[branch.String()] = known }),
		d.SaveRoot(archive, branch, []byte("root")),
		d.MarkUnclean(archive, "file:/a", false),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	again, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	pin, ok, err := again.Pin("file:/a")
	if !ok || err != nil || pin.Archive != archive.String() || pin.Branch != branch.String() || pin.Destination != "file:/a" {
		t.Errorf("pin %+v, %v, %v", pin, ok, err)
	}
	if m, err := again.Memory(archive); err != nil || !reflect.DeepEqual(m.Branches[branch.String()], known) {
		t.Errorf("memory %+v, %v", m, err)
	}
	if b, err := again.Root(archive, branch); string(b) != "root" || err != nil {
		t.Errorf("root %q, %v", b, err)
	}
	if unclean, suspect, err := again.Unclean(archive, "file:/a"); !unclean || suspect || err != nil {
		t.Errorf("unclean %v, %v, %v", unclean, suspect, err)
	}
	err = filepath.WalkDir(path, func(name string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("others may look at %s: %v", name, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestApart: destinations, archives and branches have nothing to do with each
// other.
func TestApart(t *testing.T) {
	d, _ := open(t)
	one, two := ft.Archive(), ft.ID(0xa1)
	for _, err := range []error{
		d.SetPin("file:/a", one, ft.ID(1)), d.SetPin("file:/a/", two, ft.ID(2)),
		d.SaveRoot(one, ft.ID(1), []byte("1")), d.SaveRoot(one, ft.ID(2), []byte("2")), d.SaveRoot(two, ft.ID(1), []byte("3")),
		d.MarkUnclean(one, "file:/a", false), d.MarkUnclean(one, "file:/b", true), d.MarkUnclean(two, "file:/a", false),
		d.MarkClean(one, "file:/a"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if pin, _, _ := d.Pin("file:/a"); pin.Archive != one.String() {
		t.Errorf("pin %+v", pin)
	}
	for want, at := range map[string][2]format.ObjectID{"1": {one, ft.ID(1)}, "2": {one, ft.ID(2)}, "3": {two, ft.ID(1)}} {
		if b, _ := d.Root(at[0], at[1]); string(b) != want {
			t.Errorf("root of %s, %s is %q", at[0], at[1], b)
		}
	}
	for _, x := range []struct {
		archive          format.ArchiveID
		dest             string
		unclean, suspect bool
	}{{one, "file:/a", false, false}, {one, "file:/b", true, true}, {two, "file:/a", true, false}} {
		if unclean, suspect, err := d.Unclean(x.archive, x.dest); unclean != x.unclean || suspect != x.suspect || err != nil {
			t.Errorf("%s at %s: %v, %v, %v", x.archive, x.dest, unclean, suspect, err)
		}
	}
}

// TestSuspicionStays until a commit takes the mark back: a run in between that
// dies early has looked at nothing.
func TestSuspicionStays(t *testing.T) {
	d, _ := open(t)
	for _, suspect := range []bool{false, true, false} {
		if err := d.MarkUnclean(ft.Archive(), "file:/a", suspect); err != nil {
			t.Fatal(err)
		}
	}
	if _, suspect, _ := d.Unclean(ft.Archive(), "file:/a"); !suspect {
		t.Error("a mark was weakened")
	}
	if err := d.MarkClean(ft.Archive(), "file:/a"); err != nil {
		t.Fatal(err)
	}
	if err := d.MarkUnclean(ft.Archive(), "file:/a", false); err != nil {
		t.Fatal(err)
	}
	if unclean, suspect, _ := d.Unclean(ft.Archive(), "file:/a"); !unclean || suspect {
		t.Errorf("after a commit: %v, %v", unclean, suspect)
	}
}

// TestDamagedFiles: a state file that can't be understood is an error that
// names it. Going on without it would drop the protection from old roots.
func TestDamagedFiles(t *testing.T) {
	d, path := open(t)
	if err := d.SetPin("file:/a", ft.Archive(), ft.ID(1)); err != nil {
		t.Fatal(err)
	}
	if err := d.Update(ft.Archive(), func(m *state.Memory) { m.Branches["b"] = state.Branch{Generation: 1} }); err != nil {
		t.Fatal(err)
	}
	pins, err := filepath.Glob(filepath.Join(path, "destinations", "*"))
	if err != nil || len(pins) != 1 {
		t.Fatal(pins, err)
	}
	memory := filepath.Join(path, "archives", ft.Archive().String(), "memory.json")
	for name, content := range map[string]string{
		"empty":             "",
		"cut":               `{"version": 1, "arch`,
		"zeros":             strings.Repeat("\x00", 4096),
		"of another shape":  `{"version": 1, "archive": 7, "branch": {}}`,
		"a list":            `[]`,
		"two documents":     `{"version": 1} {"version": 1}`,
		"of another":        `{"version": 1, "archive": "00", "destination": "file:/b"}`,
		"of a newer pinion": `{"version": 2}`,
		"without a version": `{}`,
	} {
		for _, file := range []string{pins[0], memory} {
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		pin, ok, err := d.Pin("file:/a")
		if err == nil || !strings.Contains(err.Error(), pins[0]) || ok || pin != (state.Pin{}) {
			t.Errorf("a pin that is %s: %+v, %v, %v", name, pin, ok, err)
		}
		newer := name == "of a newer pinion"
		if errors.Is(err, format.ErrNewer) != newer {
			t.Errorf("a pin that is %s: %v", name, err)
		}
		m, err := d.Memory(ft.Archive())
		if err == nil || !strings.Contains(err.Error(), memory) || m != nil {
			t.Errorf("a memory that is %s: %+v, %v", name, m, err)
		}
		if err := d.Update(ft.Archive(), func(*state.Memory) { t.Error("the change was made") }); err == nil {
			t.Errorf("a memory that is %s was overwritten", name)
		}
		if b, err := os.ReadFile(memory); err != nil || string(b) != content {
			t.Errorf("a memory that is %s became %q", name, b)
		}
	}
}

// TestTwoProcesses: no change is lost to another process, or to another
// goroutine of this one.
func TestTwoProcesses(t *testing.T) {
	d, path := open(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), updaterEnv+"="+path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			if err := count(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	m, err := d.Memory(ft.Archive())
	if err != nil || m.Branches["counter"].Generation != 4*updates {
		t.Errorf("%d of %d changes are left, %v", m.Branches["counter"].Generation, 4*updates, err)
	}
}

// TestNothingWritten: an update that changes nothing leaves the file alone, so
// that reading an archive works where the state can't be written.
func TestNothingWritten(t *testing.T) {
	d, path := open(t)
	set := func(m *state.Memory) { m.Branches["b"] = state.Branch{Generation: 1} }
	if err := d.Update(ft.Archive(), set); err != nil {
		t.Fatal(err)
	}
	memory := filepath.Join(path, "archives", ft.Archive().String(), "memory.json")
	before, err := os.Stat(memory)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Update(ft.Archive(), set); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(memory); err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was written again: %v", err)
	}
}
