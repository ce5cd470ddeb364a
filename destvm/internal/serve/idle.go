package serve

import (
	"io"
	"time"

	"pinion/protocol"
)

// watchedReader is the input, and notes since when it is waited for.
type watchedReader struct {
	s  *session
	in io.Reader
}

func (r watchedReader) Read(b []byte) (int, error) {
	r.s.waitsSince(time.Now())
	n, err := r.in.Read(b)
	r.s.waitsSince(time.Time{})
	return n, err
}

func (s *session) waitsSince(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = t
}

func (cfg Config) idleTimeout() time.Duration {
	if cfg.IdleTimeout > 0 {
		return cfg.IdleTimeout
	}
	return protocol.IdleTimeout
}

// idleTicks is how often in a row the reader has to be found waiting for the
// same piece of input.
const idleTicks = 16

// watch ends the connection when the client is silent for limit, whatever is
// being worked on: a client shows that it is there while it waits, too, so one
// that doesn't will not take the answer. It counts its own looks, so that time
// in which this process didn't run, or the machine slept, is not the client's:
// its signs of life may be in the pipe by now.
func (s *session) watch(limit time.Duration) {
	t := time.NewTicker(max(time.Millisecond, limit/idleTicks))
	defer t.Stop()
	var since time.Time
	for seen := 0; seen < idleTicks; seen++ {
		select {
		case <-s.quit:
			return
		case <-t.C:
		}
		if now := s.silentSince(); now.IsZero() || now != since {
			since, seen = now, -1
		}
	}
	close(s.idle)
}

func (s *session) silentSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.silent
}
