package dirstore

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// rootName is the name of the second copy of a root.
func rootName(generation uint64, root string) string {
	sum := sha256.Sum256([]byte(root))
	return protocol.RootName(generation, [16]byte(sum[:16]))
}

func numbered(g uint64) string { return fmt.Sprint("root ", g) }

// commit makes heads, and second copies of those that have one.
func commit(t *testing.T, s *Store, copied func(g uint64) bool, gs ...uint64) {
	t.Helper()
	for _, g := range gs {
		if _, err := s.Commit(g, []byte(numbered(g))); err != nil {
			t.Fatal(err)
		}
		if !copied(g) {
			continue
		}
		if err := put(s, rootName(g, numbered(g)), []byte(numbered(g))); err != nil {
			t.Fatal(err)
		}
	}
}

func always(uint64) bool { return true }
func never(uint64) bool  { return false }

// setAge sets back the time of a file's last change.
func setAge(t *testing.T, dir, name string, age time.Duration) {
	t.Helper()
	then := time.Now().Add(-age)
	if err := os.Chtimes(filepath.Join(dir, name), then, then); err != nil {
		t.Fatal(err)
	}
}

func wantHeads(t *testing.T, what string, s *Store, want ...uint64) {
	t.Helper()
	if got, err := s.Heads(); err != nil || !slices.Equal(got, want) {
		t.Errorf("%s: the heads are %d, %v, want %d", what, got, err, want)
	}
}

