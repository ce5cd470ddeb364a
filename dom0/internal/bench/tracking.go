package main

import (
	"fmt"
	"math"
)

// A line of the table in 80 columns, and the end of it where another program
// finds the changes too.
const (
	trackFormat = "%-29s %9s %9s %8s %8s"
	otherFormat = " %10s %3s"
)

// measure makes the archive and all rows.
func (t *tracking) measure() error {
	if err := t.b.fresh(); err != nil {
		return err
	}
	t.head()
	word := mainVolume + "=" + t.g.word(mainVolume)
	nothing := func() error { return nil }
	if err := t.row("first backup", "full", 1, nothing, nil, "backup", word); err != nil {
		return err
	}
	if err := t.row("nothing changed", "unchanged", t.b.rounds, nothing, nil, "backup", word); err != nil {
		return err
	}
	for _, c := range []struct {
		label string
		piece int64
	}{{"10 MiB changed in one place", changeSize}, {"10 MiB changed in 80 places", changePiece}} {
		change := func() error { return t.change(mainVolume, changeSize, c.piece) }
		if err := t.row(c.label, "delta", t.b.rounds, change, change, "backup", word); err != nil {
			return err
		}
	}
	return t.many()
}

// many has many volumes in one session, and one run of monitor for all.
func (t *tracking) many() error {
	args := []string{"backup"}
	var names []string
	for i := range t.clones {
		name := fmt.Sprintf("clone-%d", i)
		if err := t.g.clone(mainVolume, name); err != nil {
			return err
		}
		names = append(names, name)
		args = append(args, name+"="+t.g.word(name))
	}
	if len(names) == 0 {
		return nil
	}
	changes := func() error {
		for _, name := range names {
			if err := t.change(name, cloneChange, changePiece); err != nil {
				return err
			}
		}
		return nil
	}
	nothing := func() error { return nil }
	for _, r := range []struct {
		label, mode string
		prepare     func() error
		args        []string
	}{
		{fmt.Sprintf("first backup of %d clones", len(names)), "delta", changes, args},
		{fmt.Sprintf("monitor %d, 1 MiB in each", len(names)+1), "", changes, []string{"monitor"}},
		{fmt.Sprintf("monitor %d, unchanged", len(names)+1), "", nothing, []string{"monitor"}},
		{fmt.Sprintf("%d clones, 1 MiB in each", len(names)), "delta", changes, args},
	} {
		if err := t.row(r.label, r.mode, 1, r.prepare, nil, r.args...); err != nil {
			return err
		}
	}
	return nil
}

func (t *tracking) head() {
	fmt.Printf("%s: a sparse volume of %d GiB, %d GiB of it written\n", t.g.title(), int64(volumeSize>>30), int64(writtenSize>>30))
	fmt.Printf("Whole commands with a key file, best of %d runs, but one of first backups and\n", t.b.rounds)
	fmt.Printf("of many volumes. \"finding\" is to compare two snapshots, in this process.\n")
	if t.slow != "" {
		fmt.Println(t.slow)
	}
	fmt.Printf("\n"+trackFormat, "", "read", "sent", "time", "finding")
	if name := t.g.oracleName(); name != "" {
		fmt.Printf(otherFormat, name, "LVM")
	}
	fmt.Println()
}

// row measures one command and prints it. The mode that is wanted keeps a row
// from showing something else than its label says. If find is set, it is a
// change whose finding is measured first.
func (t *tracking) row(label, mode string, rounds int, prepare, find func() error, args ...string) error {
	var found line
	if find != nil {
		if err := t.finding(&found, find); err != nil {
			return err
		}
	}
	l, got, err := t.run(rounds, prepare, args...)
	if err != nil {
		return err
	}
	if got != mode {
		return fmt.Errorf("%s: the backup's mode is %q, not %q", label, got, mode)
	}
	t.print(label, l, found)
	switch {
	case mode == "unchanged":
		where := ""
		if t.slow != "" {
			where = " here"
		}
		t.goals = append(t.goals, fmt.Sprintf("nothing changed: below %s beside Argon2 (%s%s), nothing read (%s)",
			timeOf(goalUnchanged), timeOf(l.seconds), where, bytesOf(l.read)))
	case find != nil:
		beyond := 100 * (float64(l.sent) - changeSize) / changeSize
		t.goals = append(t.goals, fmt.Sprintf("%s: at most %d %% of metadata sent (%.1f %%)", label, goalMetadata, math.Max(beyond, 0)))
	}
	return nil
}

func (t *tracking) print(label string, l, found line) {
	fmt.Printf(trackFormat, label, bytesOf(l.read), bytesOf(l.sent), timeOf(l.seconds), timeOf(found.finding))
	if t.g.oracleName() != "" {
		programs := "-"
		if l.programs >= 0 {
			programs = fmt.Sprint(l.programs)
		}
		fmt.Printf(otherFormat, timeOf(found.oracle), programs)
	}
	fmt.Println()
}

// foot prints what is aimed at.
func (t *tracking) foot() {
	fmt.Printf("\nGoals, and what was reached:\n")
	for _, goal := range t.goals {
		fmt.Println("  " + goal)
	}
	fmt.Println()
}

// bytesOf is a number of bytes for the table.
func bytesOf(n int64) string {
	switch {
	case n == 0:
		return "0"
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
}

// timeOf is a time in seconds for the table; 0 is none.
func timeOf(s float64) string {
	switch {
	case s == 0:
		return "-"
	case s < 0.01:
		return fmt.Sprintf("%.2f ms", 1000*s)
	case s < 1:
		return fmt.Sprintf("%.0f ms", 1000*s)
	}
	return fmt.Sprintf("%.2f s", s)
}
