package qubesd

import (
	"fmt"
	"slices"
	"strings"
)

// A method does a call. It gets the qube that is the call's destination.
type method func(s *Server, q *qube, c Call) ([]byte, error)

// methods are the calls of both releases. A call about the system must have
// dom0 as its destination.
func methods() map[string]method {
	return map[string]method{
		"admin.vm.List":                         (*Server).vmList,
		"admin.vm.CurrentState":                 (*Server).currentState,
		"admin.vm.property.GetAll":              (*Server).propertyGetAll,
		"admin.vm.property.Get":                 (*Server).propertyGet,
		"admin.vm.property.Set":                 (*Server).propertySet,
		"admin.vm.property.Reset":               (*Server).propertyReset,
		"admin.property.GetAll":                 global((*Server).globalGetAll),
		"admin.property.Get":                    global((*Server).globalGet),
		"admin.property.Set":                    global((*Server).globalSet),
		"admin.vm.feature.List":                 (*Server).featureList,
		"admin.vm.feature.Get":                  (*Server).featureGet,
		"admin.vm.feature.Set":                  (*Server).featureSet,
		"admin.vm.feature.Remove":               (*Server).featureRemove,
		"admin.vm.tag.List":                     (*Server).tagList,
		"admin.vm.tag.Get":                      (*Server).tagGet,
		"admin.vm.tag.Set":                      (*Server).tagSet,
		"admin.vm.tag.Remove":                   (*Server).tagRemove,
		"admin.vm.firewall.Get":                 (*Server).firewallGet,
		"admin.vm.firewall.Set":                 (*Server).firewallSet,
		"admin.deviceclass.List":                global((*Server).deviceClassList),
		"admin.label.List":                      global((*Server).labelList),
		"admin.label.Get":                       global((*Server).labelGet),
		"admin.label.Create":                    global((*Server).labelCreate),
		"admin.pool.List":                       global((*Server).poolList),
		"admin.pool.Info":                       global((*Server).poolInfo),
		"admin.vm.volume.List":                  (*Server).volumeList,
		"admin.vm.volume.Info":                  withVolume((*Server).volumeInfo),
		"admin.vm.volume.Resize":                withVolume((*Server).volumeResize),
		"admin.vm.volume.ListSnapshots":         withVolume((*Server).volumeRevisions),
		"admin.vm.volume.Set.revisions_to_keep": withVolume((*Server).volumeKeep),
		"admin.vm.Remove":                       (*Server).remove,
		"admin.vm.Start":                        (*Server).vmStart,
		"admin.vm.Shutdown":                     (*Server).vmShutdown,
		"admin.vm.Kill":                         (*Server).vmKill,
		"admin.vm.Pause":                        (*Server).vmPause,
		"admin.vm.Unpause":                      (*Server).vmUnpause,
	}
}

// dispatch finds the method of a call. What isn't there is refused with the
// empty answer, like what isn't allowed: on the wire they are the same.
func (s *Server) dispatch(c Call) ([]byte, error) {
	q, err := s.need(c.Dest)
	if err != nil {
		return nil, err
	}
	if c.Internal {
		switch c.Method {
		case "internal.vm.volume.ImportBegin":
			return withVolume((*Server).importBegin)(s, q, c)
		case "internal.vm.volume.ImportEnd":
			return withVolume((*Server).importEnd)(s, q, c)
		}
		return nil, errRefused
	}
	if m := methods()[c.Method]; m != nil {
		return m(s, q, c)
	}
	if class, found := strings.CutPrefix(c.Method, "admin.vm.Create."); found {
		return s.create(q, c, class, false)
	}
	if class, found := strings.CutPrefix(c.Method, "admin.vm.CreateInPool."); found {
		return s.create(q, c, class, true)
	}
	if rest, found := strings.CutPrefix(c.Method, "admin.vm.device."); found {
		class, verb, _ := strings.Cut(rest, ".")
		return s.deviceCall(q, c, class, verb)
	}
	// Notes are R4.3's. dom0 has none.
	if s.o.Release != R42 && q.class != "AdminVM" {
		switch c.Method {
		case "admin.vm.notes.Get":
			return []byte(s.notes(q)), nil
		case "admin.vm.notes.Set":
			return nil, s.setNotes(q, c.Payload)
		}
	}
	return nil, errRefused
}

// global is a method that only dom0 is a destination of.
func global(m method) method {
	return func(s *Server, q *qube, c Call) ([]byte, error) {
		if q.class != "AdminVM" {
			return nil, errRefused
		}
		return m(s, q, c)
	}
}

// withVolume is a method about a volume; one that the qube doesn't have is a
// protocol error.
func withVolume(m func(s *Server, v *volume, c Call) ([]byte, error)) method {
	return func(s *Server, q *qube, c Call) ([]byte, error) {
		v := q.volume(c.Arg)
		if v == nil {
			return nil, errRefused
		}
		return m(s, v, c)
	}
}

// vmList: all qubes to dom0, itself to another. R4.3 adds uuid=.
func (s *Server) vmList(q *qube, c Call) ([]byte, error) {
	list := []*qube{q}
	if q.class == "AdminVM" {
		list = s.system.qubes
	}
	var b []byte
	for _, q := range list {
		b = fmt.Appendf(b, "%s class=%s state=%s", q.name, q.class, q.state)
		if s.o.Release != R42 {
			uuid, _ := s.property(q, "uuid", definition{})
			b = append(b, " uuid="+uuid...)
		}
		b = append(b, '\n')
	}
	return b, nil
}

