package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// onHost is the same place seen from another host: one with a machine id of its
// own, a name of its own, and a state of its own. Its runs have namespaces of
// their own, in which /etc/machine-id is another file.
func (w *world) onHost(name string) *world {
	w.t.Helper()
	o := w.other(name)
	id := w.path("machine-id-" + name)
	writeFile(w.t, id, fmt.Appendf(nil, "%032x\n", len(name)*1000+int(name[len(name)-1])))
	unshare := []string{"unshare", "--mount", "--uts"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--map-root-user")
	}
	script := `mount --bind "$1" /etc/machine-id && hostname "$2" && shift 2 && exec "$@"`
	o.prefix = append(unshare, "/bin/sh", "-c", script, "sh", id, name)
	if out, err := exec.Command(o.prefix[0], append(o.prefix[1:], "true")...).CombinedOutput(); err != nil {
		w.t.Skipf("no other host can be made here: %v %s", err, out)
	}
	return o
}

// A second host reads everything with the secret alone. It may write once it
// was told to, under a branch of its own; from then on it is the one that goes
// on, and the first asks. Who they are is not told to the store.
func TestHomeSecondHostReadsAndAdopts(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:2M:1", "text:1M:2")
	w.backup("file:" + v)
	first := copyFile(t, v, w.path("v.1"))
	branch := w.list().Archive.Branch
	b := w.onHost("laptop-b")
	b.ok("list").says("first use", "generation 2, last written 2")
	b.ok("verify", "--all-sessions")
	b.ok("check", "--read-data")
	b.restores("v", "latest", first)
	for _, args := range [][]string{{"backup", "file:" + v}, {"backup", "--dry-run", "file:" + v}} {
		b.exits(16, args...).oneLine().says("wrote to this archive last", "--adopt")
	}
	store := digest(t, w.store+"/head")
	w.spoilBoth(w.under("index/")[0], -9)
	b.cache = w.path("cache-b2")
	b.exits(16, "check", "--repair").oneLine().says("--adopt")
	if digest(t, w.store+"/head") != store {
		t.Error("a host that may not write made another root")
	}
	b.ok("check", "--repair", "--adopt")
	if now := b.list().Archive.Branch; now == branch {
		t.Error("the branch is still that of the other host")
	}
	// Now it is this host's.
	overwrite(t, v, 0, "random:128K:3")
	b.ok("backup", "file:"+v)
	b.restores("v", "latest", v)
	w.ok("list") // it descends from what this host saw
	w.exits(16, "backup", "file:"+v).oneLine().says(`host "laptop-b" wrote`, "--adopt")
	w.ok("backup", "--adopt", "file:"+v)
	b.exits(16, "backup", "file:"+v).oneLine()
	b.restores("v", "#1", first)
	b.ok("verify", "--all-sessions")
	for name := range files(t, w.store) {
		object := readFile(t, w.store+"/"+name)
		for _, secret := range []string{"laptop-b", strings.TrimSpace(string(readFile(t, w.path("machine-id-laptop-b"))))} {
			if bytes.Contains(object, []byte(secret)) {
				t.Errorf("%s tells %q", name, secret)
			}
		}
	}
}

// A new machine, with nothing but the archive and the secret, restores all of
// it; its first backup scans, and sends nothing that is there; then it is
// incremental.
func TestHomeNewMachineRestoresAndGoesOn(t *testing.T) {
	t.Parallel()
	onEachGround(t, func(t *testing.T, g *ground) {
		w := cowWorld(t)
		c := g.volume("v", 64<<20, "random:24M:1", "text:4M:2")
		w.scanned(c, "full")
		c.write(2<<20, "random:1M:3")
		w.backup(c.source)
		b := w.onHost("new-machine")
		to := g.dir + "/restored"
		b.ok("restore", "v", "--to", to)
		same(t, to, c.path)
		b.exits(16, "backup", c.source).says("--adopt")
		doc := document[backupDoc](b.ok("backup", "--adopt", "--json", c.source))
		if v := doc.one(t); v.Mode != "scan" || v.NewChunks != 0 || doc.Sent > 64<<10 {
			t.Errorf("the first backup of the new machine: %+v, %d bytes sent", v, doc.Sent)
		}
		b.incremental(c, 0)
		c.write(5<<20, "random:256K:4")
		b.incremental(c, 512<<10)
		// What was restored goes on as well, as a volume of that name.
		restored := &cow{g: g, name: "v", path: to, source: "v=file:" + to}
		if v := b.backup(restored.source).one(t); v.Mode != "scan" || v.ReadBytes > 64<<20 {
			t.Errorf("the restored volume: %+v", v)
		}
		overwrite(t, to, 7<<20, "random:128K:5")
		b.incremental(restored, 256<<10)
		b.ok("verify", "--all-sessions")
	})
}

// Lost state on the same host and destination is no other host: it just goes on.
func TestHomeLostStateOfTheSameHostGoesOn(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	branch := w.list().Archive.Branch
	if err := os.RemoveAll(w.state); err != nil {
		t.Fatal(err)
	}
	doc := w.backup("file:" + v)
	if v := doc.one(t); v.Mode != "scan" || v.NewChunks != 0 {
		t.Errorf("%+v", v)
	}
	if now := w.list().Archive.Branch; now != branch {
		t.Error("the same host made another branch")
	}
}

// A copy of an archive reads as it is, wherever it is, and asks before it is
// written to.
func TestHomeCopyReadsAndAsksBeforeItIsWrittenTo(t *testing.T) {
	t.Parallel()
	w := archive(t)
	v := w.image("v", "random:1M:1")
	w.backup("file:" + v)
	c := *w
	c.store = w.path("copy")
	run(t, "cp", "-a", w.store, c.store)
	c.ok("verify")
	c.exits(16, "backup", "file:"+v).oneLine().says("is a copy", "--adopt")
	c.ok("backup", "--adopt", "file:"+v)
	c.ok("backup", "file:"+v)
	w.ok("backup", "file:"+v)
}
