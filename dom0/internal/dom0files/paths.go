package dom0files

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// CheckPaths splits a list such as "/home:/etc/qubes" at its colons and
// returns the paths in the order of the volume. They must be absolute and
// clean, none twice, none inside another, and not "/": that would be dom0
// itself, pseudo file systems and all.
func CheckPaths(list string) ([]string, error) {
	if len(list) > maxPathList {
		return nil, fmt.Errorf("the list of dom0's files has %d bytes, more than %d", len(list), maxPathList)
	}
	return check(strings.Split(list, ":"))
}

// check is CheckPaths for a list that is split. It leaves the list as it is.
func check(paths []string) ([]string, error) {
	if len(paths) > maxPaths {
		return nil, fmt.Errorf("the list of dom0's files has %d paths, more than %d", len(paths), maxPaths)
	}
	paths = slices.Clone(paths)
	for _, p := range paths {
		if err := checkPath(p); err != nil {
			return nil, fmt.Errorf("path %s of dom0's files: %w", quoted(p), err)
		}
	}
	slices.SortFunc(paths, comparePaths)
	for i := 1; i < len(paths); i++ {
		a, b := paths[i-1], paths[i]
		if a == b {
			return nil, fmt.Errorf("path %s is twice in the list of dom0's files", quoted(a))
		}
		if strings.HasPrefix(b, a+"/") {
			return nil, fmt.Errorf("path %s of dom0's files is inside %s", quoted(b), quoted(a))
		}
	}
	return paths, nil
}

// quoted is a path as messages have it, and no longer than they can be.
func quoted(p string) string {
	if len(p) > maxName {
		return strconv.QuoteToASCII(p[:maxName]) + "…"
	}
	return strconv.QuoteToASCII(p)
}

func checkPath(p string) error {
	switch {
	case p == "":
		return errors.New("it is empty")
	case p[0] != '/':
		return errors.New("it is not absolute")
	case p == "/":
		return errors.New("the whole of dom0 can't be backed up as files")
	case path.Clean(p) != p:
		return fmt.Errorf("write it as %s", quoted(path.Clean(p)))
	}
	return checkName(p[1:])
}

// checkName accepts the name of an entry of an archive: relative, of parts that
// are names, within the bounds of the kernel.
func checkName(untrusted string) error {
	switch {
	case untrusted == "":
		return errors.New("its name is empty")
	case len(untrusted) > maxPath:
		return fmt.Errorf("its name has %d bytes, more than %d", len(untrusted), maxPath)
	case strings.IndexByte(untrusted, 0) >= 0:
		return errors.New("there is a NUL in its name")
	}
	for part := range strings.SplitSeq(untrusted, "/") {
		switch {
		case part == "" && untrusted[0] == '/':
			return errors.New("its name is absolute")
		case part == "", part == ".", part == "..":
			return fmt.Errorf("%q is no part of a name", part)
		case len(part) > maxName:
			return fmt.Errorf("a part of its name has %d bytes, more than %d", len(part), maxName)
		}
	}
	return nil
}

// comparePaths orders paths as a walk meets them: "a/b" before "a.b".
func comparePaths(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}
