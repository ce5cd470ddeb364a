package lvmthin_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
)

func TestRealSnapshot(t *testing.T) {
	w := newWorld(t, "256M", "64k")
	a, b, c := w.thin("vm-work-private", 16<<20), w.thin("b.b", 8<<20), w.thin("c", 4<<20)
	write(t, a, 1<<20, 128<<10)
	write(t, b, 0, 4096)
	p := w.pool(a)
	want := [][]byte{live(t, a), live(t, b), live(t, c)}
	bases := takeAll(t, p, a, b, c)
	write(t, a, 0, 4<<20)
	write(t, b, 1<<20, 4096)
	for i, base := range bases {
		if !bytes.Equal(content(t, p, base), want[i]) {
			t.Errorf("%s is not what the volume was", base.Name)
		}
		if err := p.Check(t.Context(), base); err != nil {
			t.Errorf("after it was read: %v", err)
		}
		for key, value := range base.Identity {
			if value == "" && key != "source_origin" {
				t.Errorf("%s has no %s", base.Name, key)
			}
		}
		if base.Pool != p.ID() || base.Kind != source.LVMThin || base.Size != int64(len(want[i])) || base.Taken.IsZero() {
			t.Errorf("%+v", base)
		}
	}
	checkLook(t, bases[0], "vm-work-private")
	if len(w.said) > 0 {
		t.Errorf("warnings: %q", w.said)
	}
	if _, err := os.Stat(p.NotePath()); err == nil {
		t.Error("the note of a metadata snapshot is left")
	}
}

// checkLook looks at a snapshot as a person does.
func checkLook(t *testing.T, base *source.Base, of string) {
	t.Helper()
	_, lv, _ := lvm.Split(base.Name)
	v, err := lvm.Find(t.Context(), vg, lv)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(v.Tags, []string{"pinion", "pinion-of-" + of}) {
		t.Errorf("%s has the tags %q", lv, v.Tags)
	}
	if v.Active || !v.ReadOnly || !strings.HasPrefix(lv, "pinion."+owner+".") || !strings.Contains(lv, "."+of+".") {
		t.Errorf("%+v", v)
	}
	run(t, "lvchange", "-ay", v.FullName()) // as all are at the start of the host
	if v, err = lvm.Find(t.Context(), vg, lv); err != nil || v.Active {
		t.Errorf("%s is activated with all others (%v)", lv, err)
	}
}

// TestRealSnapshotAnswersEach: one that can't be made doesn't keep others from
// being made, and says why.
func TestRealSnapshotAnswersEach(t *testing.T) {
	w := newWorld(t, "128M", "64k")
	a, b := w.thin("a", 8<<20), w.thin("b", 8<<20)
	p := w.pool(a)
	label := func(serial uint64) source.Label {
		return source.Label{Owner: owner, Volume: "00000001", Serial: serial}
	}
	first := p.Snapshot(t.Context(), []source.Wanted{{Source: b, Label: label(1)}})
	if first[0].Err != nil {
		t.Fatal(first[0].Err)
	}
	taken := p.Snapshot(t.Context(), []source.Wanted{
		{Source: a, Label: label(1)}, {Source: src("nothing"), Label: label(2)}, {Source: b, Label: label(1)}, {Source: b, Label: label(3)},
	})
	for i, want := range []string{"", "there is no such logical volume", "is a volume", ""} {
		if want == "" && (taken[i].Err != nil || p.Check(t.Context(), taken[i].Base) != nil) {
			t.Errorf("%d: %v", i, taken[i].Err)
		}
		if want != "" {
			wantError(t, taken[i].Err, "make a snapshot of lvm:"+vg, want)
		}
	}
	if err := p.Check(t.Context(), first[0].Base); err != nil {
		t.Errorf("the one that was there: %v", err)
	}
}

func TestRealOpenTwice(t *testing.T) {
	w := newWorld(t, "128M", "64k")
	a := w.thin("a", 8<<20)
	p := w.pool(a)
	b := take(t, p, a)
	first, err := p.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.pool(a).Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Errorf("close one of two: %v", err)
	}
	if _, err := second.ReadAt(make([]byte, 4096), 0); err != nil {
		t.Errorf("read after the other was closed: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/dev/" + b.Name); err == nil {
		t.Error("the device is still there")
	}
}

