//go:build !race

package sim_test

// seedsDefault is the number of seeds to run. They take some seconds.
const seedsDefault = 500
