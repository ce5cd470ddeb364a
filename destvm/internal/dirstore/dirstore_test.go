package dirstore

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

func packName(n byte) string { return protocol.PackName([16]byte{n}) }

func open(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// create opens a new archive with the exclusive lock.
func create(t *testing.T, dir string) *Store {
	t.Helper()
	s := open(t, dir, Options{Create: true})
	if err := s.Lock(protocol.LockExclusive); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestParent: one more directory is made if that was asked for, and only when
// an archive is made.
func TestParent(t *testing.T) {
	home := t.TempDir()
	path := filepath.Join(home, "pinion", "laptop")
	_, err := Open(path, Options{Create: true})
	wantCode(t, "create without its parent", err, protocol.CodeMissing)
	_, err = Open(path, Options{Parent: true})
	wantCode(t, "open", err, protocol.CodeMissing)
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the parent: %v", err)
	}
	if s := open(t, path, Options{Create: true, Parent: true}); !s.Created() {
		t.Error("it says that it made nothing")
	}
	for _, dir := range []string{filepath.Dir(path), path} {
		if info, err := os.Stat(dir); err != nil || info.Mode() != os.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}
	open(t, filepath.Join(home, "pinion", "second"), Options{Create: true, Parent: true})
	_, err = Open(filepath.Join(home, "a", "b", "c"), Options{Create: true, Parent: true})
	wantCode(t, "create two levels below what is there", err, protocol.CodeMissing)
	if _, err := os.Stat(filepath.Join(home, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
}

func put(s *Store, name string, b []byte) error {
	u, err := s.Create(name, uint64(len(b)))
	if err != nil {
		return err
	}
	if _, err := u.Write(b); err != nil {
		return err
	}
	return u.Commit()
}

func read(s *Store, name string) ([]byte, error) {
	f, _, err := s.Object(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

func list(t *testing.T, s *Store, prefix string) []string {
	t.Helper()
	var names []string
	_, more, err := s.List(prefix, "", 1000, func(e protocol.Entry) error {
		names = append(names, e.Name)
		return nil
	})
	if err != nil || more {
		t.Errorf("list %s: more %v, %v", prefix, more, err)
	}
	return names
}

func wantCode(t *testing.T, what string, err error, want protocol.Code) {
	t.Helper()
	e := (*Error)(nil)
	if !errors.As(err, &e) || e.Code != want {
		t.Errorf("%s: %v, want %s", what, err, want)
	} else if strings.ContainsAny(e.Text, "\n") || strings.Contains(e.Text, "/tmp/") || e.Text == "" {
		t.Errorf("%s: the text is %q", what, e.Text)
	}
}

// TestNothingOutside plants links to the outside wherever the store goes, and
// looks whether anything there is read, written or removed.
func TestNothingOutside(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		b, err := os.ReadFile(secret)
		entries, _ := os.ReadDir(outside)
		if err != nil || string(b) != "secret" || len(entries) != 1 {
			t.Errorf("%s: the outside has %q, %v, %v", what, b, entries, err)
		}
	}
	// Directories that lead out.
	for _, link := range []string{"head", "roots", "packs", "packs/01", "index", "tmp", "trash"} {
		dir := filepath.Join(t.TempDir(), "archive")
		create(t, dir).Close()
		path := filepath.Join(dir, link)
		os.RemoveAll(path)
		if err := os.Symlink(outside, path); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, Options{Create: true})
		if err := s.Lock(protocol.LockExclusive); (err == nil) == (link == "tmp") {
			t.Errorf("%s: the lock gave %v", link, err)
		}
		_, err := s.Commit(1, []byte("x"))
		if through := link == "head" || link == "tmp"; (err == nil) == through {
			t.Errorf("%s: a commit gave %v", link, err)
		}
		for _, name := range []string{rootName(1, "x"), packName(1), protocol.IndexName([16]byte{1})} {
			if err := put(s, name, []byte("x")); err == nil && (strings.HasPrefix(name, link) || link == "tmp") {
				t.Errorf("put %s through the link %s went well", name, link)
			}
			read(s, name)
			if err := s.Delete([]string{name}, true); err == nil && link == "trash" && !strings.HasPrefix(name, "roots") {
				t.Errorf("%s went to a trash outside", name)
			}
			s.Delete([]string{name}, false)
			s.Punch(name, []protocol.Range{{Off: 0, Len: 1}})
		}
		s.Inventory()
		s.tidyHeads()
		if link == "trash" {
			s.Close()
			check(link)
			continue
		}
		for _, prefix := range []string{protocol.PrefixHead, protocol.PrefixRoots, protocol.PrefixPacks, protocol.PackPrefix(1), protocol.PrefixIndex} {
			s.List(prefix, "", 10, func(e protocol.Entry) error {
				if strings.HasPrefix(e.Name, "head/") || strings.HasPrefix(e.Name, "roots/") {
					return nil // its own
				}
				t.Errorf("%s: %s is listed", link, e.Name)
				return nil
			})
		}
		s.Close()
		check(link)
	}
	// Objects that lead out.
	dir := filepath.Join(t.TempDir(), "archive")
	s := create(t, dir)
	os.Mkdir(filepath.Join(dir, "packs/01"), 0o700)
	for _, name := range []string{packName(1), "head/000000000001", rootName(1, "secret"), protocol.IndexName([16]byte{1})} {
		if err := os.Symlink(secret, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		_, err := read(s, name)
		wantCode(t, "read "+name, err, protocol.CodeNotAFile)
		if !isRoot(name) {
			wantCode(t, "punch "+name, s.Punch(name, []protocol.Range{{Off: 0, Len: 1}}), protocol.CodeNotAFile)
			wantCode(t, "delete "+name, s.Delete([]string{name}, false), protocol.CodeNotAFile)
			wantCode(t, "keep "+name, s.Delete([]string{name}, true), protocol.CodeNotAFile)
		}
		if name != "head/000000000001" {
			wantCode(t, "put "+name, put(s, name, []byte("secret")), protocol.CodeExists)
		}
	}
	_, err := s.Commit(1, []byte("secret"))
	wantCode(t, "commit", err, protocol.CodeConflict)
	s.tidyHeads()
	part := protocol.AppendCopy(nil, packName(1), protocol.Range{Off: 0, Len: 6})
	wantCode(t, "compose", s.Compose(packName(2), 6, part), protocol.CodeNotAFile)
	for _, prefix := range []string{protocol.PrefixHead, protocol.PrefixRoots, protocol.PrefixPacks, protocol.PrefixIndex} {
		if names := list(t, s, prefix); len(names) > 0 {
			t.Errorf("there are %q", names)
		}
	}
	check("objects")
}

// TestLockFileLink: a lock file that leads out is neither opened nor made.
func TestLockFileLink(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "made")
	dir := filepath.Join(t.TempDir(), "archive")
	create(t, dir).Close()
	os.Remove(filepath.Join(dir, lockWrite))
	if err := os.Symlink(outside, filepath.Join(dir, lockWrite)); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, Options{})
	wantCode(t, "lock", s.Lock(protocol.LockAppend), protocol.CodeFailed)
	if _, err := os.Lstat(outside); err == nil {
		t.Error("a file was made outside")
	}
}

// TestOddFiles: what is no file under an object's name neither hangs the
// store nor is taken for an object.
func TestOddFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	s := create(t, dir)
	plant := map[string]func(path string) error{
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"socket": func(p string) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Bind(fd, &unix.SockaddrUnix{Name: p})
		},
	}
	for what, make := range plant {
		t.Chdir(dir) // a socket's path must be short
		name := protocol.IndexName([16]byte{7})
		if err := make(name); err != nil {
			t.Fatal(err)
		}
		_, err := read(s, name)
		wantCode(t, "read a "+what, err, protocol.CodeNotAFile)
		wantCode(t, "put on a "+what, put(s, name, nil), protocol.CodeExists)
		wantCode(t, "delete a "+what, s.Delete([]string{name}, false), protocol.CodeNotAFile)
		wantCode(t, "punch a "+what, s.Punch(name, []protocol.Range{{Off: 0, Len: 1}}), protocol.CodeNotAFile)
		if names := list(t, s, protocol.PrefixIndex); len(names) > 0 {
			t.Errorf("a %s is listed as %q", what, names)
		}
		os.Remove(name)
	}
}

