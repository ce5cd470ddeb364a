package e2e

import (
	"math/rand/v2"
	"os"
)

// cellsEnv, set to "all", has tests that are generated try all of their cells (each
// object, fault, call, command); else they try some, always the same ones.
const cellsEnv = "PINION_E2E_CELLS"

// oneOf returns a function that says of one cell after the other whether it is tried:
// about one in n, at random, or all.
func oneOf(n int) func() bool {
	all, r := os.Getenv(cellsEnv) == "all", rand.New(rand.NewPCG(1, uint64(n)))
	return func() bool { return r.IntN(n) == 0 || all }
}
