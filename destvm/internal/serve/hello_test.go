package serve_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pinion/destvm/internal/dirstore"
	"pinion/destvm/internal/serve"
	"pinion/protocol"
)

// TestHelloInTime: a helper that waits for the rest of a hello says so before
// its client gives up, and one that has a hello may wait as long as it likes.
func TestHelloInTime(t *testing.T) {
	t.Parallel()
	if protocol.HelloTimeout >= protocol.FrameTimeout/4 {
		t.Errorf("a hello may take %v", protocol.HelloTimeout)
	}
	const limit = 200 * time.Millisecond
	in, client := io.Pipe()
	go func() { _, _ = client.Write(make([]byte, 3)) }()
	err := serve.Serve(serve.Config{Path: t.TempDir(), In: in, Out: io.Discard, HelloTimeout: limit})
	// The bytes are no frame, which three of them don't show.
	if !errors.Is(err, serve.ErrNoHello) || !strings.Contains(err.Error(), "no more than 3 bytes of it") {
		t.Errorf("error is %v", err)
	}

	in, client = io.Pipe()
	go func() {
		_, _ = client.Write(protocol.AppendFrame(nil, protocol.TypeHello, 0, protocol.Hello{Min: 1, Max: protocol.Version, Create: true}))
		time.Sleep(3 * limit)
		_, _ = client.Write(protocol.AppendFrame(nil, protocol.TypeUsage, 1, nil))
		time.Sleep(limit)
		client.Close()
	}()
	var out bytes.Buffer
	path := filepath.Join(t.TempDir(), "archive")
	if err := serve.Serve(serve.Config{Path: path, Options: dirstore.Options{}, In: in, Out: &out, HelloTimeout: limit}); err != nil {
		t.Error(err)
	}
	if !bytes.Contains(out.Bytes(), protocol.AppendHeader(nil, protocol.Header{Type: protocol.TypeOK, ID: 1, Len: 24})) {
		t.Errorf("it answered %q", &out)
	}
}

// TestIdleClient: a helper whose client is silent ends, also in the middle of a
// body; one whose client shows that it is there doesn't.
func TestIdleClient(t *testing.T) {
	t.Parallel()
	if protocol.IdleTimeout < 10*protocol.ClientAliveInterval {
		t.Errorf("a client may be silent for %v", protocol.IdleTimeout)
	}
	const limit = 400 * time.Millisecond
	hello := frame(protocol.TypeHello, 0, protocol.Hello{Min: 1, Max: protocol.Version, Create: true})
	lock := frame(protocol.TypeLock, 1, protocol.Lock{Mode: protocol.LockAppend})
	half := withBody(protocol.TypePut, 2, protocol.Put{Name: packName(1), Size: 10}, []byte("12345"))
	refused := withBody(protocol.TypePut, 2, protocol.Put{Name: "head/000000000001", Size: 10}, []byte("12345"))
	for what, in := range map[string][]byte{
		"after hello": hello, "with a lock": slices.Concat(hello, lock),
		"in a body": slices.Concat(hello, lock, half), "in a refused body": slices.Concat(hello, lock, refused),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r, client := io.Pipe()
			defer client.Close()
			alive := 3 * limit
			go func() {
				_, _ = client.Write(in)
				for range 12 {
					time.Sleep(alive / 12)
					_, _ = client.Write(frame(protocol.TypeAlive, 0, nil))
				}
			}()
			path := filepath.Join(t.TempDir(), "archive")
			begin := time.Now()
			err := serve.Serve(serve.Config{Path: path, In: r, Out: io.Discard, IdleTimeout: limit})
			if took := time.Since(begin); !errors.Is(err, serve.ErrIdle) || took < alive+limit {
				t.Errorf("it ended after %v with %v", took, err)
			}
			if temps, err := os.ReadDir(filepath.Join(path, "tmp")); err != nil || len(temps) > 0 {
				t.Errorf("it left %v, %v", temps, err)
			}
		})
	}
}

// TestIdleReader: a client that neither speaks nor listens is gone, although it
// is owed an answer.
func TestIdleReader(t *testing.T) {
	t.Parallel()
	const limit = 200 * time.Millisecond
	r, client := io.Pipe()
	out, helper := io.Pipe()
	defer out.Close()
	go func() {
		_, _ = client.Write(frame(protocol.TypeHello, 0, protocol.Hello{Min: 1, Max: protocol.Version, Create: true}))
		reply := len(frame(protocol.TypeHelloReply, 0, protocol.HelloReply{}))
		_, _ = io.ReadFull(out, make([]byte, len(protocol.Magic)+protocol.TokenSize+reply))
		_, _ = client.Write(frame(protocol.TypeUsage, 1, nil))
	}()
	err := serve.Serve(serve.Config{Path: filepath.Join(t.TempDir(), "archive"), In: r, Out: helper, IdleTimeout: limit})
	if !errors.Is(err, serve.ErrIdle) {
		t.Errorf("it ended with %v", err)
	}
}
