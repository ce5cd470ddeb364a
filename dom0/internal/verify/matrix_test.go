package verify_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/restore"
	"pinion/dom0/internal/verify"
	"pinion/protocol"
)

// harm is one way to lose an object. It gets the object's bytes and returns
// others; nil: there is no object any more.
var harm = map[string]func([]byte) []byte{
	"gone":         func([]byte) []byte { return nil },
	"first byte":   flip(0),
	"version byte": flip(7),
	"middle":       func(b []byte) []byte { return flip(len(b) / 2)(b) },
	"last byte":    func(b []byte) []byte { return flip(len(b) - 1)(b) },
	"cut":          func(b []byte) []byte { return b[:len(b)-20] },
	"empty":        func(b []byte) []byte { return b[:0] },
	"a directory":  nil,
}

// apply does it to an object.
func apply(t *testing.T, p *archivetest.Place, object string, change func([]byte) []byte) {
	t.Helper()
	if change == nil {
		if err := errors.Join(os.Remove(p.Path(object)), os.Mkdir(p.Path(object), 0o700)); err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := os.ReadFile(p.Path(object))
	if err == nil {
		err = os.Remove(p.Path(object))
	}
	if b = change(b); err == nil && b != nil {
		err = os.WriteFile(p.Path(object), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestAnyOneObject: whichever one object of an archive is lost in whichever way,
// a host that has never seen the archive restores everything that isn't chunks in
// it; check names it; and a repair puts back what is there twice.
func TestAnyOneObject(t *testing.T) {
	whole, _, _ := two(t)
	a := whole.Open(t, protocol.LockRead)
	data, _ := archivetest.Packs(t, a)
	newest := a.Root().Generation
	a.Close()
	for _, object := range whole.Objects(t, "") {
		if protocol.CheckName(object) != nil {
			continue
		}
		for how, change := range harm {
			t.Run(object+" "+how, func(t *testing.T) {
				p := whole.Copy(t)
				defer os.RemoveAll(p.Dir)
				p.Forget(t)
				p.ForgetCache(t)
				apply(t, p, object, change)
				// To read a chunk, nothing but its own bytes is needed of its pack.
				single := slices.Contains(data, object)
				want := single && slices.Contains([]string{"gone", "middle", "empty", "a directory"}, how)
				if lost := restoreAll(t, p, object); (lost > 0) != want {
					t.Errorf("%d volumes are lost", lost)
				}
				if !slices.Contains([]string{"gone", "version byte", "middle", "a directory"}, how) {
					return
				}
				// Of an older root nobody knows that it should be there, and the second
				// copy of the newest is made up by whoever gets the lock.
				missing := how == "gone" || how == "a directory"
				unknown := missing && older(object, newest) || how == "gone" && strings.HasPrefix(object, protocol.PrefixRoots)
				if found := checked(t, p, false); !unknown && !names(found, object) {
					t.Errorf("check finds %+v", found)
				}
				found := checked(t, p, true)
				if !single && len(found) > 0 {
					t.Errorf("after a repair check finds %+v", found)
				}
			})
		}
	}
}

// older reports whether an object is a root from before a generation.
func older(object string, generation uint64) bool {
	n, ok := protocol.ParseHead(object)
	if !ok {
		n, _, ok = protocol.ParseRootName(object)
	}
	return ok && n < generation
}

func names(found []damage.Range, object string) bool {
	return slices.ContainsFunc(found, func(r damage.Range) bool { return strings.Contains(r.Object+" "+r.Reason, object) })
}

// restoreAll reads every volume of every session and returns how many can't be had.
// All that is wrong is in that object.
func restoreAll(t *testing.T, p *archivetest.Place, object string) (lost int) {
	t.Helper()
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	entries, err := a.Sessions(ctx, nil)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%d sessions, %v", len(entries), err)
	}
	table, err := a.Volumes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := []map[string]string{{"disk": "abc.efgh", "home": "bxy"}, {"disk": "abQ.efgh", "home": "bxy"}}
	sessions, errs, err := a.ReadSessions(ctx, entries)
	if err = errors.Join(append(errs, err)...); err != nil {
		t.Fatal(err)
	}
	for i, s := range sessions {
		for _, v := range s.Volumes {
			name := ""
			for _, n := range table.Volumes {
				if n.ID == v.Volume {
					name = n.Name
				}
			}
			r, err := a.Record(ctx, v.Record)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			err = restore.Stream(ctx, a, name, s.Seq, r, &got, func(int64) {})
			var d *archive.DamageError
			switch {
			case errors.As(err, &d):
				if lost++; d.Object != object {
					t.Errorf("%s of session %d: %v", name, s.Seq, err)
				}
			case err != nil:
				t.Fatal(err)
			case !bytes.Equal(got.Bytes(), image(want[i][name])):
				t.Errorf("%s of session %d is another", name, s.Seq)
			}
		}
	}
	return lost
}

// checked checks everything, as a host that writes where it never did.
func checked(t *testing.T, p *archivetest.Place, repair bool) []damage.Range {
	t.Helper()
	o := p.Options(protocol.LockExclusive)
	o.Adopt = true
	a, err := archive.Open(ctx, p.Dest, o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var list damage.List
	_, err = verify.Check(ctx, a, &list, verify.CheckOptions{
		ReadData: 100, Repair: repair, Begin: func(string, int64) {}, Bytes: func(int64) {}, Warn: func(text string) { t.Log(text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	found, _ := list.Ranges()
	return found
}

// TestTwinAlone: what is damaged of one of two metadata packs is damage of the
// archive and of no session, whether data is read or not, and a repair puts that
// pack again and changes nothing else.
func TestTwinAlone(t *testing.T) {
	for _, which := range []string{"first", "twin"} {
		t.Run(which, func(t *testing.T) {
			p, _, second := two(t)
			object, percent := second[1], 0 // the walk over the trees meets the first
			if which == "twin" {
				object, percent = archivetest.Twin(t, object), 1
			}
			p.Damage(t, object, flip(format.HeaderSize+50))
			found, report := check(t, p, percent, false)
			if len(found) != 1 || found[0].Object != object || len(report.Damaged) != 0 {
				t.Errorf("%+v, and sessions %+v", found, report.Damaged)
			}
			before := p.Heads(t)
			found, report = check(t, p, percent, true)
			if expect(t, found); report.Restored != 1 || report.Repaired || len(p.Heads(t)) != len(before) {
				t.Errorf("%+v", report)
			}
			found, _ = check(t, p, 100, false)
			expect(t, found)
		})
	}
}

// TestTwinsBothDamaged: where each of two has lost another blob, a repair brings
// both back.
func TestTwinsBothDamaged(t *testing.T) {
	p, _, second := two(t)
	b, err := os.ReadFile(p.Path(second[1]))
	if err != nil {
		t.Fatal(err)
	}
	p.Damage(t, second[1], flip(format.HeaderSize+50))
	toc := format.SealedTOCSize(3) + format.TrailerSize
	p.Damage(t, archivetest.Twin(t, second[1]), flip(len(b)-toc-20)) // the last blob
	found, report := check(t, p, 100, false)
	if len(found) != 2 || len(report.Damaged) != 0 {
		t.Errorf("%+v, and sessions %+v", found, report.Damaged)
	}
	found, report = check(t, p, 100, true)
	if expect(t, found); !report.Repaired {
		t.Errorf("%+v", report)
	}
	p.ForgetCache(t)
	found, _ = check(t, p, 100, false)
	expect(t, found)
}
