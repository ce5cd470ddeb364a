package copying

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

const (
	// maxHeads is how many heads of a store are read, the newest. A store keeps
	// four and those of the last day, and those that have no second copy.
	maxHeads = 64

	// maxClear is how many roots are read to find one of a kind: a store that was
	// pruned keeps 64, and one a day for a year.
	maxClear = 1024

	// maxTried is how many roots that aren't what their names say a run reads
	// before it leaves it at that.
	maxTried = 256
)

// A rootName is a root of a store by what its name has to say. No two are the
// same.
type rootName struct {
	generation uint64
	sum        [16]byte // the first half of the SHA-256 of its bytes
	from       string   // the object
}

// name is what the root is called among second copies.
func (r rootName) name() string { return protocol.RootName(r.generation, r.sum) }

// A rootList is the roots of a store as they are listed.
type rootList struct {
	roots []rootName      // in roots/, and of a source also what is in head/ alone; the highest first
	names map[string]bool // of those
	heads []uint64        // generations, the highest first
}

// listRoots lists a store's roots.
func listRoots(ctx context.Context, conn *store.Conn) (*rootList, error) {
	l := &rootList{names: map[string]bool{}}
	err := eachEntry(ctx, conn, protocol.PrefixHead, func(e *protocol.Entry) error {
		n, ok := protocol.ParseHead(e.Name)
		if !ok {
			return fmt.Errorf("list %s: %q: %w", protocol.PrefixHead, e.Name, store.ErrProtocol)
		}
		l.heads = append(l.heads, n)
		return nil
	})
	if err == nil {
		err = eachEntry(ctx, conn, protocol.PrefixRoots, func(e *protocol.Entry) error {
			n, sum, ok := protocol.ParseRootName(e.Name)
			if !ok {
				return fmt.Errorf("list %s: %q: %w", protocol.PrefixRoots, e.Name, store.ErrProtocol)
			}
			l.add(rootName{n, sum, e.Name})
			return nil
		})
	}
	slices.Sort(l.heads)
	slices.Reverse(l.heads)
	l.sort()
	return l, err
}

