package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"pinion/dom0/internal/crypt"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// Roots are never replaced: head/ and roots/ hold one object for each
// generation, and the highest that opens is the archive's state. What else is
// there, a store may have made up.

const (
	// maxBadHeads is how many objects of head/ that don't open are passed over
	// in search of one that does. Crashes leave one at a time.
	maxBadHeads = 64

	// maxBadRoots is the same for roots/. A copier without the key keeps what
	// looks like a root, up to 4,096 of them; once the key is known, one that
	// doesn't open costs its transfer alone.
	maxBadRoots = 8192

	// numberGap is how far above the highest root that opens a name may be and
	// still count when the next number is taken: a store can't use the numbers up.
	numberGap = 1 << 20
)

// A RootName is a root as the store names it.
type RootName struct {
	Name       string
	Generation uint64
	Sum        [16]byte // of a name in roots/: the first half of the SHA-256 of its bytes
	Head       bool     // it is in head/
}

// A sealedRoot is a root's object, its clear part read. Nothing of it is proven
// before it is opened.
type sealedRoot struct {
	RootName
	object []byte
	hash   [32]byte
	clear  *format.Clear
}

// A BadRoot is a root object that can't be had, or doesn't open.
type BadRoot struct {
	Name string
	Err  error // a DamageError
	// Unmade says that it is the second copy of the newest root, which isn't there:
	// a commit is under way, or its command was killed. The next writer makes it.
	Unmade bool
}

// roots are the roots of one store, as far as they were listed and read.
type roots struct {
	conn   *store.Conn
	names  []RootName // the highest first; of one generation those in roots/ first
	from   uint64     // roots/ was listed from that generation on
	whole  bool       // all of it was
	read   map[string]*sealedRoot
	clears map[string]*format.Clear // of those that were read, whether they open or not
	bad    map[string]error
	failed []BadRoot  // in the order in which they were met
	passed *candidate // by newest; nil: none
}

func newRoots(conn *store.Conn) *roots {
	return &roots{conn: conn, read: map[string]*sealedRoot{}, clears: map[string]*format.Clear{}, bad: map[string]error{}}
}

// again is the same roots before they are listed once more. What was read of them
// stays; what couldn't be is tried anew.
func (r *roots) again() *roots {
	next := newRoots(r.conn)
	maps.Copy(next.read, r.read)
	maps.Copy(next.clears, r.clears)
	return next
}

// listNew names the heads and what roots/ has from the highest of them on. That is
// all that is needed where the highest head opens. Where likely, a generation that
// may be that of the highest head, isn't above it, both are listed at once.
func (r *roots) listNew(ctx context.Context, likely uint64) error {
	if likely > 0 {
		heads, second, err := listBoth(ctx, r.conn, likely)
		if err != nil {
			return err
		}
		if len(heads) > 0 && slices.Max(heads) >= likely {
			r.name(heads, second)
			return nil
		}
		return r.listBeside(ctx, heads)
	}
	heads, err := listHeads(ctx, r.conn)
	if err != nil {
		return err
	}
	return r.listBeside(ctx, heads)
}

// listEvery names all roots.
func (r *roots) listEvery(ctx context.Context) error {
	heads, second, err := listBoth(ctx, r.conn, 0)
	if err != nil {
		return err
	}
	r.name(heads, nil)
	r.names = append(r.names, second...)
	r.whole = true
	r.sort()
	return nil
}

// listBeside is listNew where the heads are known.
func (r *roots) listBeside(ctx context.Context, heads []uint64) error {
	top := uint64(0)
	if len(heads) > 0 {
		top = slices.Max(heads)
	}
	second, err := listSecond(ctx, r.conn, top)
	if err == nil {
		r.name(heads, second)
	}
	return err
}

// name makes heads, and what second has from the highest of them on, the names.
func (r *roots) name(heads []uint64, second []RootName) {
	r.names, r.whole = r.names[:0], len(heads) == 0
	top := uint64(0)
	for _, n := range heads {
		r.names, top = append(r.names, RootName{Name: protocol.HeadName(n), Generation: n, Head: true}), max(top, n)
	}
	r.from = top
	for _, n := range second {
		if n.Generation >= top {
			r.names = append(r.names, n)
		}
	}
	r.sort()
}

// listAll names all roots.
func (r *roots) listAll(ctx context.Context) error {
	if r.whole {
		return nil
	}
	second, err := listSecond(ctx, r.conn, 0)
	if err != nil {
		return err
	}
	r.names = append(slices.DeleteFunc(r.names, func(n RootName) bool { return !n.Head }), second...)
	r.whole = true
	r.sort()
	return nil
}

