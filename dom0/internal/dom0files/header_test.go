package dom0files

import (
	"archive/tar"
	"bytes"
	"strconv"
	"strings"
	"testing"
)

// FuzzHeader: what the standard library reads is what was written, whatever
// the length of the gap.
func FuzzHeader(f *testing.F) {
	f.Add("home/user", "", uint32(0o644), uint32(1000), uint32(1000), int64(5), int64(1_790_000_000), 0)
	f.Add(strings.Repeat("a/", 60)+"b", strings.Repeat("l", 101), uint32(0o7777), uint32(1<<31), uint32(1<<22), int64(1<<40), int64(-5), 3)
	f.Add("x", "y", uint32(0), uint32(0), uint32(0), int64(maxOctal+1), int64(1<<34), 200)
	f.Fuzz(func(t *testing.T, name, link string, mode, uid, gid uint32, size, mtime int64, gap int) {
		if checkName(name) != nil || strings.HasSuffix(name, "/") || strings.Contains(link, "\x00") || len(link) > maxPath || size < 0 {
			return
		}
		h := &header{name: name, typ: typeFile, mode: mode & 0o7777, uid: uid, gid: gid, size: size, mtime: mtime}
		if link != "" {
			h.typ, h.link, h.size = typeSymlink, link, 0
		}
		n := h.length() + int64(gap&0xff)*block
		for !h.fits(n) {
			n += block
		}
		b := h.append(nil, int(n))
		if int64(len(b)) != n {
			t.Fatalf("%d bytes, not %d", len(b), n)
		}
		got, err := tar.NewReader(bytes.NewReader(append(b, make([]byte, trailer)...))).Next()
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != name || got.Linkname != h.link || uint32(got.Mode) != h.mode || got.Uid != int(uid) ||
			got.Gid != int(gid) || got.Size != h.size || got.ModTime.Unix() != mtime || got.Typeflag != h.typ {
			t.Errorf("%+v became %+v", h, got)
		}
	})
}

// TestRecords: the length of a record counts itself, also where that takes one
// digit more.
func TestRecords(t *testing.T) {
	for n := range 3000 {
		for what, r := range map[string]string{
			"record":  record("k", strings.Repeat("v", n)),
			"comment": comment(n + minComment),
		} {
			length, _, _ := strings.Cut(r, " ")
			if got, err := strconv.Atoi(length); err != nil || got != len(r) || !strings.HasSuffix(r, "\n") {
				t.Fatalf("%s %d has %d bytes and says %s", what, n, len(r), length)
			}
			if what == "comment" && len(r) != n+minComment {
				t.Fatalf("the comment has %d bytes, not %d", len(r), n+minComment)
			}
		}
	}
}