func (s *Server) currentState(q *qube, c Call) ([]byte, error) {
	mem, cpu := 0, 0
	if q.state != halted {
		mem, cpu = 409600, 12
	}
	return fmt.Appendf(nil, "mem=%d mem_static_max=%d cputime=%d power_state=%s", mem, mem, cpu, q.state), nil
}

func (s *Server) featureList(q *qube, c Call) ([]byte, error) {
	var b []byte
	for _, f := range q.features {
		b = append(b, f.name+"\n"...)
	}
	return b, nil
}

func (s *Server) featureGet(q *qube, c Call) ([]byte, error) {
	value, found := q.features.get(c.Arg)
	if !found {
		return nil, raise("QubesFeatureNotFoundError", "Feature not set for domain %s: %s", q.name, c.Arg)
	}
	return []byte(value), nil
}

// guarded features belong to qubesd alone (ext/admin.py): nobody sets or
// removes them, and is told nothing.
func guarded(name string) bool {
	return slices.Contains([]string{"preload-dispvm", "preload-dispvm-completed", "preload-dispvm-in-progress", "deferred-netvm-original"}, name)
}

// featureSet: a name of [A-Za-z0-9_.-], a value of printable ASCII.
func (s *Server) featureSet(q *qube, c Call) ([]byte, error) {
	if guarded(c.Arg) {
		return nil, errRefused
	}
	for i := range len(c.Payload) {
		if c.Payload[i] >= 0x80 {
			return nil, errRefused // it isn't decoded
		}
	}
	if c.Arg == "" || strings.Trim(c.Arg, wordCharacters) != "" {
		return nil, raise("QubesValueError", "feature name contains illegal characters")
	}
	if strings.ContainsFunc(c.Payload, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, raise("QubesValueError", "%s value contains illegal characters", c.Arg)
	}
	q.features.set(c.Arg, c.Payload)
	return nil, s.save()
}

// wordCharacters are those of names of features, labels and pools.
const wordCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"

func (s *Server) featureRemove(q *qube, c Call) ([]byte, error) {
	if guarded(c.Arg) {
		return nil, errRefused
	}
	if !q.features.remove(c.Arg) {
		return nil, raise("QubesFeatureNotFoundError", "Feature not set for domain %s: %s", q.name, c.Arg)
	}
	return nil, s.save()
}

func (s *Server) tagList(q *qube, c Call) ([]byte, error) {
	tags := slices.Clone(q.tags)
	slices.Sort(tags)
	var b []byte
	for _, tag := range tags {
		b = append(b, tag+"\n"...)
	}
	return b, nil
}

// validTag: letters, digits, '_' and '-'; anything else is an error that the
// client isn't told.
func validTag(tag string) bool {
	return tag != "" && strings.Trim(tag, strings.ReplaceAll(wordCharacters, ".", "")) == ""
}

func (s *Server) tagGet(q *qube, c Call) ([]byte, error) {
	if !validTag(c.Arg) {
		return nil, errRefused
	}
	if slices.Contains(q.tags, c.Arg) {
		return []byte("1"), nil
	}
	return []byte("0"), nil
}

func (s *Server) tagSet(q *qube, c Call) ([]byte, error) {
	if !validTag(c.Arg) {
		return nil, errRefused
	}
	if !slices.Contains(q.tags, c.Arg) {
		q.tags = append(q.tags, c.Arg)
	}
	return nil, s.save()
}

func (s *Server) tagRemove(q *qube, c Call) ([]byte, error) {
	if !validTag(c.Arg) {
		return nil, errRefused
	}
	i := slices.Index(q.tags, c.Arg)
	if i < 0 {
		return nil, raise("QubesTagNotFoundError", "Tag not set for domain %s: %s", q.name, c.Arg)
	}
	q.tags = slices.Delete(q.tags, i, i+1)
	return nil, s.save()
}

func (s *Server) labelList(q *qube, c Call) ([]byte, error) {
	var b []byte
	for _, l := range s.system.labels {
		b = append(b, l.name+"\n"...)
	}
	return b, nil
}

func (s *Server) labelGet(q *qube, c Call) ([]byte, error) {
	l := s.label(c.Arg)
	if l == nil {
		return nil, raise("QubesValueError", "")
	}
	return []byte(l.color), nil
}

// labelCreate: new labels get numbers above the eight built-in ones.
func (s *Server) labelCreate(q *qube, c Call) ([]byte, error) {
	if c.Arg == "" || strings.Trim(c.Arg, wordCharacters) != "" || strings.Trim(c.Arg, "0123456789") == "" {
		return nil, errRefused
	}
	if s.label(c.Arg) != nil {
		return nil, raise("QubesValueError", "label already exists")
	}
	color := strings.TrimSpace(c.Payload)
	if len(color) != 8 || !strings.HasPrefix(color, "0x") || strings.Trim(color[2:], "0123456789abcdefABCDEF") != "" {
		return nil, errRefused
	}
	index := 8
	for _, l := range s.system.labels {
		index = max(index, l.index)
	}
	s.system.labels = append(s.system.labels, label{index + 1, color, c.Arg})
	return nil, s.save()
}
