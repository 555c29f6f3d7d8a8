//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package bbolt

import (
	"errors"
	"os"
	"syscall"
)

// closeFile closes a file that bbolt still maps. The mapping keeps the file open and locked, so
// closeFile releases the lock first.
func closeFile(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}
