package perdure

import (
	"fmt"
	"sync/atomic"

	"github.com/gofrs/uuid/v5"

	"github.com/perdure/perdure/internal/errtext"
)

// callShardCount is the number of shards over which the calls are counted. With a single counter
// or a single source of ids, all processors would compete for it on every call.
const callShardCount = 16

// A callShard is a counter and a source of ids for some of the calls. A call keeps its shard for
// its lifetime, and calls are pooled by processor.
type callShard struct {
	calls atomic.Int64 // number of calls in progress
	ids   uuid.Generator
	_     [40]byte // keeps neighbouring shards in different cache lines
}

// enter admits a call, or returns an error. A call that delivers an outbox message counts as a
// call in progress, so Close waits for it. It does not count against CallsMax: the dispatcher
// has its own bounds for these calls, and neither side uses up the room of the other.
func (e *Engine) enter(s *callShard, delivers bool) error {
	n := int(s.calls.Add(1))
	switch {
	case e.closing.Load():
		e.leave(s)
		return ErrClosed
	case delivers:
		e.delivering.Add(1)
	case n > e.config.CallsMax/callShardCount && e.callCount()-int(e.delivering.Load()) > e.config.CallsMax:
		e.leave(s)
		return errtext.New(fmt.Sprintf("engine is overloaded: %d calls are waiting (see Config.CallsMax)", e.config.CallsMax),
			ErrOverloaded, ResourceExhausted)
	}
	return nil
}

// leave ends a call that was admitted.
func (e *Engine) leave(s *callShard) {
	s.calls.Add(-1)
	if e.closing.Load() {
		e.drain()
	}
}

// callCount returns the number of calls in progress. If no shard is above its share, the sum
// is not above the bound either.
func (e *Engine) callCount() int {
	n := 0
	for i := range e.callShards {
		n += int(e.callShards[i].calls.Load())
	}
	return n
}

// drain wakes Close if no call is left. While the engine is closing, the goroutine that ends
// the last call sees that none is left.
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
