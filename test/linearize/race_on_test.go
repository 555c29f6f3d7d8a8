//go:build race

package linearize_test

// poisons is lower under the race detector, where a panic takes twenty times as long.
const poisons = 1_500
