package cli

import (
	"context"

	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/when"
)

// aboutVolumes is embedded in commands that are about this host's volumes and need no archive.
type aboutVolumes struct{}

func (aboutVolumes) needs() need            { return needState }
func (aboutVolumes) afterInterrupt() string { return "nothing is lost; run it again when you like" }

type monitorCommand struct {
	aboutVolumes
	Args struct {
		Sources []string `positional-arg-name:"SOURCE" description:"a qube, a volume of the archive, file:/path or lvm:VG/LV; by default all that have a session"`
	} `positional-args:"yes"`

	localWords
}

func (o *monitorCommand) validate(check) error { return o.read("monitor", o.Args.Sources) }

func (o *monitorCommand) run(ctx context.Context, env *Env) error { return runMonitor(ctx, env, o) }

type statusCommand struct{ aboutVolumes }

func (o *statusCommand) validate(check) error                    { return nil }
func (o *statusCommand) run(ctx context.Context, env *Env) error { return runStatus(ctx, env) }

type diffCommand struct {
	aboutArchive
	Session string `long:"session" value-name:"SESSION" no-ini:"true" unquote:"false" description:"another session than the last: an id's beginning, #N, ^tag, or a time"`
	Full    bool   `long:"full" no-ini:"true" description:"read the volume and compare it chunk by chunk"`
	Source  string `long:"source" value-name:"SOURCE" no-ini:"true" unquote:"false" description:"where the volume is, if not where it was backed up from: file:/path or lvm:VG/LV"`
	Args    struct {
		Name string `positional-arg-name:"NAME" description:"a volume of the archive"`
	} `positional-args:"yes"`

	session *when.Session
	source  *Source
}

func (o *diffCommand) validate(c check) (err error) {
	if o.session, err = c.session(o.Session); err != nil {
		return err
	}
	if o.Args.Name == "" {
		return exit.UsageHint("pinion status shows the volumes that were backed up from here", "diff: no volume named")
	}
	if err := checkNames("diff", []string{o.Args.Name}); err != nil {
		return err
	}
	if o.Source == "" {
		return nil
	}
	s, err := ParseSource(o.Source)
	if err != nil {
		return exit.Usagef("--source: %w", err)
	}
	o.source = &s
	return nil
}

func (o *diffCommand) run(ctx context.Context, env *Env) error { return runDiff(ctx, env, o) }

type forgetCommand struct {
	aboutVolumes
	All     bool `long:"all" no-ini:"true" description:"of every volume"`
	Archive bool `long:"archive" no-ini:"true" description:"only what belongs to the archive at --dest"`
	Args    struct {
		Sources []string `positional-arg-name:"SOURCE" description:"a qube, a volume of the archive, file:/path or lvm:VG/LV"`
	} `positional-args:"yes"`

	localWords
}

func (o *forgetCommand) needs() need {
	if o.Archive {
		return needArchive
	}
	return needState
}

func (o *forgetCommand) validate(check) error {
	named := len(o.Args.Sources) > 0
	switch {
	case o.All && named:
		return exit.Usagef("forget-local: --all and sources exclude each other")
	case o.All && o.Archive:
		return exit.Usagef("forget-local: --all and --archive exclude each other")
	case !o.All && !o.Archive && !named:
		return exit.UsageHint("name sources, or --archive, or --all; pinion status shows what there is", "forget-local: nothing named")
	}
	return o.read("forget-local", o.Args.Sources)
}

func (o *forgetCommand) run(ctx context.Context, env *Env) error { return runForget(ctx, env, o) }
