// Package keyring keeps secrets in the kernel for a while, between the runs of
// one user's programs.
//
// It owns what lies in the user keyring under its own descriptions. It promises
// that an entry has its time limit and its permissions before anybody can find
// it, that only processes of the same user (and root, who sees everything) can
// read it, and that its description tells nothing. Entries are never on a disk:
// the kernel doesn't swap them. They are gone when their time is over, when the
// last process of the user has ended, or when the machine restarts. It never
// looks at what it keeps.
package keyring

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNone says that nothing is kept under a description.
var ErrNone = errors.New("nothing is kept")

// ErrUnsupported says that the kernel has no keyrings, or that this process may
// not use them.
var ErrUnsupported = errors.New("this kernel keeps no keys here")

const (
	keyType = "user" // readable again; the other types are for the kernel's own use
	prefix  = "pinion:"

	// MaxEntry bounds an entry, in bytes.
	MaxEntry = 1 << 10

	// maxKeys bounds the keys of a user that are looked through, by all
	// programs; the kernel's own limit is far lower, but for root.
	maxKeys = 1 << 20
)

// The permissions of an entry, as in keyctl_setperm(3): whoever possesses it,
// and the same user, may see, read and find it. Nobody else, and nobody may
// change it.
const (
	view, read, search, link = 0x01, 0x02, 0x08, 0x10
	permissions              = (view|read|search|link)<<24 | (view|read|search)<<16
)

// A Name is the description of an entry.
type Name string

// NameOf makes a name of texts that are not to be seen in it.
func NameOf(texts ...string) Name {
	h := sha256.New()
	h.Write([]byte("pinion 1 remembered key"))
	for _, t := range texts {
		sum := sha256.Sum256([]byte(t)) // so that no two lists run together alike
		h.Write(sum[:])
	}
	return Name(prefix + hex.EncodeToString(h.Sum(nil)[:16]))
}

// Keep keeps an entry for some time, in whole seconds, in the place of one that
// has the name.
//
// It is made in the keyring of this thread, which nobody else sees and which
// ends with it, and linked to the user's when it has all its properties: a kill
// at any moment leaves nothing that stays for ever.
func Keep(name Name, entry []byte, ttl time.Duration) error {
	if len(entry) == 0 || len(entry) > MaxEntry || ttl < time.Second {
		return fmt.Errorf("keep %d bytes for %v in the kernel: out of bounds", len(entry), ttl)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey(keyType, string(name), entry, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return fault("keep a key in the kernel", err)
	}
	defer control(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING)
	if err := control(unix.KEYCTL_SET_TIMEOUT, id, int(ttl/time.Second)); err != nil {
		return fault("limit the time of a key", err)
	}
	if err := unix.KeyctlSetperm(id, permissions); err != nil {
		return fault("protect a key in the kernel", err)
	}
	if err := control(unix.KEYCTL_LINK, id, unix.KEY_SPEC_USER_KEYRING); err != nil {
		return fault("keep a key in the kernel", err)
	}
	return nil
}

// Get returns an entry; the caller clears it. There is none: ErrNone.
func Get(name Name) ([]byte, error) {
	id, err := find(name)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, MaxEntry)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, buf, 0)
	if err == nil && n > len(buf) {
		err = unix.EMSGSIZE
	}
	if err != nil {
		clear(buf)
		return nil, fault("read a key from the kernel", err)
	}
	return buf[:n], nil
}

// Forget drops an entry at once. There is none: ErrNone.
func Forget(name Name) error {
	id, err := find(name)
	if err != nil {
		return err
	}
	return drop(id)
}

// ForgetAll drops all entries of this user and returns how many there were.
func ForgetAll() (int, error) {
	ids, err := all()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, id := range ids {
		description, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, id)
		if err != nil {
			continue // somebody else's secret, or gone meanwhile
		}
		// type;uid;gid;permissions;description
		if f := strings.SplitN(description, ";", 5); len(f) != 5 || f[0] != keyType || !strings.HasPrefix(f[4], prefix) {
			continue
		}
		if err := drop(id); errors.Is(err, ErrNone) {
			continue
		} else if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func find(name Name) (int, error) {
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, keyType, string(name), 0)
	if err != nil {
		return 0, fault("look for a key in the kernel", err)
	}
	return id, nil
}

// all lists the serial numbers of the keys in the user's keyring.
func all() ([]int, error) {
	for size := 1 << 10; ; size *= 4 {
		buf := make([]byte, size)
		n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, unix.KEY_SPEC_USER_KEYRING, buf, 0)
		if err != nil {
			return nil, fault("list the keys in the kernel", err)
		}
		if n > len(buf) && size < 4*maxKeys {
			continue
		}
		var ids []int
		for buf = buf[:min(n, len(buf))]; len(buf) >= 4; buf = buf[4:] {
			ids = append(ids, int(int32(binary.NativeEndian.Uint32(buf))))
		}
		return ids, nil
	}
}

func drop(id int) error {
	if err := control(unix.KEYCTL_INVALIDATE, id, 0); err != nil {
		return fault("forget a key in the kernel", err)
	}
	return nil
}

func control(operation, a, b int) error {
	_, err := unix.KeyctlInt(operation, a, b, 0, 0)
	return err
}

// fault makes an error of a system call's. EPERM is what a sandbox says that
// forbids the call; for want of permission the kernel says EACCES.
func fault(doing string, err error) error {
	switch {
	case errors.Is(err, unix.ENOKEY), errors.Is(err, unix.EKEYEXPIRED), errors.Is(err, unix.EKEYREVOKED):
		return ErrNone
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%s: %w (%w)", doing, ErrUnsupported, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
