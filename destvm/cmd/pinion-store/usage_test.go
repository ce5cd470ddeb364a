package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestArguments(t *testing.T) {
	for _, tt := range []struct {
		args   string
		status int
		out    string // part of standard output
		errs   string // part of standard error
	}{
		{"version", exitOK, "pinion-store dev, protocol 2\n", ""},
		{"--help", exitOK, "serve", ""},
		{"serve --help", exitOK, "--append-only", ""},
		{"", exitUsage, "", "qrexec, serve or version"},
		{"serve", exitUsage, "", "DIR"},
		{"serve /a /b", exitUsage, "", `"/b"`},
		{"serve --create /a", exitUsage, "", "create"},
		{"qrexec --help", exitOK, "ARCHIVE", ""},
		{"qrexec a b", exitUsage, "", `"b"`},
		{"qrexec --create a", exitUsage, "", "create"},
		{"obey /a", exitUsage, "", "obey"},
	} {
		var out, errs bytes.Buffer
		status := run(strings.Fields(tt.args), strings.NewReader(""), &out, &errs)
		if status != tt.status || !strings.Contains(out.String(), tt.out) || !strings.Contains(errs.String(), tt.errs) {
			t.Errorf("%q: status %d, out %q, err %q", tt.args, status, &out, &errs)
		}
		if n := strings.Count(errs.String(), "\n"); tt.status == exitUsage && n != 1 {
			t.Errorf("%q: %d lines of errors", tt.args, n)
		}
		if (out.Len() == 0) != (tt.out == "") || (errs.Len() == 0) != (tt.errs == "") {
			t.Errorf("%q: out %q, err %q", tt.args, &out, &errs)
		}
	}
}
