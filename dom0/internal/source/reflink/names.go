package reflink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"pinion/dom0/internal/durable"
	"pinion/dom0/internal/source"
)

// dirName is the directory of the snapshots.
const dirName = ".pinion"

// maxName is how long a name in a directory may be, in bytes.
const maxName = 255

// qubeDirs are the directories of a pool of Qubes OS that have one directory
// for each qube.
var qubeDirs = []string{"appvms", "vm-templates", "servicevms", "dispvms"}

// place returns where the snapshots of the file at path lie, on the file
// system with this id: beside the file. But a qube's own directory is
// qubesd's, which removes it with all that is in it and takes files there for
// its own, so for POOL/appvms/QUBE/x.img it is POOL/.pinion or, if POOL is on
// another file system, POOL/appvms/.pinion.
func place(path, id string) (string, error) {
	dir := filepath.Dir(path)
	if parent := filepath.Dir(dir); slices.Contains(qubeDirs, filepath.Base(parent)) {
		above := filepath.Dir(parent)
		if same, err := onPool(above, id); err != nil {
			return "", err
		} else if same {
			return filepath.Join(above, dirName), nil
		}
		dir = parent
	}
	if same, err := onPool(dir, id); err != nil {
		return "", err
	} else if !same {
		return "", fmt.Errorf("the directory %s is on another file system", dir)
	}
	return filepath.Join(dir, dirName), nil
}

// onPool says whether the directory is on the file system with this id.
func onPool(dir, id string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, fmt.Errorf("open the directory %s: %w", dir, source.Cause(err))
	}
	defer d.Close()
	got, why, err := identify(d)
	return why == "" && got == id, err
}

// makeDir makes the directory of snapshots, or sees that the one there is
// what it should be: nobody else may put files into it.
func makeDir(dir string) error {
	// Looked at first: what is in the way may be a file, or a link.
	if why, err := notOurs(dir); why != "" || err != nil {
		return errors.Join(clause(why), err)
	}
	if err := durable.MkdirAll(dir); err != nil {
		return err
	}
	why, err := notOurs(dir)
	return errors.Join(clause(why), err)
}

// notOurs says, of a directory for snapshots that is there, what keeps them
// from being kept in it: a clause for people. One that isn't there is no
// matter.
func notOurs(dir string) (why string, err error) {
	var st unix.Stat_t
	err = unix.Lstat(dir, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look at %s: %w", dir, err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Sprintf("%s is not a directory, so no snapshot is kept there", dir), nil
	case int(st.Uid) != os.Geteuid():
		return fmt.Sprintf("%s belongs to user %d, so no snapshot is kept there", dir, st.Uid), nil
	case st.Mode&0o022 != 0:
		return fmt.Sprintf("%s can be written by others (mode %03o), so no snapshot is kept there", dir, st.Mode&0o777), nil
	}
	return "", nil
}

// clause makes an error of one that isn't empty.
func clause(why string) error {
	if why == "" {
		return nil
	}
	return errors.New(why)
}

// checkPart sees that a part of a label is 8 hex digits.
func checkPart(what, s string) error {
	if len(s) != 8 || strings.Trim(s, "0123456789abcdef") != "" {
		return fmt.Errorf("the %s %q in a label is not 8 hex digits", what, s)
	}
	return nil
}

// fileName returns the name of a snapshot with this label of the file at
// path: <owner>.<volume>.<serial>.<name of the file, cut if too long>.
func fileName(l source.Label, path string) (string, error) {
	if err := errors.Join(checkPart("owner", l.Owner), checkPart("volume", l.Volume)); err != nil {
		return "", err
	}
	name := fmt.Sprintf("%s.%s.%d.%s", l.Owner, l.Volume, l.Serial, filepath.Base(path))
	cut := min(len(name), maxName)
	for cut < len(name) && cut > maxName-utf8.UTFMax && !utf8.RuneStart(name[cut]) {
		cut--
	}
	return name[:cut], nil
}

// parseName takes the label out of a snapshot's name.
func parseName(name string) (source.Label, bool) {
	part := strings.SplitN(name, ".", 4)
	if len(part) != 4 || part[3] == "" || checkPart("", part[0]) != nil || checkPart("", part[1]) != nil {
		return source.Label{}, false
	}
	serial, err := strconv.ParseUint(part[2], 10, 64)
	return source.Label{Owner: part[0], Volume: part[1], Serial: serial}, err == nil
}

// Owned lists the paths of snapshots in this value's directory, by name.
func (p *Pool) Owned(ctx context.Context, owner, volume string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	there, err := os.ReadDir(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list snapshots in %s: %w", p.dir, source.Cause(err))
	}
	var names []string
	for _, e := range there {
		l, ok := parseName(e.Name())
		if ok && e.Type().IsRegular() && l.Owner == owner && (volume == "" || l.Volume == volume) {
			names = append(names, filepath.Join(p.dir, e.Name()))
		}
	}
	return names, nil
}

// checkName sees that a path could be that of a snapshot of this owner.
func checkName(owner, path string) error {
	l, ok := parseName(filepath.Base(path))
	switch {
	case !filepath.IsAbs(path) || filepath.Clean(path) != path || filepath.Base(filepath.Dir(path)) != dirName:
		return fmt.Errorf("it is not in a directory %s", dirName)
	case !ok:
		return errors.New("its name has no label")
	case l.Owner != owner:
		return fmt.Errorf("its label is that of another owner, %s", l.Owner)
	}
	return nil
}

// Drop removes snapshots by their paths, in any directory of the file system,
// durably. All that can be removed are, whatever happens to the others.
func (p *Pool) Drop(ctx context.Context, owner string, names ...string) error {
	if err := checkPart("owner", owner); err != nil {
		return err
	}
	var errs []error
	dirs := map[string]bool{}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		if err := checkName(owner, name); err != nil {
			errs = append(errs, fmt.Errorf("drop the snapshot %s: %w", name, err))
			continue
		}
		err := unix.Unlink(name) // unlike os.Remove never a directory
		switch {
		case err == nil:
			dirs[filepath.Dir(name)] = true
		case !errors.Is(err, unix.ENOENT):
			errs = append(errs, fmt.Errorf("drop the snapshot %s: %w", name, err))
		}
	}
	for dir := range dirs {
		errs = append(errs, durable.SyncDir(dir))
	}
	return errors.Join(errs...)
}