// sort puts the highest first; of one generation those in roots/.
func (r *roots) sort() {
	slices.SortStableFunc(r.names, func(x, y RootName) int {
		switch {
		case x.Generation > y.Generation, x.Generation == y.Generation && !x.Head && y.Head:
			return -1
		case x.Generation == y.Generation && x.Head == y.Head:
			return 0
		}
		return 1
	})
}

// eachName lists the names with a prefix that come after another one. More than
// most are a store that goes on for ever.
func eachName(ctx context.Context, conn *store.Conn, prefix, after string, most int, fn func(protocol.Entry) error) error {
	for listed := 0; listed <= most; {
		entries, more, err := conn.List(ctx, prefix, after, protocol.MaxListed)
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		listed += len(entries)
		for _, e := range entries {
			after = e.Name
			if err := fn(e); err != nil {
				return err
			}
		}
		if !more || len(entries) == 0 {
			return nil
		}
	}
	return fmt.Errorf("list %s: the store lists more than %d: %w", prefix, most, store.ErrProtocol)
}

// get reads one root and its clear part. An error that is not the root's own
// ends the command; a root that can't be had is a DamageError.
func (r *roots) get(ctx context.Context, n RootName) (*sealedRoot, error) {
	if s := r.read[n.Name]; s != nil {
		return s, nil
	}
	if err := r.bad[n.Name]; err != nil {
		return nil, err
	}
	if s := r.read[protocol.HeadName(n.Generation)]; s != nil && n.Sum == [16]byte(s.hash[:16]) {
		copied := *s // the same bytes
		copied.RootName = n
		return &copied, nil
	}
	s, err := readSealedRoot(ctx, r.conn, n)
	switch {
	case err == nil:
		r.read[n.Name], r.clears[n.Name] = s, s.clear
	case isDamage(err):
		r.spoil(n.Name, err)
	}
	return s, err
}

// spoil notes that a root doesn't open.
func (r *roots) spoil(name string, err error) {
	if r.bad[name] == nil {
		r.failed = append(r.failed, BadRoot{Name: name, Err: err})
	}
	r.bad[name] = err
	delete(r.read, name)
}

func readSealedRoot(ctx context.Context, conn *store.Conn, n RootName) (*sealedRoot, error) {
	object, err := conn.GetWhole(ctx, n.Name, format.MaxRoot)
	if err != nil {
		return nil, readError(n.Name, err)
	}
	return parseSealedRoot(n, object)
}

// parseSealedRoot reads the clear part of a root's object.
func parseSealedRoot(n RootName, untrusted []byte) (*sealedRoot, error) {
	s := &sealedRoot{RootName: n, object: untrusted, hash: sha256.Sum256(untrusted)}
	_, clearPart, _, err := format.SplitRoot(untrusted)
	if err == nil && !n.Head && n.Sum != [16]byte(s.hash[:16]) {
		err = errFalseName
	}
	if err == nil {
		s.clear, err = format.ParseClear(clearPart)
	}
	if err == nil && s.clear.Generation != n.Generation {
		err = fmt.Errorf("is of generation %d", s.clear.Generation)
	}
	if err != nil {
		return nil, &DamageError{Object: n.Name, Reason: rootReason(err)}
	}
	return s, nil
}

// errFalseName says that a root in roots/ is not what was put there.
var errFalseName = errors.New("is not what its name says")

// rootReason says of a root of another version what is known of it: nothing
// below it proves the version, so it may be damage as well.
func rootReason(err error) error {
	if errors.Is(err, format.ErrNewer) {
		what := strings.TrimSuffix(err.Error(), ": "+format.ErrNewer.Error())
		return fmt.Errorf("is damaged, or of a newer version of pinion (%s)", what)
	}
	return err
}

