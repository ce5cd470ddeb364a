package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/qubesxml"
)

// live is what the Admin API knows and the file doesn't.
type live struct {
	firewall []string
	notes    string
	volumes  map[string]admin.VolumeInfo // those that were asked about
	// inherited are references that are at their default, with what that is.
	inherited []format.QubePair
}

// Classes of qubes that lack what others have.
const (
	classAdmin  = "AdminVM"  // no network, no volumes
	classRemote = "RemoteVM" // on another machine: nothing but its name here
)

// view looks at one qube. An error means that there is no use in going on with
// any.
func (p *pass) view(ctx context.Context, name string) (view, error) {
	v := view{file: p.file, domain: p.file.Domain(name)}
	vm, listed := p.listed[name]
	if v.err = format.CheckAnyQubeName(name); v.err != nil {
		return v, nil
	}
	switch {
	case slices.Contains(p.file.TooLarge, name):
		v.err = fmt.Errorf("%s has too much about it; qvm-features %s may show what", qubesxml.FileName, name)
	case v.domain == nil && !listed:
		v.err = fmt.Errorf("the qube is gone: %w", admin.ErrNotFound)
	case v.domain == nil:
		v.err = fmt.Errorf("the qube is not in %s yet: %w", qubesxml.FileName, admin.ErrNotFound)
	case !listed:
		v.err = fmt.Errorf("the qube is in %s, but qubesd does not have it: %w", qubesxml.FileName, admin.ErrNotFound)
	}
	if v.err != nil {
		return v, nil
	}
	v.compareTexts("class", v.domain.Class, vm.Class)
	return v, p.ask(ctx, name, &v)
}

// A question is one of the things that are asked about a qube.
type question struct {
	what string // that the answer is for, if there is none
	ask  func() error
}

// ask asks all there is to ask about a qube. One question without an answer
// doesn't keep the others from being asked.
func (p *pass) ask(ctx context.Context, name string, v *view) error {
	unanswered := 0
	for _, q := range p.questions(ctx, name, v) {
		if unanswered == maxUnanswered {
			v.problems = append(v.problems, q.what+": not asked, qubesd did not answer before")
			continue
		}
		err := q.ask()
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isGone(err):
			v.err = fmt.Errorf("the qube is gone: %w", err)
			return nil
		}
		// One call may fail or hang where others don't. If none is answered, a
		// backup can't go on.
		if _, err := p.api.List(ctx); err != nil {
			return fmt.Errorf("qubesd went away while the settings of qubes were read: %w", err)
		}
		if errors.Is(err, admin.ErrUnreachable) {
			unanswered++
		}
		v.problems = append(v.problems, fmt.Sprintf("%s: %v", q.what, err))
	}
	return nil
}

// isGone reports that there is no such qube any more.
func isGone(err error) bool {
	var exception *admin.Error
	return errors.As(err, &exception) && exception.Type == "QubesVMNotFoundError"
}

func (p *pass) questions(ctx context.Context, name string, v *view) []question {
	const unchecked = " are as " + qubesxml.FileName + " has them, unchecked"
	d := v.domain
	list := []question{
		{"properties" + unchecked + ", and which network and disposables it has by default isn't known", func() error { return p.properties(ctx, name, v) }},
		{"features" + unchecked, func() error {
			if n := len(d.Features); n > maxFeatures {
				return fmt.Errorf("it has %d, and no more than %d are asked for", n, maxFeatures)
			}
			features, err := p.api.Features(ctx, name)
			if err == nil {
				pairs := make([]format.QubePair, 0, len(features))
				for _, f := range features {
					pairs = append(pairs, format.QubePair(f))
				}
				v.comparePairs("feature", without(d.Features, isRuntimeFeature), without(pairs, isRuntimeFeature))
			}
			return err
		}},
		{"tags" + unchecked, func() error {
			tags, err := p.api.Tags(ctx, name)
			if err == nil {
				v.compareNames("tag", d.Tags, tags)
			}
			return err
		}},
	}
	if d.Class == classAdmin {
		list = append(list, question{"global properties" + unchecked, func() error {
			globals, err := p.api.Globals(ctx)
			if err == nil {
				v.comparePairs("global property", p.file.Globals, nonDefault(globals))
			}
			return err
		}})
	}
	if d.Class != classRemote && len(p.classes) > 0 {
		list = append(list, question{"assigned devices" + unchecked, func() error { return p.devices(ctx, name, v) }})
	}
	if d.Class == classRemote || d.Class == classAdmin {
		return list
	}
	list = append(list, question{"the firewall rules are not kept", func() (err error) {
		v.live.firewall, err = p.api.Firewall(ctx, name)
		if err == nil && len(v.live.firewall) == 0 {
			// A qube without rules lets nothing through (the policy of
			// qubes/firewall.py of qubes-core-admin is drop). Said as a rule, so
			// that no rules at all means that they are not known.
			v.live.firewall = []string{"action=drop"}
		}
		return err
	}}, question{"the notes are not kept", func() (err error) {
		v.live.notes, err = p.api.Notes(ctx, name)
		if errors.Is(err, admin.ErrNoSuchCall) {
			return nil // R4.2
		}
		return err
	}})
	return append(list, p.volumes(ctx, name, v)...)
}

// properties compares the properties, among them label and template.
func (p *pass) properties(ctx context.Context, name string, v *view) error {
	properties, err := p.api.Properties(ctx, name)
	if err != nil {
		return err
	}
	here := nonDefault(properties)
	for _, p := range properties {
		if p.Default && format.Inherits(p.Name) {
			v.live.inherited = append(v.live.inherited, format.QubePair{Name: p.Name, Value: p.Value})
		}
	}
	for _, name := range []string{"label", "template"} {
		text, _ := v.domain.Property(name)
		for _, q := range properties {
			if q.Name == name {
				v.compareTexts(name, text, q.Value)
			}
		}
	}
	v.comparePairs("property", without(v.domain.Properties, isMachineProperty), without(here, isMachineProperty))
	return nil
}

// devices compares the devices of all classes.
func (p *pass) devices(ctx context.Context, name string, v *view) error {
	var here []format.QubeDevice
	for _, class := range p.classes {
		list, err := p.api.Assigned(ctx, name, class)
		if err != nil {
			return err
		}
		for _, a := range list {
			d := format.QubeDevice{Class: class, Backend: a.Backend, Port: a.Port, Identity: a.Identity, Mode: a.Mode}
			for _, o := range a.Options {
				d.Options = append(d.Options, format.QubePair(o))
			}
			here = append(here, d)
		}
	}
	v.comparePairs("device", deviceTexts(v.domain.Devices), deviceTexts(here))
	return nil
}

// volumes asks about what the file leaves open: a size that isn't there, and
// whether a scratch volume is encrypted with a key that is thrown away, which
// only such a volume can be.
func (p *pass) volumes(ctx context.Context, name string, v *view) (list []question) {
	v.live.volumes = map[string]admin.VolumeInfo{}
	for _, volume := range v.domain.Volumes {
		writable := volume.Flags&format.QubeVolumeWritable != 0
		scratch := volume.Flags&(format.QubeVolumeSaved|format.QubeVolumeFromSource) == 0
		if !writable || volume.HasSize && (volume.HasEphemeral || !scratch) {
			continue
		}
		list = append(list, question{"volume " + shown(volume.Name) + " is as " + qubesxml.FileName + " has it", func() error {
			info, err := p.api.Volume(ctx, name, volume.Name)
			if err == nil {
				v.live.volumes[volume.Name] = info
			}
			return err
		}})
	}
	return list
}
