package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// dom0 is where calls go that are about no one qube.
const dom0 = "dom0"

// maxFeatures bounds how many features of a qube are asked for, a call each: a
// qube can announce as many as it likes, and no more than this could be kept.
const maxFeatures = 10_000

// A VM is a line of the list of qubes. State is Halted, Running, Paused,
// Transient and so on. UUID is empty on R4.2.
type VM struct{ Name, Class, State, UUID string }

// A Property is a property of a qube, or a global one. An empty Value of type
// vm means none.
type Property struct {
	Name, Type, Value string
	Default           bool
}

// A Feature is a feature of a qube. An empty value means false.
type Feature struct{ Name, Value string }

// A Label is a colour that qubes have. Color is 0xRRGGBB.
type Label struct{ Name, Color string }

// A CreateRequest says what qube to make. Template is empty for classes that
// have none. Pool is for all volumes, Pools for each by its name; at most one
// of the two may be given, and neither means the default pools.
type CreateRequest struct {
	Class, Template, Name, Label, Pool string
	Pools                              map[string]string
}

// List returns all qubes, dom0 among them.
func (c *Client) List(ctx context.Context) ([]VM, error) {
	return parsed(ctx, c, request{dest: dom0, method: "admin.vm.List"}, parseList)
}

// parsed makes a request and parses its answer.
func parsed[T any](ctx context.Context, c *Client, r request, parse func([]byte) (T, error)) (T, error) {
	untrusted, err := c.call(ctx, r)
	if err != nil {
		var zero T
		return zero, err
	}
	value, err := parse(untrusted)
	if err != nil {
		return value, fmt.Errorf("%s of %s: %w", r.name(), r.dest, err)
	}
	return value, nil
}

// State returns the power state of a qube: Halted, Running, Paused, ...
func (c *Client) State(ctx context.Context, vm string) (string, error) {
	return parsed(ctx, c, request{dest: vm, method: "admin.vm.CurrentState"}, parseState)
}

// Properties returns all properties of a qube, those with default values
// too.
func (c *Client) Properties(ctx context.Context, vm string) ([]Property, error) {
	return parsed(ctx, c, request{dest: vm, method: "admin.vm.property.GetAll"}, parseProperties)
}

// Globals returns all global properties.
func (c *Client) Globals(ctx context.Context) ([]Property, error) {
	return parsed(ctx, c, request{dest: dom0, method: "admin.property.GetAll"}, parseProperties)
}

// Property returns one property of a qube.
func (c *Client) Property(ctx context.Context, vm, name string) (Property, error) {
	if err := checkWord("property", name); err != nil {
		return Property{}, err
	}
	return parsed(ctx, c, request{dest: vm, method: "admin.vm.property.Get", arg: name}, func(untrusted []byte) (Property, error) {
		return parseProperty(name, string(untrusted))
	})
}

// SetProperty sets a property. For type vm, "" means none.
func (c *Client) SetProperty(ctx context.Context, vm, name, value string) error {
	if err := checkWord("property", name); err != nil {
		return err
	}
	return c.do(ctx, request{dest: vm, method: "admin.vm.property.Set", arg: name, payload: value})
}

// ResetProperty gives a property its default value again.
func (c *Client) ResetProperty(ctx context.Context, vm, name string) error {
	if err := checkWord("property", name); err != nil {
		return err
	}
	return c.do(ctx, request{dest: vm, method: "admin.vm.property.Reset", arg: name})
}

// Features returns the features of a qube itself, ascending by name. One
// that is removed meanwhile is left out.
func (c *Client) Features(ctx context.Context, vm string) ([]Feature, error) {
	names, err := c.names(ctx, request{dest: vm, method: "admin.vm.feature.List"}, "feature")
	if err != nil {
		return nil, err
	}
	if len(names) > maxFeatures {
		return nil, fmt.Errorf("%s has %d features, and no more than %d are asked for", vm, len(names), maxFeatures)
	}
	features := make([]Feature, 0, len(names))
	for _, name := range names {
		value, err := c.call(ctx, request{dest: vm, method: "admin.vm.feature.Get", arg: name})
		if exception := (*Error)(nil); errors.As(err, &exception) && exception.Type == "QubesFeatureNotFoundError" {
			continue
		}
		if err != nil {
			return nil, err
		}
		features = append(features, Feature{name, string(value)})
	}
	return features, nil
}

