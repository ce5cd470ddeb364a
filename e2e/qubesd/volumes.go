package qubesd

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A driver keeps volumes. All of its methods are called while the server's
// state is locked, which start and stop give up at each step.
type driver interface {
	// vid is the id of a qube's volume.
	vid(q *qube, name string) string
	// create makes what a halted qube has, unless it is there, and remove
	// removes all of it.
	create(v *volume) error
	remove(v *volume) error
	start(v *volume) error
	stop(v *volume) error
	// committed is where the committed state is, live where the running qube
	// writes, and path what volume.Info calls path.
	committed(v *volume) string
	live(v *volume) string
	path(v *volume) string
	size(v *volume) int64
	usage(v *volume) int64
	// revisions are the ids of older states, oldest first.
	revisions(v *volume) []string
	// prune removes the oldest revisions but for as many as are to be kept.
	prune(v *volume) error
	resize(v *volume, size int64) error
	// importBegin makes a fresh volume that reads as zeros, importEnd commits
	// or discards it.
	importBegin(v *volume, size int64) (path string, err error)
	importEnd(v *volume, ok bool) error
	// fill writes into the committed state of a halted qube.
	fill(v *volume, offset int64, data []byte) error
}

// driver is that of a pool.
func (s *Server) driver(pool string) (driver, error) {
	p := s.pool(pool)
	name, _ := p.get("driver")
	dir, _ := p.get("dir_path")
	switch name {
	case "file-reflink":
		return reflink{s, dir}, nil
	case "file":
		return files{s, dir}, nil
	case "lvm_thin":
		group, _ := p.get("volume_group")
		thin, _ := p.get("thin_pool")
		return lvm{s, group, thin}, nil
	case "linux-kernel":
		return kernels{dir: dir}, nil
	case "callback":
		// A driver around others that runs commands; what it keeps and where
		// nobody else knows. Here it is an image in a hidden place.
		return reflink{s, s.o.Dir + "/.callback/" + pool}, nil
	}
	return nil, fmt.Errorf("no pool %s, or its driver %q is unknown", pool, name)
}

// size is how large a volume is now.
func (s *Server) size(v *volume) int64 {
	if d, err := s.driver(v.pool); err == nil {
		return d.size(v)
	}
	return v.size
}

func (s *Server) poolList(q *qube, c Call) ([]byte, error) {
	var b []byte
	for _, p := range s.system.pools {
		name, _ := p.get("name")
		b = append(b, name+"\n"...)
	}
	return b, nil
}

// poolInfo is the pool's configuration by name, then size and usage.
func (s *Server) poolInfo(q *qube, c Call) ([]byte, error) {
	p := s.pool(c.Arg)
	if p == nil {
		return nil, errRefused
	}
	sorted := slices.Clone(p)
	slices.SortFunc(sorted, func(a, b pair) int { return strings.Compare(a.name, b.name) })
	var b []byte
	for _, a := range sorted {
		b = append(b, a.name+"="+a.value+"\n"...)
	}
	var stat unix.Statfs_t
	if dir, found := p.get("dir_path"); found && unix.Statfs(dir, &stat) == nil {
		b = fmt.Appendf(b, "size=%d\nusage=%d\n", int64(stat.Blocks)*stat.Bsize, int64(stat.Blocks-stat.Bfree)*stat.Bsize)
	}
	return b, nil
}

// volumeList: dom0 and RemoteVMs have none.
func (s *Server) volumeList(q *qube, c Call) ([]byte, error) {
	var b []byte
	for _, v := range q.volumes {
		b = append(b, v.name+"\n"...)
	}
	return b, nil
}

