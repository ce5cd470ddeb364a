package admin

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// How an answer begins.
const (
	answerSuccess   = "0\x00"
	answerException = "2\x00"
)

// parseAnswer returns the data of a success, an *Error for an exception, and
// ErrRefused for the empty answer.
//
// An exception is its type, a traceback that only a debugging qubesd sends,
// and a message, each ended by a NUL byte. Clients fill further fields into
// the message; no release sends any, and they are ignored.
func parseAnswer(untrusted []byte) ([]byte, error) {
	switch {
	case len(untrusted) == 0:
		return nil, ErrRefused
	case bytes.HasPrefix(untrusted, []byte(answerSuccess)):
		return untrusted[len(answerSuccess):], nil
	case len(untrusted) == 1 && (untrusted[0] == '0' || untrusted[0] == '2'):
		return nil, fmt.Errorf("%w: the answer ends after one byte", ErrUnreachable)
	case !bytes.HasPrefix(untrusted, []byte(answerException)):
		return nil, fmt.Errorf("%w: it begins with %q", ErrAnswer, untrusted[:min(len(untrusted), 16)])
	}
	fields := bytes.SplitN(untrusted[len(answerException):], []byte{0}, 4)
	if len(fields) < 4 {
		return nil, fmt.Errorf("%w: the answer ends within an exception", ErrUnreachable)
	}
	name := string(fields[0])
	if !isToken(name, maxToken) {
		return nil, fmt.Errorf("%w: an exception without a name", ErrAnswer)
	}
	return nil, &Error{Type: name, Message: string(fields[2][:min(len(fields[2]), maxMessage)])}
}

// lines splits an answer into its lines, each of which ends with a line feed.
func lines(untrusted []byte) ([]string, error) {
	if len(untrusted) == 0 {
		return nil, nil
	}
	if untrusted[len(untrusted)-1] != '\n' {
		return nil, fmt.Errorf("%w: the answer ends within a line", ErrUnreachable)
	}
	list := strings.Split(string(untrusted[:len(untrusted)-1]), "\n")
	if len(list) > maxLines {
		return nil, fmt.Errorf("%w: it has %d lines", ErrAnswer, len(list))
	}
	return list, nil
}

// tokens are the lines of an answer that lists names, in its order.
func tokens(untrusted []byte, what string) ([]string, error) {
	list, err := lines(untrusted)
	if err != nil {
		return nil, err
	}
	for _, untrustedName := range list {
		if !isToken(untrustedName, maxToken) {
			return nil, fmt.Errorf("%w: %q is no name of a %s", ErrAnswer, cut(untrustedName), what)
		}
	}
	return list, nil
}

// parseList reads the answer of admin.vm.List. R4.3 adds uuid=.
func parseList(untrusted []byte) ([]VM, error) {
	list, err := lines(untrusted)
	if err != nil {
		return nil, err
	}
	vms := make([]VM, 0, len(list))
	for _, line := range list {
		fields := strings.Split(line, " ")
		vm := VM{Name: fields[0]}
		if checkQube(vm.Name) != nil {
			return nil, fmt.Errorf("%w: %q is no name of a qube", ErrAnswer, cut(vm.Name))
		}
		for _, field := range fields[1:] {
			key, untrustedValue, found := strings.Cut(field, "=")
			if !found || !isToken(untrustedValue, maxToken) {
				return nil, fmt.Errorf("%w: the line of %q has %q", ErrAnswer, vm.Name, cut(field))
			}
			switch key {
			case "class":
				vm.Class = untrustedValue
			case "state":
				vm.State = untrustedValue
			case "uuid":
				vm.UUID = untrustedValue
			}
		}
		if vm.Class == "" || vm.State == "" {
			return nil, fmt.Errorf("%w: the line of %q has no class or state", ErrAnswer, vm.Name)
		}
		vms = append(vms, vm)
	}
	return vms, nil
}

// parseState finds the power state in the answer of admin.vm.CurrentState.
func parseState(untrusted []byte) (string, error) {
	for field := range strings.SplitSeq(strings.TrimSuffix(string(untrusted), "\n"), " ") {
		if value, found := strings.CutPrefix(field, "power_state="); found && isToken(value, maxToken) {
			return value, nil
		}
	}
	return "", fmt.Errorf("%w: no power state in %q", ErrAnswer, cut(string(untrusted)))
}

// parseProperty reads what follows a property's name: default=, type=, and
// the value, which may hold spaces and, unless it came in a list, lines.
func parseProperty(name, untrusted string) (Property, error) {
	fields := strings.SplitN(untrusted, " ", 3)
	if len(fields) < 3 {
		return Property{}, fmt.Errorf("%w: %q is no property", ErrAnswer, cut(untrusted))
	}
	p := Property{Name: name, Value: fields[2]}
	switch fields[0] {
	case "default=True":
		p.Default = true
	case "default=False":
	default:
		return Property{}, fmt.Errorf("%w: the property %q has %q", ErrAnswer, name, cut(fields[0]))
	}
	kind, found := strings.CutPrefix(fields[1], "type=")
	if !found || checkWord("type", kind) != nil {
		return Property{}, fmt.Errorf("%w: the property %q has %q", ErrAnswer, name, cut(fields[1]))
	}
	p.Type = kind
	return p, nil
}

