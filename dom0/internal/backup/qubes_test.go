package backup_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/verify"
	"pinion/protocol"
)

func settings(name, label string) *format.QubeConfig {
	return &format.QubeConfig{Name: name, Class: "AppVM", Label: label, Features: []format.QubePair{{Name: "service.cups", Value: "1"}}}
}

// config reads a qube's configuration out of a session.
func config(t *testing.T, a *archive.Archive, s *format.Session, i int) *format.QubeConfig {
	t.Helper()
	var got *format.QubeConfig
	err := a.QubeConfigs(ctx, []format.BlobID{s.Qubes[i].Config, s.Qubes[i].Config}, func(_ format.BlobID, c *format.QubeConfig, err error) error {
		if got != nil {
			t.Error("one configuration came twice")
		}
		got = c
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestQubes saves settings beside volumes: each qube's are a blob of their own,
// stored once while they stay the same, and a qube that is not whole is not in
// the session.
func TestQubes(t *testing.T) {
	p := archivetest.New(t).Init(t)
	options := archivetest.Options(t)
	path, other := file(t, image("ab")), file(t, image("c"))
	options.Qubes = []backup.Qube{
		{Name: "work", Config: settings("work", "blue"), Volumes: []string{"work:private"}, Running: true, State: time.Unix(5, 7)},
		{Name: "remote", Config: settings("remote", "red")},
		{Name: "broken", Config: settings("broken", "red"), Volumes: []string{"broken:private", "broken:root"}},
	}
	sources := []backup.Source{
		archivetest.Source("work:private", path), archivetest.Source("broken:private", other), archivetest.Source("broken:root", other+".gone"),
	}
	first, err := run(t, p, options, sources...)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"work true", "remote true"}
	if got := savedQubes(first); !reflect.DeepEqual(got, want) || len(first.Session.Qubes) != 2 || len(first.Volumes) != 2 {
		t.Errorf("saved %v, want %v, with %d volumes", got, want, len(first.Volumes))
	}
	if q := first.Session.Qubes[0]; !q.Running || q.State != 5e9+7 {
		t.Errorf("a running qube is %+v in the session", q)
	}
	options.Qubes = options.Qubes[:2]
	options.Qubes[1].Config = settings("remote", "green")
	second, err := run(t, p, options, sources[0])
	if err != nil {
		t.Fatal(err)
	}
	if got, want := savedQubes(second), []string{"work false", "remote true"}; !reflect.DeepEqual(got, want) {
		t.Errorf("then %v, want %v", got, want)
	}
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	table, err := a.Volumes(ctx)
	if err != nil || len(table.Qubes) != 2 || table.Qubes[0].Name != "remote" || table.Qubes[1].Name != "work" {
		t.Fatalf("the table has %+v, %v", table, err)
	}
	for i, s := range []*format.Session{first.Session, second.Session} {
		if s.Qubes[0] != first.Session.Qubes[0] || s.Qubes[0].Qube != table.Qubes[1].ID || s.Qubes[1].Qube != table.Qubes[0].ID {
			t.Errorf("session %d has %+v", i, s.Qubes)
		}
		if got := config(t, a, s, 1); got.Label != []string{"red", "green"}[i] {
			t.Errorf("session %d has the label %s", i, got.Label)
		}
	}
}

func savedQubes(res *backup.Result) (list []string) {
	for _, q := range res.Qubes {
		list = append(list, fmt.Sprint(q.Name, " ", q.New))
	}
	return list
}

// TestSettingsAlone makes a session of a qube that has no volumes.
func TestSettingsAlone(t *testing.T) {
	p := archivetest.New(t).Init(t)
	options := archivetest.Options(t)
	options.Qubes = []backup.Qube{{Name: "remote", Config: settings("remote", "red")}}
	a := p.Open(t, protocol.LockRead)
	f, err := backup.DryRun(ctx, a, nil, options)
	a.Close()
	if err != nil || len(f.Qubes) != 1 || len(f.Volumes) != 0 || f.Sent == 0 {
		t.Fatalf("a dry run gives %+v, %v", f, err)
	}
	res, err := run(t, p, options)
	if err != nil || len(res.Session.Qubes) != 1 || len(res.Session.Volumes) != 0 || res.Untracked != nil {
		t.Fatalf("%+v, %v", res, err)
	}
	options.Qubes[0].Volumes = []string{"remote:private"}
	if _, err := run(t, p, options, archivetest.Source("remote:private", file(t, nil)+".gone")); !errors.Is(err, backup.ErrNothing) {
		t.Errorf("nothing could be saved: %v", err)
	}
}

// TestSettingsThatCantBeStored are refused before anything is committed.
func TestSettingsThatCantBeStored(t *testing.T) {
	p := archivetest.New(t).Init(t)
	options := archivetest.Options(t)
	long := settings("work", "red")
	for i := range 40 {
		long.Properties = append(long.Properties, format.QubePair{Name: fmt.Sprint(i), Value: string(bytes.Repeat([]byte("x"), format.MaxQubeValue))})
	}
	for _, c := range []*format.QubeConfig{settings("../x", "red"), long} {
		options.Qubes = []backup.Qube{{Name: "work", Config: c}}
		if _, err := run(t, p, options, archivetest.Source("v", file(t, image("a")))); err == nil {
			t.Error("settings that can't be read back were stored")
		}
	}
	a := p.Open(t, protocol.LockRead)
	defer a.Close()
	if n := a.Root().Sessions; n != 0 {
		t.Errorf("there are %d sessions", n)
	}
}

// TestLostSettings: settings that are lost are damage of the qube in each of
// its sessions, a repair loses no names, and the next backup stores them again.
func TestLostSettings(t *testing.T) {
	p := archivetest.New(t).Init(t)
	options := archivetest.Options(t)
	options.Qubes = []backup.Qube{{Name: "work", Config: settings("work", "blue")}}
	source := archivetest.Source("v", file(t, image("a")))
	if _, err := run(t, p, options); err != nil {
		t.Fatal(err)
	}
	packs := p.Objects(t, protocol.PrefixPacks)
	options.Qubes[0].Config = settings("work", "red")
	if _, err := run(t, p, options, source); err != nil {
		t.Fatal(err)
	}
	check := func(repair bool) []damage.Range {
		t.Helper()
		lock := protocol.LockRead
		if repair {
			lock = protocol.LockExclusive
		}
		a := p.Open(t, lock)
		defer a.Close()
		var list damage.List
		_, err := verify.Check(ctx, a, &list, verify.CheckOptions{
			Repair: repair, Begin: func(string, int64) {}, Bytes: func(int64) {}, Warn: func(string) {},
		})
		if err != nil {
			t.Fatal(err)
		}
		ranges, _ := list.Ranges()
		return ranges
	}
	if found := check(false); len(found) != 0 {
		t.Fatalf("before: %+v", found)
	}
	for _, name := range packs {
		// The settings are what the session's only pack begins with.
		p.Damage(t, name, func(b []byte) []byte { b[format.HeaderSize+30] ^= 1; return b })
	}
	lost := 0
	for _, r := range check(false) {
		if r.Session == 1 && r.Volume == "work" && r.Length == 0 {
			lost++
		}
		if r.Session == 2 {
			t.Errorf("session 2 has lost %+v", r)
		}
	}
	if lost != 1 {
		t.Errorf("the lost settings are named %d times", lost)
	}
	check(true)
	options.Qubes[0].Config = settings("work", "blue")
	res, err := run(t, p, options, source)
	if err != nil || !res.Qubes[0].New {
		t.Fatalf("lost settings were not stored again: %+v, %v", res.Qubes, err)
	}
}
