package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pinion/protocol"
)

// An archive in a qube is one like any other: made, written, read, checked,
// and opened from a host that knows nothing of it, through the real programs.
func TestQrexecArchive(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	v := w.image("v", "random:6M:1", "hole:1M", "text:1M:2")
	w.exits(10, "list").oneLine().says("no archive at qubes:storage/laptop", "pinion init")
	if _, err := os.Stat(filepath.Join(s.root, "home/pinion")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a list made ~/pinion: %v", err)
	}
	r := w.ok("init")
	r.prints("at qubes:storage/laptop")
	if !strings.HasPrefix(r.stderr, "pinion: ") || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("%s\nwas to say one thing", r)
	}
	w.backup("file:" + v)
	was := copyFile(t, v, w.path("was"))
	overwrite(t, v, 1<<20, "random:300K:3")
	if doc := w.backup("file:"+v, "--verify"); doc.Sent > 4<<20 {
		t.Errorf("the second backup sent %d bytes", doc.Sent)
	}
	w.restores("v", "latest", v)
	w.restores("v", "#1", was)
	w.ok("verify", "--all-sessions")
	w.ok("check", "--read-data")
	w.other("fresh").ok("list").says("first use of this archive here")
	w.strays()
	w.exits(1, "init").oneLine().says("an archive is there already")
	// The same by its name in the configuration, which says nothing else new.
	w.config = w.path("named.conf")
	writeFile(t, w.config, []byte("[defaults]\nkeyfile = "+w.key+"\n[archive vault]\ndest = qubes:storage/laptop\n"))
	w.configWas, w.dest = w.fingerprint(), "vault"
	w.ok("list")
	w.ok("backup", "file:"+v)
	w.noProcesses()
	// Lost, it is known to have been there.
	if err := os.RemoveAll(w.store); err != nil {
		t.Fatal(err)
	}
	w.exits(10, "list").oneLine().says("nothing is at qubes:storage/laptop, where archive")
}

// Two archives in one qube are two: what is configured for one doesn't concern
// the other, and the directory above a configured one has to be there.
func TestQrexecConfiguration(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	v := w.image("v", "random:1M:1")
	disk := w.path("disk")
	config := func(more string) {
		s.put("rw/config/pinion/store.conf", "[archive laptop]\ndir = "+disk+"/laptop\n"+more, 0o600)
	}
	config("")
	s.put("etc/pinion/store.conf", "this is not looked at\n", 0o600)
	w.exits(1, "init").oneLine().says("is missing")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	w.store = disk + "/laptop"
	w.ok("init")
	w.backup("file:" + v)

	config("append-only = true\n")
	before := w.under("")
	overwrite(t, v, 0, "random:200K:2")
	w.backup("file:" + v)
	after := w.under("")
	for _, path := range before {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("an append-only store lost %s", path)
		}
	}
	if len(after) <= len(before) {
		t.Errorf("%d files became %d", len(before), len(after))
	}

	config("read-only = true\n")
	was := digest(t, w.store)
	w.ok("verify")
	w.restores("v", "latest", v)
	w.exits(1, "backup", "file:"+v).oneLine().says("can't be written")
	if digest(t, w.store) != was {
		t.Error("a read-only store was changed")
	}

	config("read_only = true\n")
	w.exits(1, "list").oneLine().says("the configuration of pinion-store in qube storage is wrong", "store.conf:3: unknown key", "mend the file")
	s.remove("rw/config/pinion/store.conf")
	w.exits(1, "list").says("etc/pinion/store.conf:1:")
	s.remove("etc/pinion/store.conf")
	o := w.other("second")
	o.dest, o.store = "qubes:storage/other", filepath.Join(s.root, "home/pinion/other")
	o.ok("init")
	o.backup("file:" + v)
	o.strays()
}

