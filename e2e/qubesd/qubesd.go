// Package qubesd is a stand-in for qubesd, the daemon of Qubes OS that the
// Admin API reaches, for tests on machines that have no Qubes OS.
//
// It owns two sockets, a directory like /var/lib/qubes, and the volumes of
// the pools in it, and answers the calls that a backup and a restore make, as
// R4.2 or R4.3 does, byte by byte. It keeps its state in qubes.xml, which it
// loads and writes back like the real one; qubes really start and stop, on
// real images and real LVM volumes, with the renames of the real drivers, and
// a test can look in between. Calls can be made to fail in every way that a
// daemon can fail, and all are counted.
//
// It promises to imitate facts only: each behaviour has a comment that names
// the fact, from documentation and source of qubes-core-admin or seen on the
// real program. It runs no qube: a started one is a state, some files and
// what the test writes into its live image. It is used by tests only, shares
// no code with the client that it tests, and touches nothing outside of its
// directories and the volume groups that the test names.
package qubesd

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Releases that are imitated.
const (
	R42 = "4.2"
	R43 = "4.3"
)

// Sizes of a new qube's volumes (config.py of qubes-core-admin).
const (
	defaultPrivate = 2 << 30
	defaultRoot    = 10 << 30
)

// Options say what system to be.
type Options struct {
	// Release is R42 or R43; empty means R43.
	Release string
	// Load is a qubes.xml to begin with. Empty means the one in Dir, and if
	// there is none, a system with nothing but dom0. Pools that lie in
	// /var/lib/qubes are moved to Dir.
	Load string
	// Dir is what /var/lib/qubes is on a real system; empty means a
	// temporary directory.
	Dir string
	// Pools replace loaded pools of the same name, and their volumes get the
	// ids that the driver would give; others are added.
	Pools []Pool
	// RootSize and PrivateSize are the sizes of new volumes, and of loaded
	// ones too; 0 means the real defaults, and what the file says.
	RootSize, PrivateSize int64
	// Kernels are the installed kernels; nil means those that the loaded
	// file uses.
	Kernels []string
	// Socket and InternalSocket are where to listen; empty means a temporary
	// directory with a short name.
	Socket, InternalSocket string
	// RunDir is the directory that the stand-in for qrexec reads: while NAME
	// runs, there is RunDir/vms/NAME/running. Empty means a temporary one.
	RunDir string
	// Hook is called at each step of a start and a stop, while other calls
	// are served.
	Hook func(Step)
}

// A Pool is a storage pool. Driver is file-reflink, file, lvm_thin,
// linux-kernel, or callback, which a backup does not know.
type Pool struct {
	Name, Driver          string
	DirPath               string // file-reflink, file and linux-kernel; empty means Options.Dir
	VolumeGroup, ThinPool string // lvm_thin
	Revisions             int    // revisions_to_keep of new volumes
}

// A Step is a moment in the start or stop of a qube.
type Step struct{ Qube, Volume, Name string }

// Steps of all drivers, in the order in which they come; file-reflink prunes
// before it commits.
const (
	StepStart     = "start"     // nothing was done yet
	StepLive      = "live"      // the live image of a volume is there
	StepBoot      = "boot"      // all volumes are live, qrexec doesn't answer yet
	StepStop      = "stop"      // the qube ended, its volumes are as they were
	StepRevision  = "revision"  // file-reflink: the old state was kept
	StepAway      = "away"      // lvm_thin: the volume has no name of its own
	StepCommitted = "committed" // the live state is the volume's now
	StepPruned    = "pruned"    // old revisions are removed
)

// A Server is a running stand-in.
type Server struct {
	o         Options
	t         testing.TB
	listeners []net.Listener
	work      sync.WaitGroup // connections, and shutdowns that nobody waits for
	closed    chan struct{}
	once      sync.Once

	logMu  sync.Mutex // guards the calls and the faults
	calls  []Call
	faults []*Fault

	mu       sync.Mutex // guards what follows; not held during a Step
	system   system
	lastTime int64       // of a revision: no two are of one second
	modified os.FileInfo // qubes.xml as it was written or read last
	idle     *sync.Cond  // a qube is no longer busy
}

