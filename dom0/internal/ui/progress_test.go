package ui

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestFormats(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 128 << 10: "128 KiB", 3 << 29: "1.5 GiB",
		1<<20 - 1: "1 MiB", 1047527424: "999 MiB", 1 << 50: "1 PiB", math.MaxInt64: "8 EiB", -2048: "-2 KiB",
		math.MinInt64: "-8 EiB", 102349: "100 KiB", 102300: "99.9 KiB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Second: "0:00", 0: "0:00", 7400 * time.Millisecond: "0:07", 59600 * time.Millisecond: "1:00",
		61 * time.Second: "1:01", 3600 * time.Second: "1:00:00", 93800 * time.Second: "26:03:20",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
	for r, want := range map[float64]string{-1: "0 B/s", 1536: "1.5 KiB/s", math.Inf(1): "4 EiB/s"} {
		if got := Rate(r); got != want {
			t.Errorf("Rate(%v) = %q, want %q", r, got, want)
		}
	}
}

const mib = 1 << 20

// work does one MiB every 100 ms for the given time, never at the instant of a tick.
func work(p *Progress, d time.Duration) {
	for range d / (100 * time.Millisecond) {
		time.Sleep(50 * time.Millisecond)
		p.Add(mib)
		time.Sleep(50 * time.Millisecond)
	}
}

func TestProgressOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, out, errs := streams(Options{Terminal: true, Width: func() int { return 60 }})
		p := u.Start("backup work", 100*mib)
		work(p, 5*time.Second)
		synctest.Wait()
		frames := strings.Split(errs.String(), eraseLine)[1:]
		if len(frames) < 24 || len(frames) > 26 {
			t.Errorf("%d frames in 5 s", len(frames))
		}
		if got, want := frames[len(frames)-1], "pinion: backup work: 50 %, 50 MiB of 100 MiB, 10 MiB/s, 0:0"; !strings.HasPrefix(got, want[:57]) {
			t.Errorf("last frame %q, want %q", got, want)
		}
		for _, f := range frames {
			if len(f) > 59 || strings.Contains(f, "\n") {
				t.Errorf("frame %q has %d columns", f, len(f))
			}
		}
		if strings.Contains(frames[2], "left") {
			t.Errorf("a forecast after 0.6 s: %q", frames[2])
		}
		errs.Reset()
		u.Warn("w")
		u.Printf("r")
		if got, want := errs.String(), eraseLine+"pinion: warning: w\n"; got != want || out.String() != "r\n" {
			t.Errorf("a line over the progress: %q, want %q", got, want)
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		errs.Reset()
		p.Done()
		p.Stop()
		if got := errs.String(); got != eraseLine {
			t.Errorf("at the end: %q", got)
		}
		time.Sleep(time.Second)
		if got := errs.String(); got != eraseLine {
			t.Errorf("after the end: %q", got)
		}
	})
}

func TestProgressOffATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _, errs := streams(Options{})
		p := u.Start("backup work", 100*mib)
		work(p, 10*time.Second)
		p.Done()
		lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
		if len(lines) < 10 || len(lines) > 12 {
			t.Errorf("%d lines: %q", len(lines), lines)
		}
		if lines[0] != "pinion: backup work: 100 MiB" {
			t.Errorf("first line %q", lines[0])
		}
		if last, want := lines[len(lines)-1], "pinion: backup work: done, 100 MiB in 0:10, 10 MiB/s"; last != want {
			t.Errorf("last line %q, want %q", last, want)
		}
		if strings.Contains(errs.String(), "\x1b") {
			t.Error("an escape sequence in plain output")
		}
		// Slow and of unknown size: by the clock alone, and without a last line if it isn't finished.
		errs.Reset()
		p = u.Start("verify", 0)
		p.Add(1)
		time.Sleep(95 * time.Second)
		synctest.Wait()
		p.Stop()
		if got, want := errs.String(), "pinion: verify\n"+strings.Repeat("pinion: verify: 1 B, 0 B/s\n", 3); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestProgressQuietAndJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _, errs := streams(Options{Quiet: true, Terminal: true})
		p := u.Start("x", 10)
		p.Add(5)
		time.Sleep(time.Minute)
		p.Done()
		if errs.String() != "" {
			t.Errorf("quiet: %q", errs)
		}
		u, _, errs = streams(Options{JSON: true, Terminal: true})
		p = u.Start("a\x1b", 10*mib)
		work(p, 2500*time.Millisecond)
		p.Done()
		lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
		if len(lines) != 2 {
			t.Fatalf("%d lines in 2.5 s: %q", len(lines), lines)
		}
		var got progressLine
		if err := json.Unmarshal([]byte(lines[1]), &got); err != nil {
			t.Fatal(err)
		}
		if got.Type != "progress" || got.Label != `a\x1b` || got.Total != 10*mib || got.Done < 19*mib || got.Elapsed != 2 {
			t.Errorf("got %+v", got)
		}
	})
}

// Work may be larger than foretold, shrink, stand still or stop being shown because other work begins.
func TestProgressOddities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _, errs := streams(Options{Terminal: true})
		p := u.Start(strings.Repeat("語", 100), 10)
		p.Add(20)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if !strings.Contains(errs.String(), "100 %, 20 B of 10 B") {
			t.Errorf("more than the whole: %q", errs)
		}
		for _, f := range strings.Split(errs.String(), eraseLine) {
			columns := 0
			for _, r := range f {
				if columns++; r > 0x1100 {
					columns++
				}
			}
			if columns > 79 {
				t.Errorf("%d columns: %q", columns, f)
			}
		}
		second := u.Start("second", math.MaxInt64)
		second.Add(1)
		time.Sleep(time.Minute)
		p.Add(1)
		p.SetLabel("first again")
		synctest.Wait()
		errs.Reset()
		second.SetLabel("renamed")
		second.SetTotal(4)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := errs.String(); strings.Contains(got, "first") || !strings.Contains(got, "renamed: 25 %, 1 B of 4 B") {
			t.Errorf("got %q", got)
		}
		p.Done()
		if err := u.Finish(&Failure{Code: 1, Message: "m"}); err != nil {
			t.Error(err)
		}
		if got, want := errs.String(), eraseLine+"pinion: error: m\n"; !strings.HasSuffix(got, want) {
			t.Errorf("got %q", got)
		}
	})
}

func TestProgressFromManyGoroutines(t *testing.T) {
	u, _, _ := streams(Options{Terminal: true})
	p := u.Start("x", 8000)
	done := make(chan bool)
	for i := range 8 {
		go func() {
			for range 1000 {
				p.Add(1)
			}
			p.SetLabel(fmt.Sprint(i))
			u.Notice("%d", i)
			done <- true
		}()
	}
	for range 8 {
		<-done
	}
	if got := p.done.Load(); got != 8000 {
		t.Errorf("counted %d", got)
	}
	p.Done()
}
