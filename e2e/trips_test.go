package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/protocol"
)

// roundQuiet is how long pinion has to have sent nothing for it to count as
// waiting.
const roundQuiet = 500 * time.Millisecond

// The faults enter themselves into the table. The first holds all answers back until
// pinion has nothing more to ask before it has one, and then gives all of them.
// Each such time is a round trip, whatever the line.
var _ = func() bool {
	proxyFaults["rounds"] = proxyFault{
		request: func(p *proxy, _ *proxyRequest) bool {
			p.rounds.Do(func() { go p.giveRounds() })
			p.touch()
			return true
		},
		body: func(p *proxy, _ *proxyRequest, _ []byte) { p.touch() },
		reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.late = append(p.late, proxyFrame{h, payload})
		},
	}
	// The answer to a commit names as many heads, of which none is the new one.
	proxyFaults["heads"] = proxyFault{reply: func(p *proxy, _ *proxyRequest, h protocol.Header, payload []byte) {
		if m, err := protocol.ParseCommitted(payload); err == nil && h.Type == protocol.TypeOK {
			payload = protocol.Committed{Heads: m.Heads[1 : 1+p.plan.N]}.Append(nil)
		}
		p.send(h, payload)
	}}
	return true
}()

// touch notes that pinion has sent something.
func (p *proxy) touch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touched = time.Now()
}

// giveRounds gives the answers that were held back, round by round.
func (p *proxy) giveRounds() {
	for range time.Tick(roundQuiet / 10) {
		p.mu.Lock()
		var frames []proxyFrame
		if len(p.requests) == 0 && len(p.late) > 0 && time.Since(p.touched) > roundQuiet {
			frames, p.late = p.late, nil
			p.log("round", &proxyRequest{n: p.n})
		}
		p.mu.Unlock()
		for _, f := range frames {
			p.send(f.h, f.payload)
		}
	}
}

// trips runs pinion and returns how many round trips that took, and for people what
// was asked in each.
func (w *world) trips(args ...string) (int, string) {
	w.t.Helper()
	log := w.path("rounds.log")
	if err := os.RemoveAll(log); err != nil {
		w.t.Fatal(err)
	}
	w.planned(proxyPlan{Log: log, Fault: "rounds"}).ok(args...)
	rounds, asked := 0, []string{}
	var text strings.Builder
	for _, e := range events(w.t, log) {
		switch e.Event {
		case "request":
			asked = append(asked, strings.TrimSpace(fmt.Sprintf("%s %s", e.Type, e.Name)))
		case "round":
			rounds++
			fmt.Fprintf(&text, "%3d: %s\n", rounds, strings.Join(asked, ", "))
			asked = nil
		}
	}
	return rounds, text.String()
}

// TestRoundTrips counts how often the usual commands wait for the store with nothing
// else to do, with everything in the cache that can be.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	w := archive(t).proxied(proxyPlan{})
	image := w.image("image", "random:1M:1", "text:1M:2")
	w.ok("backup", "file:"+image)
	w.ok("backup", "file:"+image)
	for _, c := range []struct {
		most int
		args []string
	}{
		{5, []string{"list"}},
		{11, []string{"backup", "file:" + image}},
		{14, []string{"tag", "add", "#1", "one"}}, // two for what this host keeps
	} {
		n, text := w.trips(c.args...)
		t.Logf("pinion %s: %d round trips\n%s", strings.Join(c.args, " "), n, text)
		if n > c.most {
			t.Errorf("pinion %s takes %d round trips, and %d are enough", strings.Join(c.args, " "), n, c.most)
		}
	}
}

// TestCommitNamesNoHeads: where the answer to a commit doesn't name the head that
// was made, the heads are listed.
func TestCommitNamesNoHeads(t *testing.T) {
	t.Parallel()
	w := archive(t).proxied(proxyPlan{})
	image := w.image("image", "random:1M:1")
	for _, heads := range []int{0, 1} { // none; the one before
		log := w.path(fmt.Sprintf("log-%d", heads))
		w.planned(proxyPlan{Log: log, Fault: "heads", N: heads, Type: protocol.TypeCommit}).ok("backup", "file:"+image)
		all := events(t, log)
		at := slices.IndexFunc(all, func(e proxyEvent) bool { return e.Event == "request" && e.Type == protocol.TypeCommit })
		if !slices.ContainsFunc(all[at:], func(e proxyEvent) bool { return e.Type == protocol.TypeList && e.Name == protocol.PrefixHead }) {
			t.Errorf("with %d heads in the answer, head/ was not listed", heads)
		}
	}
}
