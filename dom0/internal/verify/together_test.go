package verify_test

import (
	"os"
	"strings"
	"testing"

	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/verify"
	"pinion/protocol"
)

// TestNoneHidesAnother: a root, an index object, a pack that is gone, a table
// of contents, a tree node and a chunk are damaged at once, and one run finds
// them all.
func TestNoneHidesAnother(t *testing.T) {
	p, first, second := two(t)
	third := session(t, p, [2]string{"disk", "abQ.efgh"}, [2]string{"home", "bxyz"})
	index := p.Objects(t, protocol.PrefixIndex)
	fourth := session(t, p, [2]string{"pics", "klm"})
	a := p.OpenBare(t, protocol.LockRead)
	defer a.Close()
	root, _ := p.NewestRoots(t)
	p.Damage(t, root, flip(70))
	p.Damage(t, first[0], flip(format.HeaderSize+1*sealed+77)) // the chunk b
	if err := os.Remove(p.Path(second[0])); err != nil {       // Q
		t.Fatal(err)
	}
	p.Damage(t, third[0], flip(format.HeaderSize+sealed+20)) // the table of contents
	p.DamagePair(t, fourth[1], flip(format.HeaderSize+50))   // the node over pics
	lost := ""                                               // the index object of the fourth session's alone
	for _, name := range p.Objects(t, protocol.PrefixIndex) {
		if !strings.Contains(strings.Join(index, " "), name) {
			lost = name
		}
	}
	var list damage.List
	report, err := verify.Check(ctx, a, &list, verify.CheckOptions{
		ReadData: 100, Begin: func(string, int64) {}, Bytes: func(int64) {}, Warn: func(string) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	found, _ := list.Ranges()
	for _, object := range []string{root, first[0], second[0], third[0], fourth[1]} {
		named := false
		for _, r := range found {
			named = named || strings.Contains(r.Object, object)
		}
		if !named {
			t.Errorf("%s isn't in %+v", object, found)
		}
	}
	if len(report.Damaged) != 4 || report.Damaged[3].Seq != 4 || len(report.Damaged[3].Damaged) != 1 || report.Damaged[3].Damaged[0] != "pics" {
		t.Errorf("%+v", report.Damaged)
	}
	// With the newest index object lost as well, that is named too, and the rest
	// still is.
	p.DamagePair(t, lost, flip(40))
	bare := p.OpenBare(t, protocol.LockRead)
	defer bare.Close()
	var again damage.List
	_, err = verify.Check(ctx, bare, &again, verify.CheckOptions{
		ReadData: 100, Begin: func(string, int64) {}, Bytes: func(int64) {}, Warn: func(string) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	found, _ = again.Ranges()
	for _, object := range []string{root, lost, first[0], second[0], third[0]} {
		named := false
		for _, r := range found {
			named = named || strings.Contains(r.Object, object)
		}
		if !named {
			t.Errorf("%s isn't in %+v", object, found)
		}
	}
}
