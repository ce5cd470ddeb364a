package dirstore

import (
	"errors"
	"io/fs"
)

// readmeName is a file for people who find the directory. No program reads it.
const readmeName = "README.txt"

const readme = `This directory is a Pinion archive: backups of Qubes OS.

Everything in it is encrypted. Only who has one of the archive's passphrases or
key files can read it.

Don't change, rename or delete anything in it. Nothing here is left over: a file
that is missing may cost a backup, or all of them. A copy of the whole directory
is as good as the directory itself.

To restore, use the program pinion. Where there is none, the program recover.py,
which comes with pinion's source, restores with nothing but Python. What the
bytes are is written down in docs/format.md, which is in the source as well.
`

// writeReadme makes README.txt unless something of that name is there.
func (s *Store) writeReadme() error {
	if _, err := s.root.Lstat(readmeName); err == nil {
		return nil
	}
	u, err := s.writeTemp(readmeName, []byte(readme))
	if err != nil {
		return fault(writing, "write "+readmeName, err)
	}
	defer u.Discard()
	err = s.renameNew(u.temp, readmeName)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fault(writing, "put "+readmeName+" in place", err)
	}
	s.forget(u.temp)
	return fault(writing, "make the name "+readmeName+" durable", s.settle("."))
}
