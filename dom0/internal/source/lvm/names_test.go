package lvm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinion/dom0/internal/source"
	"pinion/dom0/internal/source/lvm"
)

func TestNamesAreChecked(t *testing.T) {
	for _, good := range []string{"a", "vm-work-private", "A_b.c+d-1", "_x", strings.Repeat("x", 127)} {
		if err := lvm.CheckName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", ".", "..", "-a", "a b", "a/b", "a\n", "a'b", "$x", "ä", "a\"", "a,b", strings.Repeat("x", 128)} {
		if lvm.CheckName(bad) == nil {
			t.Errorf("%q may be a name", bad)
		}
		if _, err := lvm.List(t.Context(), bad); err == nil {
			t.Errorf("LVM was asked about %q", bad)
		}
		if _, err := lvm.Find(t.Context(), "vg", bad); err == nil || errors.Is(err, lvm.ErrNotFound) {
			t.Errorf("LVM was asked about vg/%q: %v", bad, err)
		}
	}
	if vg, lv, err := lvm.Split("vg/vm-a-private"); vg != "vg" || lv != "vm-a-private" || err != nil {
		t.Errorf("%q %q %v", vg, lv, err)
	}
	for _, bad := range []string{"vg", "vg/", "/lv", "a/b/c", ""} {
		if _, _, err := lvm.Split(bad); err == nil {
			t.Errorf("%q is VG/LV", bad)
		}
	}
}

func TestSnapshotNames(t *testing.T) {
	l := source.Label{Owner: "0123abcd", Volume: "89abcdef", Serial: 18446744073709551615}
	for _, c := range []struct{ vg, lv, want string }{
		{"qubes_dom0", "vm-work-private", "pinion.0123abcd.89abcdef.vm-work-private.18446744073709551615"},
		{"vg", "a.b.7", "pinion.0123abcd.89abcdef.a.b.7.18446744073709551615"},
		{"vg", strings.Repeat("x", 127), "pinion.0123abcd.89abcdef." + strings.Repeat("x", 70) + ".18446744073709551615"},
		{"vg", strings.Repeat("x-", 60), "pinion.0123abcd.89abcdef." + strings.Repeat("x-", 23) + "x.18446744073709551615"},
		{strings.Repeat("v", 100), "lv", "pinion.0123abcd.89abcdef..18446744073709551615"},
	} {
		got := lvm.SnapshotName(c.vg, c.lv, l)
		if got != c.want {
			t.Errorf("%s/%s: %s", c.vg, c.lv, got)
		}
		if back, ok := lvm.ParseSnapshotName(got); !ok || back != l {
			t.Errorf("%s has the label %+v", got, back)
		}
		if err := lvm.CheckName(got); err != nil {
			t.Error(err)
		}
		if strings.HasPrefix(got, "vm-") || strings.HasSuffix(got, "-snap") || strings.HasSuffix(got, "-back") || strings.HasSuffix(got, "-import") {
			t.Errorf("Qubes OS gives a meaning to %s", got)
		}
	}
	for _, bad := range []string{
		"", "pinion", "vm-a-private", "pinion.0123abcd.89abcdef.a", "pinion.0123abcd.89abcdef.a.x", "pinion.0123ABCD.89abcdef.a.1",
		"pinion.0123abcd.89abcdef.a.1-snap", "xpinion.0123abcd.89abcdef.a.1", "pinion.0123abcd.89abcdef.a.99999999999999999999",
	} {
		if l, ok := lvm.ParseSnapshotName(bad); ok {
			t.Errorf("%q has the label %+v", bad, l)
		}
	}
	for _, names := range [][]string{{"vg/a"}, {"other/pinion.0123abcd.89abcdef.a.1"}, {"vg/pinion.0123abce.89abcdef.a.1"}, {"pinion.0123abcd.89abcdef.a.1"}} {
		if got, err := lvm.CheckOwned("vg", "0123abcd", names); err == nil {
			t.Errorf("%q are ours: %q", names, got)
		}
	}
}

