package ui

import (
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// redrawEvery keeps a terminal at five redraws a second: faster can't be read, and costs on a slow line.
	redrawEvery = 200 * time.Millisecond
	// lookEvery is how often it is checked, off a terminal, whether a line is due, and how often --json gets one.
	lookEvery = time.Second
	// lineEvery and lineStep say when a plain line is due: after this time, or after this part of the whole.
	lineEvery = 30 * time.Second
	lineStep  = 0.1
	// smooth is the time over which the rate is averaged.
	smooth = 5 * time.Second
	// etaAfter is how long the rate is watched before the end is foretold.
	etaAfter = 2 * time.Second
	// maxLabel bounds a label on the progress line, in columns, so that the numbers have room.
	maxLabel = 32
)

// Progress counts the bytes of one piece of work and shows how far it is. Counting costs one atomic addition; showing
// is done by a goroutine of its own. All methods may be called from several goroutines.
type Progress struct {
	ui      *UI
	started time.Time
	label   atomic.Pointer[string]
	done    atomic.Int64
	total   atomic.Int64

	once     sync.Once
	stop     chan struct{}
	finished chan struct{}
}

// Start begins to show the progress of a piece of work, such as "backup personal". total is in bytes; 0 or less
// stands for unknown. A UI shows one piece of work at a time: one that still runs is stopped. The caller calls Done
// or Stop at the end.
func (u *UI) Start(label string, total int64) *Progress {
	p := &Progress{ui: u, started: time.Now(), stop: make(chan struct{}), finished: make(chan struct{})}
	p.SetLabel(label)
	p.total.Store(total)
	u.mu.Lock()
	previous := u.progress
	u.progress = p
	u.mu.Unlock()
	if previous != nil {
		previous.Stop()
	}
	if u.o.Quiet {
		close(p.finished)
		return p
	}
	if !u.o.Terminal && !u.o.JSON {
		u.Notice("%s", p.startLine())
	}
	go p.run()
	return p
}

// Add counts n more bytes as done.
func (p *Progress) Add(n int64) { p.done.Add(n) }

// SetTotal sets the number of bytes there are to do; 0 or less stands for unknown.
func (p *Progress) SetTotal(n int64) { p.total.Store(n) }

// SetLabel sets what the work is called from now on.
func (p *Progress) SetLabel(label string) {
	clean := Sanitize(label)
	p.label.Store(&clean)
}

// Done ends the progress of work that was finished, and off a terminal says so in a line.
func (p *Progress) Done() { p.end(true) }

// Stop ends the progress of work that was not finished. After Done, or a second time, it does nothing.
func (p *Progress) Stop() { p.end(false) }

func (p *Progress) end(finished bool) {
	p.once.Do(func() {
		close(p.stop)
		<-p.finished
		u := p.ui
		u.mu.Lock()
		u.erase()
		if u.progress == p {
			u.progress = nil
		}
		u.mu.Unlock()
		if finished && !u.o.Terminal && !u.o.JSON {
			u.Notice("%s", p.doneLine())
		}
	})
}

// rate is a moving average, in bytes a second.
type rate struct {
	perSecond float64
	at        time.Time
	bytes     int64
	seen      bool
}

func (r *rate) update(now time.Time, bytes int64) {
	dt := now.Sub(r.at).Seconds()
	if dt <= 0 {
		return
	}
	sample := float64(bytes-r.bytes) / dt
	if !r.seen {
		r.perSecond, r.seen = sample, true
	} else {
		r.perSecond += (1 - math.Exp(-dt/smooth.Seconds())) * (sample - r.perSecond)
	}
	r.at, r.bytes = now, bytes
}

