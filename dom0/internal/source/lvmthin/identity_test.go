package lvmthin_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
	"pinion/e2e/umltest"
)

// TestRealThinIDUsedAgain removes a snapshot, whose thin id LVM gives to the
// next volume, also if it has the same name.
func TestRealThinIDUsedAgain(t *testing.T) {
	w := newWorld(t, "64M", "64k")
	a, other := w.thin("a", 4<<20), w.thin("other", 4<<20)
	write(t, a, 0, 64<<10)
	p := w.pool(a)
	b := take(t, p, a)
	run(t, "lvremove", "-q", "-f", b.Name)
	run(t, "lvcreate", "-q", "-s", "-pr", "-ky", "-n", filepath.Base(b.Name), other.Path)
	v, err := lvm.Find(t.Context(), vg, filepath.Base(b.Name))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(v.ThinID); got != b.Identity["thin_id"] {
		t.Fatalf("LVM took the thin id %s, not %s", got, b.Identity["thin_id"])
	}
	wantError(t, p.Check(t.Context(), b), "another volume")
	_, err = p.Open(t.Context(), b)
	wantError(t, err, "another volume")
	// Even if LVM said that it is the same, the metadata knows better.
	b.Identity["lv_uuid"] = v.UUID
	wantError(t, p.Check(t.Context(), b), "another time")
	compare(t, p, func(c source.Comparison) {
		wantError(t, c.Diff(t.Context(), b, take(t, p, a), nil), "another time")
		_, err := c.Unchanged(t.Context(), a, b)
		wantError(t, err, "another time")
		wantError(t, c.Data(t.Context(), b, nil), "another time")
		_, err = c.Held(t.Context(), a, b)
		wantError(t, err, "another time")
	})
}

// TestRealEachFact changes one fact of a snapshot's identity after the other.
func TestRealEachFact(t *testing.T) {
	w := newWorld(t, "64M", "64k")
	a := w.thin("a", 4<<20)
	write(t, a, 0, 64<<10)
	p := w.pool(a)
	b := take(t, p, a)
	for key, want := range map[string]string{
		"vg_uuid": "another volume", "pool_uuid": "another volume", "lv_uuid": "another volume", "thin_id": "another device",
		"creation_time": "another time", "mapping_root": "written to", "mapped_blocks": "written to",
	} {
		fake := *b
		fake.Identity = maps.Clone(b.Identity)
		fake.Identity[key] = "1" + fake.Identity[key]
		wantError(t, p.Check(t.Context(), &fake), want)
	}
	fake := *b
	fake.Identity = maps.Clone(b.Identity)
	delete(fake.Identity, "creation_time")
	if p.Check(t.Context(), &fake) == nil {
		t.Error("a snapshot of which less is known is taken for the one")
	}
	fake = *b
	fake.Size++
	wantError(t, p.Check(t.Context(), &fake), "bytes")
	fake = *b
	fake.Pool += "x"
	wantError(t, p.Check(t.Context(), &fake), "another pool")
	if err := p.Check(t.Context(), b); err != nil {
		t.Error(err)
	}
}

