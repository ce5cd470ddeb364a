package trackertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// do runs change on what the pool knows, with other processes kept out.
func (p *Pool) do(change func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.File == "" {
		change()
		return nil
	}
	lock, err := os.OpenFile(p.File+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", p.File, err)
	}
	text, err := os.ReadFile(p.File)
	if err == nil {
		p.s = stored{}
		err = json.Unmarshal(text, &p.s)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	change()
	if text, err = json.Marshal(p.s); err != nil {
		return err
	}
	// Renamed, so that a process that is killed leaves it whole.
	if err := os.WriteFile(p.File+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(p.File+".new", p.File)
}

// must is do for tests' own use of the pool, which nothing makes fail.
func (p *Pool) must(change func()) {
	if err := p.do(change); err != nil {
		panic(err)
	}
}
