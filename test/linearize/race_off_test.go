//go:build !race

package linearize_test

// poisons is the number of bad commands.
const poisons = 10_000
