package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// chunk is the default chunk size, in bytes.
const chunk = 128 << 10

// mib is 2^20 bytes.
const mib = 1 << 20

// Compression may change from run to run, and what is there stays readable and
// is not sent again. A frame that claims to be larger than its chunk is the
// fuzz and unit tests' of the package that opens blobs: it takes the keys.
func TestRowS03CompressionPerRun(t *testing.T) {
	t.Parallel()
	w := archive(t, "--compression", "zstd:3")
	v := w.image("v", "text:6M:1", "random:2M:2", "hole:4M", "text:512K:3")
	was := copyFile(t, v, w.path("was"))
	first := w.backup("file:" + v)
	if n := first.Volumes[0].NewChunks; n != 68 {
		t.Errorf("the first backup had %d new chunks, not 68", n)
	}
	if stored := first.Volumes[0].StoredBytes; stored > 5*mib {
		t.Errorf("8.5 MiB, of which 2 MiB are random, were stored in %d bytes", stored)
	}
	overwrite(t, v, 3*mib+5, "text:100:9")
	if n := w.backup("file:"+v, "--compression", "zstd:9").Volumes[0].NewChunks; n < 1 || n > 2 {
		t.Errorf("after one touched chunk, at another level, there were %d new chunks", n)
	}
	same2 := copyFile(t, v, w.path("same2"))
	overwrite(t, v, 0, "text:1M:77")
	none := w.backup("file:"+v, "--compression", "none")
	if n, stored := none.Volumes[0].NewChunks, none.Volumes[0].StoredBytes; n != 8 || stored < mib {
		t.Errorf("without compression, 8 chunks became %d new chunks of %d bytes", n, stored)
	}
	w.restores("v", "#1", was)
	w.restores("v", "#2", same2)
	w.restores("v", "#3", v)
	w.ok("verify", "--all-sessions")
	w.ok("check", "--read-data")
}

// A volume of any size, empty or not, can grow and shrink between backups.
func TestRowS12AnySizeCanBeBackedUpAgain(t *testing.T) {
	t.Parallel()
	w := archive(t)
	sizes := []int64{0, 1, 511, 512, 64<<10 - 1, chunk, chunk + 1, 2 << 30}
	var sources, names []string
	for _, size := range sizes {
		for _, full := range []bool{false, true} {
			name := fmt.Sprintf("v%d-%v", size, full)
			v := w.image(name, fmt.Sprintf("hole:%d", size))
			if full && size > 0 {
				overwrite(t, v, max(0, size-4096), fmt.Sprintf("random:%d:%d", min(4096, size), size))
			}
			sources, names = append(sources, "file:"+v), append(names, name)
		}
	}
	saved := func(session int) {
		dir := w.path(fmt.Sprint("was", session))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			copyFile(t, w.path(name), filepath.Join(dir, name))
		}
		w.ok(append([]string{"backup"}, sources...)...)
	}
	resize := func(by int64) {
		for i, name := range names {
			size := max(0, sizes[i/2]+by)
			if err := os.Truncate(w.path(name), size); err != nil {
				t.Fatal(err)
			}
			if i%2 == 1 && by > 0 {
				overwrite(t, w.path(name), size-1, "random:1:5")
			}
		}
	}
	saved(1)
	resize(chunk + 777)
	saved(2)
	resize(-1)
	saved(3)
	resize(-chunk - 1)
	saved(4)
	for session := 1; session <= 4; session++ {
		to := w.path(fmt.Sprint("restored", session))
		args := append([]string{"restore", "--session", fmt.Sprint("#", session), "--to", to}, names...)
		w.ok(args...)
		for _, name := range names {
			same(t, filepath.Join(to, name), filepath.Join(w.path(fmt.Sprint("was", session)), name))
		}
	}
	w.ok("verify", "--all-sessions")
}

