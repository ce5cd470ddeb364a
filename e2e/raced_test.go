package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// raceEnv, set to "all", has programs built with the race detector however slow it is.
const raceEnv = "PINION_E2E_RACE"

// slowStart is what the start of a program with the race detector takes where the
// thousands of such starts in these tests would take hours. Measured were 0.1 s on an
// idle virtual machine and 0.7 s on the same one when it was busy; 0.02 s and 0.1 s
// without.
const slowStart = 80 * time.Millisecond

// raced reports whether programs are built with the race detector: packages' own tests
// always are.
var raced = sync.OnceValue(func() bool {
	if os.Getenv(raceEnv) == "all" {
		return true
	}
	path := filepath.Join(builds.dir, "start")
	cmd := exec.Command("go", "build", "-race", "-o", path, "./dom0/cmd/pinion")
	cmd.Dir = ".."
	if cmd.Run() != nil {
		return true // and the build of the programs says why not
	}
	best := time.Hour
	for range 3 {
		cmd := exec.Command(path, "version")
		cmd.Env = append(os.Environ(), "GORACE="+goRace)
		began := time.Now()
		if cmd.Run() != nil {
			return true
		}
		best = min(best, time.Since(began))
	}
	if best > slowStart {
		fmt.Fprintf(os.Stderr, "THE PROGRAMS RUN WITHOUT THE RACE DETECTOR: one that has it takes %v to start here; %s=all has it all the same\n", best, raceEnv)
		return false
	}
	return true
})
