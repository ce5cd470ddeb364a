package ui

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
)

// stream is a buffer that the goroutine which draws progress and the test may use at once.
type stream struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *stream) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *stream) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Reset()
}

// streams is a UI with its two streams in memory.
func streams(o Options) (*UI, *stream, *stream) {
	out, errs := &stream{}, &stream{}
	o.Out, o.Err = out, errs
	return New(o), out, errs
}

// talk uses everything once, as a command does whose second part failed.
func talk(u *UI) error {
	u.Notice("reading %s", Quote("a"))
	u.Warn("file %q can be read", "x")
	u.Detail("pack %d", 7)
	u.PartFailed("volume %s: gone", Quote("b c"))
	u.Table([]string{"name", "size"}, [][]string{{"a", Bytes(1024)}, {Quote("long name"), "0 B"}})
	u.Printf("done %d", 1)
	if err := u.Result(map[string]int{"sent_bytes": 3}); err != nil {
		return err
	}
	return u.Finish(&Failure{Code: 3, Message: "1 of 2 volumes failed", Hint: "look above", InParts: true})
}

func TestStreams(t *testing.T) {
	const table = "name         size\na            1 KiB\n\"long name\"  0 B\ndone 1\n"
	const document = `{"sent_bytes":3,"error":{"code":3,"message":"1 of 2 volumes failed","hint":"look above"}}` + "\n"
	const warning = "pinion: warning: file \"x\" can be read\n"
	const part = "pinion: error: volume \"b c\": gone\n"
	for name, c := range map[string]struct {
		o        Options
		out, err string
	}{
		"plain": {Options{}, table,
			"pinion: reading a\n" + warning + part + "pinion: error: 1 of 2 volumes failed\nhint: look above\n"},
		"quiet": {Options{Quiet: true}, table, warning + part},
		"verbose": {Options{Verbose: true}, table,
			"pinion: reading a\n" + warning + "pinion: pack 7\n" + part + "pinion: error: 1 of 2 volumes failed\nhint: look above\n"},
		"json": {Options{JSON: true}, document,
			`{"type":"notice","message":"reading a"}` + "\n" + `{"type":"warning","message":"file \"x\" can be read"}` + "\n" +
				`{"type":"error","message":"volume \"b c\": gone"}` + "\n" +
				`{"type":"error","code":3,"message":"1 of 2 volumes failed","hint":"look above"}` + "\n"},
		"json quiet": {Options{JSON: true, Quiet: true}, document,
			`{"type":"warning","message":"file \"x\" can be read"}` + "\n" + `{"type":"error","message":"volume \"b c\": gone"}` + "\n" +
				`{"type":"error","code":3,"message":"1 of 2 volumes failed"}` + "\n"},
	} {
		u, out, errs := streams(c.o)
		if err := talk(u); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if out.String() != c.out {
			t.Errorf("%s: standard output:\n%s\nwant:\n%s", name, out, c.out)
		}
		if errs.String() != c.err {
			t.Errorf("%s: standard error:\n%s\nwant:\n%s", name, errs, c.err)
		}
	}
}

// An error that isn't the summary of failed parts is the one line that --quiet prints.
func TestQuietKeepsErrors(t *testing.T) {
	u, out, errs := streams(Options{Quiet: true})
	if err := u.Finish(&Failure{Code: 1, Message: "read\nx", Hint: "h"}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "" || errs.String() != "pinion: error: read\\nx\n" {
		t.Errorf("%q, %q", out, errs)
	}
}

func TestOneDocument(t *testing.T) {
	for name, c := range map[string]struct {
		doc     any
		failure *Failure
		want    string
	}{
		"neither":       {nil, nil, ""},
		"result":        {struct{ A int }{1}, nil, `{"A":1}` + "\n"},
		"failure":       {nil, &Failure{Code: 2, Message: "m\x1b"}, `{"error":{"code":2,"message":"m\\x1b","hint":""}}` + "\n"},
		"empty result":  {struct{}{}, &Failure{Code: 2, Message: "m"}, `{"error":{"code":2,"message":"m","hint":""}}` + "\n"},
		"both together": {struct{ A int }{1}, &Failure{Code: 2, Message: "m"}, `{"A":1,"error":{"code":2,"message":"m","hint":""}}` + "\n"},
	} {
		u, out, _ := streams(Options{JSON: true})
		if c.doc != nil {
			if err := u.Result(c.doc); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := u.Finish(c.failure); err != nil || out.String() != c.want {
			t.Errorf("%s: %q, %v; want %q", name, out, err, c.want)
		}
		if s := out.String(); s != "" && !json.Valid([]byte(s)) {
			t.Errorf("%s: not JSON", name)
		}
	}
	u, _, _ := streams(Options{JSON: true})
	if err := u.Result([]int{1}); err == nil {
		t.Error("a list was taken for a document")
	}
	if err := u.Result(func() {}); err == nil {
		t.Error("a function was taken for a document")
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestLostResultsAreAnError(t *testing.T) {
	u := New(Options{Out: brokenPipe{}, Err: brokenPipe{}})
	u.Warn("nobody hears this")
	u.Printf("a")
	u.Printf("b")
	if err := u.Finish(nil); err == nil || err.Error() != "write to standard output: broken pipe" {
		t.Errorf("got %v", err)
	}
}

// hostile are strings that steer a terminal or look like something else.
var hostile = []string{
	"\x1b[2J", "a\rb", "a\nb", "\x00", "\x7f", "\u009b31m", "a\u202eb", "\u2066x", "\u200b", "\ufeff", "\xff\xfe", "a\u00adb", "\u2028",
	"\U000e0041", "\u3164", "\u0301a", "", " a", "a b", `a"b`, `a\b`, "\u00a0",
}

func TestQuote(t *testing.T) {
	for _, s := range hostile {
		got := Quote(s)
		if !strings.HasPrefix(got, `"`) || !strings.HasSuffix(got, `"`) || Sanitize(got) != got {
			t.Errorf("%q is shown as %q", s, got)
		}
	}
	for _, s := range []string{"work", "VG/LV", "work:private", "größe", "日本", "a-b_c.d", "^x"} {
		if got := Quote(s); got != s {
			t.Errorf("%q is shown as %q", s, got)
		}
	}
}

func TestSanitizedEverywhere(t *testing.T) {
	for _, s := range hostile {
		for _, o := range []Options{{}, {JSON: true}} {
			u, out, errs := streams(o)
			u.Notice("%s", s)
			u.Warn("%s", s)
			u.PartFailed("%s", s)
			u.Printf("%s", s)
			u.Table([]string{s}, [][]string{{s}})
			if err := u.Finish(&Failure{Code: 1, Message: s, Hint: s + "h"}); err != nil {
				t.Error(err)
			}
			for _, b := range []*stream{out, errs} {
				for line := range strings.Lines(b.String()) {
					if rest := strings.TrimSuffix(line, "\n"); Sanitize(rest) != rest {
						t.Errorf("%q reached a stream in %q", s, line)
					}
				}
			}
			if lines := strings.Count(errs.String(), "\n"); lines > 5 {
				t.Errorf("%q made %d lines of errors", s, lines)
			}
		}
	}
}

func FuzzQuote(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, shown := range []string{Sanitize(s), Quote(s)} {
			if again := Sanitize(shown); again != shown {
				t.Fatalf("%q is shown as %q, which is not clean", s, shown)
			}
		}
		if q := Quote(s); q == "" || (q[0] != '"' && q != s) {
			t.Fatalf("%q is quoted as %q", s, q)
		}
	})
}