func TestRealOwnedAndDrop(t *testing.T) {
	w := newWorld(t, "128M", "64k")
	a, b := w.thin("a", 8<<20), w.thin("b", 8<<20)
	p := w.pool(a)
	bases := takeAll(t, p, a, a, b)
	run(t, "lvcreate", "-q", "-s", "-n", "pinion.ffffffff.00000001.a.1", vg+"/a") // of another owner
	owned := func(volume string) []string {
		t.Helper()
		names, err := p.Owned(t.Context(), owner, volume)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		return names
	}
	volume, _ := lvm.ParseSnapshotName(strings.TrimPrefix(bases[0].Name, vg+"/"))
	all := []string{bases[0].Name, bases[1].Name, bases[2].Name}
	slices.Sort(all)
	if got := owned(""); !slices.Equal(got, all) {
		t.Errorf("owned: %q, not %q", got, all)
	}
	if got := owned(volume.Volume); !slices.Equal(got, all[:2]) && !slices.Equal(got, all[1:]) {
		t.Errorf("owned for one volume: %q", got)
	}
	for _, name := range []string{vg + "/a", vg + "/pinion.ffffffff.00000001.a.1", "other/" + strings.TrimPrefix(bases[0].Name, vg+"/"), "x", ""} {
		if p.Drop(t.Context(), owner, bases[0].Name, name) == nil {
			t.Errorf("%q may be dropped", name)
		}
	}
	if got := owned(""); !slices.Equal(got, all) {
		t.Errorf("a refusal dropped something: %q", got)
	}
	if err := p.Drop(t.Context(), owner, append(all, bases[0].Name+"1")...); err != nil {
		t.Error(err)
	}
	if err := p.Drop(t.Context(), owner, all...); err != nil {
		t.Errorf("drop what is gone: %v", err)
	}
	err := p.Check(t.Context(), bases[0])
	wantError(t, err, "is gone")
	if errors.Is(err, source.ErrUnsure) {
		t.Errorf("%v is no proof", err)
	}
}

func TestRealFullness(t *testing.T) {
	w := newWorld(t, "64M", "64k")
	run(t, "lvchange", "-q", "--errorwhenfull", "y", vg+"/"+w.name)
	a := w.thin("a", 128<<20)
	write(t, a, 0, 40<<20) // 62.5 %
	w.o.WarnPercent, w.o.RefusePercent = 50, 70
	take(t, w.pool(a), a)
	if len(w.said) != 1 || !strings.Contains(w.said[0], "62.5 % of its data") {
		t.Errorf("warnings: %q", w.said)
	}
	w.o.WarnPercent, w.o.RefusePercent = 40, 60
	p := w.pool(a)
	one := []source.Wanted{{Source: a, Label: source.Label{Owner: owner, Volume: "00000000", Serial: 1}}}
	wantError(t, p.Snapshot(t.Context(), one)[0].Err, "62.5 % of its data", "from 60 % on")
	w.said = nil
	label := source.Label{Owner: owner, Volume: "00000001", Serial: 1}
	taken := p.Snapshot(t.Context(), []source.Wanted{one[0], {Source: a, Label: label, Replaces: true}})
	wantError(t, taken[0].Err, "from 60 % on")
	if taken[1].Err != nil || len(w.said) > 0 {
		t.Errorf("in place of another: %v, warnings %q", taken[1].Err, w.said)
	}
	label.Serial++
	taken = p.Snapshot(t.Context(), []source.Wanted{{Source: a, Label: label, Replaces: true}})
	if taken[0].Err != nil || len(w.said) != 1 || !strings.Contains(w.said[0], "in place of an older one") {
		t.Errorf("in place of another, alone: %v, warnings %q", taken[0].Err, w.said)
	}
	w.o.WarnPercent, w.o.RefusePercent = 1, 2 // the metadata comes second, so data has to be empty
	empty := newWorld(t, "64M", "64k")
	empty.o.WarnPercent, empty.o.RefusePercent = 1, 2
	e := empty.thin("e", 4<<20)
	wantError(t, empty.pool(e).Snapshot(t.Context(), []source.Wanted{{Source: e, Label: one[0].Label, Replaces: true}})[0].Err, "of its metadata")
	if owned, err := p.Owned(t.Context(), owner, "00000000"); err != nil || len(owned) > 0 {
		t.Errorf("refused ones are there: %q (%v)", owned, err)
	}
	f, err := os.OpenFile(a.Path, os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 60<<20), 60<<20); err == nil {
		t.Fatal("the pool took more than it has room for")
	}
	w.o.RefusePercent = 101
	wantError(t, w.pool(a).Snapshot(t.Context(), one)[0].Err, "no space left for data")
}

// TestRealInactivePool: LVM can make no snapshot there, and the metadata can't
// be read.
func TestRealInactivePool(t *testing.T) {
	w := newWorld(t, "64M", "64k")
	a := w.thin("a", 4<<20)
	p := w.pool(a)
	b := take(t, p, a)
	run(t, "lvchange", "-an", vg+"/a", vg+"/"+w.name)
	one := []source.Wanted{{Source: a, Label: source.Label{Owner: owner, Volume: "00000000", Serial: 1}}}
	wantError(t, p.Snapshot(t.Context(), one)[0].Err, "not active")
	_, err := p.Compare(t.Context())
	wantError(t, err, "not active")
	err = p.Check(t.Context(), b)
	wantError(t, err, "not active")
	if !errors.Is(err, source.ErrUnsure) {
		t.Errorf("%v is taken for proof", err)
	}
	run(t, "lvchange", "-ay", vg+"/a")
	if err := p.Check(t.Context(), b); err != nil {
		t.Error(err)
	}
}