// The helper looks itself at who calls and for what: a hostile name gets
// nowhere, and a qube that isn't configured neither.
func TestQrexecCallers(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	w.ok("init")
	before := digest(t, filepath.Join(s.root, "home"))
	for argument, want := range map[string]int{
		"../x": 5, "..": 5, ".": 5, "a/b": 5, "/etc": 5, "-x": 5, "--config=/x": 5, "": 5, "$(reboot)": 5, "a'b": 5, "ä": 5,
		strings.Repeat("a", 65): 5, strings.Repeat("a", 64): 0, "laptop": 0,
	} {
		if code, said := s.status("dom0", argument); code != want || (want != 0) != strings.Contains(said, "can't be the name of an archive") {
			t.Errorf("%q: status %d, %q", argument, code, said)
		}
	}
	for _, source := range []string{"work", "Dom0", "dom0x", "../dom0", "@adminvm"} {
		if code, said := s.status(source, "laptop"); code != 3 || !strings.Contains(said, "refused") {
			t.Errorf("called by %q: status %d, %q", source, code, said)
		}
	}
	s.put("rw/config/pinion/store.conf", "[defaults]\ncallers = mgmt\n[archive closed]\ndir = /nowhere\ncallers = other\n", 0o600)
	for call, want := range map[string]int{"mgmt laptop": 0, "mgmt closed": 3, "other closed": 0, "work laptop": 3, "dom0 closed": 0} {
		source, argument, _ := strings.Cut(call, " ")
		if code, said := s.status(source, argument); code != want {
			t.Errorf("%s: status %d, %q", call, code, said)
		}
	}
	if digest(t, filepath.Join(s.root, "home")) != before {
		t.Error("something was made or changed")
	}
	// On this side they never get as far as a call.
	s.script("touch " + w.path("called"))
	for _, dest := range []string{"qubes:storage/../x", "qubes:storage/", "qubes:storage/" + strings.Repeat("a", 65), "qubes:-d/x", "qubes:storage/a b", "qubes:dom0/x"} {
		w.exits(2, "list", "--dest", dest).oneLine()
	}
	if _, err := os.Stat(w.path("called")); err == nil {
		t.Error("a call was made")
	}
}

// What login profiles print in front of the helper is passed over and named,
// up to a bound; what they write to standard error is shown, and can't steer
// the terminal.
func TestQrexecLoginProfileSpeaks(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	w.ok("init")
	s.put("home/.profile", `printf 'Welcome to \033[31mstorage\007\n'; echo 'disk is \033[2J nearly full' >&2`, 0o644)
	r := w.ok("list").says("a login profile in qube storage sent", `Welcome to \x1b[31mstorage\x07`, "storage: disk is _[2J nearly full")
	if strings.ContainsAny(r.stderr, "\x1b\x07") {
		t.Errorf("it wrote %q", r.stderr)
	}
	v := w.image("v", "random:2M:1")
	w.backup("file:" + v)
	w.restores("v", "latest", v)
	s.put("home/.profile", `head -c 100000 /dev/zero | tr '\0' x`, 0o644)
	r = w.exits(1, "list").oneLine().says("what answers in qube storage is not pinion-store; it says: xxx", "prints too much")
	if len(r.stderr) > 2000 || r.took > 30*time.Second {
		t.Errorf("it took %v and wrote %d bytes", r.took, len(r.stderr))
	}
	w.noProcesses()
}

// A qube that floods standard error neither stops the backup nor the terminal.
func TestQrexecStderrFlood(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	w.ok("init")
	v := w.image("v", "random:2M:1")
	s.put("home/.profile", `yes 'a line of noise with \033[2Jescapes, and then some more of it' | head -c 10485760 | tr n '\033' >&2`, 0o644)
	r := w.ok("backup", "file:"+v)
	if n := len(lines(r.stderr)); strings.Contains(r.stderr, "\x1b") || n < 100 || n > 1100 || !strings.Contains(r.stderr, "storage: a li_e") {
		t.Errorf("%d lines of noise: %s", n, cut(r.stderr))
	}
	s.remove("home/.profile")
	w.restores("v", "latest", v)
}

