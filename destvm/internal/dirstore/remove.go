package dirstore

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"pinion/protocol"
)

// dirTrash is where objects go that are kept when they are deleted.
const dirTrash = "trash"

// maxSameTrash is how many objects of one name may go to the trash on one day.
const maxSameTrash = 1000

// Delete removes objects, or moves them to the trash if keep is set; one that
// isn't there is no error. It returns when that is durable. It needs the
// exclusive lock, but for heads that this Store made, for which the append
// lock is enough. If one of the names may not go, none goes.
func (s *Store) Delete(names []string, keep bool) error {
	for _, name := range names {
		if err := checkName(name); err != nil {
			return err
		}
	}
	mode := protocol.LockAppend
	for _, name := range names {
		if !s.isOwnHead(name) {
			mode = protocol.LockExclusive
		}
	}
	if err := s.allowRemoval(mode); err != nil {
		return err
	}
	if err := s.checkKept(names); err != nil {
		return err
	}
	day := path.Join(dirTrash, time.Now().UTC().Format(time.DateOnly))
	touched := make(map[string]bool)
	for _, name := range names {
		removed, err := s.remove(name, day, keep)
		if err != nil {
			return fault(writing, "delete "+name, err)
		}
		if removed {
			touched[path.Dir(name)] = true
		}
	}
	return s.syncRemoved(touched, day, keep)
}

// syncRemoved makes durable what was removed from directories, and, if it was
// moved, that it is in the trash, which comes first.
func (s *Store) syncRemoved(touched map[string]bool, day string, moved bool) error {
	for dir := range touched {
		if !moved {
			break
		}
		if err := s.syncDir(path.Join(day, dir)); err != nil {
			return fault(writing, "make moves to the trash durable", err)
		}
	}
	for dir := range touched {
		if err := s.syncDir(dir); err != nil {
			return fault(writing, "make deletes durable", err)
		}
	}
	return nil
}

// isOwnHead says whether this Store committed a head.
func (s *Store) isOwnHead(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own[name]
}

// checkKept refuses what the store keeps whoever asks: heads of others, and
// second copies of roots that are young, or of the highest generations.
func (s *Store) checkKept(names []string) error {
	var highest []uint64 // ascending
	for _, name := range names {
		if _, ok := protocol.ParseHead(name); ok && !s.isOwnHead(name) {
			return refused(name, "only who committed it takes it back")
		}
		g, _, ok := protocol.ParseRootName(name)
		if !ok {
			continue
		}
		if _, err := s.root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if !s.isOlder(name, protocol.RootAge) {
			return refused(name, fmt.Sprintf("it is not older than %d days", protocol.RootAge/(24*time.Hour)))
		}
		if highest == nil {
			all, err := s.rootGenerations()
			if err != nil {
				return err
			}
			highest = all[max(0, len(all)-protocol.KeptRoots):]
		}
		if _, among := slices.BinarySearch(highest, g); among {
			return refused(name, fmt.Sprintf("it is of one of the %d highest generations", protocol.KeptRoots))
		}
	}
	return nil
}

func refused(name, why string) error {
	return &Error{Code: protocol.CodeRefused, Text: name + " is kept: " + why}
}

// remove removes one object, or moves it to the trash of a day, and says
// whether it was there.
func (s *Store) remove(name, day string, keep bool) (bool, error) {
	info, err := s.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() {
		return false, errNotRegular
	}
	if keep {
		return true, s.moveToTrash(name, day)
	}
	return true, s.root.Remove(name)
}

// moveToTrash gives an object the first free name there.
func (s *Store) moveToTrash(name, day string) error {
	to := path.Join(day, name)
	if err := s.ensureDir(path.Dir(to)); err != nil {
		return err
	}
	err := s.renameNew(name, to)
	for n := 1; errors.Is(err, fs.ErrExist) && n < maxSameTrash; n++ {
		err = s.renameNew(name, fmt.Sprintf("%s.%d", to, n))
	}
	return err
}

// isRoot says whether name is that of a root: a head, which commit alone
// makes, or a second copy, which put alone makes.
func isRoot(name string) bool {
	return strings.HasPrefix(name, protocol.PrefixHead) || strings.HasPrefix(name, protocol.PrefixRoots)
}
