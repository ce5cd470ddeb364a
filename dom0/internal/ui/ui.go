// Package ui owns the terminal, standard output and standard error.
//
// The rules:
//
//   - Standard output carries results and nothing else: text for people, or with --json one document, written at the
//     end, which on failure holds an "error" member.
//   - Standard error carries everything else, each line prefixed "pinion: ", no capital first, no period last.
//   - An error is one line, "pinion: error: …", and where there is something to do about it a second, "hint: …".
//   - --quiet drops progress, notices, hints, and the summaries of what was done. Errors and warnings stay. Of a run
//     that was done in part, the lines that name the failed parts are the error; no summary follows them.
//   - --verbose adds details.
//   - With --json each line on standard error is an object with a "type": progress, notice, warning or error.
//   - Progress is drawn over one line of a terminal, and erased before anything else is written; where there is no
//     terminal it is a few plain lines.
//   - Questions and passphrases go to the controlling terminal, whatever the standard streams are.
//
// Promises: nothing that reaches a stream through this package can move the cursor, switch character sets or reverse
// the direction of text, wherever it came from: control and format characters and invalid UTF-8 are escaped. Messages
// are always one line. All methods may be called from several goroutines.
//
// It never decides what is an error, and never ends the process.
package ui

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"

	"golang.org/x/term"
)

const (
	prefix = "pinion: "
	// defaultWidth is assumed where a terminal doesn't tell its width, in columns.
	defaultWidth = 80
	eraseLine    = "\r\x1b[K"
)

// Options are the properties of a UI; they don't change during its life.
type Options struct {
	// Out and Err are standard output and standard error.
	Out, Err io.Writer
	// Terminal says that Err is a terminal that can erase a line.
	Terminal bool
	// Width returns the terminal's width in columns; nil, or a result of 0 or less, stands for 80.
	Width func() int
	// OpenTerminal opens the controlling terminal for questions; nil stands for /dev/tty.
	OpenTerminal func() (*os.File, error)
	// The switches of the same names.
	JSON, Quiet, Verbose, Unattended bool
}

// UI writes what pinion has to say.
type UI struct {
	o Options

	// mu guards the streams and what follows.
	mu sync.Mutex
	// drawn is set while a progress line stands on the terminal.
	drawn bool
	// progress is the one that runs, if any.
	progress *Progress
	// document is the result under JSON, an object, until Finish writes it.
	document []byte
	// parts counts the calls of PartFailed.
	parts int
	// outErr is the first error of writing to Out.
	outErr error
}

// New returns a UI. Whoever calls it also calls Finish, once, at the end.
func New(o Options) *UI {
	if o.OpenTerminal == nil {
		o.OpenTerminal = openControllingTerminal
	}
	return &UI{o: o}
}

// JSON reports whether results are wanted as a document: commands then call Result, else they print.
func (u *UI) JSON() bool { return u.o.JSON }

// Quiet reports whether --quiet was given. Printf and Table write all the same, because what a command was run for,
// such as a list, is wanted then too; commands that are run for what they do leave their summaries out.
func (u *UI) Quiet() bool { return u.o.Quiet }

// Verbose says whether details are wanted.
func (u *UI) Verbose() bool { return u.o.Verbose }

// OnTerminal reports whether results go to a terminal, and so to a person only.
func (u *UI) OnTerminal() bool {
	f, ok := u.o.Out.(*os.File)
	return ok && !u.o.JSON && term.IsTerminal(int(f.Fd()))
}

// Failure is what Finish reports.
type Failure struct {
	// Code is the exit status.
	Code int `json:"code"`
	// Message is the error, Hint what to do about it or empty.
	Message string `json:"message"`
	Hint    string `json:"hint"`
	// InParts says that the failed parts were reported with PartFailed, so that Message is their summary.
	InParts bool `json:"-"`
}

// Result sets the document that Finish writes; doc has to marshal into a JSON object. Without --json nothing happens.
// A later call replaces the document.
func (u *UI) Result(doc any) error {
	if !u.o.JSON {
		return nil
	}
	b, err := json.Marshal(doc)
	if err == nil && (len(b) < 2 || b[0] != '{') {
		err = errors.New("not an object")
	}
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.document = b
	return nil
}

