package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pinion/destvm/internal/storetest"
	"pinion/protocol"
)

func pack(n byte) string { return protocol.PackName([16]byte{n}) }

// place is a directory that doesn't exist yet.
func place(t *testing.T) string { return filepath.Join(t.TempDir(), "archive") }

func temps(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// halfPut opens an archive and sends half of an object.
func halfPut(t *testing.T, dir string) (*storetest.Client, uint32) {
	t.Helper()
	c := storetest.OpenLocked(t, helper(t, "serve", dir), protocol.LockAppend)
	id := c.Send(protocol.TypePut, protocol.Put{Name: pack(1), Size: 200000})
	c.Body(id, make([]byte, 100000))
	// An answer to a later request: the helper has seen all of that.
	c.OK(protocol.TypeUsage, nil)
	return c, id
}

func lockSize(t *testing.T, dir string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, "lock.write"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestKilledInPut(t *testing.T) {
	dir := place(t)
	c, _ := halfPut(t, dir)
	c.Kill()
	if temps(t, dir) != 1 || lockSize(t, dir) != 1 {
		t.Error("a killed helper left neither a temp file nor a mark")
	}
	reader, _ := storetest.Open(t, helper(t, "serve", dir), false)
	reader.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockRead})
	if names := reader.Names(protocol.PrefixPacks, 10); len(names) > 0 {
		t.Errorf("half a put left %q", names)
	}
	if temps(t, dir) != 1 {
		t.Error("a reader removed the temp file")
	}
	writer := storetest.OpenLocked(t, helper(t, "serve", dir), protocol.LockAppend)
	if temps(t, dir) != 0 {
		t.Error("the next writer left the temp file")
	}
	writer.Put(pack(1), []byte("whole"))
	writer.Close()
	reader.Close()
	if lockSize(t, dir) != 0 {
		t.Error("a good end left the mark of a bad one")
	}
}

func TestLiveUploadIsNotSwept(t *testing.T) {
	dir := place(t)
	c, id := halfPut(t, dir)
	for _, mode := range []protocol.LockMode{protocol.LockAppend, protocol.LockExclusive} {
		other, _ := storetest.Open(t, helper(t, "serve", dir), true)
		other.Fail(protocol.CodeLocked, protocol.TypeLock, protocol.Lock{Mode: mode})
		other.Close()
	}
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockExclusive}) // our own, grown
	c.Body(id, make([]byte, 100000))
	if r := c.Replies(id)[id]; r.Err != nil {
		t.Errorf("put: %+v", r.Err)
	}
	c.Close()
}

func TestSignalsEndLikeEOF(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
		dir := place(t)
		c, _ := halfPut(t, dir)
		if err := c.Process().Signal(sig); err != nil {
			t.Fatal(err)
		}
		state, err := c.Process().Wait()
		if err != nil || state.ExitCode() != 0 {
			t.Errorf("%v ended the helper with %v, %v", sig, state, err)
		}
		if temps(t, dir) != 0 || lockSize(t, dir) != 0 {
			t.Errorf("%v left a temp file or a mark", sig)
		}
	}
}

func TestClosedOutput(t *testing.T) {
	dir := place(t)
	c, _ := halfPut(t, dir)
	c.CloseOutput()
	c.Send(protocol.TypeUsage, nil)
	state, err := c.Process().Wait()
	if err != nil || state.ExitCode() != 0 {
		t.Errorf("the helper ended with %v, %v", state, err)
	}
	if temps(t, dir) != 0 {
		t.Error("it left a temp file")
	}
}

func TestAlive(t *testing.T) {
	t.Parallel()
	c, _ := halfPut(t, place(t))
	start := time.Now()
	if h, _ := c.RecvAny(); h.Type != protocol.TypeAlive || h.ID != 0 || h.Len != 0 {
		t.Errorf("%+v came", h)
	}
	if took := time.Since(start); took > 2*protocol.AliveInterval {
		t.Errorf("the first sign of life took %v", took)
	}
	c.Close()
}