func TestPlace(t *testing.T) {
	base := t.TempDir()
	file, fifo := filepath.Join(base, "file"), filepath.Join(base, "fifo")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path   string
		create bool
		want   protocol.Code
	}{
		{file, false, protocol.CodeNotAFile},
		{file, true, protocol.CodeNotAFile},
		{fifo, true, protocol.CodeNotAFile},
		{file + "/x", true, protocol.CodeNotAFile},
		{filepath.Join(base, "missing"), false, protocol.CodeMissing},
		{filepath.Join(base, "missing", "deeper"), true, protocol.CodeMissing},
	} {
		_, err := Open(tt.path, Options{Create: tt.create})
		wantCode(t, tt.path, err, tt.want)
	}
	if entries, _ := os.ReadDir(base); len(entries) != 2 {
		t.Errorf("there are %v", entries)
	}
}

// TestLookingLeavesNothing: opening, listing and locking for reading a
// directory that is no archive makes no file in it.
func TestLookingLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if err := s.Lock(protocol.LockRead); err != nil {
		t.Fatal(err)
	}
	list(t, s, protocol.PrefixPacks)
	if heads, err := s.Heads(); err != nil || len(heads) > 0 {
		t.Errorf("heads are %d, %v", heads, err)
	}
	if _, err := s.Inventory(); err != nil {
		t.Error(err)
	}
	_, err := read(s, "head/000000000001")
	wantCode(t, "read a root", err, protocol.CodeMissing)
	s.Close()
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("there are %v", entries)
	}
}

