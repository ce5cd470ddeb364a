package dom0files

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// keptAttribute says whether an extended attribute belongs to the file: what
// users set, access lists, and capabilities.
func keptAttribute(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") && len(name) > len("user.")
}

// attributes returns the records of the extended attributes of an open file
// that are kept, in the order of their names.
func (l *layout) attributes(fd int, name string) string {
	list, err := readAttribute(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) }, maxAttributeNames)
	if err != nil {
		l.skip(name, fmt.Errorf("%w: list them: %w", errAttribute, err))
		return ""
	}
	keys := slices.DeleteFunc(strings.Split(string(list), "\x00"), func(k string) bool { return !keptAttribute(k) })
	slices.Sort(keys)
	var records string
	for _, key := range keys {
		value, err := readAttribute(func(b []byte) (int, error) { return unix.Fgetxattr(fd, key, b) }, maxAttributes)
		r := record(attributeKey+key, string(value))
		switch {
		case err != nil:
		case strings.Contains(key, "="):
			err = errors.New("there is = in its name")
		case len(records)+len(r) > maxAttributes:
			err = fmt.Errorf("a file's may not be more than %d KiB", maxAttributes>>10)
		}
		if err != nil {
			l.skip(name, fmt.Errorf("%w: %s: %w", errAttribute, quoted(key), err))
			continue
		}
		records += r
	}
	return records
}

// readAttribute reads what may be of any size up to most; most files have none.
func readAttribute(read func([]byte) (int, error), most int) ([]byte, error) {
	n, err := read(nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b := make([]byte, most)
	if n, err = read(b); err != nil {
		return nil, err
	}
	return b[:n], nil
}
