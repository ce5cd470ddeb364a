package qubesd

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestFaults: each effect on the wire, and what it leaves of the call.
func TestFaults(t *testing.T) {
	const request = "admin.vm.tag.Set+new dom0 name work\x00"
	for name, c := range map[string]struct {
		fault Fault
		want  string
		done  bool
	}{
		"refuse":  {Fault{Effect: Refuse}, "", false},
		"raise":   {Fault{Effect: Raise, Type: "QubesException", Message: "no"}, "2\x00QubesException\x00\x00no\x00", false},
		"garbage": {Fault{Effect: Garbage, Bytes: []byte("??")}, "??", false},
		"cut":     {Fault{Effect: Cut, N: 1}, "0", true},
		"late":    {Fault{Effect: Late, Delay: time.Millisecond}, "0\x00", true},
		"another": {Fault{Effect: Refuse, Dest: "vault"}, "0\x00", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := testSystem(t, R43)
			c.fault.Method = "admin.vm.tag.Set"
			c.fault.Times = 1
			defer s.Inject(c.fault)()
			if got := raw(t, s.Socket(), request); got != c.want {
				t.Errorf("answered with %q", got)
			}
			if done := strings.Contains(s.Must(t, "admin.vm.tag.List", "", "work", ""), "new\n"); done != c.done {
				t.Errorf("done: %v", done)
			}
			if got := s.Changes(); len(got) != 1 || got[0].String() != "admin.vm.tag.Set+new of work" {
				t.Errorf("the calls are %v", got)
			}
			if name == "another" {
				return
			}
			if got := raw(t, s.Socket(), request); got != "0\x00" {
				t.Errorf("the second time: %q", got)
			}
		})
	}
}

// TestHang: it lasts until the fault is taken back; an aborted connection is
// a reset.
func TestHang(t *testing.T) {
	s := testSystem(t, R43)
	remove := s.Inject(Fault{Method: "admin.vm.List", Effect: Hang})
	conn, err := net.Dial("unix", s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "admin.vm.List dom0 name dom0\x00")
	conn.(*net.UnixConn).CloseWrite()
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 10)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("%d bytes, %v", n, err)
	}
	remove()
	conn.SetReadDeadline(time.Time{})
	if n, err := conn.Read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Errorf("after the fault: %d bytes, %v", n, err)
	}
	if got := raw(t, s.Socket(), "admin.vm.List dom0 name dom0\x00"); !strings.HasPrefix(got, "0\x00dom0 ") {
		t.Errorf("and then %q", got)
	}
}
