package recreate

import (
	"context"
	"fmt"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
)

// inherited returns what is to be done about the network and the template of
// disposables that the qube had by the default of the system that it comes
// from. It is asked when the properties that this default depends on are set.
func (j *job) inherited(ctx context.Context, has map[string]admin.Property) (list []change, err error) {
	for _, w := range j.s.Config.Inherited {
		if _, ok := has[w.Name]; !ok || !format.Inherits(w.Name) || j.skips(w.Name) {
			continue
		}
		now, err := j.api.Property(ctx, j.s.Name, w.Name)
		if fatal(ctx, err) {
			return nil, fmt.Errorf("read %s of %s: %w", w.Name, j.s.Name, quoted(err))
		}
		if err != nil {
			now = admin.Property{Name: w.Name, Value: has[w.Name].Value} // it is set once more
		}
		list = append(list, j.inherit(w, now)...)
	}
	return list, nil
}

// inherit gives a qube back what it had by default. Where the default here is
// another, that is set by name: the default there may have been Tor, and here
// be none of the kind. What isn't here is none, as for a qube that had it by
// name.
func (j *job) inherit(w format.QubePair, now admin.Property) []change {
	target, why := j.target(w)
	if why != "" {
		j.refuse("property", w.Name, w.Value, why+", and it had that by default; it has none now")
		if !now.Default && now.Value == "" {
			return nil
		}
		return []change{j.set(w.Name, "")}
	}
	if now.Value == target && (now.Default || !j.defaults(w.Name, target)) {
		return nil
	}
	c := j.set(w.Name, target)
	set := c.do
	c.do = func(ctx context.Context) error {
		p := now
		if !now.Default {
			err := j.api.ResetProperty(ctx, j.s.Name, w.Name)
			if err == nil {
				p, err = j.api.Property(ctx, j.s.Name, w.Name)
			}
			if err != nil || p.Value == target {
				return err
			}
		}
		if err := set(ctx); err != nil {
			return err
		}
		j.say("its %s is set to %s, which was the default where it was saved; here that is %s", w.Name, named(target), named(p.Value))
		return nil
	}
	return []change{c}
}

// defaults reports that a property surely has a value here by default: then it
// need not be set by name, even if it is now.
func (j *job) defaults(property, value string) bool {
	class := j.s.Config.Class
	global := map[string]string{"netvm": "default_netvm", "default_dispvm": "default_dispvm"}[property]
	is, known := j.p.host.Globals[global]
	return known && is == value && (class == appVM || class == standaloneVM) && (property != "netvm" || !j.s.role(network))
}

// named is a qube's name, or that there is none.
func named(qube string) string {
	if qube == "" {
		return "none"
	}
	return shown(qube)
}
