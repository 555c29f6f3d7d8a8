//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package bbolt

import "os"

// closeFile closes a file that bbolt still maps. On systems without flock, closing the file
// releases its lock, or else the end of the process does.
func closeFile(f *os.File) error { return f.Close() }
