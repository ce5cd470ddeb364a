// Package damage collects what is wrong with an archive, as ranges of volumes
// in sessions.
//
// It owns the list and its bound. It promises an order that doesn't depend on
// which goroutine found what first, and that ranges side by side with one cause
// are one line. It never decides what damage means.
package damage

import (
	"cmp"
	"errors"
	"sort"
	"sync"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/store"
)

// A Range is a part of the archive that can't be had. Without a volume it is
// an object that no volume's range could be named for.
type Range struct {
	Volume  string `json:"volume"`
	Session uint64 `json:"session"` // sequence number; 0: none
	Offset  int64  `json:"offset"`  // bytes from the start of the volume
	Length  int64  `json:"length"`  // bytes
	Object  string `json:"object"`  // in the store
	Reason  string `json:"reason"`

	// Spare says that everything can be had all the same: what is lost is there twice,
	// or only ties the archive together.
	Spare bool `json:"-"`

	// Settings says that the volume's name is a qube's, whose settings are meant.
	Settings bool `json:"-"`
}

// MaxRanges bounds a list: a store that lost everything shall not fill dom0's
// memory with the news. What is beyond is counted.
const MaxRanges = 100_000

// heldRanges is how many ranges a list holds before it looks for those that
// can be joined: they come in no order.
const heldRanges = 2 * MaxRanges

// A List collects ranges. It is safe for concurrent use; its zero value is
// empty.
type List struct {
	mu     sync.Mutex
	ranges []Range
	full   bool // even joined there are too many
	more   int

	unreadable error
}

// Add enters a range with the cause err.
func (l *List) Add(r Range, err error) {
	r.Object, r.Reason = Explain(err)
	l.AddRange(r)
	if errors.Is(err, store.ErrUnreadable) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.unreadable = cmp.Or(l.unreadable, err)
	}
}

// Unreadable is one of the causes that were added, if one is that something can't be
// read now, and may be whole; nil: none is.
func (l *List) Unreadable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unreadable
}

// AddRange enters a range that names its cause.
func (l *List) AddRange(r Range) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.ranges); n > 0 && l.ranges[n-1].extend(r) {
		return
	}
	if l.full {
		l.more++
		return
	}
	l.ranges = append(l.ranges, r)
	if len(l.ranges) >= heldRanges {
		l.join()
	}
}

// AddAll enters what another list has, and counts what that left out.
func (l *List) AddAll(o *List) {
	ranges, more := o.Ranges()
	for _, r := range ranges {
		l.AddRange(r)
	}
	l.AddMore(more)
	if err := o.Unreadable(); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.unreadable = cmp.Or(l.unreadable, err)
	}
}

// AddMore counts ranges that are not in the list.
func (l *List) AddMore(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.more += n
}

// extend makes r longer by next if that lies right behind it and has the same
// cause.
func (r *Range) extend(next Range) bool {
	if r.Volume != next.Volume || r.Session != next.Session || r.Object != next.Object || r.Reason != next.Reason || r.Settings != next.Settings ||
		r.Length == 0 || r.Offset+r.Length != next.Offset {
		return false
	}
	r.Length += next.Length
	return true
}

// Ranges returns what was collected, by session, volume and offset, and how
// many ranges were left out.
func (l *List) Ranges() (ranges []Range, more int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.join()
	return append([]Range{}, l.ranges...), l.more
}

// join puts the ranges in order, makes one of those that lie side by side, and
// cuts off what is too much.
func (l *List) join() {
	sort.SliceStable(l.ranges, func(i, j int) bool {
		a, b := &l.ranges[i], &l.ranges[j]
		switch {
		case a.Session != b.Session:
			return a.Session < b.Session
		case a.Volume != b.Volume:
			return a.Volume < b.Volume
		}
		return a.Offset < b.Offset
	})
	joined := l.ranges[:0]
	for _, r := range l.ranges {
		if n := len(joined); n == 0 || !joined[n-1].extend(r) {
			joined = append(joined, r)
		}
	}
	l.ranges = joined
	if n := len(joined); n > MaxRanges {
		l.ranges, l.full, l.more = joined[:MaxRanges], true, l.more+n-MaxRanges
	}
}

// Empty reports whether nothing was entered.
func (l *List) Empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ranges) == 0
}

// Explain takes an error apart into the object and what is wrong with it.
func Explain(err error) (object, reason string) {
	var d *archive.DamageError
	if errors.As(err, &d) {
		return d.Object, d.Reason.Error()
	}
	return "", err.Error()
}
