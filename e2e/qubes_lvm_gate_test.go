package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"pinion/protocol"
)

// A gate holds pinion up at every moment at which it meets the world: before
// and after each command of LVM's and each call of the Admin API, and before
// each request to its helper. It calls a function then, and pinion waits until
// that returns. One moment comes after the other.
type gate struct {
	t   testing.TB
	dir string
	// at is called with "before lvs", "after admin.vm.List", "request put".
	at func(moment string)

	mu     sync.Mutex
	say    *os.File
	listen net.Listener
	api    string // qubesd's socket
}

// gatedPrograms are those that pinion may start.
var gatedPrograms = []string{"lvm", "lvs", "lvcreate", "lvremove", "lvchange", "lvrename"}

// gateScript takes the place of a program: it says so on the gate's pipe,
// together with a pipe of its own that it waits at.
const gateScript = `#!/bin/sh
name=${0##*/}
hold() {
	mkfifo "$PINION_E2E_GATE/$$.$1"
	echo "$PINION_E2E_GATE/$$.$1 $1 $name" >"$PINION_E2E_GATE/say"
	read -r go <"$PINION_E2E_GATE/$$.$1"
}
hold before
%s/"$name" "$@"
code=$?
hold after
exit $code
`

// newGate makes a gate around a world, whose function is set later.
func newGate(q *qubesWorld) (*gate, *world) {
	q.t.Helper()
	g := &gate{t: q.t, dir: q.t.TempDir(), api: q.api.Socket(), at: func(string) {}}
	fatal := func(err error) {
		q.t.Helper()
		if err != nil {
			q.t.Fatal(err)
		}
	}
	say := filepath.Join(g.dir, "say")
	fatal(unix.Mkfifo(say, 0o600))
	var err error
	g.say, err = os.OpenFile(say, os.O_RDWR, 0)
	fatal(err)
	bin := filepath.Join(g.dir, "bin")
	fatal(os.Mkdir(bin, 0o755))
	for _, name := range gatedPrograms {
		fatal(os.WriteFile(filepath.Join(bin, name), fmt.Appendf(nil, gateScript, filepath.Dir(tool(q.t, name, "lvm2"))), 0o755))
	}
	sockets, err := os.MkdirTemp("", "gate") // the path of a socket is short
	fatal(err)
	socket := filepath.Join(sockets, "sock")
	g.listen, err = net.Listen("unix", socket)
	fatal(err)
	q.t.Cleanup(func() {
		g.say.Close()
		g.listen.Close()
		os.RemoveAll(sockets)
	})
	go g.serveMoments()
	go g.serveAPI()
	w := q.usesStandIn("gate", "PINION_E2E_GATE="+g.dir, "PINION_QUBESD_SOCKET="+socket)
	w.env = append(w.env, "PATH="+bin+":"+w.bin+":/usr/bin:/bin:/usr/sbin:/sbin")
	return g, w
}

// moment calls the function.
func (g *gate) moment(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at(name)
}

// serveMoments lets go on who says that he waits, when the function returned.
func (g *gate) serveMoments() {
	lines := bufio.NewScanner(g.say)
	for lines.Scan() {
		pipe, name, _ := strings.Cut(lines.Text(), " ")
		go func() {
			g.moment(name)
			f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
			if err != nil {
				g.t.Error(err)
				return
			}
			fmt.Fprintln(f, "go")
			f.Close()
			os.Remove(pipe)
		}()
	}
}

// serveAPI stands between pinion and qubesd.
func (g *gate) serveAPI() {
	for {
		conn, err := g.listen.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if err := g.pass(conn); err != nil {
				g.t.Errorf("between pinion and qubesd: %v", err)
			}
		}()
	}
}

// pass passes a request and its answer on.
func (g *gate) pass(conn net.Conn) error {
	request, err := io.ReadAll(conn)
	if err != nil || len(request) == 0 { // somebody who only looks if it is there
		return err
	}
	method, _, _ := strings.Cut(string(request), " ")
	method, _, _ = strings.Cut(method, "+")
	g.moment("before " + method)
	server, err := net.Dial("unix", g.api)
	if err != nil {
		return err
	}
	defer server.Close()
	if _, err := server.Write(request); err != nil {
		return err
	}
	if err := server.(*net.UnixConn).CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(server)
	if err != nil {
		return err
	}
	g.moment("after " + method)
	_, err = conn.Write(answer)
	return err
}

// standInGate is the real helper, but each request waits at the gate.
func standInGate(args []string) int {
	dir, n := os.Getenv("PINION_E2E_GATE"), 0
	return relay(args, func(_ *os.Process, f frame) {
		if f.header.Type == protocol.TypeData {
			return
		}
		n++
		pipe := fmt.Sprintf("%s/request.%d.%d", dir, os.Getpid(), n)
		say, err := os.OpenFile(dir+"/say", os.O_WRONLY, 0)
		if err == nil {
			err = unix.Mkfifo(pipe, 0o600)
		}
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(say, "%s request %v\n", pipe, f.header.Type)
		say.Close()
		if _, err := os.ReadFile(pipe); err != nil {
			panic(err)
		}
	})
}