// parseProperties reads the answer of GetAll, where backslashes and line
// feeds of a value are escaped.
func parseProperties(untrusted []byte) ([]Property, error) {
	list, err := lines(untrusted)
	if err != nil {
		return nil, err
	}
	properties := make([]Property, 0, len(list))
	for _, line := range list {
		name, rest, found := strings.Cut(line, " ")
		if !found || !isToken(name, maxToken) {
			return nil, fmt.Errorf("%w: %q is no property", ErrAnswer, cut(line))
		}
		rest, err := unescape(rest)
		if err != nil {
			return nil, fmt.Errorf("%w: the property %q: %w", ErrAnswer, name, err)
		}
		p, err := parseProperty(name, rest)
		if err != nil {
			return nil, err
		}
		properties = append(properties, p)
	}
	return properties, nil
}

// unescape undoes what qubesd does to a value of a list: \\ for a backslash,
// \n for a line feed. Anything else after a backslash is an error, so that
// two texts never mean the same.
func unescape(untrusted string) (string, error) {
	if !strings.Contains(untrusted, `\`) {
		return untrusted, nil
	}
	var b strings.Builder
	for i := 0; i < len(untrusted); i++ {
		if untrusted[i] != '\\' {
			b.WriteByte(untrusted[i])
			continue
		}
		i++
		switch {
		case i < len(untrusted) && untrusted[i] == '\\':
			b.WriteByte('\\')
		case i < len(untrusted) && untrusted[i] == 'n':
			b.WriteByte('\n')
		default:
			return "", fmt.Errorf("a backslash that escapes nothing in %q", cut(untrusted))
		}
	}
	return b.String(), nil
}

// parsePairs reads lines of key=value. A key may come once.
func parsePairs(untrusted []byte) (map[string]string, error) {
	list, err := lines(untrusted)
	if err != nil {
		return nil, err
	}
	pairs := make(map[string]string, len(list))
	for _, line := range list {
		key, value, found := strings.Cut(line, "=")
		if !found || !isToken(key, maxToken) {
			return nil, fmt.Errorf("%w: %q is no line of key=value", ErrAnswer, cut(line))
		}
		if _, twice := pairs[key]; twice {
			return nil, fmt.Errorf("%w: %q comes twice", ErrAnswer, key)
		}
		pairs[key] = value
	}
	return pairs, nil
}

// parseVolume reads the answer of admin.vm.volume.Info.
func parseVolume(untrusted []byte) (VolumeInfo, error) {
	pairs, err := parsePairs(untrusted)
	if err != nil {
		return VolumeInfo{}, err
	}
	r := pairReader{pairs: pairs}
	v := VolumeInfo{
		Pool: pairs["pool"], VID: pairs["vid"], Source: pairs["source"], Path: pairs["path"],
		Size: r.number("size", 0), Usage: r.number("usage", 0), Revisions: int(r.number("revisions_to_keep", -1)),
		RW: r.truth("rw"), SaveOnStop: r.truth("save_on_stop"), SnapOnStart: r.truth("snap_on_start"),
		Ephemeral: r.truth("ephemeral"),
	}
	if r.err == nil && !isToken(v.Pool, maxToken) {
		r.err = fmt.Errorf("%w: the pool is %q", ErrAnswer, cut(v.Pool))
	}
	for _, key := range []string{"vid", "size", "rw", "save_on_stop", "snap_on_start"} {
		if _, found := pairs[key]; !found && r.err == nil {
			r.err = fmt.Errorf("%w: it lacks %q", ErrAnswer, key)
		}
	}
	for _, text := range []string{v.VID, v.Source, v.Path} {
		if r.err == nil && (len(text) > maxText || strings.ContainsFunc(text, isControl)) {
			r.err = fmt.Errorf("%w: %q is neither a volume nor a path", ErrAnswer, cut(text))
		}
	}
	if r.err != nil {
		return VolumeInfo{}, r.err
	}
	return v, nil
}

// A pairReader turns values into what they mean; its first error stays.
type pairReader struct {
	pairs map[string]string
	err   error
}

// number reads a decimal number. What qubesd doesn't know is an empty value.
func (r *pairReader) number(key string, least int64) int64 {
	untrusted := r.pairs[key]
	if untrusted == "" || untrusted == "None" || r.err != nil {
		return 0
	}
	n, err := strconv.ParseInt(untrusted, 10, 64)
	if err != nil || n < least || (key == "revisions_to_keep" && n > maxRevisions) {
		r.err = fmt.Errorf("%w: %s is %q", ErrAnswer, key, cut(untrusted))
		return 0
	}
	return n
}

func (r *pairReader) truth(key string) bool {
	switch untrusted := r.pairs[key]; untrusted {
	case "True":
		return true
	case "", "False", "None":
	default:
		if r.err == nil {
			r.err = fmt.Errorf("%w: %s is %q", ErrAnswer, key, cut(untrusted))
		}
	}
	return false
}

// parseImport reads the size and the path that ImportBegin answers with.
func parseImport(untrusted []byte) (Import, error) {
	untrustedSize, path, found := strings.Cut(string(untrusted), " ")
	size, err := strconv.ParseInt(untrustedSize, 10, 64)
	if !found || err != nil || size < 0 {
		return Import{}, fmt.Errorf("%w: %q is no size and path", ErrAnswer, cut(string(untrusted)))
	}
	if !strings.HasPrefix(path, "/") || len(path) > maxText || strings.ContainsFunc(path, isControl) {
		return Import{}, fmt.Errorf("%w: %q is no path", ErrAnswer, cut(path))
	}
	return Import{Path: path, Size: size}, nil
}
