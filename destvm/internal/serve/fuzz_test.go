package serve_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pinion/destvm/internal/serve"
	"pinion/protocol"
)

// maxHeap is the most memory that a connection, and this test, may have.
const maxHeap = 128 << 20

// A sink takes what a helper says, and looks at the memory now and then.
type sink struct {
	t *testing.T

	mu     sync.Mutex
	bytes  bytes.Buffer
	writes int
}

// A source is a helper's input. It ends when the helper has had nothing to say
// for a moment, since an end drops what is only queued.
type source struct {
	io.Reader
	out *sink
}

func (s source) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	for before, tries := -1, 0; err == io.EOF && before != s.out.said() && tries < 50; tries++ {
		before = s.out.said()
		time.Sleep(10 * time.Millisecond)
	}
	return n, err
}

func (s *sink) said() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writes++; s.writes%256 == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if m.HeapAlloc > maxHeap {
			s.t.Errorf("there are %d bytes on the heap", m.HeapAlloc)
		}
	}
	return s.bytes.Write(b)
}

func frame(t protocol.Type, id uint32, m protocol.Appender) []byte {
	return protocol.AppendFrame(nil, t, id, m)
}

// raw is a payload of any bytes.
type raw []byte

func (r raw) Append(b []byte) []byte { return append(b, r...) }

func withBody(t protocol.Type, id uint32, m protocol.Appender, body []byte) []byte {
	return append(frame(t, id, m), frame(protocol.TypeData, id, raw(body))...)
}

func packName(n byte) string { return protocol.PackName([16]byte{n}) }

func rootName(generation uint64, root []byte) string {
	sum := sha256.Sum256(root)
	return protocol.RootName(generation, [16]byte(sum[:16]))
}

// openings are how a connection may begin before the fuzzer has its say.
func openings() [][]byte {
	hello := frame(protocol.TypeHello, 0, protocol.Hello{Min: 1, Max: protocol.Version, Create: true})
	lock := func(mode protocol.LockMode) []byte { return frame(protocol.TypeLock, 1, protocol.Lock{Mode: mode}) }
	return [][]byte{
		nil,
		hello,
		slices.Concat(hello, lock(protocol.LockAppend)),
		slices.Concat(hello, lock(protocol.LockExclusive),
			withBody(protocol.TypePut, 2, protocol.Put{Name: packName(1), Size: 4}, []byte("pack")),
			withBody(protocol.TypeCommit, 3, protocol.Commit{Generation: 1, Size: 4}, []byte("root"))),
	}
}

// FuzzConnection gives any bytes to a helper, from the first or after an
// opening. Whatever they are, it ends, it says nothing but what the protocol
// has, and it leaves nothing in its directory, or beside it, but what the
// protocol has and its own files.
func FuzzConnection(f *testing.F) {
	root := []byte("a second root")
	list := protocol.AppendLiteral(protocol.AppendCopy(nil, packName(1), protocol.Range{Off: 1, Len: 2}), []byte("x"))
	ranges := []protocol.Range{{Off: 0, Len: 2}, {Off: 1, Len: 3}}
	all := slices.Concat(
		withBody(protocol.TypePut, 4, protocol.Put{Name: rootName(2, root), Size: uint64(len(root))}, root),
		withBody(protocol.TypeCommit, 5, protocol.Commit{Generation: 2, Size: uint32(len(root))}, root),
		frame(protocol.TypeAlive, 0, nil),
		frame(protocol.TypeGet, 6, protocol.Get{Name: packName(1), Ranges: ranges}),
		frame(protocol.TypeGetWhole, 7, protocol.GetWhole{Name: "head/000000000001", Max: 100}),
		frame(protocol.TypeList, 8, protocol.List{Prefix: protocol.PrefixHead, Max: 10}),
		frame(protocol.TypeUsage, 10, nil),
		frame(protocol.TypeInventory, 11, nil),
		frame(protocol.TypeNote, 12, protocol.Note{Note: []byte("note")}),
		frame(protocol.TypeHolder, 13, nil),
		withBody(protocol.TypeCompose, 14, protocol.Compose{Name: packName(2), Size: 3, ListLen: uint32(len(list))}, list),
		frame(protocol.TypePunch, 15, protocol.Punch{Name: packName(1), Ranges: ranges[:1]}),
		frame(protocol.TypeDelete, 16, protocol.Delete{Keep: true, Names: []string{packName(1), "head/000000000002", "head/000000000001"}}),
		frame(protocol.TypeDelete, 17, protocol.Delete{Names: []string{packName(2)}}),
	)
	for i := range openings() {
		f.Add(uint8(i), all)
	}
	f.Add(uint8(0), slices.Concat(openings()[3], all))
	f.Add(uint8(2), withBody(protocol.TypePut, 4, protocol.Put{Name: packName(3), Size: 1000}, make([]byte, 500)))
	f.Add(uint8(2), frame(protocol.TypeCompose, 4, protocol.Compose{Name: packName(3), Size: 1000, ListLen: protocol.MaxComposeList}))
	f.Add(uint8(3), bytes.Repeat(frame(protocol.TypeInventory, 4, nil), 100))
	f.Fuzz(func(t *testing.T, opening uint8, untrusted []byte) {
		if len(untrusted) > 32<<10 {
			return
		}
		begin := openings()[int(opening)%len(openings())]
		place := t.TempDir()
		path := filepath.Join(place, "archive")
		out := &sink{t: t}
		err := serve.Serve(serve.Config{Path: path, In: source{bytes.NewReader(slices.Concat(begin, untrusted)), out}, Out: out})
		if err != nil && (len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\n\x1b")) {
			t.Errorf("it ends with %q", err)
		}
		checkOutput(t, out.bytes.Bytes())
		checkPlace(t, place)
	})
}

