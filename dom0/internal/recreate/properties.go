package recreate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
)

// Properties that others need of a qube.
const (
	disposables = "template_for_dispvms"
	network     = "provides_network"
	autostart   = "autostart"
)

// given are properties that belong to the machine, or that nobody can set.
// Label and template stand by themselves in a configuration.
var given = []string{
	"backup_timestamp", "dispid", "dns", "gateway", "gateway6", "icon", "installed_by_rpm", "klass", "label", "name",
	"qid", "start_time", "storage", "stubdom_uuid", "stubdom_xid", "template", "updateable", "uuid", "visible_gateway",
	"visible_gateway6", "visible_ip", "visible_ip6", "visible_netmask", "xid",
}

// address are properties that only one qube of a network can have.
var address = []string{"ip", "ip6", "mac"}

// kindQube is the type of properties that name a qube.
const kindQube = "vm"

// skips says that a property is left alone.
func (j *job) skips(property string) bool {
	return slices.Contains(j.p.options.SkipProps, property)
}

// settings makes a qube's settings what the backup says. Whatever the qube
// has that the backup doesn't have goes, for one that was here before and for
// a new one: qubesd gives a new disposable what its template has.
func (j *job) settings(ctx context.Context) error {
	for _, part := range []func(context.Context) error{
		j.properties, j.features, j.tags, j.devices, j.firewall, j.notes, j.volumeSettings,
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// properties sets the properties; those that name qubes come last, as they
// depend on others.
func (j *job) properties(ctx context.Context) error {
	list, err := j.api.Properties(ctx, j.s.Name)
	if fatal(ctx, err) {
		return fmt.Errorf("read the properties of %s: %w", j.s.Name, quoted(err))
	}
	if err != nil {
		j.refuseErr("property", "all", "", err)
		return nil
	}
	now := map[string]admin.Property{}
	for _, p := range list {
		now[p.Name] = p
	}
	plain, err := j.own(ctx, now)
	if err != nil {
		return err
	}
	var references []change
	for _, w := range j.s.Config.Properties {
		if p, ok := j.settable(w, now); !ok {
			continue
		} else if p.Type == kindQube {
			references = append(references, j.reference(w, p)...)
		} else {
			plain = append(plain, j.plain(w, p)...)
		}
	}
	for _, p := range list {
		is := func(w format.QubePair) bool { return w.Name == p.Name }
		wanted := slices.ContainsFunc(j.s.Config.Properties, is) || slices.ContainsFunc(j.s.Config.Inherited, is)
		if p.Default || wanted || slices.Contains(given, p.Name) || j.skips(p.Name) {
			continue
		}
		if p.Type == kindQube {
			references = append(references, j.reset(p.Name))
		} else {
			plain = append(plain, j.reset(p.Name))
		}
	}
	if err := j.make(ctx, plain); err != nil {
		return err
	}
	inherited, err := j.inherited(ctx, now)
	if err != nil {
		return err
	}
	references = append(references, inherited...)
	j.waiting, err = j.try(ctx, references)
	return err
}

// own returns what is to be done about label and template of a qube that was
// here before. A new one was made with them.
func (j *job) own(ctx context.Context, now map[string]admin.Property) (list []change, err error) {
	if j.made {
		return nil, nil
	}
	if !j.skips("label") && now["label"].Value != j.s.Config.Label {
		label, err := j.label(ctx)
		if err != nil {
			return nil, err
		}
		if label != now["label"].Value {
			list = append(list, j.set("label", label))
		}
	}
	if _, has := now["template"]; has && j.s.Template != "" && !j.skips("template") && now["template"].Value != j.s.Template {
		list = append(list, j.set("template", j.s.Template))
	}
	return list, nil
}

// settable says whether a property of the backup is one to set, and how it is
// now. What can't be set is refused.
func (j *job) settable(untrusted format.QubePair, now map[string]admin.Property) (admin.Property, bool) {
	p, has := now[untrusted.Name]
	switch {
	case untrusted.Name == autostart && untrusted.Value == "True" && j.s.Name != j.s.Wanted.Name:
		// Beside the one that it is a copy of, it would want the same devices at boot.
		j.say("it doesn't start by itself, as %s does", j.s.Wanted.Name)
		return p, false
	case slices.Contains(address, untrusted.Name) && j.s.Name != j.s.Wanted.Name && has && !j.skips(untrusted.Name):
		j.say("it gets another %s than %s has", untrusted.Name, j.s.Wanted.Name)
		return p, false
	case slices.Contains(given, untrusted.Name) || j.skips(untrusted.Name):
		return p, false
	case !isName(untrusted.Name, "_"):
		j.refuse("property", untrusted.Name, untrusted.Value, "not a name of a property")
		return p, false
	case !has:
		j.refuse("property", untrusted.Name, untrusted.Value, "a qube of this class has no such property in this release of Qubes OS")
		return p, false
	case !isPrintable(untrusted.Value, maxValue):
		j.refuse("property", untrusted.Name, untrusted.Value, "the value is too long or has characters that qubesd doesn't take")
		return p, false
	}
	return p, true
}

// plain sets a property that names no qube.
func (j *job) plain(w format.QubePair, now admin.Property) []change {
	if !now.Default && now.Value == w.Value {
		return nil
	}
	return []change{j.set(w.Name, w.Value)}
}

// reference sets a property that names a qube, by what that one is called
// here. One that isn't here leaves the property at its default, or empty.
// Empty, if the property is one of format.Inherits: they name the qube whose
// network another has, itself or by the disposables that it opens links in, and
// one that went through Tor or a VPN must not go without.
func (j *job) reference(w format.QubePair, now admin.Property) []change {
	target, why := j.target(w)
	switch {
	case why != "" && format.Inherits(w.Name):
		j.refuse("property", w.Name, w.Value, why+"; it has none now")
		return []change{j.set(w.Name, "")}
	case why != "":
		j.refuse("property", w.Name, w.Value, why+"; left at its default")
		if now.Default {
			return nil
		}
		return []change{j.reset(w.Name)}
	case !now.Default && now.Value == target:
		return nil
	}
	return []change{j.set(w.Name, target)}
}

// target is the qube here that a property is to name, or why there is none.
func (j *job) target(w format.QubePair) (name, why string) {
	if w.Value == "" {
		return "", ""
	}
	t, found := j.p.find(w.Value)
	switch {
	case !found:
		return "", "there is no such qube here"
	case w.Name == "netvm" && !t.network:
		return "", t.name + " provides no network here"
	}
	return t.name, ""
}

// instead empties a property that was refused and without which the qube could
// have another network than it had. It says so, behind the reason.
func (j *job) instead(ctx context.Context, refused change) string {
	if refused.what != "property" || refused.value == "" || !format.Inherits(refused.name) {
		return ""
	}
	if err := j.api.SetProperty(ctx, j.s.Name, refused.name, ""); err != nil {
		return "; and it could not be taken away: " + reason(err)
	}
	return "; it has none now"
}

func (j *job) set(name, value string) change {
	return change{what: "property", name: name, value: value, do: func(ctx context.Context) error {
		return j.api.SetProperty(ctx, j.s.Name, name, value)
	}}
}

func (j *job) reset(name string) change {
	return change{what: "property", name: name, value: "(its default)", do: func(ctx context.Context) error {
		return j.api.ResetProperty(ctx, j.s.Name, name)
	}}
}

// machineFeature reports features that belong to the machine, or that nobody
// can set.
func machineFeature(name string) bool {
	return name == "deferred-netvm-original" || strings.HasPrefix(name, "preload-dispvm") && name != preloadFeature
}

// preloadFeature has qubesd start disposables of a qube.
const preloadFeature = "preload-dispvm-max"

// features sets the features; services are among them.
func (j *job) features(ctx context.Context) error {
	list, err := j.api.Features(ctx, j.s.Name)
	if fatal(ctx, err) {
		return fmt.Errorf("read the features of %s: %w", j.s.Name, quoted(err))
	}
	if err != nil {
		j.refuseErr("feature", "all", "", err)
		return nil
	}
	var changes []change
	for _, w := range j.s.Config.Features {
		switch {
		case machineFeature(w.Name) || slices.Contains(list, admin.Feature{Name: w.Name, Value: w.Value}):
			continue
		case !isName(w.Name, "_.-"):
			j.refuse("feature", w.Name, w.Value, "not a name of a feature")
			continue
		case !isPrintable(w.Value, maxValue):
			j.refuse("feature", w.Name, w.Value, "the value is too long or has characters that qubesd doesn't take")
			continue
		}
		c := change{what: "feature", name: w.Name, value: w.Value, do: func(ctx context.Context) error {
			return j.api.SetFeature(ctx, j.s.Name, w.Name, w.Value)
		}}
		if w.Name == preloadFeature {
			j.late = append(j.late, c)
		} else {
			changes = append(changes, c)
		}
	}
	for _, f := range list {
		if machineFeature(f.Name) || slices.ContainsFunc(j.s.Config.Features, func(w format.QubePair) bool { return w.Name == f.Name }) {
			continue
		}
		changes = append(changes, change{what: "feature", name: f.Name, value: "(none)", do: func(ctx context.Context) error {
			return j.api.RemoveFeature(ctx, j.s.Name, f.Name)
		}})
	}
	return j.make(ctx, changes)
}

// machineTag reports tags that say something about this host or this restore.
func machineTag(name string) bool {
	return slices.ContainsFunc([]string{"guivm-", "audiovm-", "created-by-", "disp-created-by-", "backup-restore-"}, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}

// tags sets the tags.
func (j *job) tags(ctx context.Context) error {
	list, err := j.api.Tags(ctx, j.s.Name)
	if fatal(ctx, err) {
		return fmt.Errorf("read the tags of %s: %w", j.s.Name, quoted(err))
	}
	if err != nil {
		j.refuseErr("tag", "all", "", err)
		return nil
	}
	var changes []change
	for _, tag := range j.s.Config.Tags {
		if machineTag(tag) || slices.Contains(list, tag) {
			continue
		}
		if !isName(tag, "_-") {
			j.refuse("tag", tag, "", "not a name of a tag")
			continue
		}
		changes = append(changes, change{what: "tag", name: tag, do: func(ctx context.Context) error { return j.api.SetTag(ctx, j.s.Name, tag) }})
	}
	for _, tag := range list {
		if machineTag(tag) || slices.Contains(j.s.Config.Tags, tag) {
			continue
		}
		changes = append(changes, change{what: "tag", name: tag, value: "(none)", do: func(ctx context.Context) error {
			return j.api.RemoveTag(ctx, j.s.Name, tag)
		}})
	}
	return j.make(ctx, changes)
}
