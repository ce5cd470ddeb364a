//go:build race

package tracker_test

// stride leaves some of the steps and calls out under the race detector, which
// makes each ten times slower, and which has nothing to look for there: they
// run in one goroutine.
const stride = 5