func (p *Progress) run() {
	defer close(p.finished)
	every := lookEvery
	if p.ui.o.Terminal && !p.ui.o.JSON {
		every = redrawEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	speed := rate{at: p.started}
	lastLine, lastDone := p.started, int64(0)
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
		}
		now, done := time.Now(), p.done.Load()
		speed.update(now, done)
		switch {
		case p.ui.o.JSON:
			p.showJSON(now, done, speed.perSecond)
		case p.ui.o.Terminal:
			p.draw(now, done, speed.perSecond)
		case now.Sub(lastLine) >= lineEvery, p.steps(done) > p.steps(lastDone):
			lastLine, lastDone = now, done
			p.ui.Notice("%s", p.text(now, done, speed.perSecond))
		}
	}
}

// part returns which part of the whole n bytes are, 0 to 1; 0 if that is unknown.
func (p *Progress) part(n int64) float64 {
	if total := p.total.Load(); total > 0 {
		return min(max(float64(n)/float64(total), 0), 1)
	}
	return 0
}

// steps returns how many parts that are worth a line n bytes are.
func (p *Progress) steps(n int64) int { return int(p.part(n) / lineStep) }

// left foretells how long the rest takes.
func (p *Progress) left(now time.Time, done int64, perSecond float64) (time.Duration, bool) {
	rest := p.total.Load() - done
	if rest < 0 || perSecond < 1 || now.Sub(p.started) < etaAfter {
		return 0, false
	}
	seconds := float64(rest) / perSecond
	// Nobody waits for years; and the conversion is defined below 292 of them.
	return time.Duration(min(seconds, 1e9) * float64(time.Second)), true
}

func (p *Progress) text(now time.Time, done int64, perSecond float64) string {
	line := clip(*p.label.Load(), maxLabel) + ": "
	if total := p.total.Load(); total > 0 {
		line += fmt.Sprintf("%d %%, %s of %s", int(100*p.part(done)), Bytes(done), Bytes(total))
	} else {
		line += Bytes(done)
	}
	line += ", " + Rate(perSecond)
	if left, ok := p.left(now, done, perSecond); ok {
		line += ", " + Duration(left) + " left"
	}
	return line
}

func (p *Progress) startLine() string {
	if total := p.total.Load(); total > 0 {
		return fmt.Sprintf("%s: %s", *p.label.Load(), Bytes(total))
	}
	return *p.label.Load()
}

func (p *Progress) doneLine() string {
	took, done := time.Since(p.started), p.done.Load()
	if done == 0 {
		return fmt.Sprintf("%s: done in %s", *p.label.Load(), Duration(took))
	}
	line := fmt.Sprintf("%s: done, %s in %s", *p.label.Load(), Bytes(done), Duration(took))
	if took >= time.Second {
		line += ", " + Rate(float64(done)/took.Seconds())
	}
	return line
}

func (p *Progress) draw(now time.Time, done int64, perSecond float64) {
	u := p.ui
	u.mu.Lock()
	defer u.mu.Unlock()
	// Another piece of work may have begun since the tick.
	if u.progress != p {
		return
	}
	// One column stays free: a full line makes some terminals go to the next.
	line := clip(prefix+p.text(now, done, perSecond), u.width()-1)
	_, _ = io.WriteString(u.o.Err, eraseLine+line)
	u.drawn = true
}

// progressLine is the progress under JSON; sizes are in bytes.
type progressLine struct {
	Type           string  `json:"type"`
	Label          string  `json:"label"`
	Done           int64   `json:"done_bytes"`
	Total          int64   `json:"total_bytes"`
	BytesPerSecond int64   `json:"bytes_per_second"`
	Elapsed        float64 `json:"elapsed_seconds"`
}

func (p *Progress) showJSON(now time.Time, done int64, perSecond float64) {
	p.ui.mu.Lock()
	defer p.ui.mu.Unlock()
	p.ui.line(progressLine{
		Type: "progress", Label: *p.label.Load(), Done: done, Total: max(p.total.Load(), 0),
		BytesPerSecond: int64(min(max(perSecond, 0), 1<<62)), Elapsed: math.Round(now.Sub(p.started).Seconds()*10) / 10,
	})
}
