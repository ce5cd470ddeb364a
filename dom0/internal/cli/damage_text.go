package cli

import (
	"fmt"

	"pinion/dom0/internal/ui"
	"pinion/dom0/internal/verify"
)

// textWidth is what a line that is wrapped has at most, in columns.
const textWidth = 78

// printStates says for each session with damage what of it is damaged, and what is whole.
func printStates(env *Env, states []verify.SessionState) {
	for _, s := range states {
		if s.Lost {
			env.UI.Printf("session #%d: what it holds can't be told", s.Seq)
			continue
		}
		whole := s.Whole
		if len(whole) == 0 {
			whole = []string{"none"}
		}
		for _, line := range append(wrapped(fmt.Sprintf("session #%d: damaged:", s.Seq), s.Damaged), wrapped("  whole:", whole)...) {
			env.UI.Printf("%s", line)
		}
	}
}

// wrapped is a list of names behind a beginning, in lines that fit a terminal where the names do.
func wrapped(begin string, names []string) (lines []string) {
	line := begin
	for i, name := range names {
		word := ui.Quote(name)
		if i < len(names)-1 {
			word += ","
		}
		if i > 0 && len(line)+1+len(word) > textWidth {
			lines, line = append(lines, line), "   "
		}
		line += " " + word
	}
	return append(lines, line)
}

// sayStrays tells of packs that are in no index.
func sayStrays(env *Env, r *verify.Report) {
	left := r.Strays.Packs - r.Adopted
	if r.Adopted > 0 {
		env.UI.Notice("%s of backups that didn't end will not be sent again", count(r.Adopted, "pack"))
	}
	if left > 0 && !r.Repaired && r.Adopted == 0 {
		env.UI.Notice("%s with %s in no index: of a backup that didn't end, or that runs; check --repair takes in what is of use",
			count(left, "pack"), ui.Bytes(r.Strays.Bytes))
	}
}
