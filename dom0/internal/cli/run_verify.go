package cli

import (
	"context"
	"errors"
	"fmt"

	"pinion/dom0/internal/archive"
	"pinion/dom0/internal/damage"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/ui"
	"pinion/dom0/internal/verify"
	"pinion/protocol"
)

// damageJSON is the document of "pinion verify --json" and "pinion check --json".
type damageJSON struct {
	Damage    []damage.Range `json:"damage"`
	ReadBytes int64          `json:"read_bytes"` // from the store
}

func runVerify(ctx context.Context, env *Env, o *verifyCommand) error {
	a, err := env.open(ctx, protocol.LockRead)
	if err != nil {
		return err
	}
	defer a.Close()
	c, err := readCatalog(ctx, env, a)
	if err != nil {
		return err
	}
	var list damage.List
	for _, err := range c.damage {
		list.Add(damage.Range{}, err)
	}
	if o.AllSessions {
		for _, g := range c.gaps {
			list.Add(damage.Range{Session: g.First}, g)
		}
	}
	subjects, err := c.subjects(o, &list)
	if err != nil {
		return err
	}
	m := &meter{ui: env.UI}
	defer m.stop()
	err = verify.Run(ctx, a, subjects, &list, verify.Options{
		Probe: verify.ReadAll(a, m.add), Bad: func(format.BlobID) {}, Begin: m.begin,
	})
	if err != nil {
		return err
	}
	m.done()
	if err := reportDamage(env, a, &list); err != nil {
		return err
	}
	if !env.UI.Quiet() {
		env.UI.Printf("%s whole, %s read.", count(len(subjects), "volume state"), ui.Bytes(a.Store().Received()))
	}
	return nil
}

// subjects lists what verify was asked for.
func (c *catalog) subjects(o *verifyCommand, list *damage.List) ([]verify.Subject, error) {
	names := o.Args.Names
	if len(names) == 0 {
		for name := range c.ids {
			names = append(names, name)
		}
	}
	for _, name := range o.Args.Names {
		if err := c.known(name); err != nil {
			return nil, err
		}
	}
	if !o.AllSessions && (o.session == nil || len(o.Args.Names) > 0) {
		return c.latest(names, o)
	}
	var chosen []int
	if o.AllSessions {
		for i := range c.entries {
			chosen = append(chosen, i)
		}
	} else {
		i, err := c.find(o.session, nil)
		if err != nil {
			return nil, err
		}
		chosen = []int{i}
	}
	var subjects []verify.Subject
	for _, i := range chosen {
		if c.errs[i] != nil {
			list.Add(damage.Range{Session: c.entries[i].Seq}, c.errs[i])
			continue
		}
		for _, name := range names {
			if v := c.volume(i, name); v != nil {
				subjects = append(subjects, verify.Subject{Name: name, Seq: c.entries[i].Seq, Record: v.Record, Size: v.Size})
			}
		}
	}
	return subjects, nil
}

// latest lists each named volume in the session that --session means for it.
func (c *catalog) latest(names []string, o *verifyCommand) ([]verify.Subject, error) {
	var subjects []verify.Subject
	for _, name := range names {
		i, v, err := c.findVolume(name, o.session)
		if err != nil {
			return nil, err
		}
		subjects = append(subjects, verify.Subject{Name: name, Seq: c.entries[i].Seq, Record: v.Record, Size: v.Size})
	}
	return subjects, nil
}

// reportDamage prints all damage. If there is some, it is the error too.
func reportDamage(env *Env, a *archive.Archive, list *damage.List) error {
	ranges, more := list.Ranges()
	if err := env.UI.Result(damageJSON{Damage: ranges, ReadBytes: a.Store().Received()}); err != nil {
		return err
	}
	if len(ranges) == 0 {
		return nil
	}
	printDamage(env, ranges, more)
	return exit.With(exit.Damaged, errors.New(count(len(ranges)+more, "range")+" or objects can't be had"),
		"pinion check --repair mends what can be mended; the next backup of a volume sends again what was lost of it")
}

// printDamage shows a line for each range.
func printDamage(env *Env, ranges []damage.Range, more int) {
	for _, r := range ranges {
		where := ""
		if r.Session > 0 {
			where = fmt.Sprintf("#%d ", r.Session)
		}
		if r.Volume != "" {
			where += fmt.Sprintf("%s bytes %d to %d: ", ui.Quote(r.Volume), r.Offset, r.Offset+r.Length)
		}
		object := r.Object
		if object != "" {
			object += ": "
		}
		env.UI.Printf("damaged: %s%s%s", where, object, r.Reason)
	}
	if more > 0 {
		env.UI.Printf("damaged: %d ranges more", more)
	}
}
