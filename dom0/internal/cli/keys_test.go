package cli

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// TestFindKey: a key is found by as many digits as no other's id begins with.
func TestFindKey(t *testing.T) {
	ids := []format.SlotID{{0x12, 0x34, 0x56}, {0x12, 0x34, 0x57}, {0xab, 0xcd}}
	var keys []archive.Key
	for _, id := range ids {
		keys = append(keys, archive.Key{ID: id})
	}
	for digits, want := range map[string]int{"123456": 0, "123457": 1, "abcd": 2, ids[0].String(): 0} {
		if k, err := findKey(keys, digits); err != nil || k.ID != ids[want] {
			t.Errorf("%s: %s, %v", digits, k.ID, err)
		}
	}
	for digits, want := range map[string]exit.Status{"1234": exit.Usage, "1235": exit.Failed, "ffff": exit.Failed} {
		_, err := findKey(keys, digits)
		if e, ok := exit.Of(err); !ok || e.Status != want || e.Hint == "" {
			t.Errorf("%s: %v", digits, err)
		}
	}
}

// TestKeyDocument: a key that this program can't use says why.
func TestKeyDocument(t *testing.T) {
	for _, c := range []struct {
		key               archive.Key
		kind, state, show string
	}{
		{archive.Key{KDF: format.KDFArgon2id}, "passphrase", "live", ""},
		{archive.Key{KDF: format.KDFKeyFile, Opened: true}, "key file", "live", "used just now"},
		{archive.Key{}, "", "newer", "newer"},
		{archive.Key{Damaged: true}, "", "damaged", "damaged"},
	} {
		d := keyDocument(c.key)
		if d.Kind != c.kind || d.State != c.state || d.showState() != c.show || d.Created != "" {
			t.Errorf("%+v: %+v, shown as %q", c.key, d, d.showState())
		}
	}
}

// TestKeyOptions: what names a key, or a root, is checked before anything is asked.
func TestKeyOptions(t *testing.T) {
	alone(t, "")
	for _, args := range [][]string{
		{"key", "add", "--label", strings.Repeat("x", 65)}, {"key", "recovery", "--label", "a\nb"}, {"key", "change", "--label", "\xff"},
		{"key", "remove", "abc"}, {"key", "remove", "12345678901234567"},
		{"list", "--root", "0"}, {"list", "--root", ""}, {"list", "--root", "-1"}, {"list", "--root", "root.1"}, {"list", "--root", "9223372036854775808"},
	} {
		if status, _, errs := runMain(append(args, "--dest", "file:/nowhere/archive")...); status != int(exit.Usage) {
			t.Errorf("%q: status %d, %q", args, status, errs)
		}
	}
	for _, word := range []string{"1", "42", protocol.HeadName(7), protocol.RootName(7, [16]byte{1})} {
		var k keptRoot
		if err := k.UnmarshalFlag(word); err != nil || string(k) != word {
			t.Errorf("%q: %q, %v", word, k, err)
		}
	}
}

// TestRootList: roots of one generation are told apart by their names, and what
// they are copies of is said.
func TestRootList(t *testing.T) {
	twin, other := protocol.RootName(3, [16]byte{1}), protocol.RootName(3, [16]byte{2})
	l := &rootList{}
	l.enter(archive.RootInfo{Names: []string{protocol.RootName(4, [16]byte{9})}, Err: &archive.DamageError{Object: "x", Reason: errors.New("y")}})
	l.enter(archive.RootInfo{Names: []string{twin, protocol.HeadName(3)}, Root: &format.Root{PrunedAt: 3}})
	l.enter(archive.RootInfo{Names: []string{other}, Root: &format.Root{}})
	l.enter(archive.RootInfo{Names: []string{protocol.HeadName(2)}, Root: &format.Root{}})
	l.markPruned()
	var got []string
	for _, r := range l.doc.Roots {
		got = append(got, fmt.Sprint(r.Generation, " ", r.copies(), " ", r.State, " ", r.Pruned))
	}
	want := []string{"4 kept damaged false", "3 head, kept opens false", "3 kept opens false", "2 head opens true"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if names := l.ambiguous(); !reflect.DeepEqual(names, []string{twin, other}) {
		t.Errorf("told apart: %q", names)
	}
}

// TestStatusOfKeys: what stands between a secret and an archive has its status.
func TestStatusOfKeys(t *testing.T) {
	for err, want := range map[error]exit.Status{
		archive.ErrSlow:     exit.WrongKey,
		archive.ErrRemoved:  exit.WrongKey,
		archive.ErrNoMemory: exit.Failed,
		archive.ErrNoRoot:   exit.Failed,
		archive.ErrSeveral:  exit.Usage,
		store.ErrConflict:   exit.Failed,
		&archive.RootError{Err: &archive.DamageError{Object: "root", Reason: errors.New("is missing")}}:                                exit.Damaged,
		&archive.OlderError{Err: archive.ErrRolledBack, Bad: &archive.DamageError{Object: "head/3", Reason: errors.New("is damaged")}}: exit.RolledBack,
	} {
		status, hint := statusOf(fmt.Errorf("open: %w", err))
		if status != want || hint == "" && !errors.Is(err, archive.ErrRemoved) {
			t.Errorf("%v: status %d, hint %q", err, status, hint)
		}
	}
}