// names makes a request that answers with names, and sorts them.
func (c *Client) names(ctx context.Context, r request, what string) ([]string, error) {
	list, err := parsed(ctx, c, r, func(untrusted []byte) ([]string, error) { return tokens(untrusted, what) })
	slices.Sort(list)
	return slices.Compact(list), err
}

// SetFeature sets a feature. qubesd takes printable ASCII only.
func (c *Client) SetFeature(ctx context.Context, vm, name, value string) error {
	if err := checkWord("feature", name); err != nil {
		return err
	}
	return c.do(ctx, request{dest: vm, method: "admin.vm.feature.Set", arg: name, payload: value})
}

// RemoveFeature removes a feature.
func (c *Client) RemoveFeature(ctx context.Context, vm, name string) error {
	if err := checkWord("feature", name); err != nil {
		return err
	}
	return c.do(ctx, request{dest: vm, method: "admin.vm.feature.Remove", arg: name})
}

// Tags returns the tags of a qube, ascending.
func (c *Client) Tags(ctx context.Context, vm string) ([]string, error) {
	return c.names(ctx, request{dest: vm, method: "admin.vm.tag.List"}, "tag")
}

// SetTag adds a tag to a qube.
func (c *Client) SetTag(ctx context.Context, vm, tag string) error {
	if err := checkWord("tag", tag); err != nil {
		return err
	}
	return c.do(ctx, request{dest: vm, method: "admin.vm.tag.Set", arg: tag})
}

// RemoveTag takes a tag from a qube.
func (c *Client) RemoveTag(ctx context.Context, vm, tag string) error {
	if err := checkWord("tag", tag); err != nil {
		return err
	}
	return c.do(ctx, request{dest: vm, method: "admin.vm.tag.Remove", arg: tag})
}

// Firewall returns the firewall rules of a qube, in their order.
func (c *Client) Firewall(ctx context.Context, vm string) ([]string, error) {
	return parsed(ctx, c, request{dest: vm, method: "admin.vm.firewall.Get"}, lines)
}

// SetFirewall replaces the firewall rules of a qube.
func (c *Client) SetFirewall(ctx context.Context, vm string, rules []string) error {
	var b strings.Builder
	for _, rule := range rules {
		// qubesd splits at more than line feeds.
		if rule == "" || strings.ContainsFunc(rule, isControl) {
			return fmt.Errorf("admin.vm.firewall.Set of %q: %w: a firewall rule is one line, not %q", vm, ErrBadName, cut(rule))
		}
		b.WriteString(rule + "\n")
	}
	return c.do(ctx, request{dest: vm, method: "admin.vm.firewall.Set", payload: b.String()})
}

// Notes returns the notes of a qube, "" if it has none. R4.2 has no notes:
// ErrNoSuchCall.
func (c *Client) Notes(ctx context.Context, vm string) (string, error) {
	untrusted, err := c.call(ctx, request{dest: vm, method: "admin.vm.notes.Get"})
	return string(untrusted), c.missingIn42(ctx, vm, err)
}

// SetNotes replaces the notes of a qube. R4.2 has no notes: ErrNoSuchCall.
func (c *Client) SetNotes(ctx context.Context, vm, text string) error {
	return c.missingIn42(ctx, vm, c.do(ctx, request{dest: vm, method: "admin.vm.notes.Set", payload: text}))
}

// missingIn42 turns the empty answer to a call to a qube that R4.2 lacks into
// ErrNoSuchCall, if this is R4.2. On R4.3 it stays a refusal.
func (c *Client) missingIn42(ctx context.Context, vm string, err error) error {
	if !errors.Is(err, ErrRefused) {
		return err
	}
	old, listErr := c.is42(ctx, vm)
	if listErr != nil || !old {
		return err
	}
	return fmt.Errorf("%w (%w)", ErrNoSuchCall, err)
}

// is42 reports a release before R4.3: qubes are listed without their UUIDs.
// One qube is asked for: all of them, for each of them, would be too much.
func (c *Client) is42(ctx context.Context, vm string) (bool, error) {
	vms, err := parsed(ctx, c, request{dest: vm, method: "admin.vm.List"}, parseList)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(vms, func(vm VM) bool { return vm.UUID != "" }), nil
}

