package perdure

import (
	"cmp"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/outbox"
	"github.com/perdure/perdure/store"
)

// Defaults of [RetryPolicy]. The pauses double from the first to the longest, so
// that the attempts take about a day.
const (
	MessageAttemptsMaxDefault = 1500
	MessageBackoffMinDefault  = 10 * time.Millisecond
)

// A RetryPolicy says how often a message to an entity, or a timer, is tried again
// after its target has failed: its rule panicked or made an invalid decision, or the
// entity cannot be loaded. Then the message is parked, see [Engine.Parked]. While the
// target is only busy, that is no attempt; after a day of it the message is parked too.
type RetryPolicy struct {
	// MaxAttempts parks a message after so many failed attempts. Zero is
	// [MessageAttemptsMaxDefault].
	MaxAttempts int
	// MaxAge parks a message with the first attempt that fails once the engine has known
	// it for so long, as [MaxAge] tells. Zero is never.
	MaxAge time.Duration
	// BackoffMin is the pause after the first failure, doubled with each further one
	// up to BackoffMax. Each is shortened at random by up to a half. Zero is
	// [MessageBackoffMinDefault] and [BackoffMaxDefault].
	BackoffMin, BackoffMax time.Duration
}

func (p *RetryPolicy) defaults() error {
	if p.MaxAttempts < 0 || p.MaxAge < 0 || p.BackoffMin < 0 || p.BackoffMax < 0 {
		return fmt.Errorf("%w: Config.Delivery has a negative field: %+v", store.ErrInvalid, *p)
	}
	p.MaxAttempts = cmp.Or(p.MaxAttempts, MessageAttemptsMaxDefault)
	p.BackoffMin = cmp.Or(p.BackoffMin, MessageBackoffMinDefault)
	p.BackoffMax = cmp.Or(p.BackoffMax, max(BackoffMaxDefault, p.BackoffMin))
	if p.BackoffMax < p.BackoffMin {
		return fmt.Errorf("%w: Config.Delivery: BackoffMax %v is less than BackoffMin %v", store.ErrInvalid, p.BackoffMax, p.BackoffMin)
	}
	return nil
}

func (p *RetryPolicy) policy() outbox.Policy {
	return outbox.Policy{
		AttemptsMax: uint32(min(p.MaxAttempts, 1<<31)), AgeMax: p.MaxAge, BackoffMin: p.BackoffMin, BackoffMax: p.BackoffMax,
	}
}
