package cli

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/when"
)

// hasQube reports whether the archive has a qube of that name.
func (c *catalog) hasQube(name string) bool {
	_, ok := c.qubeIDs[name]
	return ok
}

// qube returns the line of a named qube in session i, or nil.
func (c *catalog) qube(i int, name string) *format.SessionQube {
	id, ok := c.qubeIDs[name]
	if !ok || c.sessions[i] == nil {
		return nil
	}
	for k := range c.sessions[i].Qubes {
		if q := &c.sessions[i].Qubes[k]; q.Qube == id {
			return q
		}
	}
	return nil
}

// qubeVolumes returns the volumes of a qube in session i, by the qube's own names for them: private, root.
func (c *catalog) qubeVolumes(i int, name string) map[string]*format.SessionVolume {
	found := map[string]*format.SessionVolume{}
	if c.sessions[i] == nil {
		return found
	}
	for k := range c.sessions[i].Volumes {
		v := &c.sessions[i].Volumes[k]
		if own, ok := strings.CutPrefix(c.names[v.Volume], name+":"); ok {
			found[own] = v
		}
	}
	return found
}

// volumesOf lists the names of all volumes that a qube ever had in the archive.
func (c *catalog) volumesOf(qube string) []string {
	var names []string
	for name := range c.ids {
		if strings.HasPrefix(name, qube+":") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// expand puts the volumes of qubes in the place of the qubes. A name that is a volume's too means the volume.
func (c *catalog) expand(names []string) ([]string, error) {
	var all []string
	for _, name := range names {
		_, isVolume := c.ids[name]
		switch {
		case isVolume || !c.hasQube(name):
			if err := c.known(name); err != nil {
				return nil, err
			}
			all = append(all, name)
		default:
			all = append(all, c.volumesOf(name)...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// findQube picks the session that a word means for a qube: of those that match, the newest that has it.
func (c *catalog) findQube(name string, spec *when.Session) (int, *format.SessionQube, error) {
	if !c.hasQube(name) {
		return 0, nil, c.unknown("qube", name)
	}
	i, err := c.findFor(name, spec, func(i int) bool { return c.qube(i, name) != nil })
	if err != nil {
		return 0, nil, err
	}
	return i, c.qube(i, name), nil
}

// qubesOf lists the qubes of some sessions, by name; those whose names are lost are not among them.
func (c *catalog) qubesOf(sessions []int) []string {
	seen := map[string]bool{}
	for _, i := range sessions {
		if c.sessions[i] == nil {
			continue
		}
		for _, q := range c.sessions[i].Qubes {
			if name := c.qubeNames[q.Qube]; name != "" {
				seen[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// readConfigs reads the settings of qubes. What is damaged is in errs; another failure is the error.
func readConfigs(ctx context.Context, a *archive.Archive, ids []format.BlobID) (found map[format.BlobID]*format.QubeConfig, errs map[format.BlobID]error, err error) {
	found, errs = map[format.BlobID]*format.QubeConfig{}, map[format.BlobID]error{}
	err = a.QubeConfigs(ctx, ids, func(id format.BlobID, c *format.QubeConfig, err error) error {
		var d *archive.DamageError
		if err != nil && (!errors.As(err, &d) || errors.Is(err, format.ErrNewer)) {
			return err
		}
		if err != nil {
			errs[id] = err
		} else {
			found[id] = c
		}
		return nil
	})
	return found, errs, err
}