// Printf writes a line of the result for people; with --json it writes nothing.
func (u *UI) Printf(format string, args ...any) {
	if u.o.JSON {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.out(Sanitize(fmt.Sprintf(format, args...)) + "\n")
}

// Table writes a table of the result for people, its columns aligned; with --json it writes nothing.
func (u *UI) Table(header []string, rows [][]string) {
	if u.o.JSON {
		return
	}
	var text strings.Builder
	// A strings.Builder takes every write.
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			if i > 0 {
				_, _ = io.WriteString(w, "\t")
			}
			_, _ = io.WriteString(w, Sanitize(cell))
		}
		_, _ = io.WriteString(w, "\n")
	}
	_ = w.Flush()
	u.mu.Lock()
	defer u.mu.Unlock()
	for line := range strings.Lines(text.String()) {
		u.out(strings.TrimRight(line, " \n") + "\n")
	}
}

// out writes to Out; u.mu is held.
func (u *UI) out(s string) {
	u.erase()
	if _, err := io.WriteString(u.o.Out, s); err != nil && u.outErr == nil {
		u.outErr = fmt.Errorf("write to standard output: %w", err)
	}
}

// Warn tells of something that is wrong but doesn't stop the command.
func (u *UI) Warn(format string, args ...any) { u.say("warning", "warning: ", format, args) }

// Notice tells of something worth knowing.
func (u *UI) Notice(format string, args ...any) {
	if !u.o.Quiet {
		u.say("notice", "", format, args)
	}
}

// Detail tells what only --verbose wants to know.
func (u *UI) Detail(format string, args ...any) {
	if u.o.Verbose {
		u.say("notice", "", format, args)
	}
}

// PartFailed tells of a part that failed, such as one volume of several, while the command goes on.
func (u *UI) PartFailed(format string, args ...any) {
	u.mu.Lock()
	u.parts++
	u.mu.Unlock()
	u.say("error", "error: ", format, args)
}

func (u *UI) say(kind, mark, format string, args []any) {
	text := Sanitize(fmt.Sprintf(format, args...))
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.o.JSON {
		u.line(message{Type: kind, Message: text})
		return
	}
	u.err(prefix + mark + text + "\n")
}

// message is a line on standard error under JSON.
type message struct {
	Type    string `json:"type"`
	Code    int    `json:"code,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// line writes one JSON object to Err; u.mu is held.
func (u *UI) line(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("ui: internal error: " + err.Error())
	}
	u.err(string(b) + "\n")
}

// err writes to Err; u.mu is held. There is nowhere to report that standard error is gone: the command goes on.
func (u *UI) err(s string) {
	u.erase()
	_, _ = io.WriteString(u.o.Err, s)
}

// erase takes the progress line away; u.mu is held.
func (u *UI) erase() {
	if u.drawn {
		_, _ = io.WriteString(u.o.Err, eraseLine)
		u.drawn = false
	}
}

func (u *UI) width() int {
	if u.o.Width != nil {
		if w := u.o.Width(); w > 0 {
			return w
		}
	}
	return defaultWidth
}

// Finish ends the progress, reports the failure, if there is one, and writes the document. It returns an error if
// results couldn't be written to standard output.
func (u *UI) Finish(failure *Failure) error {
	u.mu.Lock()
	running := u.progress
	u.mu.Unlock()
	if running != nil {
		running.Stop()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if failure != nil {
		f := *failure
		f.Message, f.Hint = Sanitize(f.Message), Sanitize(f.Hint)
		u.fail(f)
		failure = &f
	}
	if u.o.JSON {
		u.finishDocument(failure)
	}
	return u.outErr
}

func (u *UI) fail(f Failure) {
	if u.o.JSON {
		m := message{Type: "error", Code: f.Code, Message: f.Message}
		if !u.o.Quiet {
			m.Hint = f.Hint
		}
		u.line(m)
		return
	}
	if u.o.Quiet && f.InParts && u.parts > 0 {
		return
	}
	u.err(prefix + "error: " + f.Message + "\n")
	if f.Hint != "" && !u.o.Quiet {
		u.err("hint: " + f.Hint + "\n")
	}
}

// finishDocument writes the document with the failure as one more member; u.mu is held.
func (u *UI) finishDocument(failure *Failure) {
	doc := u.document
	if failure != nil {
		f, err := json.Marshal(failure)
		if err != nil {
			panic("ui: internal error: " + err.Error())
		}
		member := `"error":` + string(f) + "}"
		switch {
		case len(doc) <= len("{}"):
			doc = []byte("{" + member)
		default:
			doc = append(append([]byte(nil), doc[:len(doc)-1]...), ","+member...)
		}
	}
	if doc != nil {
		u.out(string(doc) + "\n")
	}
}
