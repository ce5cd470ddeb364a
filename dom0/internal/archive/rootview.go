package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pinion/dom0/internal/format"
	"pinion/dom0/internal/state"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// ErrNoRoot says that the store has no such root.
var ErrNoRoot = errors.New("the store has no such root")

// ErrSeveral says that a generation means several roots.
var ErrSeveral = errors.New("there are several roots of that generation")

// A RootSpec names a root: by its generation, or in full where two have it.
type RootSpec struct {
	Generation uint64
	Name       string // empty: the generation alone
}

// ParseRootSpec reads a generation, or the name of a root as check --roots shows it.
func ParseRootSpec(word string) (*RootSpec, error) {
	if n, ok := protocol.ParseHead(word); ok {
		return &RootSpec{n, word}, nil
	}
	for _, name := range []string{word, protocol.PrefixRoots + word} {
		if n, _, ok := protocol.ParseRootName(name); ok {
			return &RootSpec{n, name}, nil
		}
	}
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil || n == 0 || n > protocol.MaxGeneration || strings.HasPrefix(word, "+") {
		return nil, fmt.Errorf("%q is not the generation of a root, nor a root's name", word)
	}
	return &RootSpec{Generation: n}, nil
}

// String is what ParseRootSpec reads.
func (s *RootSpec) String() string {
	if s.Name != "" {
		return s.Name
	}
	return strconv.FormatUint(s.Generation, 10)
}

// A RootInfo is a root that the store has: one object, which may be there twice.
type RootInfo struct {
	Names   []string     // in head/ and roots/
	Root    *format.Root // nil: it doesn't open, and Err says why
	Foreign bool         // it says that it is of another archive
	Seen    bool         // it is the last one that this host saw of its branch
	Err     error        // a DamageError
}

// openRoots opens the store for reading and gets the archive's keys from any of
// its roots. Nothing is taken for the archive's state, and nothing is remembered.
func openRoots(ctx context.Context, dest store.Destination, opts Options) (_ *Archive, _ *roots, err error) {
	a := newArchive(dest, opts)
	a.opts.Lock, a.opts.Remember = protocol.LockRead, nil
	if err := a.connect(ctx); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	before, err := a.recall()
	if err != nil {
		return nil, nil, err
	}
	r := newRoots(a.conn)
	if err := r.prefetch(ctx); err != nil {
		return nil, nil, err
	}
	if len(r.names) == 0 {
		return nil, nil, a.missing(ctx)
	}
	if err := a.unlock(ctx, r, before.pinnedArchive()); err != nil {
		return nil, nil, rootError(err)
	}
	if err := a.lock(ctx); err != nil {
		return nil, nil, err
	}
	r, err = allRoots(ctx, a.conn)
	return a, r, err
}

// Roots gives every root that the store has to visit, the highest first, and
// returns what Open would have said of the newest: damage, that it is missing, that
// it doesn't follow the last one seen. begin gets their number. Nothing is changed,
// neither in the store nor in what this host remembers.
func Roots(ctx context.Context, dest store.Destination, opts Options, begin func(int), visit func(RootInfo) error) (verdict, err error) {
	a, r, err := openRoots(ctx, dest, opts)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	known, err := opts.State.Memory(a.keys.Archive)
	if err != nil {
		return nil, err
	}
	begin(len(r.names))
	for i := 0; i < len(r.names); {
		infos, next, err := a.look(ctx, r, i, known)
		if err != nil {
			return nil, err
		}
		for _, info := range infos {
			if err := visit(info); err != nil {
				return nil, err
			}
		}
		i = next
	}
	before, err := a.recall()
	if err != nil {
		return nil, err
	}
	r.read = map[string]*sealedRoot{}
	return a.choose(ctx, r, before), nil
}

// look reads the roots of the generation that the i-th name has. Those that are one
// object are one.
func (a *Archive) look(ctx context.Context, r *roots, i int, known *state.Memory) (infos []RootInfo, next int, err error) {
	at := map[[32]byte]int{}
	generation := r.names[i].Generation
	for next = i; next < len(r.names) && r.names[next].Generation == generation; next++ {
		n := r.names[next]
		s, err := readSealedRoot(ctx, r.conn, n)
		if err != nil && !isDamage(err) {
			return nil, 0, err
		}
		if err == nil {
			if j, ok := at[s.hash]; ok {
				infos[j].Names = append(infos[j].Names, n.Name)
				continue
			}
			at[s.hash] = len(infos)
		}
		info := RootInfo{Names: []string{n.Name}, Err: err}
		if err == nil {
			info.Root, info.Err = s.open(a.keys)
			info.Foreign = s.clear.Archive != a.keys.Archive
		}
		if info.Root != nil {
			info.Seen = known.Branches[info.Root.Branch.String()].RootHash == fmt.Sprintf("%x", s.hash)
		}
		infos = append(infos, info)
	}
	return infos, next, nil
}

// named finds the names that a spec means.
func (r *roots) named(spec *RootSpec) []RootName {
	var list []RootName
	for _, n := range r.names {
		if n.Generation == spec.Generation && (spec.Name == "" || spec.Name == n.Name) {
			list = append(list, n)
		}
	}
	return list
}