// Data of 256 MiB in 1 PiB costs what 256 MiB cost, in memory, in bytes read,
// sent and restored. That it takes no longer is for the bench.
func TestRowS07HugeSparseVolume(t *testing.T) {
	t.Parallel()
	// Few file systems hold a file of 1 PiB.
	w := worldIn(t, mounted(t, "xfs", 2<<30), programs(t, build{static: true}))
	w.ok("init")
	const data = 256 * mib
	v := w.image("v", "hole:1P")
	for i := range int64(4) {
		overwrite(t, v, i*(300<<40)/2+i*4096, fmt.Sprintf("random:64M:%d", i))
	}
	r := w.ok("backup", "--json", "file:"+v)
	first := document[backupDoc](r)
	if got := first.Volumes[0]; got.Size != 1<<50 || got.ReadBytes > data*105/100 || first.Sent > data*105/100 {
		t.Errorf("1 PiB with %d bytes of data: %+v, %d bytes sent", data, got, first.Sent)
	}
	if r.maxRSS > 256*mib {
		t.Errorf("the first backup took %d MiB of memory", r.maxRSS/mib)
	}
	overwrite(t, v, 700<<40, "random:4K:9")
	r = w.ok("backup", "--json", "file:"+v)
	if second := document[backupDoc](r); second.Sent > 512<<10 || second.Volumes[0].NewChunks != 1 {
		t.Errorf("one write: %d new chunks, %d bytes sent", second.Volumes[0].NewChunks, second.Sent)
	}
	if size := w.list().Sessions[1].Volumes[0].Size; size != 1<<50 {
		t.Errorf("list shows %d bytes", size)
	}
	w.ok("list").prints("1 PiB")
	to := w.path("restored")
	if r := w.ok("restore", "v", "--to", to); r.maxRSS > 256*mib {
		t.Errorf("the restore took %d MiB of memory", r.maxRSS/mib)
	}
	same(t, to, v)
	if n := allocated(t, to); n > data*110/100 {
		t.Errorf("the restored file takes %d bytes", n)
	}
}

// The number of cores changes nothing that can be seen: in one archive, to the byte.
// (Another archive has other keys, and so other lengths of compressed chunks. A metadata
// pack has the identifier of its session, which compresses to some bytes more or less.)
func TestRowS08SameResultOnOneCoreAndMany(t *testing.T) {
	t.Parallel()
	v := makeImage(t, filepath.Join(t.TempDir(), "v"), "text:12M:1", "hole:3M", "random:12M:2", "zero:2M", "text:5M:1")
	var seen []string
	origin := archive(t)
	for _, cores := range []string{"1", "2", "7"} {
		w := origin.other("cores" + cores)
		w.store = copyTree(t, origin.store)
		w.env = append(w.env, "GOMAXPROCS="+cores)
		doc := w.backup("file:" + v)
		got := doc.Volumes[0]
		packs := sizes(files(t, w.store+"/packs"))
		if packs[0] != packs[1] {
			t.Errorf("the metadata pack and its twin have %d and %d bytes", packs[0], packs[1])
		}
		seen = append(seen, fmt.Sprint(got.ReadBytes, got.NewChunks, got.StoredBytes, packs[0]>>10, packs[2:]))
		if seen[0] != seen[len(seen)-1] {
			t.Errorf("with %s cores: %s, with one: %s", cores, seen[len(seen)-1], seen[0])
		}
		w.restores("v", "latest", v)
		w.ok("verify")
	}
}

// Zeros that take space on the disk take none in the archive.
func TestRowS25ZerosAreNotStored(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, build{static: true})
	w.ok("init")
	v := w.image("v", "zero:1G")
	before := w.stored()
	doc := w.backup("file:" + v)
	if grown := w.stored() - before; grown >= 64<<10 {
		t.Errorf("1 GiB of zeros added %d bytes", grown)
	}
	if got := doc.Volumes[0]; got.NewChunks != 0 || got.ReadBytes != 1<<30 {
		t.Errorf("of 1 GiB of zeros %d bytes were read, %d chunks are new", got.ReadBytes, got.NewChunks)
	}
	w.restores("v", "latest", v)
}

// 1 MiB in 40 GiB costs 1 MiB: nothing of the hole is read.
func TestHolesAreNotRead_B17(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "hole:20G", "random:1M:1", "hole:20G")
	doc := w.backup("file:" + v)
	if got := doc.Volumes[0]; got.ReadBytes > mib+2*chunk || got.NewChunks > 9 || doc.Sent > mib+64<<10 {
		t.Errorf("40 GiB with 1 MiB of data: %+v, %d bytes sent", got, doc.Sent)
	}
	to := w.path("restored")
	w.ok("restore", "v", "--to", to)
	same(t, to, v)
	if n := allocated(t, to); n > mib+2*chunk {
		t.Errorf("the restored file takes %d bytes", n)
	}
}
