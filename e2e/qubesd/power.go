package qubesd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

func (s *Server) vmStart(q *qube, c Call) ([]byte, error)   { return nil, s.start(q) }
func (s *Server) vmPause(q *qube, c Call) ([]byte, error)   { return nil, s.pause(q) }
func (s *Server) vmUnpause(q *qube, c Call) ([]byte, error) { return nil, s.unpause(q) }

// start starts a qube, and the one that gives it its network before. It is a
// success at once where the qube runs; it returns when qrexec answers.
func (s *Server) start(q *qube) error {
	switch q.class {
	case "AdminVM":
		return raise("QubesVMNotHaltedError", "Cannot start Dom0 fake domain!")
	case "RemoteVM":
		return errRefused
	}
	s.await(q)
	if q.state != halted {
		return nil
	}
	// A qube that is being restored can't be started (ext/backup_restore.py).
	if slices.Contains(q.tags, "backup-restore-in-progress") {
		return raise("QubesVMError", "Restore of this domain in progress, cannot start")
	}
	if of := s.find(s.netvm(q)); of != nil {
		if err := s.start(of); err != nil {
			return err
		}
	}
	q.busy = true
	defer s.release(q)
	s.step(q, "", StepStart)
	for i, v := range q.volumes {
		if err := s.startVolume(v); err != nil {
			for _, started := range q.volumes[:i] {
				err = errors.Join(err, s.stopVolume(started))
			}
			return err
		}
		s.step(q, v.name, StepLive)
	}
	// The hypervisor has a domain only now; until qrexec answers it is
	// neither halted nor running.
	q.state = transient
	s.step(q, "", StepBoot)
	q.state = running
	return s.mark(q, true)
}

// await waits until a qube is neither starting nor stopping, as qubesd does
// with the qube's startup_lock and the locks of its volumes.
func (s *Server) await(q *qube) {
	for q.busy {
		s.idle.Wait()
	}
}

func (s *Server) release(q *qube) {
	q.busy = false
	s.idle.Broadcast()
}

func (s *Server) startVolume(v *volume) error {
	d, err := s.driver(v.pool)
	if err != nil {
		return err
	}
	return d.start(v)
}

func (s *Server) stopVolume(v *volume) error {
	d, err := s.driver(v.pool)
	if err != nil {
		return err
	}
	return d.stop(v)
}

// stop ends a qube: its processes first, then each volume.
func (s *Server) stop(q *qube) error {
	if q.state == halted {
		return raise("QubesVMNotStartedError", "Domain is powered off: '%s'", q.name)
	}
	s.await(q)
	if err := s.mark(q, false); err != nil {
		return err
	}
	q.busy = true
	defer s.release(q)
	// It is halted for the API as soon as the hypervisor has no domain, while
	// its volumes are still being committed (get_power_state asks libvirt
	// only).
	q.state = halted
	s.step(q, "", StepStop)
	var failed error
	for _, v := range q.volumes {
		failed = errors.Join(failed, s.stopVolume(v))
	}
	return failed
}

// mark tells the stand-in for qrexec which qubes run.
func (s *Server) mark(q *qube, runs bool) error {
	return errors.Join(s.markAs(q, "running", runs), s.markAs(q, "paused", false))
}