func TestPoolStatus(t *testing.T) {
	s, err := lvm.ParseStatus("4 420/4096 17/8192 29 rw no_discard_passdown queue_if_no_space - 1024 \n")
	if want := (lvm.PoolStatus{MetadataUsed: 420, MetadataTotal: 4096, DataUsed: 17, DataTotal: 8192, Held: 29}); s != want || err != nil {
		t.Errorf("%+v, %v", s, err)
	}
	for line, want := range map[string]string{
		"4 420/4096 0/8192 - rw discard_passdown queue_if_no_space - 1024":                               "",
		"4 420/4096 0/8192 - ro discard_passdown queue_if_no_space - 1024":                               "read-only",
		"4 420/4096 8192/8192 - out_of_data_space discard_passdown error_if_no_space - 1024":             "no space left",
		"4 420/4096 0/8192 - rw discard_passdown queue_if_no_space needs_check 1024":                     "checked",
		"4 420/4096 0/8192 - ro discard_passdown queue_if_no_space needs_check 1024 metadata_mode later": "checked",
		"Fail":  "gave it up",
		"Error": "gave it up",
	} {
		s, err := lvm.ParseStatus(line)
		if err != nil || (s.Problem == "") != (want == "") || !strings.Contains(s.Problem, want) {
			t.Errorf("%s: %q, %v", line, s.Problem, err)
		}
	}
	for _, bad := range []string{"", "\n", "1 2", "4 x/4096 0/8192 - rw", "4 1/0 0/0 - rw", "4 1/2 3/4 x rw a b - 1"} {
		if s, err := lvm.ParseStatus(bad); err == nil {
			t.Errorf("%q means %+v", bad, s)
		}
	}
}

// TestReports: nothing that LVM can't have said gets through.
func TestReports(t *testing.T) {
	row := func(more string) []byte {
		return []byte(`{"report":[{"lv":[{"vg_name":"vg","lv_name":"lv","lv_size":"512","segtype":"linear","lv_role":"public"` + more + `}]}]}`)
	}
	if all, err := lvm.ParseReport(row("")); err != nil || len(all) != 1 || all[0].Kind != source.LVM || all[0].Size != 512 {
		t.Errorf("%+v, %v", all, err)
	}
	for _, bad := range []string{
		`,"lv_name":"a b"`, `,"lv_name":"../x"`, `,"vg_name":"-x"`, `,"pool_lv":"a/b"`, `,"origin":"$(x)"`, `,"metadata_lv":"x y"`,
		`,"lv_size":"1.00g"`, `,"lv_size":"-1"`, `,"thin_id":"x"`, `,"thin_id":"99999999999"`, `,"lv_name":7`,
	} {
		if all, err := lvm.ParseReport(row(bad)); err == nil {
			t.Errorf("%s means %+v", bad, all[0])
		}
	}
	for _, bad := range []string{"", "{", "[]"} {
		if _, err := lvm.ParseReport([]byte(bad)); err == nil {
			t.Errorf("%q is a report", bad)
		}
	}
}

func TestDashed(t *testing.T) {
	if got := lvm.Dashed("mlaJYR6FPoUF6XQulShl6wLpCuVQui19"); got != "mlaJYR-6FPo-UF6X-QulS-hl6w-LpCu-VQui19" {
		t.Error(got)
	}
}

// TestNotLVM: files, and devices of no volume group, are none of LVM's.
func TestNotLVM(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, "/dev/null", t.TempDir()} {
		if vg, lv, err := lvm.OfDevice(t.Context(), path); vg != "" || lv != "" || err != nil {
			t.Errorf("%s: %q, %q, %v", path, vg, lv, err)
		}
	}
	if _, _, err := lvm.OfDevice(t.Context(), file+"x"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestErrorsSayWhatWasRun(t *testing.T) {
	if _, err := lvm.Run(t.Context(), "no-such-program-of-lvm"); !errors.Is(err, lvm.ErrNoTools) {
		t.Error(err)
	}
	_, err := lvm.Run(t.Context(), "sh", "-c", "echo WARNING: nothing >&2; echo; echo '  it broke' >&2; echo more >&2; exit 5")
	if err == nil || !strings.HasPrefix(err.Error(), "sh -c ") || !strings.HasSuffix(err.Error(), "it broke (exit status 5)") {
		t.Error(err)
	}
	if out, err := lvm.Run(t.Context(), "sh", "-c", "echo $LC_ALL"); string(out) != "C\n" || err != nil {
		t.Errorf("%q %v", out, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lvm.Run(ctx, "sleep", "1000"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
