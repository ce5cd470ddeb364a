package archivetest

import (
	"path/filepath"
	"testing"
	"time"

	"pinion/dom0/internal/backup"
	"pinion/dom0/internal/source"
	"pinion/dom0/internal/tracker"
)

// Source is a volume of the file at path, whose storage tells nothing.
func Source(name, path string) backup.Source {
	return backup.Source{Name: name, Source: &source.Source{Locator: "file:" + path, Path: path, Kind: source.Plain}}
}

// Options are those of a backup on a host that remembers nothing.
func Options(t testing.TB) backup.Options {
	t.Helper()
	return OptionsIn(t, filepath.Join(MemoryDir(t), "state"))
}

// OptionsIn are those of a backup on a host with that state directory.
func OptionsIn(t testing.TB, stateDir string) backup.Options {
	t.Helper()
	d, err := tracker.Open(stateDir)
	if err != nil {
		t.Fatal(err)
	}
	return backup.Options{
		Tracker: d, Compression: Params().Compression, Now: time.Now(),
		Begin: func(string, int64) {}, Bytes: func(int64) {}, Phase: func(string) {},
	}
}
