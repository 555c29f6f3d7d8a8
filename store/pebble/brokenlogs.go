package pebble

import (
	"fmt"
	"sync"

	"github.com/perdure/perdure/store"
)

// brokenBytesMax bounds the memory that the broken logs of a process hold. With default options
// this is the memory of four logs.
const brokenBytesMax = 1 << 30

// brokenLogs counts the memory of broken logs. It stays allocated until the process ends,
// because goroutines of Pebble that are blocked forever refer to it, see [haltFS].
type brokenLogs struct {
	bytesMax int64

	mu    sync.Mutex
	bytes int64
	logs  int
}

// brokenLogsOfProcess counts the memory of all broken logs of the process.
var brokenLogsOfProcess = &brokenLogs{bytesMax: brokenBytesMax}

// check returns an error if the broken logs already hold too much memory to open another log.
func (f *brokenLogs) check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bytes < f.bytesMax {
		return nil
	}
	return fmt.Errorf("%w: %d broken logs of this process hold %d MiB of memory, which only its end gives back; end the process and start it again",
		store.ErrBroken, f.logs, f.bytes>>20)
}

func (f *brokenLogs) add(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes += bytes
	f.logs++
}
