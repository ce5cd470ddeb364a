package tracker

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pinion/dom0/internal/dirty"
	"pinion/dom0/internal/format"
	"pinion/dom0/internal/source"
)

// version is the version of the state file.
const version = 1

// A state is what the state file of a volume says.
type state struct {
	Locator string `json:"locator"`
	Owner   string `json:"owner"`
	// Serial is the highest that a snapshot's label was given.
	Serial uint64 `json:"serial"`
	// Note says why there is nothing of what was known before.
	Note string `json:"note,omitempty"`
	// Base is what the dirty maps are about. It is there if and only if any
	// entry is not Lost.
	Base    *source.Base `json:"base,omitempty"`
	Entries []*entry     `json:"entries"`
	Runs    []*run       `json:"runs,omitempty"`
	// Discarded are snapshots in pools that could not be reached when there
	// was no use for the snapshots any more.
	Discarded []*source.Base `json:"discarded,omitempty"`
}

// An entry is what is known about one volume of one archive's branch.
type entry struct {
	Key         keyJSON     `json:"key"`
	Destination string      `json:"destination"`
	Name        string      `json:"name"`
	Session     *sessionRec `json:"session,omitempty"` // nil while the first one is made
	// Dirty is D. If Lost, which is for people, isn't empty, D is everything.
	Dirty *dirty.Map `json:"dirty"`
	Lost  string     `json:"lost,omitempty"`
	// Run is the run that sends Frozen, which is F; both are there, or none.
	Run        string     `json:"run,omitempty"`
	Frozen     *dirty.Map `json:"frozen,omitempty"`
	FrozenLost string     `json:"frozen_lost,omitempty"`
}

// A run is somebody at work on a snapshot of the volume.
type run struct {
	ID      string       `json:"id"`
	What    string       `json:"what"` // backup, restore or pairing
	Started time.Time    `json:"started"`
	Base    *source.Base `json:"base,omitempty"` // what it reads
}

type keyJSON struct {
	Archive string `json:"archive"`
	Branch  string `json:"branch"`
	Volume  string `json:"volume"`
}

type sessionRec struct {
	ID         string    `json:"id"`
	Seq        uint64    `json:"seq"`
	Time       time.Time `json:"time"`
	Record     string    `json:"record"`
	Generation uint64    `json:"generation"`
}

func (k Key) json() keyJSON {
	return keyJSON{k.Archive.String(), k.Branch.String(), k.Volume.String()}
}

func (k keyJSON) parse() (key Key, err error) {
	for _, id := range []struct {
		to   *format.ObjectID
		text string
	}{{&key.Archive, k.Archive}, {&key.Branch, k.Branch}, {&key.Volume, k.Volume}} {
		if *id.to, err = format.ParseObjectID(id.text); err != nil {
			return Key{}, err
		}
	}
	return key, nil
}

func (s *Session) json() *sessionRec {
	return &sessionRec{s.ID.String(), s.Seq, s.Time.UTC(), s.Record.String(), s.Generation}
}

func (s *sessionRec) parse() (*Session, error) {
	if s == nil {
		return nil, nil
	}
	out := &Session{Seq: s.Seq, Time: s.Time, Generation: s.Generation}
	var err error
	if out.ID, err = format.ParseObjectID(s.ID); err != nil {
		return nil, err
	}
	record, err := hex.DecodeString(s.Record)
	if err != nil || !isHex(s.Record, 2*len(out.Record)) {
		return nil, fmt.Errorf("%q is not the id of a record", s.Record)
	}
	copy(out.Record[:], record)
	return out, nil
}

// session returns the session of an entry whose state was checked.
func (e *entry) session() *Session {
	s, err := e.Session.parse()
	if err != nil {
		return nil
	}
	return s
}

// key returns the key of an entry whose state was checked.
func (e *entry) key() Key {
	k, err := e.Key.parse()
	if err != nil {
		return Key{}
	}
	return k
}

// lose says that anything may have changed, and why.
func (e *entry) lose(why string) {
	if e.Lost == "" {
		e.Lost = why
	}
	e.Dirty = dirty.All()
}

// release takes an entry back from its run: what the run meant to send is as
// dirty as before.
func (e *entry) release() {
	if e.FrozenLost != "" {
		e.lose(e.FrozenLost)
	}
	e.Dirty.Merge(e.Frozen)
	e.Run, e.Frozen, e.FrozenLost = "", nil, ""
}

