// Package capture takes down what a qube is beside its data: everything that
// is needed to make it anew elsewhere.
//
// It owns the choice of what is kept. qubes.xml rules, because it alone shows
// the whole system at one moment: class, label, template, the properties that
// are not at their default, features, tags, devices and volumes come from it.
// The Admin API gives what isn't in there, which are the firewall, the notes,
// some of a volume, and which network and disposables a qube has where it has
// the system's default, and is compared with the rest. Where the two
// disagree, both are read once more, since somebody may have changed something
// in between; if they still do, the file's word is kept and the difference is
// named with both values. What a host gives its qubes by itself (numbers,
// UUIDs, the time of the last backup, which disposables are preloaded) is left
// out. The choices for the application menu need nothing of their own: they are
// the features menu-items, default-menu-items and netvm-menu-items. The
// lists whitelisted-appmenus.list of old systems are read by the menu where
// such a feature is missing (qubesappmenus/__init__.py of
// qubes-desktop-linux-common), and written no more; they lie in the home
// directory of dom0's user and are kept with it.
//
// It promises that a configuration passes format's Check and fits a blob; that
// a value which is too long, or a name with control characters, costs itself
// and a warning, never the qube; that whatever else is too large, the firewall,
// the network and the devices are kept, or the qube fails by name; that the trouble of one qube is no other's;
// and that the same state gives the same bytes, whether a qube runs or not, so
// that an unchanged configuration isn't stored twice. It changes nothing:
// not qubes.xml, nor anything over the Admin API, and keeps no volume's
// contents.
package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/qubesxml"
)

const (
	// parallel is how many qubes are asked about at the same time. qubesd
	// does one thing at a time, but a connection costs more than an answer.
	parallel = 4

	// settle is how long a difference has to go away: qubesd writes qubes.xml
	// right after it has changed something.
	settle = 200 * time.Millisecond

	// maxUnanswered is how often a qube may not be answered about before it is
	// asked about no more: a time-out is minutes.
	maxUnanswered = 2

	// maxFeatures is how many features of a qube are compared: each is a call,
	// and a qube can announce as many as it likes.
	maxFeatures = 2000

	// maxWarnings bounds what is said about a qube.
	maxWarnings = 50
)

// Captured is one qube as it is now.
type Captured struct {
	Config *format.QubeConfig
	// Warnings are lines for people, without the qube's name. What isn't about
	// one qube, such as what is odd in qubes.xml, stands with the first.
	Warnings []string
	// Err says why this qube can't be captured. It is admin.ErrNotFound if the
	// qube is gone, or not there yet.
	Err error
}

// Take captures the named qubes, in their order. The name dom0 stands for
// dom0 itself, whose configuration has the global properties. An error is
// about all of them: qubes.xml can't be read, or qubesd doesn't answer.
func Take(ctx context.Context, api *admin.Client, xmlPath string, names []string) ([]Captured, error) {
	views := make([]view, len(names))
	todo := make([]int, len(names))
	for i := range names {
		todo[i] = i
	}
	var remarks []string
	for attempt := 0; len(todo) > 0 && attempt < 2; attempt++ {
		if attempt > 0 {
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-time.After(settle):
			}
		}
		p, err := begin(ctx, api, xmlPath)
		if err != nil {
			return nil, err
		}
		remarks = p.remarks
		if err := p.look(ctx, names, todo, views); err != nil {
			return nil, err
		}
		again := todo[:0]
		for _, i := range todo {
			if views[i].unsettled() {
				again = append(again, i)
			}
		}
		todo = again
	}
	list := make([]Captured, len(names))
	for i := range views {
		list[i] = views[i].captured()
	}
	if len(list) > 0 {
		list[0].Warnings = append(list[0].Warnings, remarks...)
	}
	return list, nil
}

// A pass is one reading of the file, with the answers that go with it.
type pass struct {
	api     *admin.Client
	file    *qubesxml.System
	listed  map[string]admin.VM
	classes []string // of devices
	remarks []string // about no one qube
}

// begin reads the file and asks what is asked once for all qubes.
func begin(ctx context.Context, api *admin.Client, xmlPath string) (*pass, error) {
	file, err := qubesxml.Read(xmlPath)
	if err != nil {
		return nil, err
	}
	p := &pass{api: api, file: file, listed: map[string]admin.VM{}}
	for _, text := range file.Odd {
		p.remarks = append(p.remarks, qubesxml.FileName+": "+text)
	}
	vms, err := api.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("can't ask qubesd for the settings of qubes: %w", err)
	}
	for _, vm := range vms {
		p.listed[vm.Name] = vm
	}
	// Who asks for all qubes chose from the list: one that isn't in it would
	// be missing without a word.
	for _, d := range file.Domains {
		if _, ok := p.listed[d.Name]; !ok {
			p.remarks = append(p.remarks, fmt.Sprintf("%s has a qube %s that qubesd doesn't list", qubesxml.FileName, shown(d.Name)))
		}
	}
	p.remarks = bounded(p.remarks)
	if p.classes, err = api.DeviceClasses(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		text := fmt.Sprintf("the assigned devices of all qubes are as %s has them, unchecked: %v", qubesxml.FileName, err)
		p.remarks = append(p.remarks, text)
	}
	return p, nil
}

// look fills in the views of the qubes that todo names by number.
func (p *pass) look(ctx context.Context, names []string, todo []int, views []view) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, i := range todo {
		g.Go(func() error {
			v, err := p.view(ctx, names[i])
			views[i] = v
			return err
		})
	}
	return g.Wait()
}

// A view is what one pass saw of a qube.
type view struct {
	file     *qubesxml.System
	domain   *qubesxml.Domain
	live     live
	differs  []string // where the API disagrees with the file
	problems []string // what the API couldn't say
	err      error
}

// unsettled reports a view that may be better a moment later.
func (v *view) unsettled() bool {
	return len(v.differs) > 0 || errors.Is(v.err, admin.ErrNotFound)
}

// captured turns a view into its result.
func (v *view) captured() Captured {
	if v.err != nil {
		return Captured{Err: v.err}
	}
	k := keeper{}
	config, err := k.config(v)
	return Captured{Config: config, Err: err, Warnings: bounded(append(append(v.problems, v.differs...), k.warnings...))}
}

// bounded keeps so many texts as are shown.
func bounded(texts []string) []string {
	if more := len(texts) - maxWarnings; more > 0 {
		return append(texts[:maxWarnings:maxWarnings], fmt.Sprintf("and %d more of this kind", more))
	}
	return texts
}
