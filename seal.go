package perdure

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/perdure/perdure/store"
)

// errSealed is the outcome of a batch that reaches the store after the engine has released the
// store.
var errSealed = fmt.Errorf("%w: %w", store.ErrNotStored, ErrClosed)

// A seal ends the writes of an engine. Each writer enters the seal before it writes to the
// store and leaves it afterwards. After close no writer can enter, and the last writer inside
// runs the function that was passed to close. The engine therefore releases its store for
// others when it is certain that no write of its own can follow, and it need not wait for a
// store that hangs.
//
//  1. inside is the number of writers inside, plus sealed after close.
//  2. last runs once, after close, when no writer is inside.
type seal struct {
	inside atomic.Int64
	once   sync.Once
	last   func()
}

const sealed = math.MinInt64 / 2

// enter admits a writer, unless the seal is closed.
func (s *seal) enter() bool {
	if s.inside.Add(1) > 0 {
		return true
	}
	s.leave()
	return false
}

// leave ends a writer's stay.
func (s *seal) leave() {
	if s.inside.Add(-1) == sealed {
		s.once.Do(s.last)
	}
}

// close admits no more writers. The function runs when no writer is inside, now or later.
func (s *seal) close(last func()) {
	s.last = last
	if s.inside.Add(sealed) == sealed {
		s.once.Do(last)
	}
}

// isSealed reports whether an error is the error of a batch that came too late.
func isSealed(err error) bool { return errors.Is(err, ErrClosed) && errors.Is(err, store.ErrNotStored) }
