package dirstore

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// mount makes a tmpfs of its own with the given options.
func mount(t *testing.T, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount") // everything else about the store is tested without
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestDiskFull(t *testing.T) {
	dir := filepath.Join(mount(t, "size=2m"), "archive")
	s := create(t, dir)
	half := bytes.Repeat([]byte{1}, 1<<20)
	if _, err := s.Commit(1, []byte("root")); err != nil {
		t.Fatal(err)
	}
	if err := put(s, packName(1), half); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a put that doesn't fit", put(s, packName(2), half), protocol.CodeFull)
	part := protocol.AppendCopy(nil, packName(1), protocol.Range{Off: 0, Len: 1 << 20})
	wantCode(t, "a compose that doesn't fit", s.Compose(packName(3), 1<<20, part), protocol.CodeFull)
	fill(t, filepath.Join(dir, "filler"))
	_, err := s.Commit(2, make([]byte, 5000))
	wantCode(t, "a commit that doesn't fit", err, protocol.CodeFull)
	if heads, err := s.Heads(); err != nil || !slices.Equal(heads, []uint64{1}) {
		t.Errorf("the heads are %d, %v", heads, err)
	}
	if names := list(t, s, protocol.PrefixPacks); len(names) != 1 {
		t.Errorf("there are %q", names)
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, dirTemp)); len(entries) > 0 {
		t.Errorf("failed uploads left %v", entries)
	}
	// A full store opens, and can be emptied, although there is no room for
	// the second copy of the root.
	s.Close()
	s = open(t, dir, Options{})
	if err := s.Lock(protocol.LockExclusive); err != nil {
		t.Fatal(err)
	}
	if s.Capabilities()&protocol.CanPunch == 0 {
		t.Error("a full store is said not to punch")
	}
	if err := s.Punch(packName(1), []protocol.Range{{Off: 0, Len: 1 << 19}}); err != nil {
		t.Error(err)
	}
	if err := s.Delete([]string{packName(1)}, false); err != nil {
		t.Error(err)
	}
	if _, err := s.Commit(2, make([]byte, 5000)); err != nil {
		t.Error(err)
	}
	s.tidyHeads()
	if names := list(t, s, protocol.PrefixRoots); len(names) != 2 {
		t.Errorf("the second copies are %q", names)
	}
}

// fill takes up all space that is left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	for range 1 << 20 {
		if _, err := f.Write(b); err != nil {
			return
		}
	}
	t.Fatal("the disk does not fill up")
}

func TestNoInodes(t *testing.T) {
	dir := filepath.Join(mount(t, "size=2m,nr_inodes=14"), "archive")
	s := create(t, dir)
	var err error
	for n := byte(1); n < 20 && err == nil; n++ {
		err = put(s, protocol.IndexName([16]byte{n}), []byte("x"))
	}
	wantCode(t, "a put without an inode", err, protocol.CodeFull)
}

func TestReadOnlyMount(t *testing.T) {
	base := mount(t, "size=2m")
	dir := filepath.Join(base, "archive")
	s := create(t, dir)
	if err := put(s, packName(1), []byte("abc")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	remount := func() {
		t.Helper()
		if err := unix.Mount("tmpfs", base, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, "size=2m"); err != nil {
			t.Fatal(err)
		}
	}
	for _, withLockFiles := range []bool{true, false} {
		if !withLockFiles {
			if err := unix.Mount("tmpfs", base, "tmpfs", unix.MS_REMOUNT, "size=2m"); err != nil {
				t.Fatal(err)
			}
			os.Remove(filepath.Join(dir, lockUse))
			os.Remove(filepath.Join(dir, lockWrite))
		}
		remount()
		s = open(t, dir, Options{Create: true})
		if s.Capabilities() != protocol.ReadOnly|protocol.LockNotes|protocol.CanInventory {
			t.Errorf("capabilities are %b", s.Capabilities())
		}
		if err := s.Lock(protocol.LockRead); err != nil {
			t.Error(err)
		}
		wantCode(t, "lock", s.Lock(protocol.LockAppend), protocol.CodeReadOnly)
		wantCode(t, "put", put(s, packName(2), nil), protocol.CodeReadOnly)
		wantCode(t, "compose", s.Compose(packName(2), 1, protocol.AppendLiteral(nil, []byte("x"))), protocol.CodeReadOnly)
		if b, err := read(s, packName(1)); string(b) != "abc" {
			t.Errorf("the object is %q, %v", b, err)
		}
		s.Close()
	}
	_, err := Open(filepath.Join(base, "new"), Options{Create: true})
	wantCode(t, "create", err, protocol.CodeReadOnly)
}
