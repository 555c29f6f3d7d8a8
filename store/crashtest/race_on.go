//go:build race

package crashtest

// raceDivisor is by how much less is done by default under the race detector,
// which makes everything many times slower and changes nothing on the disk.
const raceDivisor = 4
