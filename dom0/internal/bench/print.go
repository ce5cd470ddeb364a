package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// header says what is measured, and on what.
func (b *bench) header() {
	m := b.image
	fmt.Printf("pinion on %d cores: %s\n", runtime.GOMAXPROCS(0), cpuModel())
	fmt.Printf("image: %.2f GiB: %.2f real files, %.2f random, the rest holes\n",
		gib(m.size), gib(m.real), gib(m.data-m.real))
	fmt.Printf("MB/s are of the %.0f MB that are not holes; best of %d runs, from the page cache\n\n", float64(m.data)/1e6, b.rounds)
}

func gib(n int64) float64 { return float64(n) / (1 << 30) }

// cpuModel is what the processor calls itself.
func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// tableFormat has a line of the table in 80 columns.
const tableFormat = "%-18s %5s %6s %6s %5s %7s %8s %8s %8s\n"

// tableHead prints the limits, then the table's head.
func (b *bench) tableHead() {
	l := &b.limit
	fmt.Printf("%-56s %6s %6s\n", "What this machine can do at best, measured alone", "MB/s", "CPU s")
	for _, x := range []struct {
		label string
		cost
	}{
		{"read, one reader", l.read},
		{"id hash, all cores", l.hash},
		{"scan: read + id hash, all cores", l.scan},
		{"seal: id hash + zstd + AEAD, all cores", l.seal},
		{"open: AEAD + decompress + id hash, all cores", l.open},
		{"write: open + write to a file + fsync, all cores", l.put},
		{fmt.Sprintf("pipe: %.0f MB of packs into a store here, with fsync", float64(l.sealed)/1e6), l.pipe},
	} {
		fmt.Printf("  %-54s %6.0f %6.1f\n", x.label, b.rate(x.clock), x.cpu)
	}
	fmt.Printf("\n"+tableFormat, "", "MB/s", "limit", "", "ratio", "CPU s", "CPU lim.", "pinion", "helper")
}

// row prints one command beside its limit; a goal of 0 is none.
func (b *bench) row(label string, u usage, name string, limit cost, goal float64) {
	ratio := fmt.Sprintf("%.2f", limit.clock/u.clock)
	fmt.Printf(tableFormat, label, fmt.Sprintf("%.0f", b.rate(u.clock)), fmt.Sprintf("%.0f", b.rate(limit.clock)), name, ratio,
		fmt.Sprintf("%.1f", u.cpu), fmt.Sprintf("%.1f", limit.cpu), mib(u.pinion), mib(u.helper))
	if goal > 0 {
		b.goals = append(b.goals, fmt.Sprintf("%s %.1f of %s (%s)", label, goal, name, ratio))
	}
}

// tableFoot prints what is aimed at.
func (b *bench) tableFoot() {
	fmt.Printf("\nGoals, and what was reached:\n")
	for _, goal := range b.goals {
		fmt.Println("  " + goal)
	}
	fmt.Printf("  memory: pinion %s, helper %s (%s)\n\n", mib(pinionBudget), mib(helperBudget), memory(b.peaks))
}

// othersShare is which share of all cores went to other programs between two
// counts; own is what went to this one and its children, in seconds.
func othersShare(before, now cores, own float64) float64 {
	total := now.total - before.total
	if total <= 0 {
		return 0
	}
	return max(0, (now.busy-before.busy-own)/total)
}

// cores is what all cores did since the start of the machine, in seconds.
type cores struct{ busy, total float64 }

// readCores reads the kernel's count.
func readCores() (c cores) {
	stat, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(stat), "\n")
	for i, field := range strings.Fields(line) {
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil || i > 8 {
			continue // the name of the line; guests, which are counted as users
		}
		const idle, ioWait, perSecond = 4, 5, 100
		c.total += ticks / perSecond
		if i != idle && i != ioWait {
			c.busy += ticks / perSecond
		}
	}
	return c
}

// warnIfBusy says that the clock was not only pinion's, behind what it was
// measured with.
func warnIfBusy(share float64) {
	if share > 0.1 {
		fmt.Printf("%.0f %% of the cores went to other programs meanwhile: above, CPU seconds and\nratios tell more than MB/s and times.\n\n", 100*share)
	}
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

// memory says both peaks.
func memory(u usage) string { return fmt.Sprintf("pinion %s, helper %s", mib(u.pinion), mib(u.helper)) }
