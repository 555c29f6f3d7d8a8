package stream

import "sync/atomic"

// A broadcast wakes all waiting readers, like a condition variable. The cost of notify does
// not grow with the number of waiters.
//
// A waiter waits for one wave, on two channels: first, which holds one token, and
// all, which is closed. notify puts the token into first, unless it is full, and so wakes
// at most one waiter. That waiter calls propagate, which wakes the others by closing all;
// the work is done on the waiter's goroutine. Calls of notify before that count as one
// wave.
//
//  1. A waiter that calls next before it checks its condition cannot miss a wake-up:
//     notify finds the wave of that waiter, or a later wave, and a later wave
//     begins only when propagate has closed the earlier one.
type broadcast struct {
	wave atomic.Pointer[wave]
}

type wave struct {
	first chan struct{} // holds at most one token
	all   chan struct{}
}

func newWave() *wave {
	return &wave{first: make(chan struct{}, 1), all: make(chan struct{})}
}

func (b *broadcast) init() { b.wave.Store(newWave()) }

// next returns the wave to wait for.
func (b *broadcast) next() *wave { return b.wave.Load() }

func (b *broadcast) notify() {
	select {
	case b.wave.Load().first <- struct{}{}:
	default:
	}
}

// propagate begins the next wave and wakes all others that wait for wave s. A waiter
// calls it after it has taken the token of s. If notify was called again before that,
// there is a second token; then the first call of propagate does the work for both.
func (b *broadcast) propagate(s *wave) {
	if b.wave.CompareAndSwap(s, newWave()) {
		close(s.all)
	}
}