// volumeInfo is the same in both releases. path is what the qube would be
// attached to.
func (s *Server) volumeInfo(v *volume, c Call) ([]byte, error) {
	d, err := s.driver(v.pool)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "pool=%s\nvid=%s\nsize=%d\nusage=%d\nrw=%s\nsource=%s\npath=%s\nsave_on_stop=%s\nsnap_on_start=%s\n"+
		"revisions_to_keep=%d\nephemeral=%s\nis_outdated=False\n", v.pool, v.vid, d.size(v), d.usage(v), python(v.rw), v.source, d.path(v),
		python(v.save), python(v.snap), v.revisions, python(v.ephemeral)), nil
}

// number reads a size: digits without a leading zero (validate_size).
func number(payload string) (int64, error) {
	n, err := strconv.ParseInt(payload, 10, 64)
	if err != nil || n < 0 || len(payload) > 1 && payload[0] == '0' || payload[0] == '+' {
		return 0, errRefused
	}
	return n, nil
}

func (s *Server) volumeResize(v *volume, c Call) ([]byte, error) {
	size, err := number(strings.TrimSpace(c.Payload))
	if err != nil {
		return nil, err
	}
	d, err := s.driver(v.pool)
	if err != nil {
		return nil, err
	}
	if !v.rw {
		return nil, raise("StoragePoolException", "Cannot resize: %s is read-only", v.vid)
	}
	s.await(v.qube)
	if err := d.resize(v, size); err != nil {
		return nil, err
	}
	v.size = size
	return nil, s.save()
}

// shrinking is how lvm_thin and file refuse to.
func shrinking(v *volume, size, have int64) error {
	return raise("StoragePoolException", "For your own safety, shrinking of %s is disabled (%d < %d). If you really know what you are doing,"+
		" resize it manually.", v.name, size, have)
}

func (s *Server) volumeRevisions(v *volume, c Call) ([]byte, error) {
	d, err := s.driver(v.pool)
	if err != nil {
		return nil, err
	}
	var b []byte
	for _, id := range d.revisions(v) {
		b = append(b, id+"\n"...)
	}
	return b, nil
}

// volumeKeep sets revisions_to_keep. -1 disables snapshots and is R4.3's; it
// can't be changed while the qube runs.
func (s *Server) volumeKeep(v *volume, c Call) ([]byte, error) {
	n := int64(-1)
	if c.Payload != "-1" || s.o.Release == R42 {
		var err error
		if n, err = number(c.Payload); err != nil {
			return nil, err
		}
	}
	if (n == -1) != (v.revisions == -1) && v.qube.state != halted {
		return nil, raise("StoragePoolException", "Cannot enable or disable snapshots while the qube is running")
	}
	v.revisions = int(n)
	d, err := s.driver(v.pool)
	if err == nil {
		err = d.prune(v)
	}
	if err != nil {
		return nil, err
	}
	return nil, s.save()
}

// importBegin: the qube must be halted and the volume one that is saved. No
// size means that of now. The answer is SIZE PATH.
func (s *Server) importBegin(v *volume, c Call) ([]byte, error) {
	if s.await(v.qube); v.qube.state != halted {
		return nil, raise("QubesVMNotHaltedError", "Domain is not powered off: '%s'", v.qube.name)
	}
	size := s.size(v)
	if c.Payload != "" {
		var err error
		if size, err = number(c.Payload); err != nil {
			return nil, err
		}
	}
	if !v.save {
		return nil, errRefused // an error that the client isn't told
	}
	d, err := s.driver(v.pool)
	if err != nil {
		return nil, err
	}
	path, err := d.importBegin(v, size)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%d %s", size, path), nil
}

// importEnd: "ok" commits the import as a new revision, anything else
// discards it and is answered with an exception that has the reason.
func (s *Server) importEnd(v *volume, c Call) ([]byte, error) {
	d, err := s.driver(v.pool)
	if err != nil {
		return nil, err
	}
	ok := c.Payload == "ok"
	if err := d.importEnd(v, ok); err != nil {
		return nil, err
	}
	if !ok {
		_, reason, _ := strings.Cut(c.Payload, "\n")
		return nil, raise("QubesException", "Data import failed: %s", reason)
	}
	v.size = d.size(v)
	return nil, s.save()
}
