package perdure

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/perdure/perdure/store"
)

// errSealed is the outcome of a batch that comes to the store after the engine has
// given the store up.
var errSealed = fmt.Errorf("%w: %w", store.ErrNotStored, ErrClosed)

// A seal ends the writing of an engine. What writes to the store enters the seal
// before and leaves it after. Once the seal is closed nothing enters, and the last one
// inside runs what closing was to run: so an engine gives its store up for others when
// it is certain that nothing of its own comes after, without waiting for a store that
// hangs.
//
//  1. inside is the number of those inside, plus sealed once the seal is closed.
//  2. last runs once, after closing, when none is inside.
type seal struct {
	inside atomic.Int64
	once   sync.Once
	last   func()
}

const sealed = math.MinInt64 / 2

// enter lets a writer in, unless the seal is closed.
func (s *seal) enter() bool {
	if s.inside.Add(1) > 0 {
		return true
	}
	s.leave()
	return false
}

// leave lets a writer out.
func (s *seal) leave() {
	if s.inside.Add(-1) == sealed {
		s.once.Do(s.last)
	}
}

// close lets nothing more in. The function runs when none is inside, now or later.
func (s *seal) close(last func()) {
	s.last = last
	if s.inside.Add(sealed) == sealed {
		s.once.Do(last)
	}
}

// isSealed reports whether an error is that of a batch that came too late.
func isSealed(err error) bool { return errors.Is(err, ErrClosed) && errors.Is(err, store.ErrNotStored) }
