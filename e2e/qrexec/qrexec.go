// Package qrexec is a stand-in for the parts of Qubes OS that carry a call of
// dom0's to a service in a qube: the program qrexec-client, the daemon in dom0
// and the agent in the qube. Tests alone use it: a copy of a test's program
// that is called qrexec-client, or qrexec-agent, hands its arguments to Main.
//
// It owns the way of the bytes between the two and everything that a caller
// and a service see of it. It promises to imitate what was seen of the real
// programs, the fact standing beside the code that imitates it; where the facts
// are silent it does the plainest thing. It never touches anything outside the
// directory that stands for all qubes, and imitates neither users, nor a
// network, nor a policy: dom0's own calls meet none.
//
// # The qubes
//
// The environment variable PINION_E2E_QUBES names a directory:
//
//	vms/NAME/            the root directory of a qube
//	vms/NAME/running     is there while the qube runs; taken away, the qube
//	                     stops at once, and every call to it is cut off
//	vms/NAME/paused      is there while the qube is paused
//	vms/NAME/syslog      what services wrote to standard error
//	vms/NAME/home        the home directory of the user, with .profile
//	vms/NAME/run/qubes-rpc, usr/local/etc/qubes-rpc, etc/qubes-rpc,
//	vms/NAME/run/qubes/rpc-config, usr/local/etc/qubes/rpc-config,
//	etc/qubes/rpc-config  services and their configuration
//
// A service is started as it is, not in a root of its own: its programs are
// the host's.
package qrexec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The names under which a copy of the test's program is one of qrexec's.
const (
	ClientName = "qrexec-client"
	AgentName  = "qrexec-agent"
)

// Environment is the variable that names the directory of all qubes.
const Environment = "PINION_E2E_QUBES"

// Exit statuses of qrexec-client's own.
const (
	exitProblem = 125 // no such qube, no source, a bad service
	exitMissing = 127 // no service of that name
	exitLost    = 255 // the connection ended before the exit status came
)

// Main is what a program does that is called ClientName or AgentName, with its
// arguments behind the name. It returns the exit status.
func Main(args []string) int {
	if filepath.Base(args[0]) == AgentName {
		return agentMain(args[1:])
	}
	return clientMain(args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// Types of messages between client and agent: a header of type and length,
// 32 bits each, little-endian, then the data. An empty message of data is the
// end of that stream.
const (
	msgStdin    = 0x190
	msgStdout   = 0x191
	msgStderr   = 0x192
	msgExitCode = 0x193
)

// maxChunk is the most data of one message: 64 KiB since R4.1.
const maxChunk = 64 << 10

// message writes one message.
func message(w io.Writer, kind uint32, data []byte) error {
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	_, err := w.Write(append(b, data...))
	return err
}

// take reads one message into buf, which has maxChunk bytes.
func take(r io.Reader, buf []byte) (kind uint32, data []byte, err error) {
	var header [8]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(header[4:])
	if n > maxChunk {
		return 0, nil, fmt.Errorf("a message has %d bytes", n)
	}
	_, err = io.ReadFull(r, buf[:n])
	return binary.LittleEndian.Uint32(header[:4]), buf[:n], err
}

// A qube is the root directory of one.
type qube struct{ name, root string }

func findQube(name string) (qube, error) {
	dir := os.Getenv(Environment)
	if dir == "" {
		return qube{}, errors.New(Environment + " is not set")
	}
	return qube{name: name, root: filepath.Join(dir, "vms", name)}, nil
}

func (q qube) is(state string) bool {
	_, err := os.Stat(filepath.Join(q.root, state))
	return err == nil
}
