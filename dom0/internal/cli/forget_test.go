package cli

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"pinion/dom0/internal/source"
)

// TestSeeing: that a file is not there is believed; of a logical volume it is
// only if its group is there.
func TestSeeing(t *testing.T) {
	none := seeing(func(context.Context, string) (*source.Source, error) { return nil, fs.ErrNotExist })
	if _, err := none(t.Context(), "file:/a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := none(t.Context(), "lvm:no-such-group/lv"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	there := &source.Source{}
	all := seeing(func(context.Context, string) (*source.Source, error) { return there, nil })
	if s, err := all(t.Context(), "lvm:no-such-group/lv"); s != there || err != nil {
		t.Errorf("%v, %v", s, err)
	}
}
