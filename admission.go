package perdure

import (
	"fmt"
	"sync/atomic"

	"github.com/gofrs/uuid/v5"

	"github.com/perdure/perdure/store"
)

// stripeCount is how many counters and sources of ids the calls share. One of
// each would be a place where all processors meet on every call.
const stripeCount = 16

// A stripe is what some of the calls share. A call keeps its stripe for life,
// and calls are pooled by processor.
type stripe struct {
	calls atomic.Int64 // in progress
	ids   uuid.Generator
	_     [40]byte // apart from its neighbour in the processor's cache
}

// enter admits a call.
func (e *Engine) enter(s *stripe) error {
	n := int(s.calls.Add(1))
	switch {
	case e.closing.Load():
		e.leave(s)
		return ErrClosed
	case n > e.config.CallsMax/stripeCount && e.callCount() > e.config.CallsMax:
		e.leave(s)
		return &OverloadedError{CallsMax: e.config.CallsMax}
	}
	return nil
}

// leave ends a call that was admitted.
func (e *Engine) leave(s *stripe) {
	s.calls.Add(-1)
	if e.closing.Load() {
		e.drain()
	}
}

// callCount returns how many calls are in progress. If none of the stripes is
// above its share, neither is the sum.
func (e *Engine) callCount() int {
	n := 0
	for i := range e.stripes {
		n += int(e.stripes[i].calls.Load())
	}
	return n
}

// drain tells Close if no call is left. Whoever leaves last while the engine is
// closing sees that.
func (e *Engine) drain() {
	if e.callCount() != 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.drained:
	default:
		close(e.drained)
	}
}

// newID returns an id for a command.
func (s *stripe) newID() store.ID {
	id, err := s.ids.NewV7()
	if err != nil {
		panic(fmt.Sprintf("perdure: no randomness: %v", err)) // crypto/rand does not fail
	}
	return store.ID(id)
}