func TestReadOnlyOption(t *testing.T) {
	dir := place(t)
	ro := helper(t, "serve", dir, "--read-only")
	c := storetest.Start(t, ro)
	h, payload := c.Hello(protocol.Hello{Min: 1, Max: protocol.Version, Create: true})
	if e, err := protocol.ParseErrorReply(payload); h.Type != protocol.TypeError || err != nil || e.Code != protocol.CodeReadOnly {
		t.Errorf("%+v %q", h, payload)
	}
	c.Close()
	w := storetest.OpenLocked(t, helper(t, "serve", dir), protocol.LockAppend)
	w.Put(pack(1), []byte("abc"))
	c, r := storetest.Open(t, ro, false)
	if r.Capabilities != protocol.ReadOnly|protocol.LockNotes|protocol.CanInventory {
		t.Errorf("capabilities are %b", r.Capabilities)
	}
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockRead})
	c.Fail(protocol.CodeReadOnly, protocol.TypeLock, protocol.Lock{Mode: protocol.LockAppend})
	c.Fail(protocol.CodeReadOnly, protocol.TypePut, protocol.Put{Name: pack(2), Size: 1}, 'x')
	c.Fail(protocol.CodeReadOnly, protocol.TypeCommit, protocol.Commit{Generation: 1, Size: 1}, 'x')
	c.Fail(protocol.CodeReadOnly, protocol.TypeDelete, protocol.Delete{Names: []string{pack(1)}})
	if got := c.Whole(pack(1)); string(got) != "abc" {
		t.Errorf("the object is %q", got)
	}
	w.Close()
	x, _ := storetest.Open(t, helper(t, "serve", dir), false)
	x.Fail(protocol.CodeLocked, protocol.TypeLock, protocol.Lock{Mode: protocol.LockExclusive}) // a reader is a reader
	c.Close()
	x.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockExclusive})
	x.Close()
}

func TestAppendOnlyOption(t *testing.T) {
	dir := place(t)
	command := helper(t, "serve", dir, "--append-only")
	c, r := storetest.Open(t, command, true)
	if r.Capabilities != protocol.AppendOnly|protocol.CanCompose|protocol.LockNotes|protocol.CanInventory {
		t.Errorf("capabilities are %b", r.Capabilities)
	}
	c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockExclusive})
	c.Put(pack(1), []byte("abc"))
	for _, keep := range []bool{false, true} {
		c.Fail(protocol.CodeAppendOnly, protocol.TypeDelete, protocol.Delete{Keep: keep, Names: []string{pack(1)}})
	}
	c.Fail(protocol.CodeAppendOnly, protocol.TypePunch, protocol.Punch{Name: pack(1), Ranges: []protocol.Range{{Off: 0, Len: 1}}})
	list := protocol.AppendCopy(nil, pack(1), protocol.Range{Off: 1, Len: 2})
	c.OK(protocol.TypeCompose, protocol.Compose{Name: pack(2), Size: 2, ListLen: uint32(len(list))}, list...)
	if got := c.Whole(pack(1)); string(got) != "abc" {
		t.Errorf("the object is %q", got)
	}
	for g := range uint64(10) {
		c.Commit(g+1, []byte{byte(g)})
	}
	c.Fail(protocol.CodeAppendOnly, protocol.TypeDelete, protocol.Delete{Names: []string{"head/000000000010"}})
	c.Close()
	// However old they are.
	old := time.Now().Add(-1000 * 24 * time.Hour)
	for g := range uint64(10) {
		if err := os.Chtimes(filepath.Join(dir, protocol.HeadName(g+1)), old, old); err != nil {
			t.Fatal(err)
		}
	}
	c = storetest.OpenLocked(t, command, protocol.LockAppend)
	for _, prefix := range []string{protocol.PrefixHead, protocol.PrefixRoots} {
		if got := c.Names(prefix, 100); len(got) != 10 {
			t.Errorf("an append-only store kept %q", got)
		}
	}
	c.Close()
}

