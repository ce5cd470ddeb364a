package dirstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

func TestErrorsHaveNoPaths(t *testing.T) {
	err := fault(writing, "put x in place", fmt.Errorf("wrapped: %w",
		&os.LinkError{Op: "rename", Old: "/home/a", New: "/home/b", Err: unix.ENOSPC}))
	if got, want := err.Error(), "full: put x in place: no space left on device"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestClassify(t *testing.T) {
	const unreadable = protocol.CodeUnreadable
	for _, tt := range []struct {
		err     error
		reading protocol.Code
		class   protocol.Class
		writing protocol.Code
		running protocol.Code
	}{
		{unix.ENOSPC, unreadable, protocol.ClassOther, protocol.CodeFull, protocol.CodeFull},
		{unix.EDQUOT, unreadable, protocol.ClassOther, protocol.CodeFull, protocol.CodeFull},
		{unix.EROFS, unreadable, protocol.ClassOther, protocol.CodeReadOnly, protocol.CodeFailed},
		{unix.EACCES, unreadable, protocol.ClassPermission, protocol.CodeReadOnly, protocol.CodeFailed},
		{unix.EPERM, unreadable, protocol.ClassPermission, protocol.CodeReadOnly, protocol.CodeFailed},
		{unix.EIO, unreadable, protocol.ClassIO, protocol.CodeFailed, protocol.CodeFailed},
		{unix.EUCLEAN, unreadable, protocol.ClassIO, protocol.CodeFailed, protocol.CodeFailed},
		{unix.EBADMSG, unreadable, protocol.ClassIO, protocol.CodeFailed, protocol.CodeFailed},
		{unix.ENODATA, unreadable, protocol.ClassIO, protocol.CodeFailed, protocol.CodeFailed},
		{unix.ENOTCONN, unreadable, protocol.ClassDisconnected, protocol.CodeFailed, protocol.CodeFailed},
		{unix.ESTALE, unreadable, protocol.ClassDisconnected, protocol.CodeFailed, protocol.CodeFailed},
		{unix.ENODEV, unreadable, protocol.ClassDisconnected, protocol.CodeFailed, protocol.CodeFailed},
		{unix.ENXIO, unreadable, protocol.ClassDisconnected, protocol.CodeFailed, protocol.CodeFailed},
		{unix.ETIMEDOUT, unreadable, protocol.ClassDisconnected, protocol.CodeFailed, protocol.CodeFailed},
		{unix.EHOSTDOWN, unreadable, protocol.ClassDisconnected, protocol.CodeFailed, protocol.CodeFailed},
		{unix.EMFILE, unreadable, protocol.ClassOther, protocol.CodeFailed, protocol.CodeFailed},
		{unix.ENOENT, protocol.CodeMissing, protocol.ClassNone, protocol.CodeMissing, protocol.CodeMissing},
		{unix.EEXIST, unreadable, protocol.ClassOther, protocol.CodeExists, protocol.CodeFailed},
		{errNotRegular, protocol.CodeNotAFile, protocol.ClassNone, protocol.CodeNotAFile, protocol.CodeFailed},
	} {
		err := &os.PathError{Op: "open", Path: "/home/x", Err: tt.err}
		wantCode(t, "reading", fault(reading, "do", err), tt.reading)
		wantCode(t, "writing", fault(writing, "do", err), tt.writing)
		wantCode(t, "running", fault(running, "do", err), tt.running)
		if e := (*Error)(nil); !errors.As(fault(reading, "do", err), &e) || e.Class != tt.class {
			t.Errorf("%v is of class %s, want %s", tt.err, e.Class, tt.class)
		}
	}
}

// TestUnreadable makes the kernel refuse, and looks how far that reaches.
func TestUnreadable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	s := create(t, dir)
	for n := range byte(3) {
		if err := put(s, packName(n), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{packName(0), "packs/01", "head"} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err == nil {
			err = os.Chmod(path, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(path, info.Mode())
	}
	if os.Geteuid() == 0 {
		lookAsNobody(t, dir)
	}
	checkUnreadable(t, s, protocol.ClassPermission)
}

// lookAsNobody makes the file system take this test for nobody's, for whom the
// archive is open but for what is closed later: root may read everything.
func lookAsNobody(t *testing.T, dir string) {
	t.Helper()
	const nobody = 65534
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, nobody))
	})
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	if err := unix.Setfsuid(nobody); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Setfsuid(0)
		runtime.UnlockOSThread()
	})
}

// checkUnreadable expects that pack 0, the directory of pack 1, and that of the
// heads can't be read, and pack 2 can.
func checkUnreadable(t *testing.T, s *Store, class protocol.Class) {
	t.Helper()
	unreadable := func(what string, err error) {
		t.Helper()
		wantCode(t, what, err, protocol.CodeUnreadable)
		if e := (*Error)(nil); errors.As(err, &e) && e.Class != class {
			t.Errorf("%s: the class is %s, want %s", what, e.Class, class)
		}
	}
	none := func(protocol.Entry) error { return nil }
	_, err := read(s, packName(0))
	unreadable("a file", err)
	_, err = read(s, packName(1))
	unreadable("a file in a directory", err)
	for _, prefix := range []string{protocol.PrefixHead, protocol.PackPrefix(1), protocol.PrefixPacks} {
		_, _, err = s.List(prefix, "", 10, none)
		unreadable("list "+prefix, err)
	}
	_, err = s.Inventory()
	unreadable("inventory", err)
	_, err = s.Heads()
	unreadable("heads", err)
	for _, prefix := range []string{protocol.PackPrefix(0), protocol.PackPrefix(2), protocol.PrefixRoots, protocol.PrefixIndex} {
		if _, _, err := s.List(prefix, "", 10, none); err != nil {
			t.Errorf("list %s: %v", prefix, err)
		}
	}
	if b, err := read(s, packName(2)); err != nil || string(b) != "x" {
		t.Errorf("the other pack: %q, %v", b, err)
	}
}
