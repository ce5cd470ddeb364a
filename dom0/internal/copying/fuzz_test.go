package copying_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"pinion/dom0/internal/archivetest"
	"pinion/dom0/internal/copying"
	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// Variables of the environment that make this program a helper: the real one's path,
// and for each store what it makes of the real one's answers, in hex.
const (
	realEnv = "PINION_TEST_REAL_HELPER"
	fromEnv = "PINION_TEST_LIES_FROM"
	toEnv   = "PINION_TEST_LIES_TO"
)

// lies is a helper that passes on what the real one says, changed as a script says.
func lies() int {
	script := os.Getenv(fromEnv)
	for _, arg := range os.Args {
		if filepath.Base(filepath.Dir(arg)) == "to" {
			script = os.Getenv(toEnv)
		}
	}
	cmd := exec.Command(os.Getenv(realEnv), os.Args[1:]...) // lies begin after the hello
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return 1
	}
	defer cmd.Process.Kill()
	r := bufio.NewReader(out)
	if _, err := io.CopyN(os.Stdout, r, int64(len(protocol.Magic)+protocol.TokenSize)); err != nil {
		return 0
	}
	s, _ := hex.DecodeString(script)
	for {
		var head [protocol.HeaderSize]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return 0
		}
		h, err := protocol.ParseHeader(head[:])
		payload := make([]byte, h.Len)
		if _, readErr := io.ReadFull(r, payload); err != nil || readErr != nil {
			return 0
		}
		frame := append(head[:], payload...)
		if len(s) >= 3 {
			frame = lie(frame, s[0], int(s[1])<<8|int(s[2]))
			s = s[3:]
		}
		if frame == nil {
			return 0
		}
		if _, err := os.Stdout.Write(frame); err != nil {
			return 0
		}
	}
}

// lie is what becomes of a frame; nil ends the connection.
func lie(frame []byte, how uint8, n int) []byte {
	switch how % 64 { // most frames pass
	case 0: // a bit of the payload, most often of what it begins with
		if len(frame) > protocol.HeaderSize {
			frame[protocol.HeaderSize+n%(len(frame)-protocol.HeaderSize)] ^= 1 << (how / 64 * 3)
		}
	case 1: // another byte
		frame[n%len(frame)] = how
	case 2: // less than there was
		h, err := protocol.ParseHeader(frame[:protocol.HeaderSize])
		if err == nil && h.Len > 0 {
			h.Len = n % h.Len
			frame = append(protocol.AppendHeader(nil, h), frame[protocol.HeaderSize:protocol.HeaderSize+h.Len]...)
		}
	case 3: // twice
		frame = append(frame, frame...)
	case 4: // never
		frame = []byte{}
	case 5: // the end
		frame = nil
	case 6: // cut
		frame = frame[:n%len(frame)]
	}
	return frame
}

// FuzzTwoStores: a copy between two stores that both lie ends without a panic, at the
// latest when it is told to, since a store may keep silent for long; and neither store makes the other lose or change what it has: the source is
// as it was, and every object that the copy had is there.
func FuzzTwoStores(f *testing.F) {
	self, err := os.Executable()
	if err != nil {
		f.Fatal(err)
	}
	f.Setenv(realEnv, os.Getenv("PINION_TEST_HELPER"))
	base := archivetest.MemoryDir(f)
	from := archivetest.NewIn(f, filepath.Join(base, "from")).Init(f)
	from.Commit(f, chunk(1))
	old := filepath.Join(base, "old")
	if err := os.CopyFS(old, os.DirFS(from.Dir)); err != nil {
		f.Fatal(err)
	}
	from.Commit(f, chunk(2))
	f.Add([]byte{}, []byte{})
	f.Add([]byte{63, 0, 0, 63, 0, 0, 0, 0, 3, 1, 0, 9, 2, 0, 4}, []byte{63, 0, 0, 3, 0, 0})
	f.Add([]byte{63, 0, 0, 4, 0, 0}, []byte{63, 0, 0, 5, 0, 0})
	f.Fuzz(func(t *testing.T, source, copied []byte) {
		to := archivetest.NewIn(t, filepath.Join(t.TempDir(), "to"))
		if err := os.CopyFS(to.Dir, os.DirFS(old)); err != nil {
			t.Fatal(err)
		}
		t.Setenv(fromEnv, "3f0000"+hex.EncodeToString(source[:min(len(source), 3000)]))
		t.Setenv(toEnv, "3f0000"+hex.EncodeToString(copied[:min(len(copied), 3000)]))
		before, had := contents(t, from.Dir), contents(t, to.Dir)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		err := copyBetween(ctx, self, from, to)
		if now := contents(t, from.Dir); !maps.Equal(before, now) {
			t.Errorf("the source has changed, after %v", err)
		}
		now := contents(t, to.Dir)
		for name, b := range had {
			if now[name] != b && protocol.CheckName(name) == nil {
				t.Errorf("%s of the copy is gone or changed, after %v", name, err)
			}
		}
	})
}

// copyBetween copies as copy does without the key.
func copyBetween(ctx context.Context, helper string, from, to *archivetest.Place) error {
	open := func(p *archivetest.Place, mode protocol.LockMode) (*store.Conn, error) {
		o := p.Options(mode).Store
		o.Helper = helper
		conn, err := store.Open(ctx, p.Dest, o)
		if err != nil {
			return nil, err
		}
		if err := conn.Lock(ctx, mode); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
	src, err := open(from, protocol.LockRead)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := open(to, protocol.LockAppend)
	if err != nil {
		return err
	}
	defer dst.Close()
	s, err := copying.ReadSource(ctx, src)
	if err != nil {
		return err
	}
	_, err = s.To(ctx, dst, copying.Options{Begin: func(int64) {}, Bytes: func(int64) {}, Failed: func(string, error) {}})
	return err
}

// contents are the files of a store, by name.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		if name != "lock" {
			all[filepath.ToSlash(name)] = string(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