// eachEntry gives what is listed under a prefix to fn.
func eachEntry(ctx context.Context, conn *store.Conn, prefix string, fn func(*protocol.Entry) error) error {
	c := cursor{conn: conn, prefix: prefix, most: format.MaxKeptRoots}
	for {
		e, err := c.next(ctx)
		if err != nil || e == nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

func (l *rootList) add(r rootName) {
	l.roots = append(l.roots, r)
	l.names[r.name()] = true
}

func (l *rootList) sort() {
	slices.SortStableFunc(l.roots, func(x, y rootName) int {
		switch {
		case x.generation > y.generation:
			return -1
		case x.generation < y.generation:
			return 1
		}
		return 0
	})
}

func (l *rootList) has(r rootName) bool { return l.names[r.name()] }

// highest is the highest generation of a root, 0 if there is none.
func (l *rootList) highest() uint64 {
	if len(l.roots) == 0 {
		return 0
	}
	return l.roots[0].generation
}

// newestHeads are those heads that are read.
func (l *rootList) newestHeads() []uint64 { return l.heads[:min(len(l.heads), maxHeads)] }

// eachClear reads roots, the highest first and most of them at most, and gives
// the clear parts of those that have one to visit, until that returns false.
func (l *rootList) eachClear(ctx context.Context, conn *store.Conn, most int, visit func(*format.Clear) bool) error {
	for _, r := range l.roots[:min(len(l.roots), most)] {
		_, clear, err := r.read(ctx, conn)
		if isBad(err) {
			continue
		}
		if err != nil {
			return err
		}
		if !visit(clear) {
			return nil
		}
	}
	return nil
}

// A badRoot is why an object isn't the root that its name says.
type badRoot struct{ err error }

func (e *badRoot) Error() string { return e.err.Error() }
func (e *badRoot) Unwrap() error { return e.err }

// isBad reports whether a root can't be had, or isn't what its name says.
func isBad(err error) bool {
	var b *badRoot
	return errors.As(err, &b)
}

// read reads a root and checks all that can be checked without the key: that its
// name is true, and that its clear part is one.
func (r rootName) read(ctx context.Context, conn *store.Conn) (object []byte, clear *format.Clear, err error) {
	object, err = getRoot(ctx, conn, r.from)
	if err != nil {
		return nil, nil, err
	}
	if sum := sha256.Sum256(object); [16]byte(sum[:16]) != r.sum {
		return nil, nil, &badRoot{errors.New("is not what its name says")}
	}
	clear, err = parseRoot(object, r.generation)
	return object, clear, err
}

// readHead reads a head, and says what it is called among second copies.
func readHead(ctx context.Context, conn *store.Conn, generation uint64) (rootName, *format.Clear, error) {
	r := rootName{generation: generation, from: protocol.HeadName(generation)}
	object, err := getRoot(ctx, conn, r.from)
	if err != nil {
		return r, nil, err
	}
	sum := sha256.Sum256(object)
	r.sum = [16]byte(sum[:16])
	clear, err := parseRoot(object, generation)
	return r, clear, err
}

func getRoot(ctx context.Context, conn *store.Conn, name string) ([]byte, error) {
	object, err := conn.GetWhole(ctx, name, format.MaxRoot)
	if store.IsObjectError(err) {
		return nil, &badRoot{err}
	}
	return object, err
}

func parseRoot(untrusted []byte, generation uint64) (*format.Clear, error) {
	_, clearPart, _, err := format.SplitRoot(untrusted)
	if err != nil {
		return nil, &badRoot{err}
	}
	clear, err := format.ParseClear(clearPart)
	if err != nil {
		return nil, &badRoot{err}
	}
	if clear.Generation != generation {
		return nil, &badRoot{fmt.Errorf("is of generation %d", clear.Generation)}
	}
	return clear, nil
}

// A Source is the archive that is copied, with the roots that it had when
// ReadSource listed them.
type Source struct {
	conn *store.Conn
	list *rootList
	bad  []archive.BadRoot // heads that can't be had, or are none
}

// ReadSource lists the roots of the archive behind conn, whose read lock is held.
// Where there is none the error is archive.ErrNoArchive.
func ReadSource(ctx context.Context, conn *store.Conn) (*Source, error) {
	list, err := listRoots(ctx, conn)
	if err != nil {
		return nil, err
	}
	s := &Source{conn: conn, list: list}
	copied := map[uint64]bool{}
	for _, r := range list.roots {
		copied[r.generation] = true
	}
	for _, h := range list.newestHeads() {
		if copied[h] {
			continue
		}
		r, _, err := readHead(ctx, conn, h)
		if isBad(err) {
			s.bad = append(s.bad, archive.BadRoot{Name: r.from, Err: err})
			continue
		}
		if err != nil {
			return nil, err
		}
		list.add(r)
	}
	list.sort()
	if len(list.roots)+len(list.heads) == 0 {
		return nil, archive.ErrNoArchive
	}
	return s, nil
}

// Highest is the highest generation that a root of the source says it has.
func (s *Source) Highest() uint64 { return s.list.highest() }

// Shows reports whether the source lists the root with a SHA-256.
func (s *Source) Shows(hash [32]byte) bool {
	return slices.ContainsFunc(s.list.roots, func(r rootName) bool { return r.sum == [16]byte(hash[:16]) })
}

// Above is how many roots the source lists above a generation.
func (s *Source) Above(generation uint64) int {
	n, _ := slices.BinarySearchFunc(s.list.roots, generation, func(r rootName, g uint64) int {
		if r.generation > g {
			return -1
		}
		return 0
	})
	return n
}

// hasBranch reports whether a root of the source says that it is of a branch.
func (s *Source) hasBranch(ctx context.Context, branch format.ObjectID) (found bool, err error) {
	err = s.list.eachClear(ctx, s.conn, maxClear, func(c *format.Clear) bool { found = c.Branch == branch; return !found })
	return found, err
}

// missing is how many roots of the source the copy doesn't have.
func (s *Source) missing(there *rootList) (n int64) {
	for _, r := range s.list.roots {
		if !there.has(r) {
			n++
		}
	}
	return n
}

// addRoots adds the roots of the source that the copy doesn't have, the newest
// first: with the key those that open, and the newest of them as a head too.
func (s *Source) addRoots(ctx context.Context, dst *store.Conn, there *rootList, o Options, res *Result) error {
	if o.Key != nil {
		if err := s.addNewest(ctx, dst, there, o, res); err != nil {
			return fmt.Errorf("write to the copy: %w", err)
		}
	}
	limit := int64(maxNewRoots)
	if res.First {
		limit = maxRoots
	}
	tried := 0
	for _, r := range s.list.roots {
		if there.has(r) {
			continue
		}
		if res.TooMany = res.TooMany || len(there.roots) >= maxRoots; res.TooMany || res.Roots >= limit || tried >= maxTried {
			res.LeftRoots++
			continue
		}
		object, _, err := r.read(ctx, s.conn)
		if err == nil && o.Key != nil {
			_, err = o.Key.Open(r.from, object)
		}
		if isBad(err) || isDamage(err) {
			tried++
			o.Failed(r.from, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("read from the archive: %w", err)
		}
		if err := s.addRoot(ctx, dst, there, r, object, res); err != nil {
			return fmt.Errorf("write to the copy: %w", err)
		}
	}
	return nil
}

// addNewest makes the root that was opened the newest head of the copy, however
// many roots that has.
func (s *Source) addNewest(ctx context.Context, dst *store.Conn, there *rootList, o Options, res *Result) error {
	if !slices.Contains(there.heads, o.Key.Generation) {
		if err := o.Key.commit(ctx, dst, o); err != nil {
			return err
		}
	}
	hash := sha256.Sum256(o.Key.Root)
	r := rootName{generation: o.Key.Generation, sum: [16]byte(hash[:16])}
	r.from = r.name()
	if there.has(r) {
		return nil
	}
	return s.addRoot(ctx, dst, there, r, o.Key.Root, res)
}

func (s *Source) addRoot(ctx context.Context, dst *store.Conn, there *rootList, r rootName, object []byte, res *Result) error {
	err := dst.Put(ctx, r.name(), object).Wait()
	if err != nil && !errors.Is(err, store.ErrExists) {
		return err
	}
	there.add(r)
	res.Roots++
	return nil
}

// inBoth is the SHA-256 of the highest root that both stores have: with the key
// of the newest that opens, else, if both have it, of the newest that this host
// has seen. Others may have been made up.
func (s *Source) inBoth(ctx context.Context, there *rootList, o Options) ([32]byte, error) {
	var zero [32]byte
	candidates := []([32]byte){o.Known}
	if o.Key != nil {
		candidates = [][32]byte{sha256.Sum256(o.Key.Root)}
	}
	for _, hash := range candidates {
		for _, r := range s.list.roots {
			if hash != zero && r.sum == [16]byte(hash[:16]) && there.has(r) {
				return hash, nil
			}
		}
	}
	if o.Key != nil {
		return zero, nil
	}
	for _, r := range s.list.roots[:min(len(s.list.roots), maxClear)] {
		if !there.has(r) {
			continue
		}
		object, _, err := r.read(ctx, s.conn)
		if isBad(err) {
			continue
		}
		if err != nil {
			return zero, fmt.Errorf("read from the archive: %w", err)
		}
		return sha256.Sum256(object), nil
	}
	return zero, nil
}
