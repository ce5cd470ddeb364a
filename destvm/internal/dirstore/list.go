package dirstore

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// readdirBatch is how many names of a directory are read at once.
const readdirBatch = 512

// List calls emit for the objects under prefix whose names come after after,
// in the order of their names, at most max of them. It returns how many, and
// whether there are more. What is no object is passed over.
//
// A directory of any size is read in pieces, of which the smallest names are
// kept, so memory is bounded by max.
func (s *Store) List(prefix, after string, max int, emit func(protocol.Entry) error) (count int, more bool, err error) {
	sizes := &sizer{s: s}
	defer sizes.close()
	for {
		names, further, err := s.names(prefix, after, max-count)
		if err != nil {
			return count, false, err
		}
		for _, name := range names {
			size, ok := sizes.of(name)
			if !ok {
				continue // it went meanwhile
			}
			if err := emit(protocol.Entry{Size: size, Name: name}); err != nil {
				return count, false, err
			}
			count++
		}
		if !further || count == max {
			return count, further, nil
		}
		after = names[len(names)-1]
	}
}

// A sizer looks at one file of a directory after the other. It keeps the directory
// open: to walk there anew for each file takes most of the time of a listing.
type sizer struct {
	s    *Store
	path string
	dir  *os.File // nil: none, or path can't be opened
}

// of is the size of a file in bytes, if it is there and is one.
func (z *sizer) of(name string) (size uint64, ok bool) {
	dir, file := path.Split(name)
	if dir != z.path {
		z.close()
		z.path = dir
		z.dir, _ = z.s.root.OpenFile(strings.TrimSuffix(dir, "/"), os.O_RDONLY|syscall.O_DIRECTORY, 0)
	}
	if z.dir == nil {
		return 0, false
	}
	var st unix.Stat_t
	err := unix.Fstatat(int(z.dir.Fd()), file, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, false
	}
	return uint64(st.Size), true
}

func (z *sizer) close() {
	if z.dir != nil {
		z.dir.Close()
	}
}

// names returns the first max names under prefix that come after after, and
// whether there are more.
func (s *Store) names(prefix, after string, max int) ([]string, bool, error) {
	if prefix != protocol.PrefixPacks {
		return s.smallest(strings.TrimSuffix(prefix, "/"), prefix, after, max)
	}
	var all []string
	subs, err := s.packDirs()
	if err != nil {
		return nil, false, err
	}
	for _, sub := range subs {
		dir := prefix + sub
		// "/" comes before and "0" after all that can follow a directory's name.
		if dir+"0" <= after {
			continue
		}
		names, more, err := s.smallest(dir, dir+"/", after, max-len(all))
		if err != nil {
			return nil, false, err
		}
		if all = append(all, names...); more {
			return all, true, nil
		}
	}
	return all, false, nil
}

// packDirs returns the names of the directories that packs are in, ascending.
func (s *Store) packDirs() ([]string, error) {
	var subs []string
	err := s.eachName("packs", func(e fs.DirEntry) {
		if isHexPair(e.Name()) && e.IsDir() {
			subs = append(subs, e.Name())
		}
	})
	slices.Sort(subs)
	return subs, err
}

func isHexPair(s string) bool {
	const digits = "0123456789abcdef"
	return len(s) == 2 && strings.IndexByte(digits, s[0]) >= 0 && strings.IndexByte(digits, s[1]) >= 0
}

// smallest returns the first max object names in one directory that come
// after after; prefix makes a name in the directory an object's name. More
// says that there is at least one beyond them.
func (s *Store) smallest(dir, prefix, after string, max int) (names []string, more bool, err error) {
	cut := func() {
		slices.Sort(names)
		if len(names) > max {
			names, more = names[:max], true
		}
	}
	err = s.eachName(dir, func(e fs.DirEntry) {
		name := prefix + e.Name()
		if name <= after || !e.Type().IsRegular() || protocol.CheckName(name) != nil {
			return
		}
		if names = append(names, name); len(names) >= 2*max+readdirBatch {
			cut()
		}
	})
	cut()
	return names, more, err
}

// eachName calls fn for what is in a directory, in no order. A directory that
// is missing, or is none, has nothing in it.
func (s *Store) eachName(dir string, fn func(fs.DirEntry)) error {
	d, err := s.root.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fault(reading, "open the directory "+dir, err)
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(readdirBatch)
		for _, e := range entries {
			fn(e)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fault(reading, "read the directory "+dir, err)
		}
	}
}
