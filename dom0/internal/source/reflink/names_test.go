package reflink

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/testenv"
)

func TestFileName(t *testing.T) {
	label := source.Label{Owner: owner, Volume: volume, Serial: 1<<64 - 1}
	for path, want := range map[string]string{
		"/a/x":                            "x",
		"/a/with.dots and\nmore":          "with.dots and\nmore",
		"/a/" + strings.Repeat("n", 255):  strings.Repeat("n", 255-39),
		"/a/" + strings.Repeat("é", 127):  strings.Repeat("é", 108),
		"/a/n" + strings.Repeat("é", 127): "n" + strings.Repeat("é", 107),
	} {
		name, err := fileName(label, path)
		if err != nil || name != "0123abcd.89abcdef.18446744073709551615."+want {
			t.Errorf("%s: %q (%v)", path, name, err)
		}
		if len(name) > maxName || !utf8.ValidString(name) {
			t.Errorf("%q is no name", name)
		}
		if got, ok := parseName(name); !ok || got != label {
			t.Errorf("%q: label %+v, %v", name, got, ok)
		}
	}
	for _, bad := range []string{
		"", "x", "0123abcd.89abcdef.1", "0123abcd.89abcdef.1.", "0123abcd.89abcdef..x", "0123abcd.89abcdef.-1.x",
		"0123ABCD.89abcdef.1.x", "0123abc.89abcdef.1.x", "0123abcd.89abcdefg.1.x", "0123abcd.89abcdef.18446744073709551616.x",
	} {
		if l, ok := parseName(bad); ok {
			t.Errorf("%q has the label %+v", bad, l)
		}
	}
}

// TestOwnedAndDrop: what is found, what is removed, and what is never.
func TestOwnedAndDrop(t *testing.T) {
	ctx := context.Background()
	dir := testenv.Mount(t, "xfs", 512*mib)
	im := newImage(t, dir, mib)
	if got, err := im.pool.Owned(ctx, owner, ""); len(got) != 0 || err != nil {
		t.Errorf("before the first: %v, %v", got, err)
	}
	a, b := im.snap(), im.snap()
	other := source.Label{Owner: owner, Volume: "00000000", Serial: 3}
	foreign := source.Label{Owner: "ffffffff", Volume: volume, Serial: 4}
	taken := im.pool.Snapshot(ctx, []source.Wanted{{Source: im.source(), Label: other}, {Source: im.source(), Label: foreign}})
	c, d := taken[0].Base.Name, taken[1].Base.Name
	for _, odd := range []string{"README", owner + ".x", owner} {
		create(t, filepath.Join(dir, dirName, odd), 0)
	}
	notOurs := filepath.Join(dir, dirName, owner+"."+volume+".5.directory")
	if err := os.Mkdir(notOurs, 0o700); err != nil {
		t.Fatal(err)
	}
	owned := func(owner, volume string, want ...string) {
		t.Helper()
		got, err := im.pool.Owned(ctx, owner, volume)
		slices.Sort(want)
		if !slices.Equal(got, want) || err != nil {
			t.Errorf("owned by %s for %q: %v, want %v (%v)", owner, volume, got, want, err)
		}
	}
	owned(owner, "", a.Name, b.Name, c)
	owned(owner, volume, a.Name, b.Name)
	owned("ffffffff", "", d)
	owned("eeeeeeee", "")

	elsewhere := create(t, filepath.Join(dir, filepath.Base(a.Name)), 0)
	for _, bad := range []string{
		d, im.path, elsewhere, notOurs, filepath.Join(dir, dirName, "README"), dirName + "/" + filepath.Base(a.Name),
		dir + "/.pinion/../.pinion/" + filepath.Base(a.Name),
	} {
		if err := im.pool.Drop(ctx, owner, bad); err == nil {
			t.Errorf("%s is dropped", bad)
		}
	}
	if err := im.pool.Drop(ctx, "", d); err == nil {
		t.Error("no owner may drop")
	}
	owned(owner, "", a.Name, b.Name, c)
	owned("ffffffff", "", d)

	if err := im.pool.Drop(ctx, owner, a.Name, a.Name, filepath.Join(dir, "none/.pinion", filepath.Base(a.Name))); err != nil {
		t.Error(err)
	}
	// What can't be dropped keeps nothing else.
	if err := im.pool.Drop(ctx, owner, d, c); err == nil {
		t.Error("a foreign one is dropped")
	}
	owned(owner, "", b.Name)
	if err := im.pool.Check(ctx, b); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(elsewhere); err != nil {
		t.Error(err)
	}
}
