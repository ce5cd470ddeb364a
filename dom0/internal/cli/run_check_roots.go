package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/ui"
	"pinion/protocol"
)

// maxListedRoots bounds the roots that are shown: a program that reads the document may hold so many. More are counted.
const maxListedRoots = 100_000

// rootsJSON is the document of "pinion check --roots --json".
type rootsJSON struct {
	Roots     []rootJSON `json:"roots"` // the newest first
	MoreRoots int        `json:"more_roots"`
}

// rootJSON is a root that the store has. Of one that doesn't open nothing is known but its name.
type rootJSON struct {
	Name       string `json:"name"` // root, or root.<n>
	State      string `json:"state"`
	Reason     string `json:"reason"` // why it doesn't open
	Generation uint64 `json:"generation"`
	Time       string `json:"time"`
	Host       string `json:"host"`
	Sessions   uint32 `json:"sessions"`
	Branch     string `json:"branch"`
	Seen       bool   `json:"seen"`   // the last that this host saw of its branch
	Pruned     bool   `json:"pruned"` // something was pruned after it
}

// The states of a root.
const (
	rootOpens   = "opens"
	rootDamaged = "damaged"
	rootForeign = "of another archive"
	rootNewer   = "of a newer version"
)

// keptRoot is the value of --root: the number of a replaced root; 0 if it wasn't given.
type keptRoot uint64

// maxRootDigits is what a root's number has at most, in the protocol.
const maxRootDigits = 10

// UnmarshalFlag reads N or root.N.
func (k *keptRoot) UnmarshalFlag(word string) error {
	digits := strings.TrimPrefix(word, protocol.RootName+".")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n == 0 || len(digits) > maxRootDigits || digits[0] < '1' || digits[0] > '9' {
		return flagError("--root %q: it takes the number N of a root.N that check --roots lists", word)
	}
	*k = keptRoot(n)
	return nil
}

// rootOption is embedded in commands that can read an archive as it was.
type rootOption struct {
	Root keptRoot `long:"root" value-name:"N" no-ini:"true" description:"read the archive as of root.N, one of those that check --roots lists"`
}

// older reports that the archive is read as it was: this host then remembers nothing of what it finds.
func (o *rootOption) older() bool { return o.Root > 0 }

// explain says of damage what it may mean where an older root was asked for.
func (o *rootOption) explain(err error) error {
	if status, _ := statusOf(err); !o.older() || status != exit.Damaged {
		return err
	}
	var damage *archive.DamageError
	errors.As(err, &damage)
	if damage != nil && damage.Object == archive.KeptName(uint64(o.Root)) {
		return exit.With(exit.Damaged, err, "pinion check --roots lists the roots that open")
	}
	if damage != nil && damage.Object == protocol.RootName {
		return err // there is no root that opens: nothing to do with a prune
	}
	return exit.With(exit.Damaged, err, "what was pruned after that root may be gone; without --root the archive is read as it is now")
}

// openAsOf opens the archive for reading: as it is, or as of an older root.
func (e *Env) openAsOf(ctx context.Context, n keptRoot) (*archive.Archive, error) {
	if n == 0 {
		return e.open(ctx, protocol.LockRead)
	}
	opts, err := e.archiveOptions(protocol.LockRead)
	if err != nil {
		return nil, err
	}
	a, err := archive.OpenKept(ctx, e.Dest, opts, uint64(n))
	if errors.Is(err, archive.ErrNoRoot) {
		return nil, exit.With(exit.Failed, err, "pinion check --roots lists those that are there")
	}
	if err != nil {
		return nil, err
	}
	r := a.Root()
	name, newest := a.AsOf()
	e.UI.Notice("reading %s: generation %d, written %s by host %q; the newest that opens is %d",
		name, r.Generation, e.showTime(r.Written), r.Host, newest)
	if err := a.LoadIndex(ctx); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// rootsHint is what to do where the current root isn't the one that it should be.
const rootsHint = "pinion list --root N shows what was there as of root.N; see \"What to do when\" in docs/operation.md"

// runRoots lists the roots that a store has.
func runRoots(ctx context.Context, env *Env) error {
	opts, err := env.archiveOptions(protocol.LockRead)
	if err != nil {
		return err
	}
	m := &meter{ui: env.UI}
	defer m.stop()
	l := &rootList{env: env, doc: rootsJSON{Roots: []rootJSON{}}}
	verdict, err := archive.Roots(ctx, env.Dest, opts,
		func(n int) { m.begin("reading "+count(n, "root"), 0) },
		func(info archive.RootInfo) error {
			l.enter(info)
			return nil
		})
	if err != nil {
		return err
	}
	m.done()
	l.markPruned()
	l.print()
	if err := env.UI.Result(l.doc); err != nil {
		return err
	}
	status, _ := statusOf(verdict)
	switch status {
	case exit.Damaged, exit.RolledBack:
		return exit.With(status, verdict, rootsHint)
	}
	return verdict
}

// rootList collects what is shown.
type rootList struct {
	env      *Env
	doc      rootsJSON
	prunedAt uint64 // of the newest that opens
	opened   bool
}

func (l *rootList) enter(info archive.RootInfo) {
	if info.Root != nil && !l.opened {
		l.prunedAt, l.opened = info.Root.PrunedAt, true
	}
	if len(l.doc.Roots) == maxListedRoots {
		l.doc.MoreRoots++
		return
	}
	r := rootJSON{Name: info.Name, State: rootOpens, Seen: info.Seen}
	switch {
	case info.Root != nil:
		r.Generation, r.Time, r.Host = info.Root.Generation, jsonTime(info.Root.Written), info.Root.Host
		r.Sessions, r.Branch = info.Root.Sessions, info.Root.Branch.String()
	case errors.Is(info.Err, format.ErrNewer):
		r.State, r.Reason = rootNewer, info.Err.Error()
	case info.Foreign:
		r.State, r.Reason = rootForeign, info.Err.Error()
	default:
		r.State, r.Reason = rootDamaged, info.Err.Error()
	}
	l.doc.Roots = append(l.doc.Roots, r)
}

// markPruned marks the roots from before the last prune: what they lead to may be gone.
func (l *rootList) markPruned() {
	for i := range l.doc.Roots {
		r := &l.doc.Roots[i]
		r.Pruned = r.State == rootOpens && r.Generation < l.prunedAt
	}
}

func (l *rootList) print() {
	var rows [][]string
	branch := ""
	for _, r := range l.doc.Roots {
		if r.State != rootOpens {
			rows = append(rows, []string{r.Name, "-", "-", "-", "-", "-", r.State})
			continue
		}
		shown := short(r.Branch)
		if shown == branch {
			shown = "same"
		}
		branch = short(r.Branch)
		rows = append(rows, []string{
			r.Name, strconv.FormatUint(r.Generation, 10), l.env.showRFC(r.Time), strconv.FormatUint(uint64(r.Sessions), 10),
			shown, ui.Quote(r.Host), r.remark(),
		})
	}
	l.env.UI.Table([]string{"ROOT", "GEN.", "WRITTEN", "SESSIONS", "BRANCH", "HOST", ""}, rows)
	if l.doc.MoreRoots > 0 {
		l.env.UI.Printf("and %s more", fmt.Sprint(l.doc.MoreRoots))
	}
}

// remark is what else there is to say of a root that opens.
func (r *rootJSON) remark() string {
	switch {
	case r.Seen:
		return "seen"
	case r.Pruned:
		return "pruned"
	}
	return ""
}
