package dom0files

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
)

// homeTree makes a tree like somebody's home: 2000 files, most of them small.
func homeTree(t testing.TB, root string) []string {
	t.Helper()
	var names []string
	for i := range 2000 {
		size := 200 + i*7919%9000
		switch {
		case i%100 == 7:
			size = 100_000 + i*500
		case i%10 == 3:
			size = 20_000 + i*13
		}
		name := fmt.Sprintf("%s/home/user/dir%02d/file%04d", root, i%53, i)
		write(t, name, noise(i, size))
		names = append(names, name)
	}
	return names
}

// plainTar is the same archive as any tar would write it.
func plainTar(t testing.TB, archive []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		h.PAXRecords, h.Format = nil, tar.FormatUnknown
		must(t, w.WriteHeader(h))
		_, err = io.Copy(w, r)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// chunks are the chunks of an archive, as a backup knows them.
func chunks(b []byte) map[[8]byte]bool {
	all := map[[8]byte]bool{}
	for off := 0; off < len(b); off += alignment {
		all[sum(b[off:min(len(b), off+alignment)])] = true
	}
	return all
}

// fresh is how many chunks of now there were not.
func fresh(old, now map[[8]byte]bool) int {
	n := 0
	for c := range now {
		if !old[c] {
			n++
		}
	}
	return n
}

// TestAChangeSendsLittle is the reason for the gaps in the layout.
func TestAChangeSendsLittle(t *testing.T) {
	root := quickDir(t)
	names := homeTree(t, root)
	before := archiveOf(t, root, "/home")
	plainBefore := plainTar(t, before)
	aligned, plain := chunks(before), chunks(plainBefore)

	var sent, sentPlain, worst, runs int
	for i := 11; i < len(names); i += 1601 {
		for _, change := range []func(old []byte){
			func(old []byte) { must(t, os.WriteFile(names[i], append(old, noise(1, 5000)...), 0o644)) },
			func([]byte) { must(t, os.Remove(names[i])) },
			func([]byte) { write(t, names[i]+".new", "new") },
		} {
			old, err := os.ReadFile(names[i])
			must(t, err)
			change(old)
			after := archiveOf(t, root, "/home")
			n := fresh(aligned, chunks(after))
			sent, worst, runs = sent+n, max(worst, n), runs+1
			sentPlain += fresh(plain, chunks(plainTar(t, after)))
			write(t, names[i], string(old))
			os.Remove(names[i] + ".new")
			stamp(t, root+"/home/user/"+names[i][len(root+"/home/user/"):][:5])
		}
	}
	t.Logf("%d files, %d chunks (%.2f of a plain tar's %d); a changed file sends %.1f, at most %d; of a plain tar %.1f",
		len(names), len(aligned), float64(len(before))/float64(len(plainBefore)), len(plain),
		float64(sent)/float64(runs), worst, float64(sentPlain)/float64(runs))
	if sent > 3*runs || worst > 8 || sentPlain < 10*sent {
		t.Errorf("in %d runs %d chunks were sent, at most %d, of a plain tar %d", runs, sent, worst, sentPlain)
	}
	if len(before) > 2*len(plainBefore) {
		t.Errorf("the archive has %d bytes, a plain tar %d", len(before), len(plainBefore))
	}
	if again := archiveOf(t, root, "/home"); !bytes.Equal(before, again) {
		t.Error("the tree is as it was, but not its archive")
	}
}
