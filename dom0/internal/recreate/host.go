package recreate

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/admin"
	"pinion/dom0/internal/format"
)

// Tag keeps qubesd from starting a qube that isn't whole yet.
const Tag = "backup-restore-in-progress"

// halted is the state of a qube that may be touched.
const halted = "Halted"

// A Host is what this host has, as it was when it was looked at.
type Host struct {
	API     *admin.Client
	Qubes   map[string]*Qube
	Labels  map[string]bool
	Pools   map[string]Pool
	Globals map[string]string // properties of the system; values that name qubes among them
	Classes []string          // of devices

	journal *Journal
}

// A Qube is a qube that is here.
type Qube struct {
	Name, Class, State string
	Disposables        bool // it is a template of disposables
	Network            bool // it provides network to others
	Unfinished         bool // it has Tag
	// Record is what the journal has of it; nil: nothing.
	Record *Record
}

// A Pool is a storage pool that is here.
type Pool struct{ Driver string }

// holds reports that volumes can be made in a pool. Kernels are in one whose
// content is given.
func (h *Host) holds(pool string) bool {
	p, found := h.Pools[pool]
	return found && p.Driver != "" && p.Driver != "linux-kernel"
}

// Look reads what this host has. A qube that goes meanwhile is left out. What
// the journal has of qubes that are gone is forgotten: another of that name
// would be somebody's own.
func Look(ctx context.Context, api *admin.Client, o *Journal) (*Host, error) {
	records, err := o.records()
	if err != nil {
		return nil, err
	}
	h := &Host{API: api, journal: o, Qubes: map[string]*Qube{}, Labels: map[string]bool{}, Pools: map[string]Pool{}, Globals: map[string]string{}}
	vms, err := api.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the qubes: %w", err)
	}
	for _, vm := range vms {
		q := &Qube{Name: vm.Name, Class: vm.Class, State: vm.State, Record: records[vm.Name]}
		if vm.Name != format.AdminQube {
			if err := q.look(ctx, api); errors.Is(err, admin.ErrNotFound) {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		h.Qubes[vm.Name] = q
	}
	for name := range records {
		if h.Qubes[name] == nil {
			if err := o.remove(name); err != nil {
				return nil, err
			}
		}
	}
	if err := h.lookAround(ctx); err != nil {
		return nil, err
	}
	return h, nil
}

// look reads what others may need of a qube. What qubesd refuses to say, it
// isn't.
func (q *Qube) look(ctx context.Context, api *admin.Client) error {
	properties, err := api.Properties(ctx, q.Name)
	if err != nil && (fatal(ctx, err) || errors.Is(err, admin.ErrNotFound)) {
		return fmt.Errorf("read the properties of %s: %w", q.Name, err)
	}
	for _, p := range properties {
		switch p.Name {
		case disposables:
			q.Disposables = p.Value == "True"
		case network:
			q.Network = p.Value == "True"
		}
	}
	tags, err := api.Tags(ctx, q.Name)
	if err != nil && (fatal(ctx, err) || errors.Is(err, admin.ErrNotFound)) {
		return fmt.Errorf("read the tags of %s: %w", q.Name, err)
	}
	for _, tag := range tags {
		q.Unfinished = q.Unfinished || tag == Tag
	}
	return nil
}

// lookAround reads what isn't about one qube.
func (h *Host) lookAround(ctx context.Context) error {
	labels, err := h.API.Labels(ctx)
	if err != nil {
		return fmt.Errorf("list the labels: %w", err)
	}
	for _, l := range labels {
		h.Labels[l.Name] = true
	}
	pools, err := h.API.Pools(ctx)
	if err != nil {
		return fmt.Errorf("list the storage pools: %w", err)
	}
	for _, name := range pools {
		info, err := h.API.Pool(ctx, name)
		if fatal(ctx, err) {
			return fmt.Errorf("look at the storage pool %s: %w", name, err)
		}
		h.Pools[name] = Pool{Driver: info["driver"]} // "" if it isn't told: then nothing goes there
	}
	globals, err := h.API.Globals(ctx)
	if err != nil {
		return fmt.Errorf("read the global properties: %w", err)
	}
	for _, p := range globals {
		h.Globals[p.Name] = p.Value
	}
	if h.Classes, err = h.API.DeviceClasses(ctx); err != nil {
		return fmt.Errorf("list the classes of devices: %w", err)
	}
	return nil
}
