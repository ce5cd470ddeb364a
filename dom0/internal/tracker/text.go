package tracker

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf8"

	"pinion/dom0/internal/source"
)

// noText begins what stands in a state file for a name that isn't UTF-8, which
// JSON could not keep; the bytes follow in base64. No path has it in it.
const noText = "\x00base64:"

// pack returns a name as text.
func pack(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return noText + base64.StdEncoding.EncodeToString([]byte(name))
}

// unpack is the opposite of pack.
func unpack(untrusted string) (string, error) {
	encoded, ok := strings.CutPrefix(untrusted, noText)
	if !ok {
		return untrusted, nil
	}
	name, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return "", errors.New("has a name that isn't base64")
	}
	return string(name), nil
}

// packed returns the state with all names as text. It shares with s what is
// without names.
func (s *state) packed() *state {
	out := *s
	out.Locator, out.Base = pack(s.Locator), packedBase(s.Base)
	out.Entries = make([]*entry, len(s.Entries))
	for i, e := range s.Entries {
		c := *e
		c.Destination, c.Name = pack(e.Destination), pack(e.Name)
		out.Entries[i] = &c
	}
	out.Runs, out.Discarded = nil, nil
	for _, r := range s.Runs {
		c := *r
		c.Base = packedBase(r.Base)
		out.Runs = append(out.Runs, &c)
	}
	for _, b := range s.Discarded {
		out.Discarded = append(out.Discarded, packedBase(b))
	}
	return &out
}

func packedBase(b *source.Base) *source.Base {
	if b == nil {
		return nil
	}
	c := *b
	c.Name = pack(b.Name)
	return &c
}

// unpack gives a state that was checked its names back.
func (s *state) unpack() error {
	names := []*string{&s.Locator}
	for _, e := range s.Entries {
		names = append(names, &e.Destination, &e.Name)
	}
	bases := append([]*source.Base{s.Base}, s.Discarded...)
	for _, r := range s.Runs {
		bases = append(bases, r.Base)
	}
	for _, b := range bases {
		if b != nil {
			names = append(names, &b.Name)
		}
	}
	for _, name := range names {
		var err error
		if *name, err = unpack(*name); err != nil {
			return err
		}
	}
	return nil
}