// A login profile that takes what was for the helper ends in an error that
// leads to it: at once where the helper can tell, and else in half of the
// time that silence may take.
func TestQrexecLoginProfileListens(t *testing.T) {
	t.Parallel()
	w, s := inQube(t, build{})
	w.ok("init")
	const took, noAnswer = "something in qube storage took part of what was sent", "qube storage does not answer: no word of pinion-store there for 4s"
	for profile, text := range map[string]string{
		"dd bs=1 count=5 of=/dev/null 2>/dev/null":  took,
		"dd bs=1 count=30 of=/dev/null 2>/dev/null": took,
		"exec </dev/null":                           "ended and said nothing",
	} {
		s.put("home/.profile", profile, 0o644)
		r := w.exits(1, "list").oneLine().says(text, "login profile in storage")
		if r.took > 30*time.Second {
			t.Errorf("%s: it took %v", profile, r.took)
		}
	}
	impatient := w.impatient(8 * time.Second)
	for profile, text := range map[string]string{
		"dd bs=1 count=45 of=/dev/null 2>/dev/null": noAnswer,
		"cat >/dev/null": noAnswer,
		"read -r answer": "qube storage", // there may be a line feed in what is sent
	} {
		s.put("home/.profile", profile, 0o644)
		impatient.exits(1, "list").oneLine().says(text, "login profile in storage")
	}
	s.remove("home/.profile")
	w.ok("list")
	w.noProcesses()
}

// Both directions carry data at once, each more than all buffers hold: a
// caller that sends without waiting is not stopped by what it is sent.
func TestQrexecFullDuplex(t *testing.T) {
	t.Parallel()
	_, s := inQube(t, build{})
	cmd := s.call("dom0", "laptop")
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	const rounds, size = 24, 1 << 20
	body := content("random:1M:1")
	send := func(b []byte) {
		if _, err := in.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	put := func(id uint32, name string) {
		send(protocol.AppendFrame(nil, protocol.TypePut, id, protocol.Put{Name: name, Size: size}))
		for rest := body; len(rest) > 0; {
			n := min(len(rest), protocol.MaxPayload)
			send(append(protocol.AppendHeader(nil, protocol.Header{Type: protocol.TypeData, ID: id, Len: n}), rest[:n]...))
			rest = rest[n:]
		}
	}
	name := func(i int) string { return protocol.PackName([16]byte{byte(i)}) }
	replies := make(chan uint32, 2*rounds)
	received := make(chan int64, 1)
	go func() { received <- readReplies(t, out, replies) }()
	send(protocol.AppendFrame(nil, protocol.TypeHello, 0, protocol.Hello{Min: protocol.Version, Max: protocol.Version, Create: true}))
	send(protocol.AppendFrame(nil, protocol.TypeLock, 1, protocol.Lock{Mode: protocol.LockAppend}))
	put(2, name(0))
	for id := range replies {
		if id == 2 {
			break
		}
	}
	for i := range rounds {
		send(protocol.AppendFrame(nil, protocol.TypeGetWhole, uint32(100+i), protocol.GetWhole{Name: name(0), Max: size}))
		put(uint32(200+i), name(1+i))
	}
	for range 2 * rounds {
		<-replies
	}
	in.Close()
	if n := <-received; n != rounds*size {
		t.Errorf("%d bytes came back", n)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// readReplies takes a helper's output to its end. It passes on the ids of
// requests that ended well, and returns how many bytes of data came.
func readReplies(t *testing.T, out io.Reader, replies chan<- uint32) (data int64) {
	defer close(replies)
	if _, err := io.ReadFull(out, make([]byte, len(protocol.Magic)+protocol.TokenSize)); err != nil {
		t.Error(err)
		return data
	}
	header, payload := make([]byte, protocol.HeaderSize), make([]byte, protocol.MaxPayload)
	for {
		if _, err := io.ReadFull(out, header); err != nil {
			return data
		}
		h, err := protocol.ParseHeader(header)
		if err == nil {
			_, err = io.ReadFull(out, payload[:h.Len])
		}
		switch {
		case err != nil, h.Type == protocol.TypeError:
			t.Error(fmt.Errorf("%+v: %v", h, err))
			return data
		case h.Type == protocol.TypeData:
			data += int64(h.Len)
		case h.Type == protocol.TypeOK:
			replies <- h.ID
		}
	}
}
