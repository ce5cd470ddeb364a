package recreate

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/ui"
)

// Limits of texts.
const (
	// maxShown is how much of a name or value is shown, in bytes: enough to
	// find it again.
	maxShown = 80
	// maxWhy is how much of a reason is shown, in bytes. qubesd's own quote the
	// value that they refuse.
	maxWhy = 300
	// maxName bounds names of properties, features, tags, labels, ports and
	// options. The longest real ones are tags made of a qube's name.
	maxName = 128
	// maxValue bounds a value: a request to qubesd has 65,536 bytes with
	// everything around it.
	maxValue = 64_000
	// maxDeviceValue bounds the value of a device's option.
	maxDeviceValue = 1024
)

// isName accepts letters, digits and the extra characters. Nothing that has a
// meaning in a request is a name.
func isName(untrusted, extra string) bool {
	return untrusted != "" && len(untrusted) <= maxName && !strings.ContainsFunc(untrusted, func(r rune) bool {
		letter := 'a' <= r|0x20 && r|0x20 <= 'z' && r < utf8.RuneSelf
		return !letter && (r < '0' || r > '9') && !strings.ContainsRune(extra, r)
	})
}

// isPrintable accepts visible ASCII and spaces, which is what qubesd takes as
// a value.
func isPrintable(untrusted string, most int) bool {
	return len(untrusted) <= most && !strings.ContainsFunc(untrusted, func(r rune) bool { return r < ' ' || r > '~' })
}

// isNotes accepts text of several lines.
func isNotes(untrusted string) bool {
	return len(untrusted) <= maxValue && utf8.ValidString(untrusted) && !strings.ContainsFunc(untrusted, func(r rune) bool {
		return r != '\n' && r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0)
	})
}

// shown returns a text from outside, cut and quoted.
func shown(untrusted string) string { return ui.Quote(cut(untrusted, maxShown)) }

// cut shortens a text to about n bytes, at a character.
func cut(untrusted string, n int) string {
	if len(untrusted) <= n {
		return untrusted
	}
	for n > 0 && !utf8.RuneStart(untrusted[n]) {
		n--
	}
	return untrusted[:n] + "…"
}

// reason is why qubesd refused something, in a line.
func reason(err error) string {
	var exception *admin.Error
	switch {
	case errors.As(err, &exception) && strings.TrimSpace(exception.Message) != "":
		return ui.Sanitize(cut(strings.TrimSpace(exception.Message), maxWhy))
	case errors.As(err, &exception):
		return "qubesd gives no reason but " + shown(exception.Type)
	case errors.Is(err, admin.ErrNoSuchCall):
		return "this release of Qubes OS has no such call"
	case errors.Is(err, admin.ErrRefused):
		return "refused without a reason; journalctl -u qubesd has it"
	}
	return ui.Sanitize(cut(err.Error(), maxWhy))
}

// fatal reports an error that is not about what was asked: there is no sense
// in asking for more.
func fatal(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || errors.Is(err, admin.ErrUnreachable))
}
