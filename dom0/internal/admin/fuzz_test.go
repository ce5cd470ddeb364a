package admin

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		"", "0", "0\x00", "0\x00data", "2", "2\x00", "2\x00QubesException\x00\x00no\x00", "2\x00QubesException\x00Trace\x00no %s\x00it\x00", "1\x00x",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		data, err := parseAnswer(untrusted)
		exception := (*Error)(nil)
		switch {
		case err == nil:
			if !bytes.Equal(append([]byte("0\x00"), data...), untrusted) {
				t.Errorf("%q is the success %q", untrusted, data)
			}
		case data != nil:
			t.Errorf("an error and %q", data)
		case errors.As(err, &exception):
			if again := "2\x00" + exception.Type + "\x00"; !bytes.HasPrefix(untrusted, []byte(again)) || len(exception.Message) > maxMessage {
				t.Errorf("%q is %q", untrusted, exception)
			}
			if strings.ContainsFunc(exception.Error(), isControl) {
				t.Errorf("%q is shown as it is", untrusted)
			}
		}
	})
}

// FuzzProperties: what was understood can be written back to the same bytes.
func FuzzProperties(f *testing.F) {
	for _, seed := range []string{
		"", "netvm default=True type=vm sys-firewall\n", "kernelopts default=False type=str a\\\\b\\nc\nx default=False type=str \n", "x\n",
		"a default=True type=str \\x\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		list, err := parseProperties(untrusted)
		if err != nil {
			if list != nil {
				t.Errorf("an error and %v", list)
			}
			return
		}
		var b strings.Builder
		for _, p := range list {
			isDefault := "False"
			if p.Default {
				isDefault = "True"
			}
			value := strings.ReplaceAll(strings.ReplaceAll(p.Value, `\`, `\\`), "\n", `\n`)
			b.WriteString(p.Name + " default=" + isDefault + " type=" + p.Type + " " + value + "\n")
		}
		if b.String() != string(untrusted) {
			t.Errorf("%q came back as %q", untrusted, b.String())
		}
	})
}

func FuzzList(f *testing.F) {
	f.Add([]byte("dom0 class=AdminVM state=Running\nwork class=AppVM state=Halted uuid=806789a9-db8f-4e71-89ca-0f16be0083cc\n"))
	f.Add([]byte("work class=AppVM\n"))
	f.Add([]byte("work"))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		list, err := parseList(untrusted)
		if err != nil && list != nil {
			t.Errorf("an error and %q", list)
		}
		for _, vm := range list {
			if checkQube(vm.Name) != nil || !isToken(vm.Class, maxToken) || !isToken(vm.State, maxToken) || vm.UUID != "" && !isToken(vm.UUID, maxToken) {
				t.Errorf("accepted %q", vm)
			}
		}
	})
}

func FuzzVolume(f *testing.F) {
	f.Add([]byte("pool=vm-pool\nvid=qubes_dom0/vm-work-private\nsize=2147483648\nusage=1\nrw=True\nsource=\npath=/dev/mapper/x\n" +
		"save_on_stop=True\nsnap_on_start=False\nrevisions_to_keep=-1\nephemeral=False\nis_outdated=False\n"))
	f.Add([]byte("pool=linux-kernel\nvid=\nsize=\nusage=None\nrw=False\nsave_on_stop=False\nsnap_on_start=False\nrevisions_to_keep=0\n"))
	f.Add([]byte("pool=a\npool=b\n"))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		v, err := parseVolume(untrusted)
		if err != nil {
			if v != (VolumeInfo{}) {
				t.Errorf("an error and %+v", v)
			}
			return
		}
		if v.Size < 0 || v.Usage < 0 || v.Revisions < -1 || v.Revisions > maxRevisions || !isToken(v.Pool, maxToken) ||
			strings.ContainsFunc(v.VID+v.Source+v.Path, isControl) {
			t.Errorf("accepted %+v", v)
		}
	})
}

// FuzzAssigned: an assignment that a request can carry comes back as it was.
func FuzzAssigned(f *testing.F) {
	f.Add("dom0", "00_14.3", "0x8086:0x51f0::p028000", "required", "no-strict-reset", "True")
	f.Add("sys-usb", "2-1", "*", "ask-to-attach", "o", "it's x= ' y")
	f.Fuzz(func(t *testing.T, backend, port, identity, mode, option, value string) {
		a := Assignment{Backend: backend, Port: port, Identity: identity, Mode: mode, Options: []Option{{option, value}}}
		if a.check("pci") != nil || mode == "" || identity == "" {
			return
		}
		line := a.argument() + " " + a.payload("pci") + "\n"
		got, err := parseAssigned([]byte(line))
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], a) {
			t.Errorf("%q came back as %q, %v, was %q", line, got, err, a)
		}
	})
}

func FuzzDevices(f *testing.F) {
	f.Add([]byte("dom0+00_14.3:0x8086:0x51f0::p028000 device_id='0x8086:0x51f0::p028000' mode='required' _o='1'\n"))
	f.Add([]byte("dom0+00_14.3 no-strict-reset=True persistent=yes\nsys-usb+2-1 persistent=no\n"))
	f.Add([]byte("a+b c='='' d='\n"))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		for _, parse := range []func([]byte) ([]Assignment, error){parseAssigned, parseAttached} {
			list, err := parse(untrusted)
			if err != nil && list != nil {
				t.Errorf("an error and %q", list)
			}
			for _, a := range list {
				if checkBackend(a.Backend) != nil || !isToken(a.Port, maxToken) || a.Identity == "" {
					t.Errorf("accepted %q", a)
				}
			}
		}
	})
}

func FuzzPairsAndImport(f *testing.F) {
	f.Add([]byte("driver=lvm_thin\nvolume_group=qubes_dom0\nthin_pool=vm-pool\n"))
	f.Add([]byte("1024 /dev/qubes_dom0/vm-work-private-import"))
	f.Add([]byte("power_state=Running"))
	f.Fuzz(func(t *testing.T, untrusted []byte) {
		if pairs, err := parsePairs(untrusted); err != nil && pairs != nil {
			t.Errorf("an error and %q", pairs)
		}
		if i, err := parseImport(untrusted); err == nil && (i.Size < 0 || !strings.HasPrefix(i.Path, "/")) {
			t.Errorf("accepted %+v", i)
		}
		if state, err := parseState(untrusted); err == nil && !isToken(state, maxToken) {
			t.Errorf("accepted %q", state)
		}
	})
}

// FuzzRequest: whatever the names, a request has one NUL byte before its
// payload and the four words that were meant.
func FuzzRequest(f *testing.F) {
	f.Add("work", "private", "payload")
	f.Add("x+y dom0", "a b", "\x00")
	f.Fuzz(func(t *testing.T, dest, arg, payload string) {
		r := request{dest: dest, method: "admin.vm.tag.Set", arg: arg, payload: payload}
		b, err := r.encode()
		if err != nil {
			return
		}
		line, rest, _ := bytes.Cut(b, []byte{0})
		words := strings.Split(string(line), " ")
		if len(words) != 4 || words[0] != "admin.vm.tag.Set+"+arg || words[1] != "dom0" || words[2] != "name" || words[3] != dest || string(rest) != payload {
			t.Errorf("%q", b)
		}
	})
}
