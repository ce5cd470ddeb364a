package archive_test

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

var (
	commitsWithoutLocks = flag.Int("commits", 120, "how many commits TestCommitsWithoutLocks makes")
	commitsDir          = flag.String("commits-dir", "", "an empty directory for the store of TestCommitsWithoutLocks, or two, by a comma, where two mounts show it; none: one in memory")
)

// writerEnv makes TestWriterWithoutLocks a writer of that name, and says where.
const writerEnv = "PINION_TEST_WRITER"

// TestCommitsWithoutLocks: two processes whose locks are taken away all the time, so
// that each believes to be alone, never lose a commit that was acknowledged.
func TestCommitsWithoutLocks(t *testing.T) {
	bases := strings.Split(*commitsDir, ",")
	if *commitsDir == "" {
		bases = []string{archivetest.MemoryDir(t)}
	}
	p := archivetest.NewIn(t, bases[0])
	p.Init(t)
	stop := make(chan struct{})
	var thief sync.WaitGroup
	thief.Go(func() { takeLocks(p.Dir, stop) })
	acked, conflicts, refused := map[string]bool{}, 0, 0
	var mu sync.Mutex
	var writers sync.WaitGroup
	for name := range 2 {
		writers.Go(func() {
			err := writer(bases[name%len(bases)], name, func(line string) {
				mu.Lock()
				defer mu.Unlock()
				switch what, tag, _ := strings.Cut(line, " "); what {
				case "acknowledged":
					acked[tag] = true
				case "conflict":
					conflicts++
				case "refused":
					refused++
				}
			})
			if err != nil {
				t.Errorf("writer %d: %v", name, err)
			}
		})
	}
	writers.Wait()
	close(stop)
	thief.Wait()
	found, lost := tagsOf(t, p), 0
	for tag := range acked {
		if !found[tag] {
			lost++
		}
	}
	t.Logf("%d commits acknowledged, %d conflicts, %d other refusals, %d sessions", len(acked), conflicts, refused, len(found))
	if lost > 0 {
		t.Errorf("%d of %d acknowledged commits are lost", lost, len(acked))
	}
	if len(acked) < *commitsWithoutLocks {
		t.Errorf("%d commits were acknowledged", len(acked))
	}
	if conflicts == 0 {
		t.Error("no two writers ever met: the test shows nothing")
	}
}

// takeLocks removes a store's locks until it is stopped: whoever comes next takes
// another file.
func takeLocks(dir string, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
			locks, _ := filepath.Glob(filepath.Join(dir, "lock*"))
			for _, l := range locks {
				os.Remove(l)
			}
		}
	}
}

// writer runs one in a process of its own, and gives take each line that it says.
func writer(base string, name int, take func(line string)) error {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestWriterWithoutLocks$", fmt.Sprint("-commits=", (*commitsWithoutLocks+1)/2))
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", writerEnv, name, base))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	said := ""
	for s := bufio.NewScanner(out); s.Scan(); {
		take(s.Text())
		said = s.Text()
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w; its last words are %q", err, said)
	}
	return nil
}

// TestWriterWithoutLocks is such a process.
func TestWriterWithoutLocks(t *testing.T) {
	name, base, asked := strings.Cut(os.Getenv(writerEnv), " ")
	if !asked {
		t.Skip("is started by TestCommitsWithoutLocks")
	}
	host := archivetest.NewIn(t, base)
	host.Forget(t)
	host.ForgetCache(t)
	n, refused := 0, 0
	for i := 0; n < *commitsWithoutLocks; i++ {
		err := commitTagged(host, func(k int) string { return fmt.Sprintf("w%s-%d-%d", name, i, k) }, func(tag string) {
			n++
			fmt.Println("acknowledged", tag)
		})
		switch {
		case err == nil:
		case errors.Is(err, store.ErrConflict):
			fmt.Println("conflict")
		default:
			fmt.Println("refused", err)
			if refused++; refused > 100**commitsWithoutLocks {
				t.Fatal(err)
			}
		}
	}
}

// tagsOf are the first tags of all sessions, as a host sees them that never saw the
// archive.
func tagsOf(t *testing.T, p *archivetest.Place) map[string]bool {
	t.Helper()
	p.Forget(t)
	p.ForgetCache(t)
	entries, err := p.Open(t, protocol.LockRead).Sessions(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, e := range entries {
		found[e.Tags[0].Name] = true
	}
	return found
}

// commitTagged opens the archive and commits sessions with a tag each, some on one
// opening: each builds on what it has just written, or meets another writer's.
func commitTagged(p *archivetest.Place, tag func(int) string, done func(tag string)) error {
	a, err := archive.Open(ctx, p.Dest, p.Options(protocol.LockAppend))
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.LoadIndex(ctx); err != nil {
		return err
	}
	for k := range 25 {
		if _, err := archivetest.Commit(a, []format.Tag{{Name: tag(k)}}); err != nil {
			return err
		}
		done(tag(k))
	}
	return nil
}
