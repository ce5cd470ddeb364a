package packages_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// qrexec is how dpkg remembers the package that ours needs.
const qrexec = `Package: qubes-core-qrexec
Status: install ok installed
Maintainer: none
Architecture: all
Version: 4.3.12-1
Description: stands for the real one

`

// qrexecDirs are the directories that it shares with ours: dpkg removes those
// that nobody has any more.
const qrexecDirs = "/.\n/etc\n/etc/qubes\n/etc/qubes/rpc-config\n/etc/qubes-rpc\n/usr\n/usr/bin\n/usr/share\n/usr/share/doc\n"

// debRoot is a root with a database of dpkg.
func debRoot(t *testing.T, status string) string {
	t.Helper()
	root := newRoot(t, false)
	write(t, root, "var/lib/dpkg/status", status)
	write(t, root, "var/lib/dpkg/available", "")
	if status != "" {
		write(t, root, "var/lib/dpkg/info/qubes-core-qrexec.list", qrexecDirs)
	}
	return root
}

// dpkg runs dpkg on the database of a root.
func dpkg(t *testing.T, root string, args ...string) string {
	t.Helper()
	out, err := tryDpkg(t, root, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryDpkg(t *testing.T, root string, args ...string) (string, error) {
	t.Helper()
	tool(t, "dpkg", "dpkg")
	return run("dpkg", append([]string{"--root=" + root, "--log=/dev/null"}, args...)...)
}

func TestDebForVM(t *testing.T) {
	t.Parallel()
	root := debRoot(t, qrexec)
	b := packages(t, ofCommit)
	before := tree(t, root)
	dpkg(t, root, "-i", b.file(t, "*.deb"))
	added(t, before, tree(t, root), inVM)
	hasDocs(t, root, "pinion-vm/protocol.md", "pinion-vm/copyright", "pinion-vm/changelog.Debian.gz")
	static(t, root, "usr/bin/pinion-store")
	saysVersion(t, root, "pinion-store", b.version)
	if said := dpkg(t, root, "--verify", "pinion-vm"); said != "" {
		t.Errorf("dpkg --verify says: %s", said)
	}

	// Removed, it keeps its configuration; purged, nothing.
	dpkg(t, root, "-r", "pinion-vm")
	kept := map[string]entry{}
	for path, e := range inVM {
		if strings.HasPrefix(path, "etc/") {
			kept[path] = e
		}
	}
	added(t, before, tree(t, root), kept)
	dpkg(t, root, "-P", "pinion-vm")
	added(t, before, tree(t, root), nil)
}

// TestDebNeeds: the package is not configured without the agent of qrexec, and
// has no scripts.
func TestDebNeeds(t *testing.T) {
	t.Parallel()
	root := debRoot(t, "")
	b := packages(t, ofCommit)
	path := b.file(t, "*.deb")
	if _, err := tryDpkg(t, root, "-i", path); err == nil || !strings.Contains(err.Error(), "depends on qubes-core-qrexec") {
		t.Errorf("dpkg -i without qubes-core-qrexec: %v", err)
	}
	control := filepath.Join(t.TempDir(), "control")
	if out, err := run("dpkg-deb", "-e", path, control); err != nil {
		t.Fatal(err, out)
	}
	entries, err := os.ReadDir(control)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "control", "conffiles", "md5sums":
		default:
			t.Errorf("the package has a %s", e.Name())
		}
	}
	if got, want := read(t, control, "conffiles"), "/etc/pinion/store.conf\n/etc/qubes-rpc/pinion.Store\n/etc/qubes/rpc-config/pinion.Store\n"; got != want {
		t.Errorf("configuration files:\n%s", got)
	}
}

// TestDebUpgradeKeepsChanges: configuration that the administrator changed
// stays, and what nobody changed becomes the new one.
func TestDebUpgradeKeepsChanges(t *testing.T) {
	t.Parallel()
	const more, mine = "# Of the next version.\n", "# The administrator's.\n"
	root := debRoot(t, qrexec)
	old, next := packages(t, ofCommit), packages(t, ofNext)
	before := tree(t, root)
	dpkg(t, root, "-i", old.file(t, "*.deb"))
	installed := tree(t, root)
	text := mine + read(t, root, "etc/pinion/store.conf")
	write(t, root, "etc/pinion/store.conf", text)

	dpkg(t, root, "--force-confdef", "--force-confold", "-i", next.file(t, "*.deb"))
	added(t, installed, tree(t, root), map[string]entry{"etc/pinion/store.conf.dpkg-dist": file(0o644)})
	if got := read(t, root, "etc/pinion/store.conf"); got != text {
		t.Errorf("after the upgrade the configuration is:\n%s", got)
	}
	if got := read(t, root, "etc/qubes/rpc-config/pinion.Store"); !strings.HasSuffix(got, more) {
		t.Errorf("the unchanged configuration is not that of the new version:\n%s", got)
	}
	saysVersion(t, root, "pinion-store", next.version)
	dpkg(t, root, "-r", "pinion-vm")
	if got := read(t, root, "etc/pinion/store.conf"); got != text {
		t.Errorf("after the removal the configuration is:\n%s", got)
	}
	gone(t, root, "usr/bin/pinion-store")
	dpkg(t, root, "-P", "pinion-vm")
	added(t, before, tree(t, root), nil)
}
