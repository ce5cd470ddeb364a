package verify_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/verify"
	"pinion/protocol"
)

// A tree node that can't be read once, and can a moment later, hides what is
// below it from the first walk: that is damage, not a whole volume.
func TestNodeThatComesBackIsStillDamage(t *testing.T) {
	p := archivetest.New(t).Init(t)
	volume := filepath.Join(t.TempDir(), "v")
	var content bytes.Buffer
	random := rand.NewChaCha8([32]byte{7})
	for range 40 * format.MinChunkSize / 8 {
		var b [8]byte
		random.Read(b[:])
		content.Write(b[:])
	}
	if err := os.WriteFile(volume, content.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	save := func(name string) {
		a := p.Open(t, protocol.LockAppend)
		defer a.Close()
		_, err := backup.Run(context.Background(), a, []backup.Source{archivetest.Source(name, volume)}, archivetest.Options(t))
		if err != nil {
			t.Fatal(err)
		}
	}
	save("a")
	var nodes []string // the metadata pack of the first session, and its twin
	for _, name := range p.Objects(t, protocol.PrefixPacks) {
		if info, err := os.Stat(p.Path(name)); err != nil {
			t.Fatal(err)
		} else if info.Size() < format.MinChunkSize {
			nodes = append(nodes, p.Path(name))
		}
	}
	move := func(from, to string) (err error) {
		for _, name := range nodes {
			err = errors.Join(err, os.Rename(name+from, name+to))
		}
		return err
	}
	save("b") // its session and record are elsewhere, its nodes are not
	a := p.Open(t, protocol.LockRead)
	entries, err := a.Sessions(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sessions, _, err := a.ReadSessions(context.Background(), entries)
	if err != nil {
		t.Fatal(err)
	}
	v := sessions[1].Volumes[0]
	if err := move("", ".away"); err != nil {
		t.Fatal(err)
	}
	var list damage.List
	err = verify.Run(context.Background(), a, []verify.Subject{{Name: "b", Seq: 2, Record: v.Record, Size: v.Size}}, &list, verify.Options{
		Probe: func(_ context.Context, chunks []verify.Chunk, _ func(format.BlobID, error) error) error {
			if len(chunks) != 0 {
				t.Errorf("%d chunks were found below a node that wasn't there", len(chunks))
			}
			return move(".away", "")
		},
		Bad: func(format.BlobID) {}, Begin: func(string, int64) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	ranges, _ := list.Ranges()
	if len(ranges) != 1 || ranges[0].Offset != 0 || ranges[0].Length != int64(content.Len()) {
		t.Errorf("damage: %+v; the whole volume is in doubt", ranges)
	}
}
