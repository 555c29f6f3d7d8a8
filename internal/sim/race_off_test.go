//go:build !race

package sim_test

// seedsDefault is how many seeds are run. They take some seconds.
const seedsDefault = 500
