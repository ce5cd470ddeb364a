package packages_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// inDom0 is what pinion-dom0 brings.
var inDom0 = map[string]entry{
	"usr/bin/pinion":                      file(0o755),
	"usr/bin/pinion-store":                file(0o755),
	"etc/qubes/policy.d/80-pinion.policy": {0o664, 0, qubesGroup},
	"etc/pinion":                          dir(0o755),
	"etc/pinion/pinion.conf":              file(0o644),
	"var/lib/pinion":                      dir(0o700),
	"var/cache/pinion":                    dir(0o700),
}

// inVM is what pinion-vm brings, as RPM and as Debian package.
var inVM = map[string]entry{
	"usr/bin/pinion-store":              file(0o755),
	"etc/qubes-rpc/pinion.Store":        file(0o755),
	"etc/qubes/rpc-config/pinion.Store": file(0o644),
	"etc/pinion":                        dir(0o755),
	"etc/pinion/store.conf":             file(0o644),
}

// debiansAdvice is what Debian's rpm says of every installation.
var debiansAdvice = regexp.MustCompile(`(?m)^rpm: (RPM should not be used directly|However assuming you know) .*\n`)

// rpm runs rpm on the database of a root.
func rpm(t *testing.T, root string, args ...string) string {
	t.Helper()
	out, err := tryRPM(t, root, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryRPM(t *testing.T, root string, args ...string) (string, error) {
	t.Helper()
	tool(t, "rpm", "rpm")
	out, err := run("rpm", append([]string{"--root", root, "--dbpath", "/var/lib/rpm"}, args...)...)
	return debiansAdvice.ReplaceAllString(out, ""), err
}

func TestRPMForDom0(t *testing.T) {
	t.Parallel()
	root := newRoot(t, true)
	b := packages(t, ofCommit)
	before := tree(t, root)
	if said := rpm(t, root, "-i", "--nodeps", b.file(t, "pinion-dom0-*.rpm")); said != "" {
		t.Errorf("rpm -i says: %s", said)
	}
	added(t, before, tree(t, root), inDom0)
	hasDocs(t, root, "pinion-dom0/README.md", "pinion-dom0/docs/operation.md", "pinion-dom0/docs/recovery-format.md", "pinion-dom0/recover.py",
		"pinion-dom0/docs/vectors/format/MANIFEST", "pinion-dom0/docs/vectors/protocol/MANIFEST", "pinion-dom0/LICENSES")
	checksVectors(t, filepath.Join(root, "usr/share/doc/pinion-dom0"))
	for _, program := range []string{"pinion", "pinion-store"} {
		static(t, root, "usr/bin/"+program)
		saysVersion(t, root, program, b.version)
	}
	if said := rpm(t, root, "-Va", "--nodeps"); said != "" {
		t.Errorf("rpm -V says: %s", said)
	}

	// What dom0 knows of its archives outlives the package.
	write(t, root, "var/lib/pinion/state", "")
	rpm(t, root, "-e", "pinion-dom0")
	added(t, before, tree(t, root), map[string]entry{"var/lib/pinion": dir(0o700), "var/lib/pinion/state": file(0o644)})
}

// checksVectors: the script for the day without pinion is whole, and agrees with
// the vectors beside it.
func checksVectors(t *testing.T, docs string) {
	t.Helper()
	tool(t, "python3", "python3")
	out, err := run("python3", "-I", "-B", filepath.Join(docs, "recover.py"), "--vectors", filepath.Join(docs, "docs/vectors/format"))
	if err != nil || !strings.Contains(out, " vectors, of which ") {
		t.Errorf("the script that is shipped: %v\n%s", err, out)
	}
}

func TestRPMForVM(t *testing.T) {
	t.Parallel()
	root := newRoot(t, false)
	b := packages(t, ofCommit)
	before := tree(t, root)
	if said := rpm(t, root, "-i", "--nodeps", b.file(t, "pinion-vm-*.rpm")); said != "" {
		t.Errorf("rpm -i says: %s", said)
	}
	added(t, before, tree(t, root), inVM)
	hasDocs(t, root, "pinion-vm/protocol.md", "pinion-vm/LICENSES")
	static(t, root, "usr/bin/pinion-store")
	saysVersion(t, root, "pinion-store", b.version)
	rpm(t, root, "-e", "pinion-vm")
	added(t, before, tree(t, root), nil)
}

// TestRPMWithoutGroup: where nobody made the group qubes, the policy is root's,
// and rpm says so.
func TestRPMWithoutGroup(t *testing.T) {
	t.Parallel()
	root := newRoot(t, false)
	b := packages(t, ofCommit)
	said := rpm(t, root, "-i", "--nodeps", b.file(t, "pinion-dom0-*.rpm"))
	if !strings.Contains(said, "group qubes does not exist") {
		t.Errorf("rpm -i says nothing of the group: %q", said)
	}
	if got := tree(t, root)["etc/qubes/policy.d/80-pinion.policy"]; got.gid != 0 || got.mode.Perm()&0o002 != 0 {
		t.Errorf("the policy is %v", got)
	}
}

// TestRPMNeeds: the packages name those of Qubes that they need, run nothing
// when they are installed or removed, and need nothing of a distribution but
// the shell of the service.
func TestRPMNeeds(t *testing.T) {
	t.Parallel()
	root := newRoot(t, true)
	b := packages(t, ofCommit)
	for name, needs := range map[string][]string{
		"pinion-dom0": {"qubes-core-dom0", "qubes-core-qrexec-dom0"},
		"pinion-vm":   {"qubes-core-qrexec-vm", "/bin/sh"},
	} {
		path := b.file(t, name+"-*.rpm")
		if _, err := tryRPM(t, root, "-i", path); err == nil {
			t.Errorf("%s was installed where Qubes isn't", name)
		} else {
			for _, need := range needs {
				if !strings.Contains(err.Error(), need+" is needed by") {
					t.Errorf("rpm -i doesn't ask for %s: %v", need, err)
				}
			}
		}
		for _, need := range strings.Fields(rpm(t, root, "-qp", "--qf", `[%{REQUIRENAME}\n]`, path)) {
			if !strings.HasPrefix(need, "rpmlib(") && !strings.HasPrefix(need, "config("+name+")") && !slices.Contains(needs, need) {
				t.Errorf("%s needs %s", name, need)
			}
		}
		if scripts := rpm(t, root, "-qp", "--scripts", "--triggers", path); scripts != "" {
			t.Errorf("%s has scripts:\n%s", name, scripts)
		}
		if host := rpm(t, root, "-qp", "--qf", "%{BUILDHOST} %{VERSION} %{ARCH}", path); !strings.HasPrefix(host, "pinion "+b.version+" ") {
			t.Errorf("%s: host, version and architecture are %s", name, host)
		}
	}
}

// TestRPMUpgradeKeepsChanges: configuration that the administrator changed
// stays, what nobody changed becomes the new one, and what was changed is left
// when the package is removed.
func TestRPMUpgradeKeepsChanges(t *testing.T) {
	t.Parallel()
	const more, mine = "# Of the next version.\n", "# The administrator's.\n"
	for _, c := range []struct{ name, changed, unchanged string }{
		{"pinion-dom0", "etc/pinion/pinion.conf", "etc/qubes/policy.d/80-pinion.policy"},
		{"pinion-dom0", "etc/qubes/policy.d/80-pinion.policy", "etc/pinion/pinion.conf"},
		{"pinion-vm", "etc/pinion/store.conf", "etc/qubes/rpc-config/pinion.Store"},
		{"pinion-vm", "etc/qubes/rpc-config/pinion.Store", "etc/pinion/store.conf"},
	} {
		t.Run(c.name+" "+filepath.Base(c.changed), func(t *testing.T) {
			t.Parallel()
			root := newRoot(t, true)
			old, next := packages(t, ofCommit), packages(t, ofNext)
			before := tree(t, root)
			rpm(t, root, "-i", "--nodeps", old.file(t, c.name+"-*.rpm"))
			installed := tree(t, root)
			text := mine + read(t, root, c.changed)
			write(t, root, c.changed, text)

			rpm(t, root, "-U", "--nodeps", next.file(t, c.name+"-*.rpm"))
			added(t, installed, tree(t, root), map[string]entry{c.changed + ".rpmnew": installed[c.changed]})
			if got := read(t, root, c.changed); got != text {
				t.Errorf("after the upgrade %s is:\n%s", c.changed, got)
			}
			for _, path := range []string{c.changed + ".rpmnew", c.unchanged} {
				if got := read(t, root, path); !strings.HasSuffix(got, more) {
					t.Errorf("%s is not that of the new version:\n%s", path, got)
				}
			}
			saysVersion(t, root, "pinion-store", next.version)

			rpm(t, root, "-e", c.name)
			if err := os.Remove(filepath.Join(root, c.changed+".rpmnew")); err != nil {
				t.Error(err)
			}
			left := map[string]entry{c.changed + ".rpmsave": installed[c.changed]}
			if filepath.Dir(c.changed) == "etc/pinion" {
				left["etc/pinion"] = dir(0o755)
			}
			added(t, before, tree(t, root), left)
			if got := read(t, root, c.changed+".rpmsave"); got != text {
				t.Errorf("what is left is:\n%s", got)
			}
		})
	}
}
