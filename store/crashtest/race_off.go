//go:build !race

package crashtest

// raceDivisor divides the default counts under the race detector.
const raceDivisor = 1
