//go:build race

package sim_test

// seedsDefault is smaller with the race detector, because a run takes ten times as long. A run
// has one goroutine at a time, so there is little to find.
const seedsDefault = 60