// open opens a root that was read.
func (s *sealedRoot) open(keys *crypt.Keys) (*format.Root, error) {
	fail := func(err error) (*format.Root, error) {
		return nil, &DamageError{Object: s.Name, Reason: rootReason(err)}
	}
	if s.clear.Archive != keys.Archive {
		return fail(errOtherArchive)
	}
	_, body, err := keys.OpenObject(s.object, format.KindRoot, format.RootSealName)
	if err != nil {
		return fail(err)
	}
	root, err := format.ParseRoot(s.clear, body)
	if err != nil {
		if errors.Is(err, format.ErrNewer) { // it authenticates: it is what it says
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		return fail(err)
	}
	return root, nil
}

var errOtherArchive = errors.New("is of another archive")

// A candidate is a root that opens.
type candidate struct {
	*sealedRoot
	root *format.Root
}

// newest finds the highest root that opens and that follows accepts. Where there
// is none of the latter, it is the highest that opens, and accepted is false.
// floor is the lowest generation that follows may accept. The highest that opens and
// isn't accepted, if it is above the one that is, is noted in passed.
func (r *roots) newest(ctx context.Context, keys *crypt.Keys, floor uint64, follows func(candidate) bool) (best *candidate, accepted bool, err error) {
	badHeads, badRoots := 0, 0
	r.passed = nil
	for {
		for _, n := range r.names {
			if best != nil && n.Generation < floor {
				return best, false, nil
			}
			c, err := r.try(ctx, keys, n)
			if err != nil {
				return nil, false, err
			}
			switch {
			case c == nil && n.Head:
				badHeads++
			case c == nil:
				badRoots++
			case follows(*c) && (r.whole || n.Generation >= r.from):
				r.passed = best
				return c, true, nil
			case follows(*c): // of its generation one in roots/ may count, which wasn't listed
				if err := r.listAll(ctx); err != nil {
					return nil, false, err
				}
				return r.newest(ctx, keys, floor, follows)
			case best == nil:
				best = c
			}
			if badRoots > maxBadRoots || badHeads > maxBadHeads && (r.whole || !n.Head) {
				return best, false, nil
			}
		}
		if r.whole {
			return best, false, nil
		}
		if err := r.listAll(ctx); err != nil {
			return nil, false, err
		}
		badHeads, badRoots, best = 0, 0, nil
	}
}

// rivals are the other roots of a root's generation that open and that follows
// accepts: made by a writer that broke the rules. One in head/ that isn't in roots/ was
// never acknowledged.
func (r *roots) rivals(ctx context.Context, keys *crypt.Keys, of *candidate, follows func(candidate) bool) (names []string, err error) {
	if of.Head {
		return nil, nil
	}
	for _, n := range r.names {
		if n.Head || n.Generation != of.Generation || n.Sum == of.Sum {
			continue
		}
		c, err := r.try(ctx, keys, n)
		if err != nil {
			return nil, err
		}
		if c != nil && follows(*c) {
			names = append(names, n.Name)
		}
	}
	return names, nil
}

// try opens one root; nil says that it doesn't open.
func (r *roots) try(ctx context.Context, keys *crypt.Keys, n RootName) (*candidate, error) {
	s, err := r.get(ctx, n)
	if isDamage(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	root, err := s.open(keys)
	if isDamage(err) {
		r.spoil(n.Name, err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &candidate{s, root}, nil
}

// unread is the error for a root that can't be read now: it may be whole, and newer than
// all others. nil: there was none.
func (r *roots) unread() error {
	for _, b := range r.failed {
		if errors.Is(b.Err, store.ErrUnreadable) {
			return fmt.Errorf("%w; nothing is written while a root that may be newer can't be read", b.Err)
		}
	}
	return nil
}

// above lists the roots that were met above a generation and don't open.
func (r *roots) above(generation uint64) []BadRoot {
	var list []BadRoot
	for _, b := range r.failed {
		if n, ok := protocol.ParseHead(b.Name); ok && n > generation {
			list = append(list, b)
		} else if n, _, ok := protocol.ParseRootName(b.Name); ok && n > generation {
			list = append(list, b)
		}
	}
	return list
}

// nextNumber is the generation of a commit that builds on a root: one above the
// highest name, whether that opens or not. seen is the highest generation that
// this host ever saw.
func (r *roots) nextNumber(root *format.Root, seen uint64) uint64 {
	highest := max(root.Generation, seen)
	limit := highest + numberGap
	for _, n := range r.conn.Heads() { // what is no file has a name as well, and isn't listed
		if n <= limit {
			highest = max(highest, n)
		}
	}
	for _, n := range r.names {
		if n.Generation <= limit {
			return max(highest, n.Generation) + 1
		}
	}
	return highest + 1
}

// prefetched is how many of the highest heads are read before anything is known of
// them: those whose key slots are tried first.
const prefetched = 2

// prefetch reads the highest of the heads that the store named when it was opened,
// while the names in roots/ are listed, so that all takes one round trip.
func (r *roots) prefetch(ctx context.Context) error {
	heads := r.conn.Heads()
	first := heads[:min(len(heads), prefetched)]
	var g errgroup.Group
	read, errs := make([]*sealedRoot, len(first)), make([]error, len(first))
	for i, n := range first {
		g.Go(func() error {
			read[i], errs[i] = readSealedRoot(ctx, r.conn, RootName{Name: protocol.HeadName(n), Generation: n, Head: true})
			if errs[i] != nil && !isDamage(errs[i]) {
				return errs[i]
			}
			return nil
		})
	}
	g.Go(func() error { return r.listBeside(ctx, heads) })
	if err := g.Wait(); err != nil {
		return err
	}
	for i, n := range first {
		if read[i] != nil {
			r.read[read[i].Name], r.clears[read[i].Name] = read[i], read[i].clear
		} else if i == 0 { // whether a lower one is read, and so met as damage, depends on this one
			r.spoil(protocol.HeadName(n), errs[i])
		}
	}
	return nil
}
