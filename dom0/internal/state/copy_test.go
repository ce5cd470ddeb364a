package state

import (
	"errors"
	"os"
	"testing"

	"pinion/dom0/internal/format"
)

func TestCopyIsRemembered(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := d.Copy("file:/b"); ok || err != nil {
		t.Errorf("of nothing something is known: %v", err)
	}
	c := Copy{Destination: "file:/b", Source: "file:/a", RootHash: "00ff", Newest: true}
	for range 2 {
		if err := d.SetCopy(c); err != nil {
			t.Fatal(err)
		}
	}
	c.Version = version
	if got, ok, err := d.Copy("file:/b"); got != c || !ok || err != nil {
		t.Errorf("it is %+v (%v)", got, err)
	}
	if _, ok, err := d.Copy("file:/a"); ok || err != nil {
		t.Errorf("something is known of the source: %v", err)
	}
	// A file in another's place, and one that can't be understood.
	if err := os.Rename(d.copyPath("file:/b"), d.copyPath("file:/c")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Copy("file:/c"); err == nil {
		t.Error("another destination's copy was taken")
	}
	if err := os.WriteFile(d.copyPath("file:/c"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	var damaged *DamagedError
	if _, _, err := d.Copy("file:/c"); !errors.As(err, &damaged) {
		t.Errorf("the error is %v", err)
	}
}

func TestCopyIsForgotten(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	old := Copy{Version: version, Destination: "file:/b", Source: "file:/a", RootHash: "00"}
	now := old
	now.RootHash = "01"
	if err := d.DropCopy(old); err != nil {
		t.Errorf("there is none: %v", err)
	}
	if err := d.SetCopy(now); err != nil {
		t.Fatal(err)
	}
	if err := d.DropCopy(old); err != nil {
		t.Error(err)
	}
	if _, ok, err := d.Copy("file:/b"); !ok || err != nil {
		t.Errorf("a newer one was forgotten: %v", err)
	}
	if err := d.DropCopy(now); err != nil {
		t.Error(err)
	}
	if _, ok, err := d.Copy("file:/b"); ok || err != nil {
		t.Errorf("it is still there: %v", err)
	}
}

func TestPinIsForgotten(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.DropPin("file:/a"); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := d.Pin("file:/a"); ok || err != nil {
			t.Errorf("something is pinned: %v", err)
		}
		if err := d.SetPin("file:/a", format.NewObjectID(), format.NewObjectID()); err != nil {
			t.Fatal(err)
		}
	}
}
