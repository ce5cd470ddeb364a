package lvmthin

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
