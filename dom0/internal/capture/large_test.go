package capture

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pinion/dom0/internal/admin"
	"pinion/e2e/qubesd"
)

// announced puts features into a qube of a file.
func announced(t *testing.T, path string, n int) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(`<feature name="menu-items">`)
	for i := range n {
		fmt.Fprintf(&b, "1</feature><feature name=\"supported-feature.%06d\">", i)
	}
	return edited(t, path, `<feature name="menu-items">`, b.String())
}

// TestTooLarge: a qube that has announced more features than a file may hold is
// named, and the others are captured.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	_, api, path := system(t, qubesd.R43)
	list := take(t, api, announced(t, path, 126_000), "vault", "work", "dom0")
	if err := list[1].Err; err == nil || errors.Is(err, admin.ErrNotFound) || !strings.Contains(err.Error(), "qubes.xml has too much about it") {
		t.Errorf("work: %v", err)
	}
	if list[0].Err != nil || list[2].Err != nil || !strings.Contains(strings.Join(list[0].Warnings, "\n"), "qube work is passed over") {
		t.Errorf("%v, %v, warnings %q", list[0].Err, list[2].Err, list[0].Warnings)
	}
}

// TestManyFeatures: features of which there are many are kept, and not asked
// for one by one.
func TestManyFeatures(t *testing.T) {
	t.Parallel()
	s, api, path := system(t, qubesd.R43)
	s.ForgetCalls()
	c := take(t, api, announced(t, path, maxFeatures+1), "work")[0]
	if c.Err != nil || len(c.Config.Features) < maxFeatures {
		t.Fatalf("%v, %+v", c.Err, c.Config)
	}
	wantWarnings(t, c.Warnings, "features are as qubes.xml has them, unchecked: it has")
	for _, call := range s.Calls() {
		if strings.HasPrefix(call.Method, "admin.vm.feature.") {
			t.Errorf("%s was called", call.Method)
		}
	}
}
