package dirstore

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"pinion/protocol"
)

// Names of the directories that roots are in.
const (
	dirHead  = "head"
	dirRoots = "roots"
)

// Commit makes the head of a generation out of root, and returns the
// generations that have a head then: the highest protocol.MaxHeads of them,
// descending. One that is there already is a conflict, and stays as it is. It
// needs the append lock, but doesn't depend on it: of two that make the same
// head at once, whatever locks are worth there, one succeeds.
//
// The order makes every moment a good one to die in:
//
//  1. the root is written to a temp file and made durable
//  2. the temp file gets the head's name as its second one, which fails if
//     there is such a head: from here on it counts
//  3. its first name goes; who dies before leaves it to the next one's sweep
//  4. the directory is made durable; only after that the caller is told
func (s *Store) Commit(generation uint64, root []byte) ([]uint64, error) {
	if err := s.allow(protocol.LockAppend); err != nil {
		return nil, err
	}
	name := protocol.HeadName(generation)
	if err := checkName(name); err != nil {
		return nil, err
	}
	if len(root) < 1 || len(root) > protocol.MaxRoot {
		return nil, &Error{Code: protocol.CodeBadRequest, Text: fmt.Sprintf("%s can't have %d bytes", name, len(root))}
	}
	if err := s.ensureDir(dirHead); err != nil {
		return nil, err
	}
	err := s.makeHead(name, root)
	if errors.Is(err, fs.ErrExist) {
		return nil, &Error{Code: protocol.CodeConflict, Text: "there is a " + name + " already"}
	}
	if err != nil {
		return nil, fault(writing, "make "+name, err)
	}
	s.mu.Lock()
	s.own[name] = true
	s.mu.Unlock()
	s.at("named")
	if err := s.settle(dirHead); err != nil {
		return nil, fault(writing, "make the name "+name+" durable", err)
	}
	s.at("durable")
	return s.Heads()
}

// makeHead makes a head whole and exclusively: by a link, or by a rename that
// doesn't replace. A file system that has neither is refused. To create the file
// and then write it would not do: another writer finds half of it, takes it for
// damaged and goes on above it, and then this one is complete, and acknowledged.
func (s *Store) makeHead(name string, root []byte) error {
	u, err := s.writeTemp(name, root)
	if err != nil {
		return err
	}
	defer u.Discard()
	s.at("written")
	err = s.root.Link(u.temp, name)
	switch {
	case err == nil:
		s.at("linked")
		return nil
	case errors.Is(err, fs.ErrExist):
		if s.sameFile(u.temp, name) {
			return nil // a server did it twice, since its first answer was lost
		}
		return err
	case !hasNoLinks(err):
		return err
	}
	err = s.renameNoReplace(u.temp, name)
	if err == nil {
		s.forget(u.temp)
	}
	if unknownFlag(err) {
		return errNoExclusive
	}
	return err
}

// errNoExclusive says that a head can't be made.
var errNoExclusive = errors.New("the file system has neither links nor renames that replace nothing: an archive needs one of them")

// hasNoLinks says whether a link failed since there are none.
func hasNoLinks(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS)
}

// writeTemp writes a temp file that is to become name, and makes it durable.
func (s *Store) writeTemp(name string, b []byte) (*Upload, error) {
	u, err := s.newTemp(name)
	if err != nil {
		return nil, err
	}
	_, err = u.f.Write(b)
	if err == nil {
		err = u.f.Sync()
	}
	if err != nil {
		u.Discard()
		return nil, err
	}
	return u, nil
}

func (s *Store) sameFile(a, b string) bool {
	ai, err1 := s.root.Lstat(a)
	bi, err2 := s.root.Lstat(b)
	return err1 == nil && err2 == nil && os.SameFile(ai, bi)
}

// Heads returns the generations that have a head, descending: the highest
// protocol.MaxHeads of them. What has a head's name counts, whatever it is,
// since no commit can have the name any more.
func (s *Store) Heads() ([]uint64, error) {
	all, err := s.allHeads()
	return slices.Clone(all[:min(len(all), protocol.MaxHeads)]), err
}

// allHeads is Heads without a limit: 8 bytes for each.
func (s *Store) allHeads() ([]uint64, error) {
	var all []uint64
	err := s.eachName(dirHead, func(e fs.DirEntry) {
		if g, ok := protocol.ParseHead(protocol.PrefixHead + e.Name()); ok {
			all = append(all, g)
		}
	})
	slices.Sort(all)
	slices.Reverse(all)
	return all, err
}

// rootGenerations returns the generations that roots/ has something of,
// ascending, each once.
func (s *Store) rootGenerations() ([]uint64, error) {
	var all []uint64
	err := s.eachName(dirRoots, func(e fs.DirEntry) {
		if g, _, ok := protocol.ParseRootName(protocol.PrefixRoots + e.Name()); ok {
			all = append(all, g)
		}
	})
	slices.Sort(all)
	return slices.Compact(all), err
}

// tidyHeads makes up the second copies that dead helpers' clients didn't come
// to put, and removes old heads, each of which has a true one by then. It does
// what it can: what fails is tried again by who gets the lock next, and must
// keep nobody from emptying a full disk, or from going on beside a head that
// can't be read.
func (s *Store) tidyHeads() {
	heads, err := s.allHeads()
	if err != nil {
		return
	}
	roots, err := s.rootGenerations()
	if err != nil {
		return
	}
	for i, g := range heads {
		name := protocol.HeadName(g)
		due := !s.opts.AppendOnly && i >= protocol.KeptHeads && s.isOlder(name, protocol.HeadAge)
		if _, has := slices.BinarySearch(roots, g); has && !due {
			continue
		}
		if s.copyHead(g) == nil && due {
			s.root.Remove(name)
		}
	}
}

// isOlder says whether a file is there that was written longer ago than limit,
// by this machine's clock. One of the future isn't.
func (s *Store) isOlder(name string, limit time.Duration) bool {
	info, err := s.root.Lstat(name)
	return err == nil && time.Since(info.ModTime()) > limit
}

// copyHead sees to it that a head has a second copy, which is true and never a
// link, so that nothing that happens to the one's blocks happens to the other.
func (s *Store) copyHead(generation uint64) error {
	root, err := s.readRoot(protocol.HeadName(generation))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(root)
	name := protocol.RootName(generation, [16]byte(sum[:16]))
	there, err := s.readRoot(name)
	switch {
	case err == nil && bytes.Equal(there, root):
		return nil
	case err == nil:
		return errors.New(name + " is not what its name says")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := s.ensureDir(dirRoots); err != nil {
		return err
	}
	u, err := s.writeTemp(name, root)
	if err != nil {
		return err
	}
	defer u.Discard()
	if err := s.renameNew(u.temp, name); err != nil {
		return err
	}
	s.forget(u.temp)
	return s.settle(dirRoots)
}

// readRoot reads what may be a root.
func (s *Store) readRoot(name string) ([]byte, error) {
	f, size, err := s.openRegular(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size < 1 || size > protocol.MaxRoot {
		return nil, fmt.Errorf("%s has %d bytes", name, size)
	}
	return io.ReadAll(io.LimitReader(f, protocol.MaxRoot))
}

// at tells a test where the store is.
func (s *Store) at(step string) {
	if s.step != nil {
		s.step(step)
	}
}
