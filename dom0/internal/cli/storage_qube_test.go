package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/store"
	"pinion/dom0/internal/ui"
)

// answeringQubesd listens where pinion looks for qubesd, and gives each method
// its answer, byte for byte; a method without one finds no such qube. It
// returns a function that lists the methods that were called.
func answeringQubesd(t *testing.T, answers map[string]string) (called func() []string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "qubesd.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("PINION_QUBESD_SOCKET", socket)
	var mu sync.Mutex
	var methods []string
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			request, _ := io.ReadAll(conn)
			header, _, _ := strings.Cut(string(request), "\x00")
			method, _, _ := strings.Cut(strings.Fields(header)[0], "+")
			mu.Lock()
			methods = append(methods, method)
			mu.Unlock()
			answer, ok := answers[method]
			if !ok {
				answer = "2\x00QubesVMNotFoundError\x00\x00No such domain\x00"
			}
			_, _ = io.WriteString(conn, answer)
			conn.Close()
		}
	}()
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(methods)
	}
}

func power(state string) string {
	return "0\x00mem=400000 mem_static_max=400000 cputime=100 power_state=" + state
}

// TestStartOfTheStorageQube: one that runs is left alone, a paused one is
// woken, any other is started, and what goes wrong says which qube and why.
func TestStartOfTheStorageQube(t *testing.T) {
	const done = "0\x00"
	for _, tt := range []struct {
		what    string
		answers map[string]string
		called  string
		failure string // part of the error; empty: none
		hint    string
	}{
		{"running", map[string]string{"admin.vm.CurrentState": power("Running")}, "admin.vm.CurrentState", "", ""},
		{"halted", map[string]string{"admin.vm.CurrentState": power("Halted"), "admin.vm.Start": done}, "admin.vm.CurrentState admin.vm.Start", "", ""},
		{"paused", map[string]string{"admin.vm.CurrentState": power("Paused"), "admin.vm.Unpause": done}, "admin.vm.CurrentState admin.vm.Unpause", "", ""},
		{"gone", nil, "admin.vm.CurrentState", "there is no qube storage", "qvm-ls"},
		{
			"no memory", map[string]string{"admin.vm.CurrentState": power("Halted"), "admin.vm.Start": "2\x00QubesMemoryError\x00\x00Not enough memory\x00"},
			"admin.vm.CurrentState admin.vm.Start", "Not enough memory", "start storage by hand",
		},
		{"refused", map[string]string{"admin.vm.CurrentState": ""}, "admin.vm.CurrentState", "qubesd", "start storage by hand"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			called := answeringQubesd(t, tt.answers)
			var errs bytes.Buffer
			env := &Env{UI: ui.New(ui.Options{Out: io.Discard, Err: &errs})}
			err := env.startQube(t.Context(), "storage")
			if got := strings.Join(called(), " "); got != tt.called {
				t.Errorf("it called %s", got)
			}
			if tt.failure == "" {
				if err != nil || tt.what != "running" != strings.Contains(errs.String(), "storage") {
					t.Errorf("%v, %q", err, &errs)
				}
				return
			}
			e, ok := exit.Of(err)
			if !ok || e.Status != exit.Failed || !strings.Contains(err.Error(), tt.failure) || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("error %v, %+v", err, e)
			}
		})
	}
	t.Setenv("PINION_QUBESD_SOCKET", filepath.Join(t.TempDir(), "none"))
	if err := (&Env{}).startQube(t.Context(), "storage"); err != nil {
		t.Errorf("without an Admin API: %v", err)
	}
}

// TestDestinationInAQube: the command line, the environment and the
// configuration take it, and refuse what isn't one; the helper of this machine
// isn't needed.
func TestDestinationInAQube(t *testing.T) {
	conf := "--config=" + alone(t, "[defaults]\ndest = vault\n[archive vault]\ndest = qubes:storage/laptop\n")
	const dest = "qubes:storage/laptop"
	for _, args := range [][]string{{"list", conf}, {"list", conf, "--dest=vault"}, {"list", conf, "--dest=" + dest}} {
		if _, _, env := prepared(t, args...); env.Dest.String() != dest || env.archives[dest] != "vault" {
			t.Errorf("%q: %s, %v", args, env.Dest, env.archives)
		}
	}
	t.Setenv("PATH", t.TempDir())
	t.Setenv("PINION_QREXEC_CLIENT", "/the/client")
	_, _, env := prepared(t, "list", conf)
	var said bytes.Buffer
	env.UI = ui.New(ui.Options{Out: io.Discard, Err: &said})
	o, err := env.storeOptions()
	if err != nil || o.QrexecClient != "/the/client" || o.Start == nil || o.Helper != "" {
		t.Errorf("%+v, %v", o, err)
	}
	if o.Stderr("disk on fire"); !strings.Contains(said.String(), "storage: disk on fire\n") {
		t.Errorf("it said %q", &said)
	}
	if status, _, errs := runMain("list", "--dest=qubes:storage/../x"); status != 2 || !strings.Contains(errs, "can't be the name of an archive") {
		t.Errorf("status %d, %q", status, errs)
	}
	bad := "--config=" + alone(t, "[archive vault]\ndest = qubes:dom0/laptop\n")
	if status, _, errs := runMain("list", bad, "--dest=vault"); status != 2 || !strings.Contains(errs, ":2: dest: ") {
		t.Errorf("status %d, %q", status, errs)
	}
}

// TestHintsOfQubes: the store's word on what to do reaches the person.
func TestHintsOfQubes(t *testing.T) {
	for _, kind := range []error{store.ErrGone, store.ErrTimeout, store.ErrProtocol, store.ErrVersion} {
		err := fmt.Errorf("open: %w", &store.QubeError{Qube: "storage", Hint: "install it", Err: kind})
		if status, hint := statusOf(err); status != exit.Failed || hint != "install it" {
			t.Errorf("%v: %v, %q", kind, status, hint)
		}
	}
	err := &store.QubeError{Qube: "storage", Err: store.ErrGone}
	if status, hint := statusOf(err); status != exit.Failed || hint == "" {
		t.Errorf("without a hint of its own: %v, %q", status, hint)
	}
	if errors.Is(err, store.ErrTimeout) {
		t.Error("one kind is another")
	}
}
