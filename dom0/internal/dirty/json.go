package dirty

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A set is written down as lines, in the order of what they say:
//
//	"512M-1024M"          everything from 512 MiB to 1 GiB
//	"1024M 0-3 17"        of the page (256 MiB) at 1 GiB, the grains (64 KiB)
//	                      0 to 3 and 17, counted from its start
//	"1280M bits AAECAw…"  the bitmap of a page with many runs of grains: 512
//	                      bytes, lowest grain first, lowest bit first, base64
//
// Each set has one way to be written.

const (
	pageMiB = pageGrains * Grain >> 20
	// maxRuns is how many runs of grains are listed; more make a bitmap, which
	// takes about as much space as a list of so many.
	maxRuns = 64
)

// MarshalJSON writes the set as a list of lines that people can read.
func (m *Map) MarshalJSON() ([]byte, error) { return json.Marshal(m.lines()) }

func (m *Map) lines() []string {
	lines := make([]string, 0, len(m.full)+len(m.pages))
	pages := m.pages
	for _, s := range m.full {
		for len(pages) > 0 && pages[0].index < s.from {
			lines, pages = append(lines, pages[0].line()), pages[1:]
		}
		lines = append(lines, fmt.Sprintf("%dM-%dM", s.from*pageMiB, s.to*pageMiB))
	}
	for _, p := range pages {
		lines = append(lines, p.line())
	}
	return lines
}

func (p page) line() string {
	b := fmt.Appendf(nil, "%dM", p.index*pageMiB)
	head := len(b)
	runs := 0
	for at := scan(p.bits, 0, 0); at < pageGrains; runs++ {
		end := scan(p.bits, at, ^uint64(0))
		b = strconv.AppendInt(append(b, ' '), at, 10)
		if end > at+1 {
			b = strconv.AppendInt(append(b, '-'), end-1, 10)
		}
		at = scan(p.bits, end, 0)
	}
	if runs <= maxRuns {
		return string(b)
	}
	raw := make([]byte, 0, 8*words)
	for _, w := range p.bits {
		raw = binary.LittleEndian.AppendUint64(raw, w)
	}
	return string(b[:head]) + " bits " + base64.RawStdEncoding.EncodeToString(raw)
}

// UnmarshalJSON reads what MarshalJSON wrote and refuses everything else: m is
// then as it was. Memory is bounded as for any set.
func (m *Map) UnmarshalJSON(untrusted []byte) error {
	var lines []string
	if !bytes.HasPrefix(bytes.TrimSpace(untrusted), []byte("[")) {
		return errors.New("a set of ranges is a list")
	}
	if err := json.Unmarshal(untrusted, &lines); err != nil {
		return fmt.Errorf("set of ranges: %w", err)
	}
	if len(lines) > maxPages+maxStretches {
		return fmt.Errorf("set of ranges of %d lines, where %d are the most", len(lines), maxPages+maxStretches)
	}
	var read Map
	for i, line := range lines {
		if err := read.addLine(line); err != nil {
			return fmt.Errorf("set of ranges, line %d: %w", i+1, err)
		}
	}
	// Lines out of order, twice, or written in another way are of no use.
	if !slices.Equal(read.lines(), lines) {
		return errors.New("set of ranges is not as it is written")
	}
	*m = read
	return nil
}

func (m *Map) addLine(untrusted string) error {
	head, grains, ok := strings.Cut(untrusted, " ")
	if !ok {
		from, to, _ := strings.Cut(head, "-")
		first, err := pageAt(from)
		if err != nil {
			return err
		}
		last, err := pageAt(to)
		if err != nil {
			return err
		}
		m.addFull(stretch{first, last})
		return nil
	}
	index, err := pageAt(head)
	if err != nil {
		return err
	}
	if index == endPage {
		return fmt.Errorf("no page is at %q", head)
	}
	if encoded, ok := strings.CutPrefix(grains, "bits "); ok {
		return m.addBitmap(index, encoded)
	}
	for _, run := range strings.Split(grains, " ") {
		if err := m.addRun(index, run); err != nil {
			return err
		}
	}
	return nil
}

// pageAt reads the offset of a page.
func pageAt(untrusted string) (int64, error) {
	digits, ok := strings.CutSuffix(untrusted, "M")
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 0 || n%pageMiB != 0 || n/pageMiB > endPage {
		return 0, fmt.Errorf("%q is not the offset of a page", untrusted)
	}
	return n / pageMiB, nil
}

func (m *Map) addRun(index int64, untrusted string) error {
	low, high, ok := strings.Cut(untrusted, "-")
	if !ok {
		high = low
	}
	from, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return fmt.Errorf("%q is not a run of grains", untrusted)
	}
	last, err := strconv.ParseUint(high, 10, 16)
	if err != nil || last < from || last >= pageGrains {
		return fmt.Errorf("%q is not a run of grains", untrusted)
	}
	m.addBits(index, int64(from), int64(last)+1)
	return nil
}

func (m *Map) addBitmap(index int64, untrusted string) error {
	raw, err := base64.RawStdEncoding.Strict().DecodeString(untrusted)
	if err != nil || len(raw) != 8*words {
		return errors.New("is not a bitmap")
	}
	p := m.page(index)
	if p == nil {
		return errors.New("is in what came before")
	}
	for w := range p {
		p[w] |= binary.LittleEndian.Uint64(raw[8*w:])
	}
	m.fold(index, p)
	return nil
}