// markAs tells it that a qube is, or isn't, in a state.
func (s *Server) markAs(q *qube, state string, is bool) error {
	path := filepath.Join(s.o.RunDir, "vms", q.name, state)
	if !is {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

// vmShutdown asks the qube to end and, without +wait, doesn't wait. What
// others need isn't shut down without +force.
func (s *Server) vmShutdown(q *qube, c Call) ([]byte, error) {
	if q.state == halted {
		return nil, raise("QubesVMNotStartedError", "Domain is powered off: '%s'", q.name)
	}
	if q.class == "AdminVM" {
		return nil, raise("QubesVMNotHaltedError", "Cannot shutdown Dom0 fake domain!")
	}
	if q.state != running {
		return nil, raise("QubesVMNotRunningError", "Domain not running (either powered off or paused): '%s'", q.name)
	}
	force := c.Arg == "force" || c.Arg == "force+wait" || c.Arg == "wait+force"
	wait := c.Arg == "wait" || c.Arg == "force+wait" || c.Arg == "wait+force"
	if c.Arg != "" && !force && !wait {
		return nil, errRefused
	}
	if !force {
		for _, o := range s.system.qubes {
			if o.state == running && s.netvm(o) == q.name {
				return nil, raise("QubesVMInUseError", "There are other VMs connected to this VM: %s", o.name)
			}
		}
	}
	if wait {
		return nil, s.stop(q)
	}
	s.work.Add(1)
	go func() {
		defer s.work.Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		if q.state != running {
			return
		}
		if err := s.stop(q); err != nil {
			s.t.Errorf("the stand-in for qubesd stops %s: %v", q.name, err)
		}
	}()
	return nil, nil
}

func (s *Server) vmKill(q *qube, c Call) ([]byte, error) {
	if q.class == "AdminVM" {
		return nil, errRefused
	}
	return nil, s.stop(q)
}

func (s *Server) pause(q *qube) error {
	if q.state != running || q.class == "AdminVM" {
		return raise("QubesVMNotRunningError", "Domain not running (either powered off or paused): '%s'", q.name)
	}
	q.state = paused
	return s.markAs(q, "paused", true)
}

func (s *Server) unpause(q *qube) error {
	if q.state != paused {
		return raise("QubesVMNotPausedError", "Domain is not paused: '%s'", q.name)
	}
	q.state = running
	return s.markAs(q, "paused", false)
}

// with finds a qube for a test, which knows the names.
func (s *Server) with(name string, do func(q *qube) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.find(name)
	if q == nil {
		return fmt.Errorf("no qube %s", name)
	}
	return do(q)
}

// StartQube starts a qube, as a user would, and waits.
func (s *Server) StartQube(name string) error { return s.with(name, s.start) }

// StopQube ends a qube, whatever needs it, and waits until its volumes are
// committed.
func (s *Server) StopQube(name string) error { return s.with(name, s.stop) }

// PauseQube pauses a running qube.
func (s *Server) PauseQube(name string) error { return s.with(name, s.pause) }

// LosePower ends all qubes and leaves their volumes as they are: live images
// that nobody committed.
func (s *Server) LosePower() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.system.qubes {
		if q.class == "AdminVM" || q.state == halted {
			continue
		}
		q.state = halted
		if err := s.mark(q, false); err != nil {
			return err
		}
	}
	return nil
}

// State is a qube's power state, "" for none of that name.
func (s *Server) State(name string) string {
	state := ""
	s.with(name, func(q *qube) error { state = q.state; return nil })
	return state
}

// onVolume finds a volume and its driver for a test.
func (s *Server) onVolume(qubeName, name string, do func(v *volume, d driver) error) error {
	return s.with(qubeName, func(q *qube) error {
		v := q.volume(name)
		if v == nil {
			return fmt.Errorf("%s has no volume %s", qubeName, name)
		}
		d, err := s.driver(v.pool)
		if err != nil {
			return err
		}
		return do(v, d)
	})
}

// Write writes into a volume as the running qube would.
func (s *Server) Write(qube, name string, offset int64, data []byte) error {
	return s.onVolume(qube, name, func(v *volume, d driver) error {
		if v.qube.state != running {
			return fmt.Errorf("%s doesn't run", qube)
		}
		return writeAt(d.live(v), offset, data)
	})
}

// Fill writes into a volume of a halted qube, without a revision: for the
// set-up of a test.
func (s *Server) Fill(qube, name string, offset int64, data []byte) error {
	return s.onVolume(qube, name, func(v *volume, d driver) error {
		if s.await(v.qube); v.qube.state != halted {
			return fmt.Errorf("%s runs", qube)
		}
		return d.fill(v, offset, data)
	})
}

// Committed is the file or device with the committed state of a volume, and
// Live the one that the running qube writes into.
func (s *Server) Committed(qube, name string) string {
	path := ""
	s.onVolume(qube, name, func(v *volume, d driver) error { path = d.committed(v); return nil })
	return path
}

// Live is the file or device that the running qube writes into.
func (s *Server) Live(qube, name string) string {
	path := ""
	s.onVolume(qube, name, func(v *volume, d driver) error { path = d.live(v); return nil })
	return path
}

// writeAt writes into an image or a device, and makes it durable.
func writeAt(path string, offset int64, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, offset)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
