package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pinion/protocol"
)

// buildHelper builds the real helper.
func buildHelper(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pinion-store")
	if out, err := exec.Command("go", "build", "-o", path, "pinion/destvm/cmd/pinion-store").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func content(seed, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// TestRealHelper goes through every request with the real helper.
func TestRealHelper(t *testing.T) {
	ctx := context.Background()
	d := destination(t)
	o := Options{Helper: buildHelper(t), Stderr: func(s string) { t.Errorf("the helper said %q", s) }}
	if _, err := Open(ctx, d, o); !errors.Is(err, ErrMissing) {
		t.Errorf("a missing archive gave %v", err)
	}
	o.Create = true
	c, err := Open(ctx, d, o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if i := c.Info(); !i.Created || i.ReadOnly || !i.CanCompose || i.Free <= 0 {
		t.Errorf("info is %+v", i)
	}
	if err := c.Lock(ctx, protocol.LockExclusive); err != nil {
		t.Fatal(err)
	}
	if err := c.Note(ctx, []byte("a note")); err != nil {
		t.Fatal(err)
	}
	testLocked(t, d, o)
	testObjects(ctx, t, c)
	testSpace(ctx, t, c)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func testLocked(t *testing.T, d Destination, o Options) {
	c, err := Open(context.Background(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Lock(context.Background(), protocol.LockRead); !errors.Is(err, ErrLocked) {
		t.Errorf("a second lock gave %v", err)
	}
	if h, err := c.Holder(context.Background()); err != nil || !c.Info().LockNotes || !h.Writer || string(h.Note) != "a note" || h.Age > time.Minute {
		t.Errorf("the holder is %+v, %v", h, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// testObjects puts, gets and lists from many goroutines at once.
func testObjects(ctx context.Context, t *testing.T, c *Conn) {
	const objects = 100
	size := func(i int) int { return i * 3001 }
	var wg sync.WaitGroup
	for i := range objects {
		wg.Go(func() {
			b := content(i, size(i))
			if err := c.Put(ctx, packName(byte(i)), b[:i], b[i:]).Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	sent := c.Sent()
	if sent < int64(size(objects)*(objects-1)/2) {
		t.Errorf("%d bytes were sent", sent)
	}
	for i := range objects {
		wg.Go(func() {
			b := content(i, size(i))
			if got, err := c.GetWhole(ctx, packName(byte(i)), size(i)); err != nil || !bytes.Equal(got, b) {
				t.Errorf("object %d: %d bytes, %v", i, len(got), err)
			}
			if i == 0 {
				return
			}
			got := make([]byte, 1500)
			ranges := []protocol.Range{{Off: 2000, Len: 1000}, {Off: 0, Len: 500}}
			if err := c.Get(ctx, packName(byte(i)), ranges, got).Wait(); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(got, append(b[2000:3000:3000], b[:500]...)) {
				t.Errorf("object %d: ranges are wrong", i)
			}
		})
	}
	wg.Wait()
	if c.Received() < int64(objects*1500) {
		t.Errorf("%d bytes were received", c.Received())
	}
	n := 0
	for after, more := "", true; more; {
		entries, m, err := c.List(ctx, protocol.PrefixPacks, after, 7)
		if err != nil {
			t.Fatal(err)
		}
		n, more, after = n+len(entries), m, entries[len(entries)-1].Name
	}
	if n != objects {
		t.Errorf("%d objects are listed", n)
	}
	if err := c.Put(ctx, packName(1), []byte("x")).Wait(); !errors.Is(err, ErrExists) {
		t.Errorf("a second put gave %v", err)
	}
	if _, err := c.GetWhole(ctx, packName(9), 10); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too small a get-whole gave %v", err)
	}
	if _, err := c.GetWhole(ctx, packName(200), 10); !errors.Is(err, ErrMissing) {
		t.Errorf("a missing object gave %v", err)
	}
}

// testRoots goes through commit and what is kept of roots.
func testRoots(ctx context.Context, t *testing.T, c *Conn) {
	if heads := c.Heads(); len(heads) != 0 {
		t.Errorf("a new archive has the heads %d", heads)
	}
	root := content(7, protocol.MaxRoot)
	for _, g := range []uint64{1, 2, 5} {
		heads, err := c.Commit(ctx, g, root)
		if err != nil || heads[0] != g {
			t.Errorf("commit %d: the heads are %d, %v", g, heads, err)
		}
	}
	if heads, err := c.Commit(ctx, 2, []byte("another")); !errors.Is(err, ErrConflict) || heads != nil {
		t.Errorf("a second commit gave %d, %v", heads, err)
	}
	if got, err := c.GetWhole(ctx, protocol.HeadName(2), protocol.MaxRoot); err != nil || !bytes.Equal(got, root) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := c.Delete(ctx, []string{protocol.HeadName(5)}); err != nil {
		t.Error(err)
	}
	if err := c.Delete(ctx, []string{protocol.HeadName(4)}); !errors.Is(err, ErrRefused) {
		t.Errorf("a head of nobody gave %v", err)
	}
	sum := sha256.Sum256(root)
	name := protocol.RootName(2, [16]byte(sum[:16]))
	if err := c.Put(ctx, name, []byte("another")).Wait(); !errors.Is(err, ErrBadRequest) {
		t.Errorf("another root gave %v", err)
	}
	if err := c.Put(ctx, name, root).Wait(); err != nil {
		t.Error(err)
	}
	if err := c.Delete(ctx, []string{name}); !errors.Is(err, ErrRefused) {
		t.Errorf("a young root gave %v", err)
	}
}

// testInventory compares an inventory with a listing.
func testInventory(ctx context.Context, t *testing.T, c *Conn) {
	v, err := c.Inventory(ctx)
	if err != nil || v.Age != 0 || !c.Info().CanInventory {
		t.Fatalf("%+v, %v", v, err)
	}
	for _, i := range []int{0, 7, 50, 200, 256} {
		var sum protocol.InventorySum
		entries, _, err := c.List(ctx, protocol.InventoryPrefix(i), "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			id, _ := protocol.ParseID(e.Name)
			sum.Add(id, uint64(e.Size))
		}
		if v.Rows[i] != sum.Row() || (i < 100) != (len(entries) == 1) {
			t.Errorf("%s: %+v, want %+v", protocol.InventoryPrefix(i), v.Rows[i], sum.Row())
		}
	}
}

// testSpace goes through compose, punch, delete and usage.
func testSpace(ctx context.Context, t *testing.T, c *Conn) {
	two := []byte("two")
	testRoots(ctx, t, c)
	testInventory(ctx, t, c)
	list := protocol.AppendLiteral(protocol.AppendCopy(nil, packName(50), protocol.Range{Off: 7, Len: 100000}), two)
	if err := c.Compose(ctx, packName(201), 100003, list); err != nil {
		t.Error(err)
	}
	want := append(content(50, 50*3001)[7:100007], two...)
	if got, err := c.GetWhole(ctx, packName(201), 100003); err != nil || !bytes.Equal(got, want) {
		t.Errorf("composed %d bytes, %v", len(got), err)
	}
	if c.Info().CanPunch {
		var ranges []protocol.Range
		for i := range 2*protocol.MaxRanges + 1 {
			ranges = append(ranges, protocol.Range{Off: uint64(i), Len: 1})
		}
		clear(want[:len(ranges)])
		if err := c.Punch(ctx, packName(201), ranges); err != nil {
			t.Error(err)
		}
		if got, err := c.GetWhole(ctx, packName(201), 100003); err != nil || !bytes.Equal(got, want) {
			t.Errorf("punched %d bytes, %v", len(got), err)
		}
	}
	if err := c.DeleteKeep(ctx, []string{packName(2), packName(250)}); err != nil || !c.Info().CanKeep {
		t.Error(err)
	}
	if _, err := c.GetWhole(ctx, packName(2), protocol.MaxObject); !errors.Is(err, ErrMissing) {
		t.Errorf("an object that was put aside gave %v", err)
	}
	var names []string
	for i := range 2*protocol.MaxDeletes + 1 {
		names = append(names, protocol.PackName([16]byte{byte(i), byte(i >> 8)}))
	}
	if err := c.Delete(ctx, names); err != nil {
		t.Error(err)
	}
	if _, err := c.GetWhole(ctx, packName(1), protocol.MaxObject); !errors.Is(err, ErrMissing) {
		t.Errorf("a deleted object gave %v", err)
	}
	if u, err := c.Usage(ctx); err != nil || u.Used <= 0 || u.Free <= 0 || u.Total < u.Free {
		t.Errorf("usage is %+v, %v", u, err)
	}
}

// TestKilledHelper: a helper that is killed while many requests are on their
// way fails all of them, and gives all memory back.
func TestKilledHelper(t *testing.T) {
	ctx := context.Background()
	d := destination(t)
	o := Options{Helper: buildHelper(t), Create: true}
	c, err := Open(ctx, d, o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Lock(ctx, protocol.LockAppend); err != nil {
		t.Fatal(err)
	}
	big := content(1, 1<<20)
	if err := c.Put(ctx, packName(0), big).Wait(); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { c.p.cmd.Process.Kill() })
	var failed int
	var wg sync.WaitGroup
	var mu sync.Mutex
	for w := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			b, dst := content(w, 1<<20), make([]byte, 1<<20)
			for {
				rng.Shuffle(1000, func(i, j int) { b[i], b[j] = b[j], b[i] })
				id := [16]byte{byte(w), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}
				p := c.Put(ctx, protocol.PackName(id), b)
				g := c.Get(ctx, packName(0), []protocol.Range{{Off: 0, Len: 1 << 20}}, dst)
				errPut, errGet := p.Wait(), g.Wait()
				clear(dst) // ours again: the race detector looks
				if errPut != nil || errGet != nil {
					mu.Lock()
					failed++
					mu.Unlock()
					for _, err := range []error{errPut, errGet} {
						if err != nil && !errors.Is(err, ErrGone) {
							t.Errorf("error is %v", err)
						}
					}
					return
				}
			}
		})
	}
	wg.Wait()
	if failed != 8 {
		t.Errorf("%d of 8 failed", failed)
	}
	// The archive is there, and what was acknowledged is whole.
	c2, err := Open(ctx, d, o)
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	if err := c2.Lock(ctx, protocol.LockAppend); err != nil {
		t.Fatal(err)
	}
	if got, err := c2.GetWhole(ctx, packName(0), 1<<20); err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if temps, err := os.ReadDir(filepath.Join(d.Path(), "tmp")); err != nil || len(temps) > 0 {
		t.Errorf("there are %v, %v", temps, err)
	}
}
