package store

import (
	"fmt"
	"time"

	"pinion/protocol"
)

// scaled is a limit of the protocol's, or, where the time-out was made shorter,
// one that is shorter by as much.
func (c *Conn) scaled(limit time.Duration) time.Duration {
	return time.Duration(float64(limit) * (float64(c.timeout) / float64(protocol.FrameTimeout)))
}

// watch ends the connection when the helper is silent, deaf, or slow, for too
// long. Time in which this process did not run, because the machine slept or
// somebody had stopped it, is not the helper's: it slept as well, or may have.
func (c *Conn) watch() {
	step := max(time.Millisecond, min(c.timeout/8, 5*time.Second))
	t := time.NewTicker(step)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-c.dead:
			return
		case <-t.C:
			now := time.Now()
			ran := now.Sub(last)
			if lost := ran - step; lost > step {
				c.forgive(lost, now)
				ran = step
			}
			last = now
			err := c.late(now)
			if err == nil {
				err = c.slow(ran)
			}
			if err != nil {
				c.fail(err)
				return
			}
		}
	}
}

// forgive gives the helper more time for everything that it owed before a gap
// that ended not later than now.
func (c *Conn) forgive(lost time.Duration, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range []*time.Time{&c.heard, &c.owing, &c.wrote, &c.took, &c.calm} {
		if *t = t.Add(lost); t.After(now) {
			*t = now // it is younger than the gap
		}
	}
}

// late returns an error if the helper's time is over at now.
func (c *Conn) late(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing && now.Sub(c.wrote) > c.timeout {
		return fmt.Errorf("%w: its helper read nothing for %v", ErrTimeout, c.timeout)
	}
	if c.owed == "" && len(c.pending) == 0 {
		return nil
	}
	if limit := c.timeout / 2; c.qube != "" && c.owed != "" && !c.greeted && now.Sub(c.owing) > limit {
		return noAnswer(c.qube, limit.String())
	}
	// A helper that takes in what is sent is alive too: it may have nothing
	// to say before the last byte of a body.
	life := c.heard
	if c.took.After(life) {
		life = c.took
	}
	if now.Sub(life) > c.timeout {
		return fmt.Errorf("%w: nothing came from its helper for %v", ErrTimeout, c.timeout)
	}
	if limit := c.scaled(protocol.LongTimeout); c.owed != "" && now.Sub(c.owing) > limit {
		return fmt.Errorf("%w: no answer to %s for %v", ErrTimeout, c.owed, limit)
	}
	return c.tooCalm(now)
}

// tooCalm returns an error if requests wait and nothing but signs of life has
// come of them for too long. Where one of them may take long, all may: the
// helper may be working on that one alone. c.mu is held.
func (c *Conn) tooCalm(now time.Time) error {
	limit := c.scaled(protocol.QuietTimeout)
	var oldest *Pending
	for _, p := range c.pending {
		if p.op.Long() {
			limit = c.scaled(protocol.LongTimeout)
		}
		if oldest == nil || p.made.Before(oldest.made) {
			oldest = p
		}
	}
	if oldest == nil || now.Sub(c.calm) <= limit {
		return nil
	}
	return fmt.Errorf("%w: nothing came for %s, and for all that was asked after it, in %v", ErrTimeout, oldest.what(), limit)
}

// A pace is how fast a body moves. It is measured in the body's own time:
// while several replies are coming, each has the same share of the time that
// passes, since they share the line as well.
type pace struct {
	spent time.Duration // of its own time, since the last look
	moved int64         // bytes in that time
}

// spend counts time of the body's own. It looks whenever that makes a window,
// and says whether the body moved too slowly in it.
func (p *pace) spend(d, window time.Duration) (slow bool) {
	p.spent += d
	if p.spent < window {
		return false
	}
	slow = float64(p.moved) < p.spent.Seconds()*protocol.MinRate
	*p = pace{}
	return slow
}

// slow returns an error if a body moved too slowly. Passed is how much time
// has passed since the last call.
func (c *Conn) slow(passed time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	window := c.scaled(protocol.RateWindow)
	if p := c.sending; p != nil && p.sendPace.spend(passed, window) {
		return fmt.Errorf("%w: its helper took less than %d bytes a second of %s in %v", ErrTimeout, protocol.MinRate, p.what(), window)
	}
	var coming []*Pending
	for _, p := range c.pending {
		if p.got > 0 {
			coming = append(coming, p)
		}
	}
	for _, p := range coming {
		if p.pace.spend(passed/time.Duration(len(coming)), window) {
			return fmt.Errorf("%w: less than %d bytes a second came for %s in %v of its time", ErrTimeout, protocol.MinRate, p.what(), window)
		}
	}
	return nil
}

// showLife shows the helper that this side is there, whatever it is waiting
// for, until the connection fails.
func (c *Conn) showLife() {
	t := time.NewTicker(max(time.Millisecond, c.scaled(protocol.ClientAliveInterval)))
	defer t.Stop()
	frame := protocol.AppendFrame(nil, protocol.TypeAlive, 0, nil)
	for {
		select {
		case <-c.dead:
			return
		case <-t.C:
		}
		if err := c.showOnce(frame); err != nil {
			c.writeFailed(err)
			return
		}
	}
}

func (c *Conn) showOnce(frame []byte) error {
	c.out.Lock()
	defer c.out.Unlock()
	c.showing = true
	defer func() { c.showing = false }()
	if _, err := c.w.Write(frame); err != nil {
		return err
	}
	return c.w.Flush()
}
