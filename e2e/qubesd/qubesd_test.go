package qubesd

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const samples = "../testdata/qubes"

// raw sends bytes and returns everything that comes back.
func raw(t *testing.T, socket, request string) string {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	conn.(*net.UnixConn).CloseWrite()
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// system starts a stand-in with a sample and small volumes.
func testSystem(t *testing.T, release string, more ...Pool) *Server {
	t.Helper()
	return Start(t, Options{
		Release: release, Load: filepath.Join(samples, "qubes-r"+release+".xml"), Pools: more, RootSize: 4 << 20, PrivateSize: 2 << 20,
	})
}

// node is an element of any kind.
type node struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Children []node     `xml:",any"`
}

// plain is an element as text, with its children sorted.
func (n node) plain() string {
	var attrs, children []string
	for _, a := range n.Attrs {
		attrs = append(attrs, a.Name.Local+"="+a.Value)
	}
	for _, c := range n.Children {
		children = append(children, c.plain())
	}
	slices.Sort(attrs)
	slices.Sort(children)
	return fmt.Sprintf("<%s %q %q %s>", n.XMLName.Local, attrs, strings.TrimSpace(n.Text), strings.Join(children, ""))
}

func parse(t *testing.T, path string) node {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var n node
	if err := xml.Unmarshal(b, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSamplesComeBack: what the real qubesd wrote is written back the same,
// for R4.3 but for the pools' directory byte for byte, so the order too.
func TestSamplesComeBack(t *testing.T) {
	for _, release := range []string{R42, R43} {
		t.Run(release, func(t *testing.T) {
			sample := filepath.Join(samples, "qubes-r"+release+".xml")
			s := Start(t, Options{Release: release, Load: sample})
			want, got := parse(t, sample), parse(t, s.xmlPath())
			for _, n := range []node{want, got} {
				for i := range n.Children {
					if n.Children[i].XMLName.Local == "pools" {
						n.Children[i] = node{} // they moved
					}
				}
			}
			if want.plain() != got.plain() {
				t.Errorf("the sample came back as\n%s\nand was\n%s", got.plain(), want.plain())
			}
			a, _ := os.ReadFile(sample)
			b, _ := os.ReadFile(s.xmlPath())
			cut := func(b []byte) string { return string(b[strings.Index(string(b), "</pools>"):]) }
			if cut(a) != cut(b) {
				t.Error("the bytes behind the pools differ")
			}
			if info, err := os.Stat(s.xmlPath()); err != nil || info.Mode().Perm() != 0o660 {
				t.Errorf("qubes.xml: %v, %v", info.Mode(), err)
			}
			// And once more from what was written.
			s.Close()
			again := Start(t, Options{Release: release, Dir: s.Dir()})
			c, _ := os.ReadFile(again.xmlPath())
			if string(b) != string(c) {
				t.Error("the second time it is another file")
			}
		})
	}
}

// TestWire: bytes of requests and answers, each as the real one gave them.
func TestWire(t *testing.T) {
	s := testSystem(t, R43)
	internal := raw(t, s.InternalSocket(), "internal.vm.volume.ImportBegin+private dom0 name sys-usb\x001024")
	if internal != "" {
		t.Errorf("an import into a volume that isn't saved: %q", internal)
	}
	for request, want := range map[string]string{
		"admin.vm.property.Get+netvm dom0 name vault\x00":               "0\x00default=False type=vm ",
		"admin.vm.property.Get+netvm dom0 name work\x00":                "0\x00default=True type=vm sys-firewall",
		"admin.vm.feature.Get+menu-items dom0 name work\x00":            "0\x00org.gnome.Terminal.desktop firefox.desktop",
		"admin.vm.tag.Set+new dom0 name work\x00":                       "0\x00",
		"admin.vm.tag.Set+n.w dom0 name work\x00":                       "",
		"admin.vm.tag.Remove+none dom0 name work\x00":                   "2\x00QubesTagNotFoundError\x00\x00Tag not set for domain work: none\x00",
		"admin.vm.Start dom0 name nobody\x00":                           "2\x00QubesVMNotFoundError\x00\x00No such domain: 'nobody'\x00",
		"admin.label.Get+blue dom0 keyword adminvm\x00":                 "0\x000x3465a4",
		"admin.label.List dom0 name work\x00":                           "",
		"admin.Nothing dom0 name dom0\x00":                              "",
		"garbage\x00":                                                   "",
		"admin.vm.property.Set+name dom0 name work\x00other":            "",
		"admin.vm.property.Set+xid dom0 name work\x001":                 "2\x00QubesPropertyValueError\x00\x00'xid' cannot be set\x00",
		"admin.vm.property.Set+kernel dom0 name work\x005.0":            "2\x00QubesPropertyValueError\x00\x00Kernel '5.0' not installed\x00",
		"admin.vm.property.Set+netvm dom0 name work\x00vault":           "2\x00QubesValueError\x00\x00The 'vault' qube does not provide network\x00",
		"admin.vm.property.Set+netvm dom0 name sys-net\x00sys-firewall": "2\x00QubesValueError\x00\x00Loops in network are unsupported\x00",
		"admin.vm.feature.Set+preload-dispvm dom0 name work\x00x":       "",
		"admin.vm.volume.Resize+private dom0 name work\x0001":           "",
		"admin.vm.volume.Info+other dom0 name work\x00":                 "",
		"admin.vm.notes.Get dom0 name dom0\x00":                         "",
		"admin.vm.device.pci.Assigned dom0 name sys-net\x00": "0\x00dom0+00_14.3:0x8086:0x51f0::p028000 device_id='0x8086:0x51f0::p028000' port_id='00_14.3'" +
			" devclass='pci' backend_domain='dom0' mode='required' frontend_domain='sys-net' _no-strict-reset='True'\n",
		"admin.vm.device.pci.List dom0 name sys-net\x00": "",
	} {
		if got := raw(t, s.Socket(), request); got != want {
			t.Errorf("%q is answered with\n%q, want\n%q", request, got, want)
		}
	}
	list := raw(t, s.Socket(), "admin.vm.List+ dom0 name dom0\x00")
	if !strings.HasPrefix(list, "0\x00dom0 class=AdminVM state=Running uuid=0000") || !strings.Contains(list, "\nwork class=AppVM state=Halted uuid=806789a9-") {
		t.Errorf("the list is %q", list)
	}
	if got := raw(t, testSystem(t, R42).Socket(), "admin.vm.device.pci.List dom0 name sys-net\x00"); got != "0\x00" {
		t.Errorf("R4.2 lists the devices %q", got)
	}
}

// TestTooLarge: more than 64 KiB is not read, let alone answered.
func TestTooLarge(t *testing.T) {
	s := testSystem(t, R43)
	conn, err := net.Dial("unix", s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("admin.vm.notes.Set dom0 name work\x00" + strings.Repeat("x", 70000)))
	conn.(*net.UnixConn).CloseWrite()
	if b, _ := io.ReadAll(conn); len(b) > 0 {
		t.Errorf("answered with %q", b)
	}
	if got := s.notes(s.find("work")); got != "" {
		t.Error("and done")
	}
}

// TestFirewall: the sample's rules as the API has them, and back.
func TestFirewall(t *testing.T) {
	s := testSystem(t, R43)
	if got := s.Must(t, "admin.vm.firewall.Get", "", "work", ""); got != "action=accept\n" {
		t.Errorf("without a file: %q", got)
	}
	sample, err := os.ReadFile(filepath.Join(samples, "firewall.xml"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Dir(), "appvms/work/firewall.xml")
	if err := os.WriteFile(path, sample, 0o664); err != nil {
		t.Fatal(err)
	}
	want := "action=accept dst4=192.168.1.10/32 dstports=22-22 proto=tcp comment=nas ssh\naction=accept specialtarget=dns\naction=drop\n"
	got := s.Must(t, "admin.vm.firewall.Get", "", "work", "")
	if got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	s.Must(t, "admin.vm.firewall.Set", "", "work", got)
	if written, _ := os.ReadFile(path); string(written) != string(sample) {
		t.Errorf("written back as\n%s", written)
	}
	if _, err := s.Request("admin.vm.firewall.Set", "", "work", "action=perhaps\n"); !errors.Is(err, errRefused) {
		t.Errorf("a rule that is none: %v", err)
	}
}

// TestCreateRemove: classes have the volumes that they have, and nothing is
// left of what is removed.
func TestCreateRemove(t *testing.T) {
	s := testSystem(t, R43, Pool{Name: "other", Driver: "file", DirPath: t.TempDir()})
	s.Must(t, "admin.vm.Create.AppVM", "fedora-42-xfce", "dom0", "name=a-1.b label=blue")
	s.Must(t, "admin.vm.CreateInPool.StandaloneVM", "", "dom0", "name=alone label=red pool=other")
	s.Must(t, "admin.vm.CreateInPool.AppVM", "debian-13-xfce", "dom0", "name=mixed label=red pool:private=other")
	got := map[string]string{}
	for _, name := range []string{"a-1.b", "alone", "mixed"} {
		for _, v := range s.find(name).volumes {
			got[name] += fmt.Sprintf("%s %s %v,%v ", v.name, v.pool, v.snap, v.save)
		}
	}
	want := map[string]string{
		"a-1.b": "root varlibqubes true,false private varlibqubes false,true volatile varlibqubes false,false kernel linux-kernel false,false ",
		"alone": "root other false,true private other false,true volatile other false,false kernel linux-kernel false,false ",
		"mixed": "root varlibqubes true,false private other false,true volatile varlibqubes false,false kernel linux-kernel false,false ",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
	if !slices.Contains(s.find("alone").tags, "created-by-dom0") {
		t.Error("no tag says who made it")
	}
	for payload, kind := range map[string]string{
		"name=work label=red":               "QubesValueError",
		"name=x+y label=red":                "QubesValueError",
		"name=new label=pink":               "QubesLabelNotFoundError",
		"name=new label=red pool=other":     "refused",
		"name=new":                          "refused",
		"name=" + strings.Repeat("n", 32):   "QubesValueError",
		"name=stubdom-dm label=red":         "QubesValueError",
		"name=new label=red name=new2":      "refused",
		"name=new  label=red":               "refused",
		"name=new label=red something=else": "refused",
	} {
		if _, err := s.Request("admin.vm.Create.AppVM", "debian-13-xfce", "dom0", payload); err == nil || !strings.HasPrefix(err.Error(), kind) {
			t.Errorf("create %q: %v, want %s", payload, err, kind)
		}
	}
	for _, name := range []string{"fedora-42-xfce", "sys-firewall", "default-dvm", "dom0"} {
		if _, err := s.Request("admin.vm.Remove", "", name, ""); err == nil || !strings.HasPrefix(err.Error(), "QubesVMInUseError") {
			t.Errorf("remove %s, which is used: %v", name, err)
		}
	}
	private := s.Committed("mixed", "private")
	if !exists(private) {
		t.Fatalf("there is no %s", private)
	}
	s.Must(t, "admin.vm.Remove", "", "mixed", "")
	if exists(private) || exists(filepath.Join(s.Dir(), "appvms/mixed")) || s.State("mixed") != "" {
		t.Error("something is left")
	}
}

// TestRestoreTag: a qube that is being restored doesn't start.
func TestRestoreTag(t *testing.T) {
	s := testSystem(t, R43)
	s.Must(t, "admin.vm.tag.Set", "backup-restore-in-progress", "vault", "")
	if err := s.StartQube("vault"); err == nil || !strings.Contains(err.Error(), "Restore of this domain in progress") {
		t.Errorf("it starts: %v", err)
	}
	s.Must(t, "admin.vm.tag.Remove", "backup-restore-in-progress", "vault", "")
	if err := s.StartQube("vault"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.RunDir(), "vms/vault/running")); err != nil {
		t.Error(err)
	}
}

// TestForeignWrite: qubesd doesn't save over what somebody else wrote.
func TestForeignWrite(t *testing.T) {
	s := testSystem(t, R43)
	b, err := os.ReadFile(s.xmlPath())
	if err != nil {
		t.Fatal(err)
	}
	other := s.xmlPath() + ".new"
	if err := errors.Join(os.WriteFile(other, b, 0o660), os.Rename(other, s.xmlPath())); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Request("admin.vm.tag.Set", "x", "work", ""); err == nil || !strings.Contains(err.Error(), "Someone else modified") {
		t.Errorf("it saves: %v", err)
	}
}
