package bbolt

import (
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
)

const (
	// residentBytesMax is the size up to which pages of the mapped file stay in the memory of
	// the process: 32 MiB.
	residentBytesMax = 32 << 20
	// residentEvery is the number of transactions between two looks at that size.
	residentEvery = 64
)

// A residentBound keeps the mapped file from filling the memory of the process.
//
// bbolt reads its file through a mapping. The kernel counts each page that was read as memory of
// the process until memory is short on the whole machine, so a process with a log of 5 GB would
// seem to use 5 GB. A residentBound looks at the number of resident pages from time to time, and
// gives all of them back when there are too many. They stay in the page cache of the kernel, so
// that the next read of a page costs less than a microsecond and no I/O.
type residentBound struct {
	calls atomic.Uint32

	mu     sync.Mutex
	others int64 // resident bytes of other files, such as the program
}

// used is called within each transaction, in which bbolt does not move the mapping. It costs one
// addition, and every 64th time a read of a small file of the kernel.
func (r *residentBound) used(tx *bolt.Tx, bytesMax int64) {
	if r.calls.Add(1)%residentEvery != 0 || !r.mu.TryLock() {
		return
	}
	defer r.mu.Unlock()
	resident, ok := residentBytes()
	switch {
	case !ok:
	case resident-r.others > bytesMax:
		giveBack(tx.DB().Info().Data, tx.Size())
		r.others, _ = residentBytes()
	default:
		r.others = min(r.others, resident)
	}
}
