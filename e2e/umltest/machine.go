package umltest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// statusLine is the last line that the set-up script writes, with the exit
// status of the tests behind it.
const statusLine = "umltest: exit status "

// errSilent says that a kernel was running and said nothing for long.
var errSilent = errors.New("the kernel said nothing for " + silence.String())

// A machine is one kernel with its disks. All its files are in dir.
type machine struct {
	options Options
	dir     string
	program string // the package's tests
	pattern string
}

// run boots, gives each line that the tests write to take, and returns why
// the kernel or the tests didn't end with success. Nothing of the kernel runs
// when it returns.
func (m *machine) run(take func(line string)) error {
	args, err := m.arguments()
	if err != nil {
		return err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	var console bytes.Buffer
	cmd := exec.Command(find("linux.uml"), args...)
	cmd.Dir = m.dir
	cmd.Env = m.hostEnv()
	cmd.Stdout, cmd.Stderr = &console, &console
	cmd.ExtraFiles = []*os.File{in} // file descriptor 3, the second console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	err = cmd.Start()
	in.Close()
	if err != nil {
		return fmt.Errorf("start User Mode Linux: %w", err)
	}
	kill := func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	release, err := killWithUs(cmd.Process.Pid)
	if err != nil {
		kill()
		cmd.Wait()
		return err
	}
	defer release()
	timer := time.AfterFunc(m.options.Timeout, kill)
	silent := time.AfterFunc(silence, kill)
	status := readLines(out, func(line string) {
		silent.Reset(silence)
		take(line)
	})
	inTime, spoke := timer.Stop(), silent.Stop()
	cmd.Wait()
	kill() // what it left of its group; mostly there is nothing
	switch {
	case !spoke:
		return errSilent
	case !inTime:
		return fmt.Errorf("stopped after %v\nlast words of the kernel:\n%s", m.options.Timeout, tail(console.String()))
	case status < 0:
		return fmt.Errorf("the kernel stopped before the tests ended\nits last words:\n%s", tail(console.String()))
	case status > 0:
		return fmt.Errorf("the tests ended with exit status %d", status)
	}
	return nil
}

// killWithUs sees that a process group doesn't outlive this process, however
// that ends: a shell waits for the end of a pipe that only this process holds.
// The caller calls release once the group is gone.
func killWithUs(group int) (release func(), err error) {
	cmd := exec.Command("/bin/sh", "-c", `read -r line; kill -9 -- "-$1"`, "sh", strconv.Itoa(group))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("watch over User Mode Linux: %w", err)
	}
	return func() {
		cmd.Process.Kill() // before it reads the end of the pipe
		cmd.Wait()
		pipe.Close()
	}, nil
}

// readLines gives all lines but the last to take, and returns the exit status
// that the last one has, -1 if there is none.
func readLines(r io.Reader, take func(string)) int {
	status := -1
	b := bufio.NewReader(r)
	for {
		line, err := b.ReadString('\n')
		if rest, found := strings.CutPrefix(line, statusLine); found {
			if n, parseErr := strconv.Atoi(strings.TrimSpace(rest)); parseErr == nil {
				status = n
			}
		} else if line != "" {
			take(strings.TrimRight(line, "\r\n"))
		}
		if err != nil {
			return status
		}
	}
}

// tail is the end of a text, for a message.
func tail(s string) string { return s[max(0, len(s)-3000):] }

// hostEnv is the environment of the kernel as a process of the host. It keeps
// its memory in /dev/shm unless one of the variables left out here says
// otherwise, and a real disk would be slow.
func (m *machine) hostEnv() []string {
	var env []string
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if name != "TMPDIR" && name != "TMP" && name != "TEMP" {
			env = append(env, e)
		}
	}
	return env
}

