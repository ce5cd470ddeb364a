package cli

import (
	"strings"

	"github.com/jessevdk/go-flags"

	"pinion/dom0/internal/config"
	"pinion/dom0/internal/retention"
)

// autoprune says when a backup prunes by itself.
type autoprune string

// The values of autoprune.
const (
	autopruneOff     autoprune = "off"
	autopruneWhenLow autoprune = "when-low"
	autopruneAlways  autoprune = "always"
)

// UnmarshalFlag reads one of the words.
func (a *autoprune) UnmarshalFlag(word string) error {
	switch v := autoprune(word); v {
	case autopruneOff, autopruneWhenLow, autopruneAlways:
		*a = v
		return nil
	}
	return flagError("accepted are off, when-low and always, not %q", word)
}

// policy is what an archive's section of the configuration says of its sessions.
type policy struct {
	rules retention.Rules
	auto  autoprune
}

// policyOptions are the keys that such a section may have beside dest.
type policyOptions struct {
	Autoprune autoprune `long:"autoprune"`
	keepOptions
}

// readPolicy reads an archive's section; what is wrong in it is named with its line.
func readPolicy(conf *config.Config, a config.Archive) (policy, error) {
	o := policyOptions{Autoprune: autopruneOff}
	parser := flags.NewParser(&o, flags.None)
	for _, s := range a.Settings {
		option := parser.FindOptionByLongName(s.Key)
		if option == nil {
			return policy{}, conf.Errorf(s.Line, "unknown key %s in [archive %s]", s.Key, a.Name)
		}
		values := []string{s.Value}
		if s.Key == "keep-tag" { // a key stands once, and the names of tags have no commas
			values = strings.Split(s.Value, ",")
		}
		for _, value := range values {
			value = strings.TrimSpace(value)
			if err := option.Set(&value); err != nil {
				return policy{}, conf.Errorf(s.Line, "%s: %w", s.Key, err)
			}
		}
	}
	p := policy{rules: o.rules(), auto: o.Autoprune}
	if p.auto != autopruneOff && !p.rules.Keeps() {
		return policy{}, conf.Errorf(a.Dest.Line, "[archive %s] has autoprune = %s and no keep-…: what is to be kept?", a.Name, p.auto)
	}
	return p, nil
}

// policyOf is the policy of the archive that a word means: its section's name, or its destination.
func policyOf(word, dest string, conf *config.Config) (policy, error) {
	if a, ok := conf.Archives[word]; ok {
		return readPolicy(conf, a)
	}
	if name, ok := archiveNames(conf)[dest]; ok {
		return readPolicy(conf, conf.Archives[name])
	}
	return policy{auto: autopruneOff}, nil
}

// checkPolicies reads the sections of all archives.
func checkPolicies(conf *config.Config, names []string) error {
	for _, name := range names {
		if _, err := readPolicy(conf, conf.Archives[name]); err != nil {
			return err
		}
	}
	return nil
}