// Start loads the system, makes what volumes are missing, and serves until
// the test ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := start(t, o)
	if err != nil {
		t.Fatalf("start the stand-in for qubesd: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

func start(t testing.TB, o Options) (*Server, error) {
	s := &Server{o: o, t: t, closed: make(chan struct{})}
	s.idle = sync.NewCond(&s.mu)
	if s.o.Release == "" {
		s.o.Release = R43
	}
	if s.o.Dir == "" {
		s.o.Dir = t.TempDir()
	}
	if s.o.RunDir == "" {
		s.o.RunDir = t.TempDir()
	}
	if s.o.Socket == "" || s.o.InternalSocket == "" {
		// The path of a socket has at most 107 bytes: not below t.TempDir.
		dir, err := os.MkdirTemp("", "qubesd")
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if s.o.Socket == "" {
			s.o.Socket = filepath.Join(dir, "qubesd.sock")
		}
		if s.o.InternalSocket == "" {
			s.o.InternalSocket = filepath.Join(dir, "qubesd.internal.sock")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// root:qubes 2770 in reality.
	if err := os.MkdirAll(s.o.Dir, 0o770); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	if err := s.save(); err != nil {
		return nil, err
	}
	for _, q := range s.system.qubes {
		if err := s.materialise(q); err != nil {
			return nil, fmt.Errorf("make the volumes of %s: %w", q.name, err)
		}
	}
	return s, s.listen()
}

// listen opens the sockets.
func (s *Server) listen() error {
	for _, socket := range []string{s.o.Socket, s.o.InternalSocket} {
		l, err := net.Listen("unix", socket)
		if err != nil {
			s.Close()
			return err
		}
		// root:qubes 0660: any user of the group may call.
		if err := os.Chmod(socket, 0o660); err != nil {
			return err
		}
		s.listeners = append(s.listeners, l)
		s.work.Add(1)
		go s.accept(l, socket == s.o.InternalSocket)
	}
	return nil
}

func (s *Server) accept(l net.Listener, internal bool) {
	defer s.work.Done()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.work.Add(1)
		go func() {
			defer s.work.Done()
			defer conn.Close()
			s.serve(conn.(*net.UnixConn), internal)
		}()
	}
}

// Close ends all connections, also those that a fault hangs, and stops to
// listen. The directory stays as it is.
func (s *Server) Close() {
	s.once.Do(func() {
		close(s.closed)
		for _, l := range s.listeners {
			l.Close()
		}
	})
	s.work.Wait()
}

// Env is what tells pinion and the stand-in for qrexec where everything is.
func (s *Server) Env() []string {
	return []string{
		"PINION_QUBESD_SOCKET=" + s.o.Socket,
		"PINION_QUBESD_INTERNAL_SOCKET=" + s.o.InternalSocket,
		"PINION_QUBES_DIR=" + s.o.Dir,
		"PINION_E2E_QUBES=" + s.o.RunDir,
	}
}

// Socket is where the Admin API is served, InternalSocket where imports are,
// Dir what /var/lib/qubes is, and RunDir what the stand-in for qrexec reads.
func (s *Server) Socket() string { return s.o.Socket }

// InternalSocket is where imports are served.
func (s *Server) InternalSocket() string { return s.o.InternalSocket }

// Dir is what /var/lib/qubes is on a real system.
func (s *Server) Dir() string { return s.o.Dir }

// RunDir is the directory that says which qubes run.
func (s *Server) RunDir() string { return s.o.RunDir }

// SetHook replaces Options.Hook; nil for none.
func (s *Server) SetHook(hook func(Step)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.o.Hook = hook
}

// step calls the hook, and lets other calls be served meanwhile, as a daemon
// does that waits for a command to end.
func (s *Server) step(q *qube, volume, name string) {
	hook := s.o.Hook
	if hook == nil {
		return
	}
	s.mu.Unlock()
	defer s.mu.Lock()
	hook(Step{q.name, volume, name})
}

// now is the time of a new revision, in seconds. Two never have the same.
func (s *Server) now() time.Time {
	s.lastTime = max(s.lastTime+1, time.Now().Unix())
	return time.Unix(s.lastTime, 0).UTC()
}
