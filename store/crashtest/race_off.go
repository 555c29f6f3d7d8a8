//go:build !race

package crashtest

// raceDivisor is by how much less is done by default under the race detector.
const raceDivisor = 1