// changed is D ∪ F, and why it is everything if it is for want of knowledge.
func (e *entry) changed() (*dirty.Map, string) {
	m := e.Dirty.Clone()
	m.Merge(e.Frozen)
	if e.Lost == "" {
		return m, e.FrozenLost
	}
	return m, e.Lost
}

// entry returns the entry of a key, or nil.
func (s *state) entry(k Key) *entry {
	want := k.json()
	for _, e := range s.Entries {
		if e.Key == want {
			return e
		}
	}
	return nil
}

// add adds an entry. Entries are in the order of their keys.
func (s *state) add(e *entry) {
	s.Entries = append(s.Entries, e)
	slices.SortFunc(s.Entries, func(a, b *entry) int { return strings.Compare(a.Key.order(), b.Key.order()) })
}

func (k keyJSON) order() string { return k.Archive + k.Branch + k.Volume }

// loseAll makes all entries lost and gives the base up.
func (s *state) loseAll(why string) {
	for _, e := range s.Entries {
		e.lose(why)
	}
	s.Base = nil
}

// endRun removes a run; what it had not committed is as dirty as before.
func (s *state) endRun(id string) {
	s.Runs = slices.DeleteFunc(s.Runs, func(r *run) bool { return r.ID == id })
	for _, e := range s.Entries {
		if e.Run == id {
			e.release()
		}
	}
}

// tidy removes what has no use any more: entries of backups that never were,
// and a base that no dirty map is about.
func (s *state) tidy() {
	s.Entries = slices.DeleteFunc(s.Entries, func(e *entry) bool { return e.Session == nil && e.Run == "" })
	if !slices.ContainsFunc(s.Entries, func(e *entry) bool { return e.Lost == "" }) {
		s.Base = nil
	}
}

// empty reports whether the state says nothing.
func (s *state) empty() bool {
	return s.Note == "" && s.Base == nil && len(s.Entries) == 0 && len(s.Runs) == 0 && len(s.Discarded) == 0
}

// A ref is a snapshot that a state names.
type ref struct{ pool, name string }

func refOf(b *source.Base) ref { return ref{b.Pool, b.Name} }

// refs are the snapshots that the state names.
func (s *state) refs() map[ref]*source.Base {
	named := map[ref]*source.Base{}
	if s.Base != nil {
		named[refOf(s.Base)] = s.Base
	}
	for _, r := range s.Runs {
		if r.Base != nil {
			named[refOf(r.Base)] = r.Base
		}
	}
	for _, b := range s.Discarded {
		named[refOf(b)] = b
	}
	return named
}

// encode returns the content of the state file: a line that says what it is,
// with a checksum, and JSON that people can read.
func (s *state) encode() ([]byte, error) {
	body, err := json.MarshalIndent(s.packed(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the state of %s: %w", s.Locator, err)
	}
	body = append(body, '\n')
	return append(fmt.Appendf(nil, "pinion tracker %d sha256:%x\n", version, sha256.Sum256(body)), body...), nil
}

// decode reads a state file. The error is format.ErrNewer if a newer version
// wrote it; any other says that it is damaged.
func decode(untrusted []byte) (*state, error) {
	head, body, _ := bytes.Cut(untrusted, []byte("\n"))
	var v uint
	var sum string
	if n, err := fmt.Sscanf(string(head), "pinion tracker %d sha256:%s", &v, &sum); v > version && n >= 1 {
		return nil, fmt.Errorf("has version %d: %w", v, format.ErrNewer)
	} else if err != nil || v != version {
		return nil, errors.New("doesn't begin as one")
	}
	if fmt.Sprintf("%x", sha256.Sum256(body)) != sum {
		return nil, errors.New("has another checksum than it says")
	}
	s := &state{}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, s.unpack()
}

// check holds what the code relies on: a checksum is no proof of origin.
func (s *state) check() error {
	keys := map[keyJSON]bool{}
	for _, e := range s.Entries {
		if e == nil || e.Dirty == nil {
			return errors.New("has an entry without a dirty map")
		}
		if _, err := e.Key.parse(); err != nil {
			return err
		}
		if _, err := e.Session.parse(); err != nil {
			return err
		}
		if (e.Run == "") != (e.Frozen == nil) {
			return errors.New("has a frozen map without a run, or the other way round")
		}
		if keys[e.Key] {
			return errors.New("has an entry twice")
		}
		keys[e.Key] = true
		if e.Lost == "" && s.Base == nil {
			return errors.New("has a dirty map without a base")
		}
	}
	if slices.Contains(s.Runs, nil) || slices.Contains(s.Discarded, nil) {
		return errors.New("has an empty run or snapshot")
	}
	return nil
}
