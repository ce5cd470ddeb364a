package damage_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/damage"
)

func chunk(volume string, session uint64, i int64) damage.Range {
	return damage.Range{Volume: volume, Session: session, Offset: i * 10, Length: 10, Object: "pack", Reason: "is missing"}
}

// TestOneLine: ranges side by side with one cause are one, in whatever order
// they were found, and by however many goroutines.
func TestOneLine(t *testing.T) {
	var l damage.List
	if !l.Empty() {
		t.Error("a new list is not empty")
	}
	if got, more := l.Ranges(); got == nil || len(got)+more > 0 {
		t.Errorf("a new list holds %#v", got) // nil would be null in JSON
	}
	order := rand.New(rand.NewPCG(1, 2)).Perm(1000)
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i, n := range order {
				if i%4 == part && n != 500 {
					l.AddRange(chunk("a", 1, int64(n)))
				}
			}
		})
	}
	wg.Wait()
	got, more := l.Ranges()
	want := []damage.Range{
		{Volume: "a", Session: 1, Offset: 0, Length: 5000, Object: "pack", Reason: "is missing"},
		{Volume: "a", Session: 1, Offset: 5010, Length: 4990, Object: "pack", Reason: "is missing"},
	}
	if !reflect.DeepEqual(got, want) || more != 0 || l.Empty() {
		t.Errorf("%+v and %d more", got, more)
	}
}

// TestApart: ranges that differ in anything but their place stay apart, and
// come by session, volume and offset.
func TestApart(t *testing.T) {
	var l damage.List
	other := chunk("a", 1, 2)
	other.Reason = "does not authenticate"
	pack := chunk("a", 1, 3)
	pack.Object = "another pack"
	whole := damage.Range{Object: "index", Reason: "is missing"}
	for _, r := range []damage.Range{chunk("b", 1, 0), chunk("a", 2, 1), pack, other, chunk("a", 1, 1), whole, whole, chunk("a", 1, 0), chunk("a", 1, 6)} {
		l.AddRange(r)
	}
	two := chunk("a", 1, 0)
	two.Length = 20
	want := []damage.Range{whole, whole, two, other, pack, chunk("a", 1, 6), chunk("b", 1, 0), chunk("a", 2, 1)}
	if got, _ := l.Ranges(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if again, _ := l.Ranges(); !reflect.DeepEqual(again, want) {
		t.Errorf("asked again: %+v", again)
	}
}

// TestBound: a list doesn't grow beyond its bound, and counts what it leaves
// out. What can be joined doesn't use it up, whatever order it comes in.
func TestBound(t *testing.T) {
	var l damage.List
	for i := range int64(damage.MaxRanges + 7) {
		l.AddRange(chunk("a", 1, 2*i))
	}
	for i := range int64(damage.MaxRanges) { // beyond what it holds for joining
		l.AddRange(chunk("b", 1, 2*i))
	}
	if got, more := l.Ranges(); len(got) != damage.MaxRanges || more != damage.MaxRanges+7 {
		t.Errorf("%d ranges and %d more", len(got), more)
	}
	var twoAtOnce damage.List
	const each = damage.MaxRanges
	for i := range int64(each) { // as two workers find them
		twoAtOnce.AddRange(chunk("a", 1, i))
		twoAtOnce.AddRange(chunk("a", 1, each+i))
	}
	if got, more := twoAtOnce.Ranges(); len(got) != 1 || more != 0 || got[0].Length != 20*each {
		t.Errorf("%d ranges and %d more where one volume is lost whole", len(got), more)
	}
}

func TestExplain(t *testing.T) {
	err := fmt.Errorf("read back: %w", &archive.DamageError{Object: "packs/00/00", Reason: errors.New("is missing")})
	if object, reason := damage.Explain(err); object != "packs/00/00" || reason != "is missing" {
		t.Errorf("%q, %q", object, reason)
	}
	if object, reason := damage.Explain(errors.New("other")); object != "" || reason != "other" {
		t.Errorf("%q, %q", object, reason)
	}
	var l damage.List
	l.Add(damage.Range{Volume: "a", Length: 1}, err)
	if got, _ := l.Ranges(); len(got) != 1 || got[0].Object != "packs/00/00" || !strings.Contains(got[0].Reason, "missing") {
		t.Errorf("%+v", got)
	}
}

// TestOneListIntoAnother: what the one left out is counted in the other.
func TestOneListIntoAnother(t *testing.T) {
	var one, all damage.List
	one.AddRange(damage.Range{Volume: "v", Session: 2, Offset: 0, Length: 5, Object: "o", Reason: "r"})
	one.AddMore(7)
	all.AddRange(damage.Range{Volume: "v", Session: 1, Offset: 0, Length: 5, Object: "o", Reason: "r"})
	all.AddAll(&one)
	ranges, more := all.Ranges()
	if len(ranges) != 2 || ranges[1].Session != 2 || more != 7 {
		t.Errorf("%+v and %d more", ranges, more)
	}
}
