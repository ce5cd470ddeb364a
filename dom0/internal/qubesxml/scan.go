package qubesxml

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"pinion/dom0/internal/ui"
)

// What a file may hold. A qube takes some 4 KiB and 170 nodes.
const (
	// maxFile bounds the file, in bytes: it is held as a whole. A qube that
	// fills it must go far until no other can be saved.
	maxFile = 64 << 20

	// maxKept bounds what is left of the file when the largest qubes are cut
	// out, in bytes: a thousand qubes take a quarter of it.
	maxKept = 16 << 20

	// maxDomain and maxDomainNodes bound a qube, in bytes and in what maxNodes
	// counts: some 10,000 features, more than can be kept. One that is larger is
	// cut out, so that it costs itself and no other: a qube can announce as many
	// features as it likes.
	maxDomain      = 4 << 20
	maxDomainNodes = 50_000

	// largeDomain and largeDomainNodes are from where on a qube is noted by
	// itself, since it may have to go.
	largeDomain      = 64 << 10
	largeDomainNodes = 1000

	// maxDepth bounds how deep elements are nested: qubesd's are six deep.
	maxDepth = 32

	// maxNodes bounds elements, attributes, texts and comments together: with
	// some 120 bytes in memory for each they stay under 64 MiB.
	maxNodes = 500_000

	// maxToken bounds a tag, a text or a comment, in bytes. A value that qubesd
	// takes over its socket has less than 64 KiB; the bound is far above, so
	// that an oversized value costs itself and not the file. It is also what
	// keeps a tag of a million attributes from being held.
	maxToken = 2 << 20

	// maxAttributes bounds the attributes of an element: a volume has ten.
	maxAttributes = 64

	// maxOdd bounds the remarks on a file.
	maxOdd = 50
)

// errToken is what the decoder gets instead of the next byte.
var errToken = fmt.Errorf("a tag or text has more than %s", ui.Bytes(maxToken))

// limited gives a decoder its bytes, and a bounded number of them for a token:
// the decoder collects a token before anybody can look at it.
type limited struct {
	*bytes.Reader
	left int
}

func (l *limited) ReadByte() (byte, error) {
	if l.left == 0 {
		return 0, errToken
	}
	l.left--
	return l.Reader.ReadByte()
}

// scan holds a file to the bounds without keeping any of it, and returns the
// qubes that have to be cut out of it for that, in the file's order. The decoder
// is the one that builds the tree later, so both see the same tokens.
func scan(untrusted []byte) ([]span, error) {
	if err := checkEncoding(untrusted); err != nil {
		return nil, err
	}
	in := &limited{Reader: bytes.NewReader(untrusted)}
	dec := xml.NewDecoder(in)
	dec.CharsetReader = refuseCharset
	s := scanner{first: true}
	for {
		in.left = maxToken
		from := dec.InputOffset()
		token, err := dec.RawToken()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = s.next(token, from, dec.InputOffset())
		}
		if err != nil {
			var syntax *xml.SyntaxError
			if errors.As(err, &syntax) {
				return nil, err // it says the line
			}
			line, _ := dec.InputPos()
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
	}
	switch {
	case s.depth > 0:
		return nil, errors.New("it ends in the middle")
	case s.roots == 0:
		return nil, errors.New("there is nothing in it")
	}
	return s.cut(int64(len(untrusted)))
}

// checkEncoding refuses what isn't UTF-8, by name where that is easy.
func checkEncoding(untrusted []byte) error {
	for _, mark := range []string{"\xff\xfe", "\xfe\xff", "<\x00", "\x00<"} {
		if bytes.HasPrefix(untrusted, []byte(mark)) {
			return errors.New("it is in UTF-16 or UTF-32, only UTF-8 is read")
		}
	}
	if !utf8.Valid(untrusted) {
		return errors.New("it is not in UTF-8")
	}
	return nil
}

// refuseCharset is called for any encoding that a file names but UTF-8.
func refuseCharset(charset string, _ io.Reader) (io.Reader, error) {
	return nil, fmt.Errorf("it says that it is in %s, only UTF-8 is read", quoted(charset))
}

// A scanner counts what a file holds.
type scanner struct {
	depth, nodes, roots int
	first               bool
	domains             domains
}

func (s *scanner) next(token xml.Token, from, to int64) error {
	first := s.first
	s.first = false
	before := s.nodes
	if s.nodes++; s.nodes > maxNodes && !s.domains.inside {
		return errNodes
	}
	switch t := token.(type) {
	case xml.StartElement:
		if err := s.start(t); err != nil {
			return err
		}
		s.domains.start(t, s.depth, before, from)
		return nil
	case xml.EndElement:
		if s.depth--; s.depth < 0 {
			return fmt.Errorf("</%s> closes nothing", quoted(t.Name.Local))
		}
		s.nodes -= s.domains.end(s.depth, s.nodes, to)
		return nil
	case xml.CharData:
		if s.depth == 0 && len(bytes.TrimSpace(t)) > 0 {
			return errors.New("there is text outside of the one element")
		}
		s.domains.text(t, s.depth)
		return nil
	case xml.Directive:
		return errors.New("it has a DOCTYPE or another directive, which qubesd never writes")
	case xml.ProcInst:
		if !first || t.Target != "xml" {
			return fmt.Errorf("it has the instruction %s, which qubesd never writes", quoted(t.Target))
		}
	}
	s.domains.naming = false // a comment ends a text, see textOf
	return nil
}

// What is wrong with a file that holds too much, whatever is cut out.
var (
	errNodes = fmt.Errorf("it holds more than %d elements, attributes and texts", maxNodes)
	errKept  = fmt.Errorf("it has more than %s", ui.Bytes(maxKept))
)

func (s *scanner) start(t xml.StartElement) error {
	if s.depth == 0 {
		if s.roots++; s.roots > 1 {
			return errors.New("it has more than one root")
		}
	}
	if s.depth++; s.depth > maxDepth {
		return fmt.Errorf("elements are nested more than %d deep", maxDepth)
	}
	if len(t.Attr) > maxAttributes {
		return fmt.Errorf("<%s> has %d attributes, at most %d are allowed", quoted(t.Name.Local), len(t.Attr), maxAttributes)
	}
	s.nodes += len(t.Attr)
	for i, a := range t.Attr {
		for _, b := range t.Attr[:i] {
			if a.Name == b.Name {
				return fmt.Errorf("<%s> has the attribute %s twice", quoted(t.Name.Local), quoted(a.Name.Local))
			}
		}
	}
	return nil
}
