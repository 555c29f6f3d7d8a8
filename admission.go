package perdure

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gofrs/uuid/v5"

	"github.com/perdure/perdure/internal/entity"
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

// enter admits a call. Calls with messages to entities count, so that the engine waits for
// them when it is closed, but not for the bound of callers: the dispatcher has bounds of its
// own for them, and neither takes the room of the other.
func (e *Engine) enter(s *stripe, delivers bool) error {
	n := int(s.calls.Add(1))
	switch {
	case e.closing.Load():
		e.leave(s)
		return ErrClosed
	case delivers:
		e.delivering.Add(1)
	case n > e.config.CallsMax/stripeCount && e.callCount()-int(e.delivering.Load()) > e.config.CallsMax:
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

// idsPerSeed is how many ids an idSource makes of one seed.
const idsPerSeed = 1024

// An idSource makes ids for commands: UUIDs of version 7. The seeds are the UUID
// library's; between two of them an id is the seed's, with the present time, and
// with the random bits that the seed and a count are mixed to. That needs no lock
// and no system call. It is for one goroutine at a time.
type idSource struct {
	seed store.ID
	left uint64
}

func (i *idSource) next(s *stripe) store.ID {
	if i.left == 0 {
		seed, err := s.ids.NewV7()
		if err != nil {
			panic(fmt.Sprintf("perdure: no randomness: %v", err)) // crypto/rand does not fail
		}
		i.seed, i.left = store.ID(seed), idsPerSeed
	}
	i.left--
	id := entity.DerivedID(i.seed, i.left)
	var now [8]byte
	binary.BigEndian.PutUint64(now[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], now[2:]) // the 48 bits of milliseconds that a version 7 begins with
	return id
}
