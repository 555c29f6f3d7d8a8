//go:build race

package proof_test

// poisons is less here, because a panic takes twenty times as long.
const poisons = 1_500
