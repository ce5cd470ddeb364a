package archive_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/format"
)

// qubesSampleDir has an archive with qubes, of format version 2.
const qubesSampleDir = "../../../e2e/testdata/archives/v2-qubes"

// TestMakeSampleOfQubes makes that archive, as TestMakeSample does the other.
func TestMakeSampleOfQubes(t *testing.T) {
	if !toBeMade(t, qubesSampleDir) {
		return
	}
	p := archivetest.New(t).Init(t)
	want := sample{Passphrase: samplePassphrase}
	images := t.TempDir()
	source := func(name string, b []byte) backup.Source {
		path := filepath.Join(images, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return archivetest.Source(name, path)
	}
	work := &format.QubeConfig{
		Name: "work", Class: "AppVM", Label: "blue", LabelColor: "0x3465a4", Template: "debian-13-xfce",
		Properties: []format.QubePair{{Name: "memory", Value: "600"}, {Name: "netvm"}},
		Features:   []format.QubePair{{Name: "menu-items", Value: "firefox.desktop"}, {Name: "service.cups"}},
		Tags:       []string{"project-x"},
		Devices: []format.QubeDevice{{
			Class: "pci", Backend: "dom0", Port: "00_14.3", Identity: "0x8086:0x51f0::p028000", Mode: "required",
			Options: []format.QubePair{{Name: "no-strict-reset", Value: "True"}},
		}},
		Firewall: []string{"action=accept dst4=192.168.1.10/32 proto=tcp dstports=22-22", "action=drop"}, Notes: "two\nlines",
		Volumes: []format.QubeVolume{{
			Name: "private", Pool: "vm-pool", VID: "qubes_dom0/vm-work-private", Size: 200_000, Revisions: 1,
			Flags: format.QubeVolumeWritable | format.QubeVolumeSaved,
		}},
		Inherited: []format.QubePair{{Name: "default_dispvm", Value: "default-dvm"}},
	}
	remote := &format.QubeConfig{Name: "remote", Class: "RemoteVM", Label: "purple"}
	dom0 := &format.QubeConfig{Name: "dom0", Class: "AdminVM", Label: "black", Globals: []format.QubePair{{Name: "clockvm", Value: "sys-net"}}}
	day := time.Date(2026, 11, 26, 21, 0, 0, 0, time.FixedZone("CET", 3600))
	add := func(at time.Time, sources []backup.Source, qubes ...backup.Qube) {
		want.Sessions = append(want.Sessions, sampleBackup(t, p, sources, at, nil, qubes))
	}
	private := prose(200_000)
	add(day, []backup.Source{source("work:private", private)}) // as a volume alone
	add(day.Add(time.Hour), []backup.Source{source("work:private", private), source("dom0:files", prose(10_240))},
		backup.Qube{Name: "work", Config: work, Volumes: []string{"work:private"}},
		backup.Qube{Name: "remote", Config: remote}, backup.Qube{Name: "dom0", Config: dom0, Volumes: []string{"dom0:files"}})
	again := *work
	again.Label = "red"
	add(day.Add(2*time.Hour), []backup.Source{source("work:private", append(private, 1, 2, 3))},
		backup.Qube{Name: "work", Config: &again, Volumes: []string{"work:private"}, Running: true, State: day})
	want.Archive = addPassphrase(t, p)
	writeSample(t, p, qubesSampleDir, want)
}