// TestListIsBounded: a directory with many more names than one page.
func TestListIsBounded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	s := create(t, dir)
	var want []string
	for i := range 4000 {
		name := protocol.IndexName([16]byte{byte(i >> 8), byte(i), byte(i * 7)})
		want = append(want, name)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(want)
	var got []string
	for after, more := "", true; more; {
		var err error
		_, more, err = s.List(protocol.PrefixIndex, after, 7, func(e protocol.Entry) error {
			got = append(got, e.Name)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		after = got[len(got)-1]
		if len(got) > 200 {
			break
		}
	}
	if !slices.Equal(got, want[:len(got)]) {
		t.Error("the pages are not the names in order")
	}
	names, more, err := s.names(protocol.PrefixIndex, want[2499], 1000)
	if err != nil || !more || !slices.Equal(names, want[2500:3500]) {
		t.Errorf("a page from the middle has %d names, more %v, %v", len(names), more, err)
	}
}

func TestUploadMisuse(t *testing.T) {
	s := create(t, filepath.Join(t.TempDir(), "archive"))
	u, err := s.Create(packName(1), 5)
	if err != nil {
		t.Fatal(err)
	}
	_, err = u.Write([]byte("123456"))
	wantCode(t, "too much", err, protocol.CodeBadRequest)
	wantCode(t, "commit", u.Commit(), protocol.CodeBadRequest)
	u, err = s.Create(packName(1), 5)
	if err != nil {
		t.Fatal(err)
	}
	u.Write([]byte("123"))
	wantCode(t, "too little", u.Commit(), protocol.CodeBadRequest)
	_, err = s.Create(packName(1), protocol.MaxObject+1)
	wantCode(t, "too large", err, protocol.CodeTooLarge)
	_, err = s.Create("../x", 1)
	wantCode(t, "no name", err, protocol.CodeBadRequest)
	if names := list(t, s, protocol.PrefixPacks); len(names) > 0 {
		t.Errorf("there are %q", names)
	}
}

func TestPunchFreesSpace(t *testing.T) {
	s := create(t, filepath.Join(t.TempDir(), "archive"))
	if s.Capabilities()&protocol.CanPunch == 0 {
		t.Fatal("this file system can't punch: run the tests on one that can")
	}
	if err := put(s, packName(1), bytes.Repeat([]byte{1}, 4<<20)); err != nil {
		t.Fatal(err)
	}
	before, err := s.Used()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Punch(packName(1), []protocol.Range{{Off: 1 << 20, Len: 2 << 20}}); err != nil {
		t.Fatal(err)
	}
	after, err := s.Used()
	if err != nil || before-after < 1<<20 {
		t.Errorf("used went from %d to %d, %v", before, after, err)
	}
}
