package stream

import "sync/atomic"

// A bell wakes all waiting readers, like a condition variable. The cost of ring does
// not grow with the number of waiters.
//
// A waiter waits for one stroke, on two channels: first, which holds one token, and
// all, which is closed. ring puts the token into first, unless it is full, and so wakes
// at most one waiter. That waiter calls hear, which wakes the others by closing all;
// the work is done on the waiter's goroutine. Calls of ring before that count as one
// stroke.
//
//  1. A waiter that calls next before it checks its condition cannot miss a wake-up:
//     ring finds the stroke of that waiter, or a later stroke, and a later stroke
//     begins only when hear has closed the earlier one.
type bell struct {
	stroke atomic.Pointer[stroke]
}

type stroke struct {
	first chan struct{} // holds at most one token
	all   chan struct{}
}

func newStroke() *stroke {
	return &stroke{first: make(chan struct{}, 1), all: make(chan struct{})}
}

func (b *bell) init() { b.stroke.Store(newStroke()) }

// next returns the stroke to wait for.
func (b *bell) next() *stroke { return b.stroke.Load() }

func (b *bell) ring() {
	select {
	case b.stroke.Load().first <- struct{}{}:
	default:
	}
}

// hear begins the next stroke and wakes all others that wait for stroke s. A waiter
// calls it after it has taken the token of s. If ring was called again before that,
// there is a second token; then the first call of hear does the work for both.
func (b *bell) hear(s *stroke) {
	if b.stroke.CompareAndSwap(s, newStroke()) {
		close(s.all)
	}
}