// TestRealBaseWrittenTo writes to a snapshot, discards a block of another, and
// makes a third writable.
func TestRealBaseWrittenTo(t *testing.T) {
	w := newWorld(t, "128M", "64k")
	a := w.thin("a", 8<<20)
	write(t, a, 0, 1<<20)
	p := w.pool(a)
	tools := w.pool(a)
	tools.UseTools()
	b := takeAll(t, p, a, a, a)
	written, discarded, writable := b[0], b[1], b[2]
	opened := func(b *source.Base, do func(s *source.Source)) {
		t.Helper()
		run(t, "lvchange", "-q", "-prw", b.Name)
		run(t, "lvchange", "-q", "-ay", "-K", b.Name)
		do(src(filepath.Base(b.Name)))
		run(t, "lvchange", "-q", "-an", b.Name)
		run(t, "lvchange", "-q", "-pr", b.Name)
	}
	opened(written, func(s *source.Source) { write(t, s, 0, 4096) })
	opened(discarded, func(s *source.Source) { discard(t, s, 64<<10, 64<<10) })
	run(t, "lvchange", "-q", "-prw", writable.Name)
	wantError(t, p.Check(t.Context(), written), "written to")
	wantError(t, p.Check(t.Context(), discarded), "written to")
	wantError(t, p.Check(t.Context(), writable), "can be written to")
	now := take(t, p, a)
	compare(t, p, func(c source.Comparison) {
		for _, b := range []*source.Base{written, discarded} {
			wantError(t, c.Diff(t.Context(), b, now, nil), "written to")
			_, err := c.Unchanged(t.Context(), a, b)
			wantError(t, err, "written to")
		}
	})
	// The times in the mappings tell, where nothing else does.
	compare(t, tools, func(c source.Comparison) {
		wantError(t, c.Diff(t.Context(), written, now, func(source.Range) error { return nil }), "newer than itself")
	})
	compare(t, p, func(c source.Comparison) {
		fake := *written
		fake.Identity = maps.Clone(written.Identity)
		delete(fake.Identity, "mapping_root")
		wantError(t, c.Diff(t.Context(), &fake, now, func(source.Range) error { return nil }), "newer than itself")
	})
}

// TestRealClock sets the pool's clock, and an id, near their ends.
func TestRealClock(t *testing.T) {
	umltest.Long(t)
	w := newWorld(t, "64M", "64k")
	a := w.thin("a", 4<<20)
	write(t, a, 0, 64<<10)
	p := w.pool(a)
	one := func() source.Taken {
		return p.Snapshot(t.Context(), []source.Wanted{
			{Source: a, Label: source.Label{Owner: owner, Volume: "00000000", Serial: counter.Add(1)}},
		})[0]
	}
	old := one()
	if old.Err != nil || len(w.said) > 0 {
		t.Fatalf("a young pool: %v, %q", old.Err, w.said)
	}
	const warn, refuse = 1 << 23, 1<<24 - 1<<20
	w.rewrite(func(xml string) string { return strings.Replace(xml, `time="1"`, fmt.Sprintf(`time="%d"`, warn), 1) })
	if taken := one(); taken.Err != nil || len(w.said) != 1 || !strings.Contains(w.said[0], fmt.Sprint(warn+1)) {
		t.Errorf("at 2^23: %v, %q", taken.Err, w.said)
	}
	if err := p.Check(t.Context(), old.Base); err == nil {
		t.Error("the mappings were written anew, and nothing tells") // its root is elsewhere
	}
	w.rewrite(func(xml string) string {
		return strings.Replace(xml, "</superblock>", fmt.Sprintf(
			`<device dev_id="%d" mapped_blocks="0" transaction="1" creation_time="0" snap_time="0"></device></superblock>`, refuse), 1)
	})
	wantError(t, one().Err, fmt.Sprint(refuse+1), "made anew")
}

// rewrite changes the metadata of the pool, as XML, while it isn't active.
func (w *world) rewrite(change func(xml string) string) {
	w.t.Helper()
	pool := vg + "/" + w.name
	run(w.t, "lvchange", "-q", "-an", vg+"/a", pool)
	run(w.t, "lvcreate", "-q", "-y", "-L", "8M", "-n", "swap", vg)
	swap := func() { run(w.t, "lvconvert", "-q", "-y", "--thinpool", pool, "--poolmetadata", vg+"/swap") }
	run(w.t, "lvchange", "-q", "-an", vg+"/swap")
	swap() // now the metadata is what is called swap
	run(w.t, "lvchange", "-q", "-ay", vg+"/swap")
	xml := run(w.t, "thin_dump", "/dev/"+vg+"/swap")
	changed := change(xml)
	if changed == xml {
		w.t.Fatalf("nothing was changed in:\n%s", xml)
	}
	file := filepath.Join(w.t.TempDir(), "xml")
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		w.t.Fatal(err)
	}
	run(w.t, "thin_restore", "-i", file, "-o", "/dev/"+vg+"/swap")
	run(w.t, "lvchange", "-q", "-an", vg+"/swap")
	swap()
	run(w.t, "lvremove", "-q", "-f", vg+"/swap")
	run(w.t, "lvchange", "-q", "-ay", vg+"/a")
}
