package dirstore

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"pinion/protocol"
)

// maxRootNumber is the largest n that root.<n> can have: ten digits.
const maxRootNumber = 9_999_999_999

// Swap replaces the root by root if the SHA-256 of the current one is
// *expect, or if expect is nil and there is none. It needs the append lock.
//
// The order makes every moment a good one to die in:
//
//  1. the new root is written to a temp file and made durable
//  2. the current root gets a second name, root.<n+1>
//  3. the temp file is renamed over the root: from here on the new one counts
//  4. the directory is made durable; only after that the caller is told
//  5. replaced roots beyond the kept ones are removed
//
// Dying after 2 leaves a second name for the current root, which the next
// Swap takes as the one it needs.
func (s *Store) Swap(expect *[32]byte, root []byte) error {
	if err := s.allow(protocol.LockAppend); err != nil {
		return err
	}
	s.swapping.Lock()
	defer s.swapping.Unlock()
	present, err := s.compareRoot(expect)
	if err != nil {
		return err
	}
	u, err := s.newTemp(protocol.RootName)
	if err != nil {
		return fault(writing, "begin the new root", err)
	}
	defer u.Discard()
	if _, err := u.f.Write(root); err != nil {
		return fault(writing, "write the new root", err)
	}
	if err := u.f.Sync(); err != nil {
		return fault(writing, "write out the new root", err)
	}
	if present {
		if err := s.keepRoot(); err != nil {
			return fault(writing, "keep the current root", err)
		}
	}
	if err := s.root.Rename(u.temp, protocol.RootName); err != nil {
		return fault(writing, "put the new root in place", err)
	}
	s.forget(u.temp)
	if err := s.settle("."); err != nil {
		return fault(writing, "make the new root durable", err)
	}
	s.dropRoots()
	return nil
}

// compareRoot returns a conflict unless the root is the expected one, and
// says whether there is one.
func (s *Store) compareRoot(expect *[32]byte) (present bool, err error) {
	f, size, err := s.openRegular(protocol.RootName, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		if expect != nil {
			return false, &Error{Code: protocol.CodeConflict, Text: "there is no root to replace"}
		}
		return false, nil
	}
	if err != nil {
		return false, fault(reading, "open the root", err)
	}
	defer f.Close()
	if expect == nil {
		return true, &Error{Code: protocol.CodeConflict, Text: "there is a root already"}
	}
	if size > protocol.MaxRoot {
		return true, &Error{Code: protocol.CodeConflict, Text: "the root is larger than a root may be"}
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, protocol.MaxRoot+1)); err != nil {
		return true, fault(reading, "read the root", err)
	}
	if [32]byte(h.Sum(nil)) != *expect {
		return true, &Error{Code: protocol.CodeConflict, Text: "the root is not the one that the swap is to replace"}
	}
	return true, nil
}

// keptRoots returns the numbers of the replaced roots, ascending.
func (s *Store) keptRoots() ([]uint64, error) {
	var ns []uint64
	err := s.eachName(".", func(e fs.DirEntry) {
		suffix, ok := strings.CutPrefix(e.Name(), protocol.RootName+".")
		if !ok || protocol.CheckName(e.Name()) != nil {
			return
		}
		if n, err := strconv.ParseUint(suffix, 10, 64); err == nil {
			ns = append(ns, n)
		}
	})
	slices.Sort(ns)
	return ns, err
}

func rootNumber(n uint64) string { return protocol.RootName + "." + strconv.FormatUint(n, 10) }

// keepRoot gives the current root a second name.
func (s *Store) keepRoot() error {
	ns, err := s.keptRoots()
	if err != nil {
		return err
	}
	next := uint64(1)
	if len(ns) > 0 {
		newest := ns[len(ns)-1]
		if s.sameFile(rootNumber(newest), protocol.RootName) {
			return nil
		}
		next = newest + 1
	}
	if next > maxRootNumber {
		return &Error{Code: protocol.CodeIO, Text: "there is a replaced root with the highest number that there can be: remove it by hand"}
	}
	if err := s.root.Link(protocol.RootName, rootNumber(next)); err == nil {
		return nil
	}
	return s.copyRoot(rootNumber(next)) // file systems without links
}

func (s *Store) sameFile(a, b string) bool {
	ai, err1 := s.root.Lstat(a)
	bi, err2 := s.root.Lstat(b)
	return err1 == nil && err2 == nil && os.SameFile(ai, bi)
}

func (s *Store) copyRoot(to string) error {
	from, _, err := s.openRegular(protocol.RootName, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer from.Close()
	u, err := s.newTemp(to)
	if err != nil {
		return err
	}
	defer u.Discard()
	if _, err := io.Copy(u.f, io.LimitReader(from, protocol.MaxRoot)); err != nil {
		return err
	}
	if err := u.f.Sync(); err != nil {
		return err
	}
	if err := s.root.Rename(u.temp, to); err != nil {
		return err
	}
	s.forget(u.temp)
	return nil
}

// dropRoots removes replaced roots beyond the kept ones. A failure only
// leaves more of them for the next time.
func (s *Store) dropRoots() {
	if s.opts.AppendOnly {
		return
	}
	ns, err := s.keptRoots()
	if err != nil || len(ns) <= protocol.KeptRoots {
		return
	}
	for _, n := range ns[:len(ns)-protocol.KeptRoots] {
		s.root.Remove(rootNumber(n))
	}
}
