//go:build race

package crashtest

// raceDivisor divides the default counts under the race detector, which makes everything
// many times slower and changes nothing on the disk.
const raceDivisor = 4
