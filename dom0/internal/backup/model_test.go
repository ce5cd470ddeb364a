package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
	"pinion/protocol"
)

// TestHistories takes a volume through random histories of writes, sizes,
// monitors, backups to two archives, and backups that end before they are
// done. Each session has to be what the volume was; where its size stayed, no
// more may be read than what was written since the archive's last session.
func TestHistories(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newModel(t, seed)
			for range 25 {
				m.step(t)
			}
			for i := range m.archives {
				m.back(t, i)
			}
		})
	}
}

// A model is a volume and what archives are known to have of it.
type model struct {
	*tracked
	r        *rand.Rand
	content  []byte
	archives []*known
	said     string // what was done, for when it goes wrong
}

// A known is an archive, and what changed since its last session.
type known struct {
	place   *archivetest.Place
	changed map[int]bool // chunks; nil: everything
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{r: rand.New(rand.NewPCG(seed, 5)), content: image("abcdefghijklmnopqrstuvwxyz..........")}
	m.tracked = newTracked(t, m.content)
	m.archives = []*known{{place: m.place}, {place: archivetest.New(t).Init(t)}}
	return m
}

func (m *model) step(t *testing.T) {
	t.Helper()
	switch n := m.r.IntN(20); {
	case n < 8:
		m.scribble(t)
	case n < 10:
		m.resize(t)
	case n < 12:
		m.said += " monitor"
		for _, a := range m.o.Tracker.Advance(ctx, []*source.Source{m.src.Source}) {
			if a.Err != nil {
				t.Fatal(m.said, a.Err)
			}
		}
	case n < 14:
		m.interrupt(t, m.r.IntN(2))
	case n < 15:
		m.damage(t)
	default:
		m.back(t, m.r.IntN(2))
	}
}

// scribble writes a few bytes at one place.
func (m *model) scribble(t *testing.T) {
	if len(m.content) == 0 {
		return
	}
	at := m.r.IntN(len(m.content))
	end := min(len(m.content), at+m.r.IntN(2*chunkSize)+1)
	for i := range m.content[at:end] {
		m.content[at+i] = 0
	}
	if m.r.IntN(3) > 0 {
		m.content[at] = byte(m.r.Uint32()) | 1
	}
	for c := at / chunkSize; c <= (end-1)/chunkSize; c++ {
		for _, a := range m.archives {
			if a.changed != nil {
				a.changed[c] = true
			}
		}
	}
	m.said += fmt.Sprintf(" write(%d-%d)", at, end)
	m.write(t, m.content)
}

func (m *model) resize(t *testing.T) {
	size := m.r.IntN(40*chunkSize) / []int{1, 1, 1, chunkSize}[m.r.IntN(4)]
	m.content = append(m.content[:min(len(m.content), size):min(len(m.content), size)], make([]byte, max(0, size-len(m.content)))...)
	for _, a := range m.archives {
		a.changed = nil
	}
	m.said += fmt.Sprintf(" resize(%d)", size)
	m.write(t, m.content)
}

// damage writes to the base snapshot, which tells nothing from then on.
func (m *model) damage(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(m.pool.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.WriteFile(name, []byte("not what it was"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range m.archives {
		a.changed = nil
	}
	m.said += " damage"
}

// interrupt begins a backup and ends it at its first chunk, if it reads any.
func (m *model) interrupt(t *testing.T, i int) {
	m.said += fmt.Sprintf(" interrupt(%d)", i)
	a := m.archives[i].place.Open(t, protocol.LockAppend)
	defer a.Close()
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	o := m.o
	o.Bytes = func(int64) { cancel() }
	_, err := backup.Run(short, a, []backup.Source{m.src}, o)
	if err == nil {
		m.archives[i].changed = map[int]bool{} // nothing was read: it is whole
	} else if !errors.Is(err, context.Canceled) {
		t.Fatal(m.said, err)
	}
}

func (m *model) back(t *testing.T, i int) {
	t.Helper()
	m.said += fmt.Sprintf(" back(%d)", i)
	a := m.archives[i]
	res, err := run(t, a.place, m.o, m.src)
	if err != nil || res.Untracked != nil {
		t.Fatal(m.said, err, res.Untracked)
	}
	if got := content(t, a.place, res.Session.Volumes[0]); !bytes.Equal(got, m.content) {
		t.Fatal(m.said, "the session is not what the volume is")
	}
	v := res.Volumes[0]
	if most := int64(len(a.changed)) * chunkSize; a.changed != nil && (v.Read > most || v.Mode < format.ModeDelta) {
		t.Fatalf("%s: read %d bytes (%s: %s) where %d changed", m.said, v.Read, v.Mode, v.Why, most)
	}
	a.changed = map[int]bool{}
}
