package tracker

// OnStep makes f be told of each step that changes what lasts, before it or
// after it.
func (d *Dir) OnStep(f func(string)) { d.step = f }

// LockFD is the file descriptor of the lock that says that the run lives.
func (r *Run) LockFD() uintptr { return r.life.file.Fd() }

// Die ends the run as the end of its process does.
func (r *Run) Die() {
	r.over = true
	r.life.file.Close()
}

// Through makes the run's steps be those of d.
func (r *Run) Through(d *Dir) { r.d = d }

// Decode reads a state file.
func Decode(text []byte) (*state, error) { return decode(text) }

// Encode writes a state file.
func (s *state) Encode() ([]byte, error) { return s.encode() }
