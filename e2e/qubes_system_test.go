package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// machineOwn is what a restored qube can't have as it was: it depends on the machine, or on who made the qube.
func machineOwn(_, line string) bool {
	for _, prefix := range []string{"tag guivm-", "tag audiovm-"} {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}

// TestQubesRowS35WholeSystem backs a system up, brings it back on a new machine, and goes on there: the next backup sends
// nothing.
func TestQubesRowS35WholeSystem(t *testing.T) {
	t.Parallel()
	onQubesGrounds(t, func(t *testing.T, kind string) {
		for _, release := range []string{"4.3", "4.2"} {
			if release == "4.2" && kind != anyGround() {
				continue
			}
			t.Run(release, func(t *testing.T) {
				q := newQubesWorld(t, kind, release)
				q.fill(t)
				q.ok("init")
				q.ok("backup", "--all", q.dom0Files())
				wantContents, want := q.contents(t), q.inUse(t)
				q.api.Close()

				n := q.fresh(t, kind, release)
				list := document[qubesListDoc](n.ok("--json", "list"))
				if len(list.Qubes) != len(want)+1 {
					t.Errorf("%d qubes are listed, want %d and dom0", len(list.Qubes), len(want))
				}
				n.run("restore", "--all")
				sameContents(t, n.contents(t), wantContents)
				sameQubes(t, n.inUse(t), want, machineOwn)
				dirs, err := filepath.Glob(n.dir + "/dom0-restore-*" + n.files)
				if err != nil || len(dirs) != 1 {
					t.Fatalf("dom0's files are in %v, %v", dirs, err)
				}
				if _, err := os.Stat(dirs[0] + "/home/user/Documents/plan.txt"); err != nil {
					t.Error(err)
				}
				again := document[qubesBackupDoc](n.ok("--json", "backup", "--all", "--adopt", n.dom0Files()))
				for _, v := range again.Volumes {
					if v.NewChunks != 0 || kind != "plain" && v.Name != "dom0:files" && v.Mode != "delta" && v.Mode != "unchanged" {
						t.Errorf("after the restore, the backup of %s is a %s with %d new chunks", v.Name, v.Mode, v.NewChunks)
					}
				}
			})
		}
	})
}

// qubesListDoc and qubesBackupDoc are what these tests look at in documents.
type qubesListDoc struct {
	Qubes []struct {
		Name, Class, Label, Template, Time string
		Session                            uint64
		Size                               int64
	}
	Sessions []struct {
		Seq   uint64
		Qubes []struct{ Name, Class, Label, Template string }
	}
}

type qubesBackupDoc struct {
	Session *struct{ Seq uint64 }
	Qubes   []struct {
		Name        string
		Running     bool
		SavedState  string `json:"saved_state"`
		NewSettings bool   `json:"new_settings"`
	}
	Volumes []qubesVolumeDoc
	Failed  []struct{ Name, Message string }
}

type qubesVolumeDoc struct {
	Name, Mode, Why string
	Live            bool
	NewChunks       uint64 `json:"new_chunks"`
	ReadBytes       int64  `json:"read_bytes"`
}
