package e2e

import (
	"strings"
	"testing"

	"pinion/e2e/qubesd"
)

// A command has the storage qube started, or woken, before it calls it, and
// leaves one alone that runs; where that can't be, no call is made and the
// error says why.
func TestQrexecStartsTheQube(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	s.stop()
	api := qubesd.Start(t, qubesd.Options{Load: sample("4.3"), Dir: t.TempDir(), RunDir: w.path("qubes")})
	w.env = append(w.env, api.Env()...)
	v := w.image("v", "random:1M:1")

	w.ok("init").says("starting qube storage")
	if state := api.State("storage"); state != "Running" {
		t.Errorf("the qube is %s", state)
	}
	if r := w.ok("backup", "file:"+v); strings.Contains(r.stderr, "qube storage") {
		t.Errorf("%s\nsays something of a qube that runs", r)
	}
	for _, c := range api.Calls() {
		if c.Dest == "storage" && c.Changes() && c.Method != "admin.vm.Start" {
			t.Errorf("it called %s", c)
		}
	}
	if err := api.PauseQube("storage"); err != nil {
		t.Fatal(err)
	}
	w.ok("verify").says("qube storage is paused: it is woken up")

	if err := api.StopQube("storage"); err != nil {
		t.Fatal(err)
	}
	s.script("touch " + w.path("called"))
	remove := api.Inject(qubesd.Fault{Method: "admin.vm.Start", Dest: "storage", Effect: qubesd.Raise, Type: "QubesMemoryError", Message: "Not enough memory to start domain"})
	w.exits(1, "list").says("open qubes:storage/laptop: start the qube", "Not enough memory", "start storage by hand")
	remove()
	w.exits(1, "list", "--dest", "qubes:nosuch/laptop").says("there is no qube nosuch", "qvm-ls")
	if exists(w.path("called")) {
		t.Error("a call was made")
	}
	s.install()
	w.restores("v", "latest", v)
	w.noProcesses()
}
