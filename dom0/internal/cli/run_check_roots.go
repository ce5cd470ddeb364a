package cli

import (
	"context"
	"errors"
	"slices"
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

// rootJSON is a root that the store has, in one object or in two that are alike. Of one that doesn't open nothing is known
// but its names.
type rootJSON struct {
	Names      []string `json:"names"` // in head/ and roots/
	State      string   `json:"state"`
	Reason     string   `json:"reason"`     // why it doesn't open
	Generation uint64   `json:"generation"` // as its names say
	Time       string   `json:"time"`
	Host       string   `json:"host"`
	Sessions   uint64   `json:"sessions"`
	Branch     string   `json:"branch"`
	Seen       bool     `json:"seen"`   // the last that this host saw of its branch
	Pruned     bool     `json:"pruned"` // something was pruned after it
}

// The states of a root.
const (
	rootOpens   = "opens"
	rootDamaged = "damaged"
	rootForeign = "of another archive"
	rootNewer   = "of a newer version"
)

// keptRoot is the value of --root: empty if it wasn't given.
type keptRoot string

// UnmarshalFlag reads a generation, or the name of a root.
func (k *keptRoot) UnmarshalFlag(word string) error {
	if _, err := archive.ParseRootSpec(word); err != nil {
		return flagError("--root: %v; check --roots lists them", err)
	}
	*k = keptRoot(word)
	return nil
}

// rootOption is embedded in commands that can read an archive as it was.
type rootOption struct {
	Root keptRoot `long:"root" value-name:"N" no-ini:"true" unquote:"false" description:"read the archive as of an older root: its generation, or its whole name, as check --roots lists them"`
}

// older reports that the archive is read as it was: this host then remembers nothing of what it finds.
func (o *rootOption) older() bool { return o.Root != "" }

// explain says of damage what it may mean where an older root was asked for.
func (o *rootOption) explain(err error) error {
	if status, _ := statusOf(err); !o.older() || status != exit.Damaged {
		return err
	}
	var root *archive.RootError
	var damage *archive.DamageError
	if errors.As(err, &root) {
		return err // there is no root that opens: nothing to do with a prune
	}
	if errors.As(err, &damage) && isRoot(damage.Object) {
		return exit.With(exit.Damaged, err, "pinion check --roots lists the roots that open")
	}
	return exit.With(exit.Damaged, err, "what was pruned after that root may be gone; without --root the archive is read as it is now")
}

// isRoot reports whether a name is that of a root.
func isRoot(name string) bool {
	_, ok := generationOf(name)
	return ok
}

// generationOf is the generation in the name of a root.
func generationOf(name string) (uint64, bool) {
	if n, ok := protocol.ParseHead(name); ok {
		return n, true
	}
	n, _, ok := protocol.ParseRootName(name)
	return n, ok
}

// openAsOf opens the archive for reading: as it is, or as of an older root.
func (e *Env) openAsOf(ctx context.Context, root keptRoot) (*archive.Archive, error) {
	if root == "" {
		return e.open(ctx, protocol.LockRead)
	}
	opts, err := e.archiveOptions(protocol.LockRead)
	if err != nil {
		return nil, err
	}
	if opts.AsOf, err = archive.ParseRootSpec(string(root)); err != nil {
		return nil, exit.Usagef("--root: %w", err)
	}
	a, err := archive.OpenKept(ctx, e.Dest, opts)
	if err != nil {
		return nil, e.nameForeign(e.keyError(err))
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
const rootsHint = "pinion list --root N shows what the archive had as of root N; see \"What to do when\" in docs/operation.md"

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
		return env.nameForeign(env.keyError(err))
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
	r := rootJSON{Names: info.Names, State: rootOpens, Seen: info.Seen}
	r.Generation, _ = generationOf(info.Names[0])
	switch {
	case info.Root != nil:
		r.Time, r.Host = jsonTime(info.Root.Written), info.Root.Host
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
		generation := strconv.FormatUint(r.Generation, 10)
		if r.State != rootOpens {
			rows = append(rows, []string{generation, "-", "-", "-", "-", r.copies(), r.State})
			continue
		}
		shown := short(r.Branch)
		if shown == branch {
			shown = "same"
		}
		branch = short(r.Branch)
		rows = append(rows, []string{
			generation, l.env.showRFC(r.Time), strconv.FormatUint(r.Sessions, 10), shown, ui.Quote(r.Host), r.copies(), r.remark(),
		})
	}
	l.env.UI.Table([]string{"GEN.", "WRITTEN", "SESSIONS", "BRANCH", "HOST", "COPIES", ""}, rows)
	if l.doc.MoreRoots > 0 {
		l.env.UI.Printf("and %d more", l.doc.MoreRoots)
	}
	for _, name := range l.ambiguous() {
		l.env.UI.Printf("--root %s", name)
	}
}

// ambiguous are the names of roots that their generation alone doesn't tell from others that open.
func (l *rootList) ambiguous() (names []string) {
	opening := map[uint64]int{}
	for _, r := range l.doc.Roots {
		if r.State == rootOpens {
			opening[r.Generation]++
		}
	}
	for _, r := range l.doc.Roots {
		if r.State == rootOpens && opening[r.Generation] > 1 {
			names = append(names, r.Names[0])
		}
	}
	return names
}

// copies says where the root is: "head", "kept" (in roots/), or both.
func (r *rootJSON) copies() string {
	var where []string
	for _, name := range r.Names {
		word := "kept"
		if _, ok := protocol.ParseHead(name); ok {
			word = "head"
		}
		if !slices.Contains(where, word) {
			where = append(where, word)
		}
	}
	slices.Sort(where)
	return strings.Join(where, ", ")
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