// TestModes: whatever the umask, the owner can use the archive and nobody
// else can.
func TestModes(t *testing.T) {
	for _, mask := range []string{"000", "777", "077"} {
		dir := place(t)
		command := append([]string{"sh", "-c", "umask " + mask + `; exec "$0" "$@"`}, helper(t, "serve", dir)...)
		c := storetest.OpenLocked(t, command, protocol.LockAppend)
		c.Put(pack(1), []byte("abc"))
		c.Put(protocol.IndexName([16]byte{}), []byte("abc"))
		c.Commit(1, []byte("root"))
		c.OK(protocol.TypeLock, protocol.Lock{Mode: protocol.LockExclusive})
		c.OK(protocol.TypeDelete, protocol.Delete{Keep: true, Names: []string{pack(1)}})
		c.Close()
		storetest.OpenLocked(t, command, protocol.LockAppend).Close() // makes the second copy
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			want := os.FileMode(0o600)
			if d.IsDir() {
				want = 0o700
			}
			if err == nil && info.Mode().Perm() != want {
				t.Errorf("umask %s: %s has the mode %v", mask, path, info.Mode())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestForeignFiles(t *testing.T) {
	dir := place(t)
	c := storetest.OpenLocked(t, helper(t, "serve", dir), protocol.LockAppend)
	c.Put(pack(1), []byte("abc"))
	c.Close()
	foreign := []string{
		"README", "root.txt", "root", "root.1", "keys/x", "tmp/notes.txt", "head/README", "head/01", "roots/000000000001-x", "packs/README", "packs/zz/x", "packs/01/README",
		"packs/02/" + strings.Repeat("0", 32), "index/.hidden", "lost+found/x",
	}
	for _, f := range foreign {
		path := filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c = storetest.OpenLocked(t, helper(t, "serve", dir), protocol.LockExclusive)
	got := ""
	for _, p := range []string{protocol.PrefixHead, protocol.PrefixRoots, protocol.PrefixPacks, protocol.PrefixIndex} {
		got += strings.Join(c.Names(p, 2), " ")
	}
	if got != pack(1) {
		t.Errorf("there are %q", got)
	}
	for g := range uint64(12) {
		c.Commit(g+1, []byte("root"))
	}
	c.Close()
	for _, f := range foreign {
		if b, err := os.ReadFile(filepath.Join(dir, f)); err != nil || string(b) != f {
			t.Errorf("%s: %q, %v", f, b, err)
		}
	}
}

// TestMemory measures the program as it is shipped: the race detector needs
// memory of its own.
func TestMemory(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "pinion-store")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := storetest.OpenLocked(t, []string{binary, "serve", place(t)}, protocol.LockExclusive)
	const size = 2 << 20
	var puts []uint32
	for i := range byte(16) {
		id := c.Send(protocol.TypePut, protocol.Put{Name: pack(i), Size: size})
		c.Body(id, bytes.Repeat([]byte{i}, size))
		puts = append(puts, id)
	}
	c.Replies(puts...)
	ranges := make([]protocol.Range, protocol.MaxRanges)
	for i := range ranges {
		ranges[i] = protocol.Range{Off: uint64(i), Len: 100}
	}
	names := make([]string, protocol.MaxDeletes)
	for i := range names {
		names[i] = pack(200)
	}
	for range 3 {
		var ids []uint32
		for i := range byte(protocol.MaxOutstanding) {
			switch {
			case i < 8:
				ids = append(ids, c.Send(protocol.TypeGetWhole, protocol.GetWhole{Name: pack(i), Max: size}))
			case i < 50:
				ids = append(ids, c.Send(protocol.TypeGet, protocol.Get{Name: pack(i % 16), Ranges: ranges}))
			default:
				ids = append(ids, c.Send(protocol.TypeDelete, protocol.Delete{Names: names}))
			}
		}
		for _, r := range c.Replies(ids...) {
			if r.Err != nil {
				t.Fatalf("%+v", r.Err)
			}
		}
	}
	var list []byte
	sum := 0
	for i := 0; len(list) < protocol.MaxComposeList-100; i++ {
		list = protocol.AppendCopy(list, pack(byte(i%3)), protocol.Range{Off: uint64(i), Len: 3})
		sum += 3
	}
	c.OK(protocol.TypeCompose, protocol.Compose{Name: pack(99), Size: uint64(sum), ListLen: uint32(len(list))}, list...)
	peak := peakMemory(t, c.Process().Pid)
	t.Logf("peak memory %d KiB", peak)
	if peak > 64<<10 {
		t.Errorf("the helper needed %d KiB", peak)
	}
	c.Close()
}

// peakMemory is the most memory that a process ever had resident, in KiB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
