package recreate_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/exit"
	. "pinion/dom0/internal/recreate"
	"pinion/e2e/qubesd"
)

// records are the files of a journal, with their texts.
func (w *world) records() map[string]string {
	w.t.Helper()
	paths, err := filepath.Glob(filepath.Join(w.dir, "*.json"))
	w.must(err)
	files := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		w.must(err)
		files[path] = string(text)
	}
	return files
}

// putRecords makes a journal what it was.
func (w *world) putRecords(files map[string]string) {
	w.t.Helper()
	for path := range w.records() {
		w.must(os.Remove(path))
	}
	for path, text := range files {
		w.must(os.WriteFile(path, []byte(text), 0o600))
	}
}

// TestJournalIsHeldAlone: who restores is alone; another is told so, or waits.
func TestJournalIsHeldAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "restores")
	first, err := OpenJournal(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = OpenJournal(t.Context(), dir, nil)
	if e, ok := exit.Of(err); !ok || e.Status != exit.Locked || e.Hint == "" {
		t.Errorf("a second: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := OpenJournal(ctx, dir, func() {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the wait ended with %v", err)
	}
	waits := 0
	second, err := OpenJournal(t.Context(), dir, func() {
		waits++
		first.Close()
	})
	if err != nil || waits != 1 {
		t.Fatalf("%d waits, %v", waits, err)
	}
	second.Close()
}