// checkOutput parses all that a helper said.
func checkOutput(t *testing.T, b []byte) {
	t.Helper()
	if len(b) == 0 {
		return
	}
	b, ok := bytes.CutPrefix(b, []byte(protocol.Magic))
	if !ok || len(b) < protocol.TokenSize {
		t.Fatalf("it says %.100q", b)
	}
	for b = b[protocol.TokenSize:]; len(b) > 0; {
		if len(b) < protocol.HeaderSize {
			t.Fatalf("it ends with half a header: %x", b)
		}
		h, err := protocol.ParseHeader(b[:protocol.HeaderSize])
		if err != nil || h.Len > len(b)-protocol.HeaderSize {
			t.Fatalf("%+v, %v", h, err)
		}
		payload := b[protocol.HeaderSize:][:h.Len]
		b = b[protocol.HeaderSize+h.Len:]
		switch h.Type {
		case protocol.TypeHelloReply:
			_, err = protocol.ParseHelloReply(payload)
		case protocol.TypeError:
			_, err = protocol.ParseErrorReply(payload)
		case protocol.TypeEntry:
			_, err = protocol.ParseEntry(payload)
		case protocol.TypeData:
			if len(payload) == 0 {
				err = errors.New("empty data")
			}
		case protocol.TypeOK, protocol.TypeAlive:
		default:
			err = errors.New("not a helper's")
		}
		if err != nil {
			t.Fatalf("a frame of type %s: %v", h.Type, err)
		}
	}
}

// ours are the names that may be in an archive's directory.
var ours = regexp.MustCompile(`\A(?:archive(?:|/(?:head|roots|packs|packs/[0-9a-f]{2}|index|tmp|lock\.write|lock\.use|README\.txt)|` +
	`/trash(?:|/[0-9-]{10}(?:|/head|/packs|/packs/[0-9a-f]{2}|/index))))\z`)

// inTrash is the name of an object that was put aside.
var inTrash = regexp.MustCompile(`\Aarchive/trash/[0-9-]{10}/(.+?)(?:\.[1-9][0-9]*)?\z`)

// checkPlace looks at everything in the directory that an archive is in.
func checkPlace(t *testing.T, place string) {
	t.Helper()
	err := filepath.WalkDir(place, func(path string, d fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(place, path)
		if err != nil || relErr != nil || name == "." {
			return errors.Join(err, relErr)
		}
		object, _ := strings.CutPrefix(name, "archive/")
		if m := inTrash.FindStringSubmatch(name); m != nil {
			object = m[1]
		}
		if protocol.CheckName(object) != nil && !ours.MatchString(name) {
			t.Errorf("there is %q", name)
		}
		if _, sum, ok := protocol.ParseRootName(object); ok {
			b, err := os.ReadFile(path)
			if got := sha256.Sum256(b); err != nil || [16]byte(got[:16]) != sum {
				t.Errorf("%s has %q, %v", name, b, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
