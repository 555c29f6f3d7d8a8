package pebble

import (
	"fmt"
	"sync"

	"github.com/perdure/perdure/store"
)

// leftBytesMax bounds the memory that the broken logs of a process hold. With the
// defaults that are about a dozen logs.
const leftBytesMax = 1 << 30

// Leftovers counts the memory of broken logs, which stays until the process ends: some
// goroutines of Pebble wait for ever, see [pit], and use it.
type leftovers struct {
	bytesMax int64

	mu    sync.Mutex
	bytes int64
	logs  int
}

// left counts for the process, whose memory it is.
var left = &leftovers{bytesMax: leftBytesMax}

// check returns an error if no other log may be opened that could be left too.
func (f *leftovers) check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bytes < f.bytesMax {
		return nil
	}
	return fmt.Errorf("%w: %d broken logs of this process hold %d MiB of memory, which only its end gives back; end the process and start it again",
		store.ErrBroken, f.logs, f.bytes>>20)
}

func (f *leftovers) add(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes += bytes
	f.logs++
}