// TestGarbledRecord: a record that can't be read is an error that names it, and nothing is touched.
func TestGarbledRecord(t *testing.T) {
	w, b := small(t, qubesd.R43)
	w.interrupt(b.only("a-work"), Options{}, 1)
	files := w.records()
	if len(files) != 1 {
		t.Fatalf("the records are %v", files)
	}
	for path, text := range files {
		other := filepath.Join(w.dir, "0123456789abcdef0123456789abcdef.json")
		for name, c := range map[string]struct{ path, text, want string }{
			"empty":        {path, "", "garbled"},
			"cut":          {path, text[:len(text)/2], "garbled"},
			"other":        {path, "[1, 2]", "garbled"},
			"newer":        {path, strings.Replace(text, `"version": 1`, `"version": 2`, 1), "version 2"},
			"no version":   {path, "{}", "version 0"},
			"another name": {path, strings.Replace(text, "a-work", "b-work", 1), "another qube"},
			"no name":      {path, strings.Replace(text, "a-work", "../work", 1), "no qube"},
			"no class":     {path, strings.Replace(text, "AppVM", "", 1), "no qube"},
			"volumes":      {path, strings.Replace(text, `"begun": null`, `"begun": ["a b"]`, 1), "without a name"},
			"long":         {path, text + strings.Repeat(" ", 64<<10), "too long"},
			"elsewhere":    {other, text, "another qube"},
		} {
			w.putRecords(files)
			w.must(os.WriteFile(c.path, []byte(c.text), 0o600))
			w.s.ForgetCalls()
			_, err := Look(t.Context(), w.api, w.journal)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) || len(w.s.Changes()) > 0 {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestRecordsGo: a qube that is whole or untouched has no record, nor has one that is gone.
func TestRecordsGo(t *testing.T) {
	w, b := small(t, qubesd.R43)
	one := b.only("a-work")
	whole(t, w.restore(one, Options{}))
	if files := w.records(); len(files) > 0 {
		t.Errorf("whole: %v", files)
	}
	p := w.plan(w.api, one, Options{})
	r := p.Run(t.Context(), Hooks{Write: func(context.Context, *Step, string, admin.Import) error { return errors.New("no") }})[0]
	if files := w.records(); len(files) > 0 || r.Err == nil || r.Unfinished {
		t.Errorf("untouched: %v, %+v", files, r)
	}
	w.interrupt(one, Options{}, 1)
	if files := w.records(); len(files) != 1 {
		t.Errorf("unfinished: %v", files)
	}
	w.must(w.api.Remove(t.Context(), "a-work"))
	w.plan(w.api, one, Options{})
	if files := w.records(); len(files) > 0 {
		t.Errorf("gone: %v", files)
	}
}

// TestMarkTakenAway: a qube of which somebody has taken the mark is theirs, and no restore goes on with it by itself.
func TestMarkTakenAway(t *testing.T) {
	for _, gone := range []bool{false, true} {
		w, b := small(t, qubesd.R43)
		one := b.only("a-work")
		if gone {
			w.must(w.api.Remove(t.Context(), "a-work"))
		}
		w.interrupt(one, Options{}, 3)
		w.must(w.api.RemoveTag(t.Context(), "a-work", Tag))
		if s := w.plan(w.api, one, Options{}).Steps[0]; !s.InPlace || s.Continued || s.Foreign {
			t.Errorf("%+v", s)
		}
	}
}

// TestForeignMark: the mark of another program stays where nothing was changed, and goes with a restore that is whole.
func TestForeignMark(t *testing.T) {
	w, b := small(t, qubesd.R43)
	one := b.only("a-work")
	w.must(w.api.SetTag(t.Context(), "a-work", Tag))
	p := w.plan(w.api, one, Options{})
	r := p.Run(t.Context(), Hooks{Write: func(context.Context, *Step, string, admin.Import) error { return errors.New("no") }})[0]
	if !p.Steps[0].Foreign || !r.Unfinished || r.Err == nil || len(w.records()) > 0 || !strings.Contains(w.describe("a-work"), Tag) {
		t.Errorf("it is %+v, %s", r, w.describe("a-work"))
	}
	whole(t, w.restore(one, Options{}))
}

// TestGoesOn: a volume that is there already is not imported again; of another session it is, and what the qube held before
// the first attempt stays among its revisions.
func TestGoesOn(t *testing.T) {
	for _, session := range []string{"1", "2"} {
		w, b := small(t, qubesd.R43)
		one := b.only("a-work")
		w.must(w.api.SetRevisions(t.Context(), "a-work", "private", 1))
		w.must(w.s.Fill("a-work", "private", 0, []byte("mine")))
		// The mark, the import, its end; and the first setting is not made.
		if r := w.interrupt(one, Options{}, 3)[0]; !r.Unfinished || r.Volumes[0].Outcome != Done {
			t.Fatalf("%+v", r)
		}
		one.wanted[0].From.Session = session
		w.s.ForgetCalls()
		p := w.plan(w.api, one, Options{SkipConflicting: true})
		if holds := p.Steps[0].Holds("private"); holds != (session == "1") {
			t.Errorf("holds %v", holds)
		}
		results := p.Run(t.Context(), one.hooks())
		whole(t, results)
		imported := slices.ContainsFunc(w.s.Changes(), func(c qubesd.Call) bool { return strings.HasSuffix(c.Method, "ImportBegin") })
		if imported != (session == "2") || len(results[0].Step.Notes) == 0 {
			t.Errorf("session %s: imported again %v, notes %q", session, imported, results[0].Step.Notes)
		}
		kept := false
		paths, err := filepath.Glob(filepath.Dir(w.s.Committed("a-work", "private")) + "/private*")
		w.must(err)
		for _, path := range paths {
			data, err := os.ReadFile(path)
			w.must(err)
			kept = kept || strings.HasPrefix(string(data), "mine")
		}
		if !kept {
			t.Errorf("session %s: what it held is not in %q", session, paths)
		}
	}
}

// TestLostEnd: an import of whose end there is no answer counts as done, whatever is said when it is to be discarded.
func TestLostEnd(t *testing.T) {
	for _, effect := range []qubesd.Fault{{Effect: qubesd.Cut}, {Effect: qubesd.Cut, N: 1}, {Effect: qubesd.Abort}, {Effect: qubesd.Refuse}} {
		w, b := small(t, qubesd.R43)
		effect.Method, effect.Times = "internal.vm.volume.ImportEnd", 1
		undo := w.s.Inject(effect)
		r := w.restore(b.only("a-work"), Options{})[0]
		undo()
		if r.Err == nil || !r.Unfinished || !strings.Contains(w.describe("a-work"), Tag) {
			t.Errorf("%+v: %+v", effect, r)
		}
		whole(t, w.restore(b.only("a-work"), Options{SkipConflicting: true}))
	}
}

// TestKilledAroundTheJournal: the journal as it was before a call, and qubesd as it is after it, and both before it: the same
// command, whether it skips what is there or not, ends with qubes that are whole.
func TestKilledAroundTheJournal(t *testing.T) {
	_, b := small(t, qubesd.R43)
	b = b.only("fedora", "a-work")
	clean := newWorld(t, qubesd.Options{})
	clean.s.ForgetCalls()
	clean.restore(b, Options{})
	calls := clean.s.Changes()
	for n := range calls {
		// Of settings, which are all alike to the journal, one is enough.
		if n > 0 && n+1 < len(calls) && calls[n].Method == calls[n-1].Method && calls[n].Dest == calls[n-1].Dest && calls[n].Method == calls[n+1].Method {
			continue
		}
		for _, skip := range []bool{false, true} {
			t.Run(fmt.Sprintf("%02d %s skip=%v", n, calls[n], skip), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, qubesd.Options{})
				o := Options{SkipConflicting: skip}
				k := newKiller(t, w.s, -1)
				count, noted := 0, map[string]string{}
				k.before = func(method string) {
					name, _, _ := strings.Cut(method, "+")
					if !(qubesd.Call{Method: name}).Changes() {
						return
					}
					if count == n {
						noted = w.records()
						k.mu.Lock()
						k.left = 0 // this one is done, and nothing after it
						k.mu.Unlock()
					}
					count++
				}
				w.plan(k.client(), b, o).Run(t.Context(), b.hooks())
				w.putRecords(noted)
				for _, r := range w.restore(b, o) {
					if r.Err != nil || r.Unfinished {
						t.Errorf("%s: %+v", r.Step.Name, r)
					}
				}
				for _, name := range []string{"fedora", "a-work"} {
					if strings.Contains(w.describe(name), Tag) {
						t.Errorf("%s is marked", name)
					}
					data, err := os.ReadFile(w.s.Committed(name, "private"))
					w.must(err)
					if string(data) != string(b.data[name+":private"]) {
						t.Errorf("%s has other data", name)
					}
				}
			})
		}
	}
}
