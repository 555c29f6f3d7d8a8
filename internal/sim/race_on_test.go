//go:build race

package sim_test

// seedsDefault is less here, because a run takes ten times as long. It has one
// goroutine at a time, so there is little to find.
const seedsDefault = 60
