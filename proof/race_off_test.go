//go:build !race

package proof_test

// poisons is how many bad commands there are.
const poisons = 10_000
