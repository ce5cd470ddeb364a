//go:build race

package index

// manyEntriesTotal is smaller under the race detector, which makes the memory
// test ten times slower; it is still several times what stays in memory.
const manyEntriesTotal = 600_000
