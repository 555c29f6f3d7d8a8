package stream

import "sync/atomic"

// A bell wakes all who wait for it, at a cost for the one who rings that does
// not grow with their number.
//
// Those who wait do so for one stroke, on two channels: first, which holds one
// token, and all, which is closed. The one who rings puts the token into first,
// if it is not full, which wakes at most one. That one wakes the others by
// closing all, on its own time; see hear. Strokes that come before it has done
// so are one stroke.
//
//  1. Who has got a stroke by next before something has happened that is rung
//     for, is woken: the ring finds that stroke, or a later one, which begins
//     only when the earlier one has been heard.
type bell struct {
	stroke atomic.Pointer[stroke]
}

type stroke struct {
	first chan struct{} // one token
	all   chan struct{}
}

func newStroke() *stroke {
	return &stroke{first: make(chan struct{}, 1), all: make(chan struct{})}
}

func (b *bell) init() { b.stroke.Store(newStroke()) }

// next returns the stroke that comes next.
func (b *bell) next() *stroke { return b.stroke.Load() }

func (b *bell) ring() {
	select {
	case b.stroke.Load().first <- struct{}{}:
	default:
	}
}

// hear is called by one who has taken a token of a stroke: it begins the next
// one and wakes all others that wait for this one. There is a second token if
// somebody has rung in between; then the first to hear does it for both.
func (b *bell) hear(s *stroke) {
	if b.stroke.CompareAndSwap(s, newStroke()) {
		close(s.all)
	}
}