// relock lets the next writer in.
func relock(t *testing.T, s *Store, dir string, o Options) *Store {
	t.Helper()
	s.Close()
	s = open(t, dir, o)
	if err := s.Lock(protocol.LockExclusive); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestHeadsGo: the newest four stay, the last day's stay, and those without a
// true second copy; the rest goes when the next writer comes.
func TestHeadsGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	s := create(t, dir)
	commit(t, s, always, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	s = relock(t, s, dir, Options{})
	wantHeads(t, "all young", s, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1)
	const old = protocol.HeadAge + time.Hour
	for _, g := range []uint64{1, 2, 3, 5, 8, 9, 10} {
		setAge(t, dir, protocol.HeadName(g), old)
	}
	setAge(t, dir, protocol.HeadName(6), protocol.HeadAge-time.Minute)
	setAge(t, dir, protocol.HeadName(4), -1000*time.Hour) // of the future
	// 3 has a copy that isn't true, 2 one of another root alone, 5 none.
	if err := os.WriteFile(filepath.Join(dir, rootName(3, numbered(3))), []byte("spoilt"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, g := range []uint64{2, 5} {
		if err := os.Remove(filepath.Join(dir, rootName(g, numbered(g)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(s, rootName(2, "another"), []byte("another")); err != nil {
		t.Fatal(err)
	}
	wantHeads(t, "while the writer is there", s, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1)
	s = relock(t, s, dir, Options{})
	wantHeads(t, "the next writer", s, 10, 9, 8, 7, 6, 4, 3)
	for _, g := range []uint64{1, 2, 5} {
		if b, err := read(s, rootName(g, numbered(g))); string(b) != numbered(g) {
			t.Errorf("the second copy of %d is %q, %v", g, b, err)
		}
	}
	// One that can't be read stays, and is in nobody's way.
	if err := os.WriteFile(filepath.Join(dir, "head/000000000002"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "head/000000000001"), 0o700); err != nil {
		t.Fatal(err)
	}
	setAge(t, dir, "head/000000000002", old)
	s = relock(t, s, dir, Options{})
	wantHeads(t, "what is no root", s, 10, 9, 8, 7, 6, 4, 3, 2, 1)
	_, err := s.Commit(1, []byte("x"))
	wantCode(t, "commit where a directory is", err, protocol.CodeConflict)
	s = relock(t, s, dir, Options{AppendOnly: true})
	setAge(t, dir, "head/000000000004", old)
	s = relock(t, s, dir, Options{AppendOnly: true})
	wantHeads(t, "append-only", s, 10, 9, 8, 7, 6, 4, 3, 2, 1)
}

// TestSecondCopyIsNoLink: what happens to the blocks of one doesn't happen to
// the other.
func TestSecondCopyIsNoLink(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	s := create(t, dir)
	commit(t, s, never, 1)
	for _, o := range []Options{{AppendOnly: true}, {}} {
		s = relock(t, s, dir, o)
		if s.sameFile("head/000000000001", rootName(1, numbered(1))) {
			t.Error("they are one file")
		}
		if b, err := read(s, rootName(1, numbered(1))); string(b) != numbered(1) {
			t.Errorf("the second copy is %q, %v", b, err)
		}
		for _, name := range []string{"head/000000000001", rootName(1, numbered(1))} {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || st.Nlink != 1 {
				t.Errorf("%s has %d names, %v", name, st.Nlink, err)
			}
		}
	}
}

// TestManyHeads: of more heads than a list has, the highest are listed.
func TestManyHeads(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	s := create(t, dir)
	for g := range protocol.MaxHeads + 100 {
		if err := os.WriteFile(filepath.Join(dir, protocol.HeadName(uint64(g+1))), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	heads, err := s.Heads()
	if err != nil || len(heads) != protocol.MaxHeads || heads[0] != protocol.MaxHeads+100 || heads[protocol.MaxHeads-1] != 101 {
		t.Errorf("%d heads, %v", len(heads), err)
	}
	// The hello's reply and the commit's have room for them.
	if n := len((protocol.Committed{Heads: heads}).Append(nil)); n != protocol.MaxCommitted {
		t.Errorf("they take %d bytes", n)
	}
}

// TestRootsAreKept: young second copies and those of the highest generations
// can't be deleted, whoever asks, and if one of several can't, none is.
func TestRootsAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	s := create(t, dir)
	const n = protocol.KeptRoots + 6
	var names []string
	for g := uint64(1); g <= n; g++ {
		name := rootName(g, numbered(g))
		if err := put(s, name, []byte(numbered(g))); err != nil {
			t.Fatal(err)
		}
		setAge(t, dir, name, protocol.RootAge+time.Hour)
		names = append(names, name)
	}
	// Another root of a generation takes no place among the highest.
	if err := put(s, rootName(n, "twin"), []byte("twin")); err != nil {
		t.Fatal(err)
	}
	setAge(t, dir, names[0], protocol.RootAge-time.Hour)
	setAge(t, dir, names[1], -time.Hour)
	for _, keep := range []bool{false, true} {
		for what, batch := range map[string][]string{
			"young": {names[0]}, "of the future": {names[1]}, "high": {names[6]}, "highest": {names[n-1]},
			"one among others": {names[2], names[3], names[0]}, "one high among others": {names[2], names[n-2]},
		} {
			wantCode(t, what, s.Delete(batch, keep), protocol.CodeRefused)
		}
	}
	if got := list(t, s, protocol.PrefixRoots); len(got) != n+1 {
		t.Errorf("%d are left", len(got))
	}
	if err := s.Delete(names[2:4], false); err != nil {
		t.Error(err)
	}
	if err := s.Delete(names[4:6], true); err != nil {
		t.Error(err)
	}
	if got := list(t, s, protocol.PrefixRoots); len(got) != n-3 {
		t.Errorf("%d are left", len(got))
	}
}

// TestTrash: what is kept lies under the day and its own name, whole, and what
// lies there already stays.
func TestTrash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	s := create(t, dir)
	day := func() string { return time.Now().UTC().Format("2006-01-02") }
	before := day()
	for _, content := range []string{"first", "second", "third"} {
		if err := put(s, packName(1), []byte(content)); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete([]string{packName(1)}, true); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, s, never, 7)
	if err := s.Delete([]string{"head/000000000007"}, true); err != nil {
		t.Error(err)
	}
	if day() != before {
		t.Skip("the day ended") // once in a blue moon
	}
	base := filepath.Join(dir, "trash", before)
	for name, want := range map[string]string{
		packName(1): "first", packName(1) + ".1": "second", packName(1) + ".2": "third", "head/000000000007": numbered(7),
	} {
		if b, err := os.ReadFile(filepath.Join(base, name)); string(b) != want {
			t.Errorf("%s is %q, %v", name, b, err)
		}
	}
	wantHeads(t, "after all", s)
	if used, err := s.Used(); err != nil || used != 0 {
		t.Errorf("the objects take %d bytes, %v", used, err)
	}
}

// TestReadme: it is made with the archive, and not again over another.
func TestReadme(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	s := create(t, dir)
	path := filepath.Join(dir, readmeName)
	b, err := os.ReadFile(path)
	for _, word := range []string{"Pinion archive", "encrypted", "docs/format.md", "recover.py", "Don't change, rename or delete"} {
		if !bytes.Contains(b, []byte(word)) {
			t.Errorf("it doesn't say %q, %v", word, err)
		}
	}
	s.Close()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir, Options{Create: true})
	if b, err := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("it is %q, %v", b, err)
	}
	os.Remove(path)
	open(t, dir, Options{})
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("opening made one: %v", err)
	}
}

// TestOneWinner: of many that commit the same generation at the same time
// without any lock among them, one succeeds, and its root is there.
func TestOneWinner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	create(t, dir).Close()
	const writers = 8
	for g := uint64(1); g <= 20; g++ {
		var mu sync.Mutex
		var winners []int
		var wg sync.WaitGroup
		for w := range writers {
			s := open(t, dir, Options{})
			s.mode = protocol.LockAppend // as on a file system where locks are worth nothing
			wg.Go(func() {
				_, err := s.Commit(g, bytes.Repeat([]byte{byte(w)}, 10000))
				switch e := (*Error)(nil); {
				case err == nil:
					mu.Lock()
					winners = append(winners, w)
					mu.Unlock()
				case !errors.As(err, &e) || e.Code != protocol.CodeConflict:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		b, err := os.ReadFile(filepath.Join(dir, protocol.HeadName(g)))
		if len(winners) != 1 || err != nil || !bytes.Equal(b, bytes.Repeat([]byte{byte(winners[0])}, 10000)) {
			t.Fatalf("generation %d: winners %d, %d bytes, %v", g, winners, len(b), err)
		}
	}
	if temps, err := os.ReadDir(filepath.Join(dir, dirTemp)); err != nil || len(temps) > 0 {
		t.Errorf("there are %v, %v", temps, err)
	}
}

// TestWithoutLinks: where there are no links, a rename makes a head just as
// exclusively.
func TestWithoutLinks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	s := create(t, dir)
	one, err := s.writeTemp("head/000000000001", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.renameNoReplace(one.temp, "head/000000000001"); err != nil {
		t.Fatal(err)
	}
	s.forget(one.temp)
	one.Discard()
	u, err := s.writeTemp("head/000000000001", []byte("three"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.renameNoReplace(u.temp, "head/000000000001"); !errors.Is(err, os.ErrExist) {
		t.Errorf("a rename gave %v", err)
	}
	u.Discard()
	if b, err := read(s, "head/000000000001"); string(b) != "one" {
		t.Errorf("the head is %q, %v", b, err)
	}
	for err, want := range map[error]bool{
		unix.EPERM: true, unix.EOPNOTSUPP: true, unix.ENOSYS: true, unix.EEXIST: false, unix.ENOSPC: false, unix.EIO: false,
	} {
		if got := hasNoLinks(&os.LinkError{Op: "link", Err: err}); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// dieAt makes the test binary a helper that commits and is killed at a step.
const dieAt = "PINION_TEST_DIE_AT"

// TestMain is for TestKilledInCommit.
func TestMain(m *testing.M) {
	if at := os.Getenv(dieAt); at != "" {
		dieInCommit(at, os.Args[1])
	}
	os.Exit(m.Run())
}

func dieInCommit(at, dir string) {
	s, err := Open(dir, Options{})
	if err == nil {
		err = s.Lock(protocol.LockAppend)
	}
	if err != nil {
		panic(err)
	}
	s.step = func(step string) {
		if step == at {
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	_, err = s.Commit(2, []byte("the new root"))
	panic(fmt.Sprint("nobody died: ", err))
}

// TestKilledInCommit kills a helper between any two steps of a commit. The head
// is whole or isn't there; the next writer finds an archive that is in order.
func TestKilledInCommit(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		at    string
		there bool
	}{{"written", false}, {"linked", true}, {"named", true}, {"durable", true}} {
		t.Run(tt.at, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "archive")
			s := create(t, dir)
			commit(t, s, always, 1)
			s.Close()
			cmd := exec.Command(self, dir)
			cmd.Env = append(os.Environ(), dieAt+"="+tt.at)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != -1 {
				t.Fatalf("it was not killed: %v: %s", err, out)
			}
			s = open(t, dir, Options{})
			b, err := read(s, "head/000000000002")
			switch {
			case tt.there && string(b) != "the new root":
				t.Errorf("the head is %q, %v", b, err)
			case !tt.there:
				wantCode(t, "read the head", err, protocol.CodeMissing)
			}
			if err := s.Lock(protocol.LockAppend); err != nil {
				t.Fatal(err)
			}
			if temps, err := os.ReadDir(filepath.Join(dir, dirTemp)); err != nil || len(temps) > 0 {
				t.Errorf("there are %v, %v", temps, err)
			}
			_, err = s.Commit(2, []byte("another"))
			if tt.there {
				wantCode(t, "commit once more", err, protocol.CodeConflict)
			} else if err != nil {
				t.Error(err)
			}
			second, err := read(s, rootName(2, "the new root"))
			if tt.there && string(second) != "the new root" {
				t.Errorf("the second copy is %q, %v", second, err)
			}
			if b, err := read(s, "head/000000000001"); string(b) != numbered(1) {
				t.Errorf("the head before is %q, %v", b, err)
			}
			if _, err := s.Commit(3, []byte("after")); err != nil {
				t.Error(err)
			}
		})
	}
}
