package archive_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

var (
	commitsWithoutLocks = flag.Int("commits", 120, "how many commits TestCommitsWithoutLocks makes")
	commitsDir          = flag.String("commits-dir", "", "an empty directory for the store of TestCommitsWithoutLocks; none: one in memory")
)

// TestCommitsWithoutLocks: two writers whose locks are taken away all the time, so
// that each believes to be alone, never lose a commit that was acknowledged.
func TestCommitsWithoutLocks(t *testing.T) {
	p := archivetest.New(t)
	if *commitsDir != "" {
		p = archivetest.NewIn(t, *commitsDir)
	}
	p.Init(t)
	stop := make(chan struct{})
	var thief sync.WaitGroup
	thief.Go(func() { // the lock is another file for whoever comes next
		for {
			select {
			case <-stop:
				return
			default:
				locks, _ := filepath.Glob(filepath.Join(p.Dir, "lock*"))
				for _, l := range locks {
					os.Remove(l)
				}
			}
		}
	})
	var mu sync.Mutex
	acked, conflicts, refused := map[string]bool{}, 0, 0
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			host := &archivetest.Place{Dir: p.Dir, Dest: p.Dest, Cache: t.TempDir(), Key: p.Key}
			host.Forget(t)
			for i := 0; ; i++ {
				mu.Lock()
				done := len(acked) >= *commitsWithoutLocks
				mu.Unlock()
				if done {
					return
				}
				tag := fmt.Sprintf("w%d-%d", w, i)
				err := commitTagged(t, host, tag)
				mu.Lock()
				switch {
				case err == nil:
					acked[tag] = true
				case errors.Is(err, store.ErrConflict):
					conflicts++
				default:
					refused++
					if refused > 100**commitsWithoutLocks {
						t.Errorf("the last error is %v", err)
						mu.Unlock()
						return
					}
				}
				mu.Unlock()
			}
		})
	}
	writers.Wait()
	close(stop)
	thief.Wait()
	p.Forget(t)
	a := p.Open(t, protocol.LockRead)
	entries, err := a.Sessions(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, e := range entries {
		found[e.Tags[0].Name] = true
	}
	lost := 0
	for tag := range acked {
		if !found[tag] {
			lost++
		}
	}
	t.Logf("%d commits acknowledged, %d conflicts, %d other refusals, %d sessions", len(acked), conflicts, refused, len(entries))
	if lost > 0 {
		t.Errorf("%d of %d acknowledged commits are lost", lost, len(acked))
	}
	if conflicts == 0 {
		t.Error("no two writers ever met: the test shows nothing")
	}
}

// commitTagged opens the archive and commits a session with a tag.
func commitTagged(t *testing.T, p *archivetest.Place, tag string) error {
	a, err := archive.Open(ctx, p.Dest, p.Options(protocol.LockAppend))
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.LoadIndex(ctx); err != nil {
		return err
	}
	for range 4 { // several on one opening: each builds on what it has just written
		if _, err := archivetest.Commit(a, []format.Tag{{Name: tag}}); err != nil {
			return err
		}
		if !strings.HasSuffix(tag, "0") {
			return nil
		}
	}
	return nil
}
