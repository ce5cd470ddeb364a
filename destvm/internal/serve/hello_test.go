package serve_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
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
	if !errors.Is(err, serve.ErrNoHello) || !strings.Contains(err.Error(), "no more than 3 of its bytes") {
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
