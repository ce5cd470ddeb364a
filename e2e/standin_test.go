package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"pinion/protocol"
)

// standIns are what this program can be in place of the helper. Each gets the
// helper's arguments and returns an exit status.
var standIns = map[string]func(args []string) int{
	"options":          standInOptions,
	"hold":             func(args []string) int { return standInHold(args, protocol.TypePut, 1) },
	"hold-get":         func(args []string) int { return standInHold(args, protocol.TypeGet, 1) },
	"hold-list":        func(args []string) int { return standInHold(args, protocol.TypeList, 1) },
	"hold-list-second": func(args []string) int { return standInHold(args, protocol.TypeList, 2) },
	"garble":           standInGarble,
	"killer":           standInKiller,
	"silent":           standInSilent,
	"gate":             standInGate,

	"hold-third": standInHoldThird,
	"speaks":     standInSpeaks,
}

// standIn is the program when it runs as pinion-store.
func standIn() int {
	run, ok := standIns[os.Getenv("PINION_E2E_STANDIN")]
	if !ok {
		fmt.Fprintf(os.Stderr, "no stand-in is called %q\n", os.Getenv("PINION_E2E_STANDIN"))
		return 2
	}
	return run(os.Args[1:])
}

// standInOptions is the real helper with more options, PINION_E2E_OPTIONS.
func standInOptions(args []string) int {
	helper := os.Getenv("PINION_E2E_HELPER")
	args = append([]string{helper, args[0]}, append(strings.Fields(os.Getenv("PINION_E2E_OPTIONS")), args[1:]...)...)
	err := syscall.Exec(helper, args, os.Environ())
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// standInSilent takes everything and never says a word.
func standInSilent([]string) int {
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// standInSpeaks is a helper of another time: it speaks no version of the
// protocol but PINION_E2E_SPEAKS, and says so as every helper does.
func standInSpeaks([]string) int {
	buf := make([]byte, protocol.MaxFrame)
	if _, err := io.ReadFull(os.Stdin, buf[:protocol.HeaderSize]); err != nil {
		return 1
	}
	h, err := protocol.ParseHeader(buf[:protocol.HeaderSize])
	if err != nil {
		return 1
	}
	if _, err := io.ReadFull(os.Stdin, buf[:h.Len]); err != nil {
		return 1
	}
	hello, err := protocol.ParseHello(buf[:h.Len])
	if err != nil {
		return 1
	}
	answer := append([]byte(protocol.Magic), hello.Token[:]...)
	_, err = os.Stdout.Write(protocol.AppendFrame(answer, protocol.TypeError, 0, protocol.ErrorReply{
		Code: protocol.CodeVersion,
		Text: fmt.Sprintf("the client speaks versions %d to %d, this helper speaks %d", hello.Min, hello.Max, number("PINION_E2E_SPEAKS")),
	}))
	if err != nil {
		return 1
	}
	return 0
}

// A frame is one of the protocol on its way to the helper.
type frame struct {
	header  protocol.Header
	payload []byte
}

// relay starts the real helper and passes everything on. toHelper sees each
// frame before the helper does, and may change its payload.
func relay(args []string, toHelper func(helper *os.Process, f frame)) int {
	cmd := exec.Command(os.Getenv("PINION_E2E_HELPER"), args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	from := bufio.NewReaderSize(os.Stdin, 1<<20)
	to := bufio.NewWriterSize(in, 1<<20)
	buf := make([]byte, protocol.MaxFrame)
	for {
		if from.Buffered() < protocol.HeaderSize {
			if to.Flush() != nil {
				break
			}
		}
		if _, err := io.ReadFull(from, buf[:protocol.HeaderSize]); err != nil {
			break
		}
		h, err := protocol.ParseHeader(buf[:protocol.HeaderSize])
		if err != nil {
			break
		}
		whole := buf[:protocol.HeaderSize+h.Len]
		if _, err := io.ReadFull(from, whole[protocol.HeaderSize:]); err != nil {
			break
		}
		toHelper(cmd.Process, frame{h, whole[protocol.HeaderSize:]})
		if _, err := to.Write(whole); err != nil {
			break
		}
	}
	_ = to.Flush()
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		return 1
	}
	return 0
}

// standInHold passes everything on, but before the nth request of a type it
// makes the file PINION_E2E_HOLD and waits until that is gone.
func standInHold(args []string, before protocol.Type, nth int) int {
	seen := 0
	return relay(args, func(_ *os.Process, f frame) {
		if f.header.Type != before {
			return
		}
		if seen++; seen != nth {
			return
		}
		mark := os.Getenv("PINION_E2E_HOLD")
		if err := os.WriteFile(mark, nil, 0o600); err != nil {
			panic(err)
		}
		parent := os.Getppid()
		for {
			if _, err := os.Stat(mark); err != nil {
				return
			}
			if os.Getppid() != parent {
				os.Exit(1) // pinion is gone, and so nobody is held up any more
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

// standInGarble turns a bit over in the PINION_E2E_GARBLE-th object that is
// put, counted from 1.
func standInGarble(args []string) int {
	n := number("PINION_E2E_GARBLE")
	puts, victim := int64(0), uint32(0)
	return relay(args, func(_ *os.Process, f frame) {
		switch f.header.Type {
		case protocol.TypePut:
			if puts++; puts == n {
				victim = f.header.ID
			}
		case protocol.TypeData:
			if f.header.ID == victim && victim != 0 {
				f.payload[len(f.payload)/2] ^= 1
				victim = 0
			}
		}
	})
}

// standInKiller sends SIGKILL when PINION_E2E_BYTES bytes of objects have gone
// to the helper: to the helper, and to pinion if PINION_E2E_VICTIM says so.
func standInKiller(args []string) int {
	limit := number("PINION_E2E_BYTES")
	var sent atomic.Int64
	return relay(args, func(helper *os.Process, f frame) {
		if f.header.Type != protocol.TypeData || sent.Add(int64(f.header.Len)) < limit {
			return
		}
		if os.Getenv("PINION_E2E_VICTIM") == "pinion" {
			_ = syscall.Kill(os.Getppid(), syscall.SIGKILL)
		} else {
			_ = helper.Kill()
		}
		// Whatever is on its way doesn't arrive any more.
		os.Exit(1)
	})
}

func number(name string) int64 {
	n, err := strconv.ParseInt(os.Getenv(name), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}