// rootsAsOf reads the roots that opts.AsOf means: what a secret is tried on, too.
func (a *Archive) rootsAsOf(ctx context.Context, r *roots) ([]*sealedRoot, error) {
	if err := r.listAll(ctx); err != nil {
		return nil, err
	}
	var list []*sealedRoot
	for _, n := range r.named(a.opts.AsOf) {
		s, err := r.get(ctx, n)
		if err != nil && !isDamage(err) {
			return nil, err
		}
		if err == nil {
			list = append(list, s)
		}
	}
	return list, nil
}

// OpenKept opens the archive as of opts.AsOf, one of the roots that the store has,
// to be read and no more: nothing is written to the store, and what this host
// remembers stays as it is. What is wrong with the newest root is no error here,
// but is told.
func OpenKept(ctx context.Context, dest store.Destination, opts Options) (_ *Archive, err error) {
	a, r, err := openRoots(ctx, dest, opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	before, err := a.recall()
	if err != nil {
		return nil, err
	}
	if err := a.isPinned(before); err != nil {
		return nil, err
	}
	if err := a.choose(ctx, r, before); err != nil {
		if a.root == nil || errors.Is(err, ErrWrongKey) {
			return nil, err
		}
		opts.Warn(err.Error())
	}
	chosen, err := a.keptRoot(ctx, r)
	if err != nil {
		return nil, err
	}
	a.kept = &kept{name: chosen.Name, newest: a.root}
	a.root, a.rootHash, a.sealed, a.fresh = chosen.root, chosen.hash, chosen.object, false
	return a, nil
}

// keptRoot is the root that opts.AsOf means, if it opens.
func (a *Archive) keptRoot(ctx context.Context, r *roots) (*candidate, error) {
	names := r.named(a.opts.AsOf)
	if len(names) == 0 {
		return nil, fmt.Errorf("root %s: %w", a.opts.AsOf, ErrNoRoot)
	}
	var found []*candidate
	var damage error
	for _, n := range names {
		c, err := r.try(ctx, a.keys, n)
		if err != nil {
			return nil, err
		}
		if c == nil {
			damage = r.bad[n.Name]
		} else if !slices.ContainsFunc(found, func(o *candidate) bool { return o.hash == c.hash }) {
			found = append(found, c)
		}
	}
	switch {
	case len(found) == 0:
		return nil, damage
	case len(found) > 1:
		return nil, fmt.Errorf("root %s: %w", a.opts.AsOf, ErrSeveral)
	}
	return found[0], nil
}

// OtherRoots lists what is wrong with the roots of the store beside the one that
// is used: objects that don't open, and the newest ones whose second copy is
// missing. What was damaged above the one that is used comes first.
func (a *Archive) OtherRoots(ctx context.Context) (bad []BadRoot, err error) {
	r, err := allRoots(ctx, a.conn)
	if err != nil {
		return nil, err
	}
	for _, n := range r.names {
		s, err := readSealedRoot(ctx, a.conn, n)
		if n.Head && errors.Is(err, errIsMissing) && n.Generation != a.root.Generation {
			continue // a writer came, and the store removed its old heads
		}
		if err != nil && !isDamage(err) {
			return nil, err
		}
		if err == nil {
			if s.clear.Archive == a.keys.Archive {
				_, err = s.open(a.keys)
			} else {
				err = &DamageError{Object: n.Name, Reason: errOtherArchive}
			}
		}
		if isDamage(err) {
			r.spoil(n.Name, err)
		} else if err != nil {
			return nil, err
		}
	}
	if a.rootless != nil {
		if len(r.failed) == 0 {
			r.failed = append(r.failed, BadRoot{Name: "root", Err: a.rootless.cause})
		}
		return r.failed, nil
	}
	if err := a.rivalry(); err != nil {
		for _, name := range a.rivals {
			r.spoil(name, &DamageError{Object: name, Reason: err})
		}
	}
	if !r.hasCopy(a.root.Generation, a.rootHash) {
		name := protocol.RootName(a.root.Generation, [16]byte(a.rootHash[:16]))
		_, err := readSealedRoot(ctx, a.conn, RootName{Name: name, Generation: a.root.Generation, Sum: [16]byte(a.rootHash[:16])})
		switch {
		case err == nil: // made since it was listed
		case errors.Is(err, errIsMissing):
			r.failed = append(r.failed, BadRoot{Name: name, Err: err, Unmade: true})
		case isDamage(err): // something else has its name
			r.failed = append(r.failed, BadRoot{Name: name, Err: err})
		default:
			return nil, err
		}
	}
	head := protocol.HeadName(a.root.Generation)
	if lost, err := a.lostHead(r, head); err != nil {
		return nil, err
	} else if lost {
		r.spoil(head, &DamageError{Object: head, Reason: errIsMissing})
	}
	return r.failed, nil
}

// lostHead reports whether the head of the newest root should be there and isn't.
// Who copies without the key makes none: a store without any is such a copy, unless
// this host wrote there, and so may be one that this host has copied to.
func (a *Archive) lostHead(r *roots, head string) (bool, error) {
	heads := false
	for _, n := range r.names {
		if n.Name == head {
			return false, nil
		}
		heads = heads || n.Head
	}
	_, isCopy, err := a.opts.State.Copy(a.dest.String())
	if err != nil || isCopy || heads {
		return heads && !isCopy, err
	}
	memory, err := a.opts.State.Memory(a.keys.Archive)
	if err != nil {
		return false, err
	}
	return memory.Branches[a.root.Branch.String()].Written == a.dest.String(), nil
}
