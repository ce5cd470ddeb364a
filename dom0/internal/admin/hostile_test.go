package admin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/e2e/qubesd"
)

// TestBadNames: a name can't make another call of a call. Nothing of it
// reaches qubesd.
func TestBadNames(t *testing.T) {
	s, c := system(t, qubesd.R43)
	ctx := t.Context()
	for _, bad := range []string{
		"", " ", "x+y dom0", "work dom0", "work name dom0", "work\x00", "work\x00payload", "work\n", "-work", "1work", "wörk", "a/b", "../x",
		"uuid:806789a9", "work\tx", strings.Repeat("x", 300), "\xff",
	} {
		for name, call := range map[string]func() error{
			"state":      func() error { _, err := c.State(ctx, bad); return err },
			"property":   func() error { _, err := c.Property(ctx, bad, "netvm"); return err },
			"remove":     func() error { return c.Remove(ctx, bad) },
			"template":   func() error { return createAs(c, "AppVM", bad, "new", "red", "") },
			"new name":   func() error { return createAs(c, "AppVM", "debian-13-xfce", bad, "red", "") },
			"backend":    func() error { return c.Assign(ctx, "work", "pci", admin.Assignment{Backend: bad, Port: "1"}) },
			"both parts": func() error { return c.SetTag(ctx, bad, bad) },
		} {
			if bad == "" && name == "template" {
				continue // none
			}
			if err := call(); !errors.Is(err, admin.ErrBadName) {
				t.Errorf("%s %q: %v", name, bad, err)
			}
		}
	}
	for _, bad := range []string{"", "a b", "a+b", "a\x00b", "a\nb", "é", strings.Repeat("x", 256), "a:b", "a=b", "a/b"} {
		for name, call := range map[string]func() error{
			"property":     func() error { _, err := c.Property(ctx, "work", bad); return err },
			"set property": func() error { return c.SetProperty(ctx, "work", bad, "x") },
			"feature":      func() error { return c.SetFeature(ctx, "work", bad, "x") },
			"tag":          func() error { return c.SetTag(ctx, "work", bad) },
			"no tag":       func() error { return c.RemoveTag(ctx, "work", bad) },
			"label":        func() error { return c.CreateLabel(ctx, bad, "0x000000") },
			"color":        func() error { return c.CreateLabel(ctx, "pink", bad) },
			"volume":       func() error { return c.Resize(ctx, "work", bad, 1) },
			"import":       func() error { _, err := c.ImportBegin(ctx, "work", bad, 1); return err },
			"end":          func() error { return c.ImportEnd(ctx, "work", bad, "") },
			"pool":         func() error { _, err := c.Pool(ctx, bad); return err },
			"class":        func() error { return createAs(c, bad, "", "new", "red", "") },
			"new label":    func() error { return createAs(c, "AppVM", "", "new", bad, "") },
			"new pool": func() error {
				if bad == "" {
					return admin.ErrBadName // none
				}
				return createAs(c, "AppVM", "", "new", "red", bad)
			},
			"device class": func() error { _, err := c.Assigned(ctx, "work", bad); return err },
			"port": func() error {
				if bad == "a=b" || bad == "a/b" {
					return admin.ErrBadName // fine for a port
				}
				return c.Assign(ctx, "work", "pci", admin.Assignment{Backend: "dom0", Port: bad})
			},
			"mode": func() error {
				return c.Assign(ctx, "work", "pci", admin.Assignment{Backend: "dom0", Port: "1", Mode: "x" + bad})
			},
			"rule": func() error {
				if !strings.ContainsAny(bad, "\n\x00") && bad != "" {
					return admin.ErrBadName // qubesd's to judge
				}
				return c.SetFirewall(ctx, "work", []string{bad})
			},
		} {
			if err := call(); !errors.Is(err, admin.ErrBadName) {
				t.Errorf("%s %q: %v", name, bad, err)
			}
		}
	}
	for _, value := range []string{"x='y'", `x\'`, `x\`, "é", "a\nb", "' _other='x"} {
		a := admin.Assignment{Backend: "dom0", Port: "1", Options: []admin.Option{{Name: "o", Value: value}}}
		if err := c.Assign(ctx, "work", "pci", a); err == nil {
			t.Errorf("the option %q is accepted", value)
		}
	}
	for _, call := range s.Calls() {
		t.Errorf("it was asked %v", call)
	}
}

func createAs(c *admin.Client, class, template, name, label, pool string) error {
	return c.Create(context.Background(), admin.CreateRequest{Class: class, Template: template, Name: name, Label: label, Pool: pool})
}

// TestTooLarge: a request that qubesd wouldn't read isn't sent; the largest
// that it reads is.
func TestTooLarge(t *testing.T) {
	s, c := system(t, qubesd.R43)
	line := len("admin.vm.notes.Set+ dom0 name work\x00")
	if err := c.SetNotes(t.Context(), "work", strings.Repeat("x", 65536-line)); err != nil {
		t.Errorf("the largest: %v", err)
	}
	if err := c.SetNotes(t.Context(), "work", strings.Repeat("x", 65536-line+1)); !errors.Is(err, admin.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if n := len(s.Calls()); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// TestFaults: whatever qubesd does, a call ends with an error that says what
// it was.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault qubesd.Fault
		want  error
	}{
		"empty":               {qubesd.Fault{Effect: qubesd.Refuse}, admin.ErrRefused},
		"reset":               {qubesd.Fault{Effect: qubesd.Abort}, admin.ErrUnreachable},
		"one byte":            {qubesd.Fault{Effect: qubesd.Cut, N: 1}, admin.ErrUnreachable},
		"in a line":           {qubesd.Fault{Effect: qubesd.Cut, N: 40}, admin.ErrUnreachable},
		"in an exception":     {qubesd.Fault{Effect: qubesd.Garbage, Bytes: []byte("2\x00QubesException\x00\x00no")}, admin.ErrUnreachable},
		"half an exception":   {qubesd.Fault{Effect: qubesd.Garbage, Bytes: []byte("2\x00QubesException")}, admin.ErrUnreachable},
		"no exception's name": {qubesd.Fault{Effect: qubesd.Garbage, Bytes: []byte("2\x00\x00\x00no\x00")}, admin.ErrAnswer},
		"an event":            {qubesd.Fault{Effect: qubesd.Garbage, Bytes: []byte("1\x00work\x00domain-start\x00\x00")}, admin.ErrAnswer},
		"noise":               {qubesd.Fault{Effect: qubesd.Garbage, Bytes: []byte("\xff\xfe\x1b[2J")}, admin.ErrAnswer},
		"no list":             {qubesd.Fault{Effect: qubesd.Garbage, Bytes: []byte("0\x00work\n")}, admin.ErrAnswer},
		"a name with escapes": {qubesd.Fault{Effect: qubesd.Garbage, Bytes: []byte("0\x00wo\x1brk class=AppVM state=Halted\n")}, admin.ErrAnswer},
		"five megabytes":      {qubesd.Fault{Effect: qubesd.Garbage, Bytes: append([]byte("0\x00"), bytes.Repeat([]byte("x\n"), 5<<19)...)}, admin.ErrAnswer},
		"a million lines":     {qubesd.Fault{Effect: qubesd.Garbage, Bytes: append([]byte("0\x00"), bytes.Repeat([]byte("x\n"), 1<<20)...)}, admin.ErrAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := system(t, qubesd.R43)
			c.fault.Method = "admin.vm.List"
			s.Inject(c.fault)
			_, err := client.List(t.Context())
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if text := err.Error(); strings.ContainsAny(text, "\n\x1b\xff") || len(text) > 300 {
				t.Errorf("the error is %q", text)
			}
		})
	}
}

// TestHang: a daemon that says nothing is given up on, and at once when the
// context ends.
func TestHang(t *testing.T) {
	s, _ := system(t, qubesd.R43)
	defer s.Inject(qubesd.Fault{Effect: qubesd.Hang})()
	quick := client(s, 50*time.Millisecond)
	if _, err := quick.List(t.Context()); !errors.Is(err, admin.ErrUnreachable) {
		t.Errorf("a time-out: %v", err)
	}
	slow := client(s, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	begin := time.Now()
	if err := slow.Start(ctx, "work"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if d := time.Since(begin); d > time.Minute {
		t.Errorf("that took %v", d)
	}
	if _, err := slow.List(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("begun after the end: %v", err)
	}
}

// TestLong: a start may take longer than an ordinary call.
func TestLong(t *testing.T) {
	s, _ := system(t, qubesd.R43)
	defer s.Inject(qubesd.Fault{Method: "admin.vm.Start", Effect: qubesd.Late, Delay: 600 * time.Millisecond})()
	c := client(s, 500*time.Millisecond)
	if err := c.Start(t.Context(), "vault"); err != nil {
		t.Error(err)
	}
}

// TestVanish: what goes away between a list and a look at it is left out, a
// qube that goes away is "not found".
func TestVanish(t *testing.T) {
	s, c := system(t, qubesd.R43)
	s.Inject(qubesd.Fault{Method: "admin.vm.feature.Get", Arg: "internal", Effect: qubesd.Raise, Type: "QubesFeatureNotFoundError"})
	if got, err := c.Features(t.Context(), "work"); err != nil || len(got) != 2 {
		t.Errorf("%q, %v", got, err)
	}
	s.Inject(qubesd.Fault{Method: "admin.vm.feature.Get", Effect: qubesd.Raise, Type: "QubesVMNotFoundError", Message: "No such\ndomain \x1b[2J"})
	_, err := c.Features(t.Context(), "work")
	if !errors.Is(err, admin.ErrNotFound) || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("got %v", err)
	}
}

// TestManyFeatures: no call is made for each of more features than anybody
// could keep.
func TestManyFeatures(t *testing.T) {
	s, c := system(t, qubesd.R43)
	names := "0\x00"
	for i := range 10_001 {
		names += fmt.Sprintf("f%d\n", i)
	}
	s.Inject(qubesd.Fault{Method: "admin.vm.feature.List", Effect: qubesd.Garbage, Bytes: []byte(names)})
	s.ForgetCalls()
	if got, err := c.Features(t.Context(), "work"); err == nil || !strings.Contains(err.Error(), "no more than 10000") || len(s.Calls()) != 1 {
		t.Errorf("%d features, %v, %d calls", len(got), err, len(s.Calls()))
	}
}
