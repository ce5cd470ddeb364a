//go:build !race

package index

// manyEntriesTotal is how many entries the memory test uses.
const manyEntriesTotal = 2_000_000