// Labels returns all labels, in qubesd's order. One that is removed
// meanwhile is left out.
func (c *Client) Labels(ctx context.Context) ([]Label, error) {
	names, err := parsed(ctx, c, request{dest: dom0, method: "admin.label.List"}, func(untrusted []byte) ([]string, error) {
		return tokens(untrusted, "label")
	})
	if err != nil {
		return nil, err
	}
	labels := make([]Label, 0, len(names))
	for _, name := range names {
		r := request{dest: dom0, method: "admin.label.Get", arg: name}
		color, err := parsed(ctx, c, r, parseColor)
		if exception := (*Error)(nil); errors.As(err, &exception) {
			continue
		}
		if err != nil {
			return nil, err
		}
		labels = append(labels, Label{name, color})
	}
	return labels, nil
}

// parseColor checks a colour.
func parseColor(untrusted []byte) (string, error) {
	if !IsColor(string(untrusted)) {
		return "", fmt.Errorf("%w: %q is no color", ErrAnswer, cut(string(untrusted)))
	}
	return string(untrusted), nil
}

// IsColor reports 0xRRGGBB.
func IsColor(untrusted string) bool {
	return len(untrusted) == 8 && strings.HasPrefix(untrusted, "0x") && strings.Trim(untrusted[2:], "0123456789abcdefABCDEF") == ""
}

// CreateLabel makes a label. Color is 0xRRGGBB.
func (c *Client) CreateLabel(ctx context.Context, name, color string) error {
	if err := checkWord("label", name); err != nil {
		return err
	}
	if !IsColor(color) {
		return fmt.Errorf("%w of a color: %q", ErrBadName, cut(color))
	}
	return c.do(ctx, request{dest: dom0, method: "admin.label.Create", arg: name, payload: color})
}

// Create makes a qube with empty volumes of the default sizes.
func (c *Client) Create(ctx context.Context, r CreateRequest) error {
	payload, err := r.payload()
	if err != nil {
		return err
	}
	method := "admin.vm.Create."
	if r.Pool != "" || len(r.Pools) > 0 {
		method = "admin.vm.CreateInPool."
	}
	return c.do(ctx, request{dest: dom0, method: method + r.Class, arg: r.Template, payload: payload, long: true})
}

// payload checks all of a CreateRequest: a space in any of it would begin the
// next parameter.
func (r *CreateRequest) payload() (string, error) {
	err := errors.Join(checkWord("class", r.Class), checkQube(r.Name), checkWord("label", r.Label))
	if r.Template != "" {
		err = errors.Join(err, checkQube(r.Template))
	}
	payload := "name=" + r.Name + " label=" + r.Label
	if r.Pool != "" {
		err = errors.Join(err, checkWord("pool", r.Pool))
		if len(r.Pools) > 0 {
			err = errors.Join(err, errors.New("one pool for all volumes and one for each can't be given together"))
		}
		payload += " pool=" + r.Pool
	}
	volumes := make([]string, 0, len(r.Pools))
	for volume := range r.Pools {
		volumes = append(volumes, volume)
	}
	slices.Sort(volumes)
	for _, volume := range volumes {
		err = errors.Join(err, checkWord("volume", volume), checkWord("pool", r.Pools[volume]))
		payload += " pool:" + volume + "=" + r.Pools[volume]
	}
	if err != nil {
		return "", fmt.Errorf("create the qube %q: %w", cut(r.Name), err)
	}
	return payload, nil
}

// Remove removes a qube with its volumes.
func (c *Client) Remove(ctx context.Context, vm string) error {
	return c.do(ctx, request{dest: vm, method: "admin.vm.Remove", long: true})
}

// Start starts a qube and returns when qrexec in it answers, at once if it
// runs already.
func (c *Client) Start(ctx context.Context, vm string) error {
	return c.do(ctx, request{dest: vm, method: "admin.vm.Start", long: true})
}

// Shutdown asks a qube to shut down and doesn't wait for it.
func (c *Client) Shutdown(ctx context.Context, vm string) error {
	return c.do(ctx, request{dest: vm, method: "admin.vm.Shutdown"})
}

// Unpause lets a paused qube go on.
func (c *Client) Unpause(ctx context.Context, vm string) error {
	return c.do(ctx, request{dest: vm, method: "admin.vm.Unpause"})
}
