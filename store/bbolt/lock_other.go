//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package bbolt

import "os"

// letGo closes a file that bbolt still maps. Where locks are not those of flock
// they end with the file, or at the latest with the process.
func letGo(f *os.File) error { return f.Close() }
