package perdure

import (
	"cmp"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/store"
)

// Defaults of [RetryPolicy]. The pauses double from the shortest to the longest, so that
// all attempts together take about a day.
const (
	MessageAttemptsMaxDefault = 1500
	MessageBackoffMinDefault  = 10 * time.Millisecond
)

// A RetryPolicy configures the retries of a message to an entity, or of a timer, whose
// target fails: its rule panics or returns an invalid decision, or the entity cannot be
// loaded. After the last attempt the message is parked; see [Engine.Parked]. An attempt
// that finds the target busy is not counted; after a day of that, the message is parked
// too.
type RetryPolicy struct {
	// MaxAttempts parks a message after this number of failed attempts. Zero is
	// [MessageAttemptsMaxDefault].
	MaxAttempts int
	// MaxAge parks a message at its first failed attempt after the engine has known it for
	// this time; see the effect option [MaxAge]. Zero is no limit.
	MaxAge time.Duration
	// BackoffMin is the pause after the first failure. The pause is doubled after each
	// further failure, up to BackoffMax, and shortened at random by up to a half. Zero is
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
