package lvmthin

import (
	"strings"

	"pinion/dom0/internal/source"
)

// SetStep calls step between the steps that a kill may separate.
func (p *Pool) SetStep(step func(string)) { p.step = step }

// UseTools leaves the metadata to the thin-provisioning-tools, as for a format
// that only they know.
func (p *Pool) UseTools() { p.tools = true }

// NotePath is where the note of what is held is.
func (p *Pool) NotePath() string { return (&hold{p: p}).notePath() }

// CheckClock is checkClock.
func (p *Pool) CheckClock(after uint64) error { return p.checkClock("vg/pool", after) }

// Closest is closestFirst.
var Closest = closestFirst

// ClockRefuse and ClockWarn are the limits of a pool's clock.
const (
	ClockRefuse = clockRefuse
	ClockWarn   = clockWarn
)

// Join makes ranges of runs of blocks: pairs of first block and count.
func Join(block, size int64, runs [][2]uint64, yield func(source.Range) error) error {
	j := joiner{block: block, size: size, yield: yield}
	for _, r := range runs {
		if err := j.add(run{first: r[0], count: r[1]}); err != nil {
			return err
		}
	}
	return j.flush()
}

// SeeElements calls see with the name of each element, and the number that it
// has under a name.
func SeeElements(xml, number string, see func(name string, n uint64)) error {
	return seeElements(strings.NewReader(xml), func(e element) error {
		n := e.number(number)
		see(e.name, n)
		return e.err
	})
}
