//go:build !race

package tracker_test

// stride is how far apart the steps and calls are that go wrong: all of them.
const stride = 1
