package cli

import (
	"fmt"

	"pinion/dom0/internal/copying"
	"pinion/dom0/internal/exit"
	"pinion/dom0/internal/ui"
)

// copyJSON is the document of "pinion copy --json". Objects are packs and index objects; roots count apart.
type copyJSON struct {
	Objects        int64        `json:"objects"` // of the archive
	CopiedObjects  int64        `json:"copied_objects"`
	CopiedBytes    int64        `json:"copied_bytes"`
	CopiedRoots    int64        `json:"copied_roots"`
	SkippedObjects int64        `json:"skipped_objects"` // the copy had them
	DeletedObjects int64        `json:"deleted_objects"`
	DeletedRoots   int64        `json:"deleted_roots"`
	LeftObjects    int64        `json:"left_objects"` // more than one run takes
	LeftBytes      int64        `json:"left_bytes"`
	LeftRoots      int64        `json:"left_roots"`
	Current        bool         `json:"current"` // nothing was left
	Failed         []failedJSON `json:"failed"`
	MoreFailed     int64        `json:"more_failed"`
}

// report says what was done. older is why the archive isn't what this host has seen.
func (c *copyRun) report(res *copying.Result, gone removed, older error) error {
	u := c.env.UI
	err := u.Result(copyJSON{
		Objects: res.Objects, CopiedObjects: res.Copied, CopiedBytes: res.CopiedBytes, CopiedRoots: res.Roots, SkippedObjects: res.Skipped,
		DeletedObjects: gone.objects, DeletedRoots: gone.roots, LeftObjects: res.Left, LeftBytes: res.LeftBytes, LeftRoots: res.LeftRoots,
		Current: res.Current && older == nil, Failed: c.failed, MoreFailed: res.Failed - int64(len(c.failed)),
	})
	if err != nil {
		return err
	}
	if !u.Quiet() {
		c.sayDone(res, gone, older)
	}
	if res.Extra > gone.objects && !c.o.Delete && !res.First && res.Failed == 0 && c.lost == 0 {
		u.Notice("the copy has %s that the archive no longer has; --delete, which opens both, removes what is of no use, at most %s", count(int(res.Extra), "object"), ui.Bytes(res.ExtraBytes))
	}
	for _, f := range c.failed {
		u.Printf("not copied: %s: %s", f.Name, f.Message)
	}
	if more := res.Failed - int64(len(c.failed)); more > 0 {
		u.Printf("and %d more", more)
	}
	if older != nil {
		return older
	}
	if err := c.partly(res); err != nil {
		return err
	}
	if err := c.notRemoved(res); err != nil {
		return err
	}
	if res.First && c.open == nil {
		u.Notice("nothing was opened; this checks the copy: pinion verify --dest %s", c.to.Dest)
	}
	return nil
}

// sayDone is the line that says what was copied.
func (c *copyRun) sayDone(res *copying.Result, gone removed, older error) {
	u := c.env.UI
	objects := fmt.Sprintf("%s, %s", count(int(res.Copied), "object"), ui.Bytes(res.CopiedBytes))
	switch {
	case res.Copied == 0 && res.Roots > 0:
		u.Printf("Copied %s.", count(int(res.Roots), "root"))
	case res.Copied > 0 && res.Skipped == 0:
		u.Printf("Copied %s.", objects)
	case res.Copied > 0:
		u.Printf("Copied %s; the copy had %d.", objects, res.Skipped)
	case older == nil && !c.unsure && res.Current && res.Failed+gone.objects+gone.roots == 0:
		u.Printf("Nothing to copy: %s has all %s.", c.to.Dest, count(int(res.Objects), "object"))
	}
	if gone.objects > 0 {
		u.Printf("Removed %s that the archive no longer has.", count(int(gone.objects), "object"))
	}
	if gone.roots > 0 {
		u.Printf("Removed %s that are of no use any more.", count(int(gone.roots), "root"))
	}
}

// partly is the error for what could not be copied, or was left for another run.
func (c *copyRun) partly(res *copying.Result) error {
	if res.Failed > 0 {
		err := fmt.Errorf("%s of the archive can't be had; the copy has everything else", count(int(res.Failed), "object"))
		hint := "pinion check says what is damaged; run the same command again once it is mended"
		if c.onlyThere > 0 {
			hint = fmt.Sprintf("the copy has %d of them: before you repair the archive, put them back from there; %s", c.onlyThere, seeCopies)
		}
		if int64(c.unreadable) == res.Failed {
			return exit.With(exit.Partial, err, "they can't be read now, and may be whole: run the same command again once they can")
		}
		return exit.With(exit.Damaged, err, hint)
	}
	switch {
	case res.Left > 0:
		return exit.With(exit.Partial, fmt.Errorf("%s, %s, were left: more than one run takes", count(int(res.Left), "object"), ui.Bytes(res.LeftBytes)),
			"if the archive has grown so much, run the same command again, or with --max-new SIZE; if not, see \"copy\" in docs/operation.md")
	case res.TooMany:
		return exit.With(exit.Partial, fmt.Errorf("%s were left: the copy has as many as it may have", count(int(res.LeftRoots), "root")),
			"pinion copy --delete, which opens them, removes those that are of no use")
	case res.LeftRoots > 0:
		return exit.With(exit.Partial, fmt.Errorf("%s were left for the next run: one takes 64, the newest first", count(int(res.LeftRoots), "root")),
			"run the same command again; pinion copy --delete, which opens them, removes those that are of no use")
	}
	return nil
}
