package cli

import (
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/format"
)

// qubeRestoreOptions are what only the restore of qubes takes.
type qubeRestoreOptions struct {
	As                string   `long:"as" value-name:"QUBE" no-ini:"true" unquote:"false" description:"another name for the one qube that is restored"`
	RenameConflicting bool     `long:"rename-conflicting" no-ini:"true" description:"give a qube whose name is taken another: NAME-1"`
	SkipConflicting   bool     `long:"skip-conflicting" no-ini:"true" description:"leave out qubes whose names are taken"`
	SettingsOnly      bool     `long:"settings-only" no-ini:"true" description:"of qubes, no volumes"`
	DataOnly          bool     `long:"data-only" no-ini:"true" description:"of qubes that are here, nothing but the volumes"`
	Pool              string   `long:"pool" value-name:"POOL" no-ini:"true" unquote:"false" description:"the storage pool for the volumes of new qubes"`
	SkipProp          []string `long:"skip-prop" value-name:"NAME" no-ini:"true" unquote:"false" description:"leave this property of qubes as it is; may be repeated"`
}

// given names one of the options that was given, or is empty.
func (o *qubeRestoreOptions) given() string {
	switch {
	case o.As != "":
		return "--as"
	case o.RenameConflicting:
		return "--rename-conflicting"
	case o.SkipConflicting:
		return "--skip-conflicting"
	case o.SettingsOnly:
		return "--settings-only"
	case o.DataOnly:
		return "--data-only"
	case o.Pool != "":
		return "--pool"
	case len(o.SkipProp) > 0:
		return "--skip-prop"
	}
	return ""
}

// restoresQubes says that whole qubes go back to where they belong: volumes alone need a target.
func (o *restoreCommand) restoresQubes() bool { return o.To == "" }

// validateQubes checks the options of a restore of qubes.
func (o *restoreCommand) validateQubes() error {
	toHint := "name a file, a device or a directory with --to"
	for _, name := range o.Args.Names {
		if format.CheckAnyQubeName(name) != nil {
			return exit.UsageHint(toHint, "restore: %q is no qube's name, and --to is missing", name)
		}
	}
	for option, is := range map[string]bool{
		"--in-place": o.InPlace || o.Sparse, "--from-snapshot": o.FromSnapshot, "--salvage": o.Salvage,
	} {
		if is {
			return exit.UsageHint(toHint, "restore: %s is of use with --to only", option)
		}
	}
	switch {
	case o.RenameConflicting && o.SkipConflicting:
		return exit.Usagef("restore: --rename-conflicting and --skip-conflicting exclude each other")
	case o.SettingsOnly && o.DataOnly:
		return exit.Usagef("restore: --settings-only and --data-only exclude each other")
	case o.As != "" && len(o.Args.Names) != 1:
		return exit.Usagef("restore: --as is the name for one qube, and %s are named", countNames(o))
	case o.As != "" && (o.DataOnly || o.RenameConflicting || o.SkipConflicting):
		return exit.Usagef("restore: --as makes a new qube, without --data-only and without a way out of conflicts")
	}
	if o.As != "" {
		if o.Args.Names[0] == format.AdminQube {
			return exit.Usagef("restore: dom0 can't have another name")
		}
		if err := format.CheckQubeName(o.As); err != nil {
			return exit.Usagef("--as: %w", err)
		}
	}
	return nil
}

func countNames(o *restoreCommand) string {
	if o.All {
		return "all"
	}
	return count(len(o.Args.Names), "qube")
}
