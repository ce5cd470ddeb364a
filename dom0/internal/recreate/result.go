package recreate

import "pinion/dom0/internal/admin"

// An Outcome says how much of something was restored.
type Outcome int

// The outcomes.
const (
	NotDone Outcome = iota // it wasn't asked for, or it never came to that
	Done
	Partly // some of it was refused
	Failed
)

// String returns what a table shows.
func (o Outcome) String() string {
	switch o {
	case Done:
		return "done"
	case Partly:
		return "in part"
	case Failed:
		return "failed"
	}
	return "-"
}

// A Result is what became of a step.
type Result struct {
	Step     *Step
	Settings Outcome
	Volumes  []VolumeOutcome
	Refused  []Refused
	// Unfinished: the qube carries Tag and doesn't start. The same restore,
	// run again, goes on with it.
	Unfinished bool
	Err        error // the first that kept the qube from being whole
}

// A VolumeOutcome is what became of a volume.
type VolumeOutcome struct {
	Name    string
	Outcome Outcome
	Size    int64 // bytes that it has now; 0 unless it was written
	Err     error
}

// A Refused is a setting that the qube here doesn't have, and why. All texts
// are quoted and cut.
type Refused struct {
	What  string // property, feature, tag, device, firewall, notes, label, volume
	Name  string
	Value string // empty: none, or nothing
	Why   string
}

// refuse adds to what was refused.
func (j *job) refuse(what, name, value, why string) {
	f := Refused{What: what, Name: shown(name), Why: why}
	if value != "" {
		f.Value = shown(value)
	}
	j.result.Refused = append(j.result.Refused, f)
}

// refuseErr adds what qubesd refused.
func (j *job) refuseErr(what, name, value string, err error) {
	j.refuse(what, name, value, reason(err))
}

// optionText is a list of options as one text.
func optionText(options []admin.Option) string {
	text := ""
	for _, o := range options {
		text += " " + o.Name + "=" + o.Value
	}
	return text
}