// arguments makes disks and set-up script, and returns the command line.
func (m *machine) arguments() ([]string, error) {
	args := []string{
		"mem=" + mebibytes(m.options.Memory), "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
		"uml_dir=" + m.dir, "umid=k", "con=null", "con0=null,fd:1", "con1=null,fd:3", "quiet", "panic=-1",
	}
	for n, size := range m.options.Disks {
		path := filepath.Join(m.dir, fmt.Sprintf("disk%d", n))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return nil, err
		}
		if err := os.Truncate(path, size); err != nil {
			return nil, err
		}
		args = append(args, fmt.Sprintf("ubd%c=%s", 'a'+n, path))
	}
	script, err := m.script()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(m.dir, "init")
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		return nil, err
	}
	return append(args, "init="+path), nil
}

// modules are loaded in this order: each needs those before it. What is built
// into the kernel has no file and is left out.
const modules = "md/dm-mod md/dm-bufio md/dm-bio-prison md/persistent-data/dm-persistent-data " +
	"md/dm-thin-pool md/dm-snapshot md/dm-flakey block/loop"

// lvmConf lets LVM see nothing but the disks of the test, and wait for no
// daemon: there is no udev. Nor does it touch all of its memory and keep it there, nor
// look for what isn't here: a page fault is what costs most, and lvcreate took 2.2 s
// with 6,600 of them, where it takes 1.0 s with 2,400.
const lvmConf = `activation { udev_sync=0 udev_rules=0 verify_udev_operations=1 monitoring=0 reserved_memory=0 reserved_stack=0 process_priority=0 mlock_filter=["0"] }
devices { obtain_device_list_from_udev=0 use_devicesfile=0 scan=["/dev"] filter=["a|^/dev/ubd|","a|^/dev/loop|","r|.*|"]
	hints="none" md_component_detection=0 multipath_component_detection=0 fw_raid_component_detection=0 sysfs_scan=0 external_device_info_source="none" }
backup { backup=0 archive=0 }
global { use_lvmpolld=0 event_activation=0 locking_dir="/run/lock/lvm" }
`

// script is the first process inside.
func (m *machine) script() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	env := append([]string{
		"PATH=" + os.Getenv("PATH") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/run/tmp", "TMPDIR=/run/tmp", "LC_ALL=C", insideEnv + "=1", AllEnv + "=" + os.Getenv(AllEnv),
		"LVM_SYSTEM_DIR=/run/lvm/system", "DM_DISABLE_UDEV=1", "LVM_SUPPRESS_FD_WARNINGS=1",
	}, m.options.Env...)
	if m.options.Programs != "" {
		env = append(env, programsEnv+"="+m.options.Programs)
	}
	// The program's own time-out comes first: it says where it hung.
	args := []string{
		m.program, "-test.v", "-test.run", m.pattern, "-test.paniconexit0",
		"-test.timeout", (m.options.Timeout * 9 / 10).String(),
	}
	var s strings.Builder
	s.WriteString(`#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
exec </dev/null >/dev/tty1 2>&1
stty -F /dev/tty1 -opost
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lvm/system /run/lock/lvm /run/tmp
mount -t tmpfs -o mode=1777 tmpfs /run/tmp
drivers=/usr/lib/uml/modules/$(uname -r)/kernel/drivers
for m in ` + modules + `; do
	[ ! -e "$drivers/$m.ko" ] || insmod "$drivers/$m.ko"
done
cat >/run/lvm/system/lvm.conf <<'END'
` + lvmConf + "END\n")
	fmt.Fprintf(&s, "cd %s\n", quote(dir))
	s.WriteString("{ env -i")
	for _, word := range append(env, args...) {
		s.WriteString(" " + quote(word))
	}
	s.WriteString("; echo; echo '" + statusLine + "'$?; } 2>&1 | cat\n")
	s.WriteString("poweroff -f >/dev/null 2>&1\n")
	if strings.ContainsRune(s.String(), 0) {
		return "", errors.New("a name with a zero byte can't be passed on")
	}
	return s.String(), nil
}

// quote makes one word of the shell's.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
