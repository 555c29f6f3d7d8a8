package perdure

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/core/outbox"
)

// A RetryPolicy configures how a message is tried again after a failed attempt, and when
// it is parked instead; see [Engine.Parked]. It has two uses:
//
//   - As an option of [Perform], it is for the effects of that rule, whose handler returns
//     an error or panics.
//   - As [Config.Delivery], it is for messages to entities, and for timers, whose target
//     fails: its rule panics or returns an invalid decision, or the entity cannot be
//     loaded. A refusal is not a failure: it ends the message. An attempt that finds the
//     target busy is not counted; after a day of that, the message is parked too.
//
// A field that is zero has its default.
type RetryPolicy struct {
	// MaxAttempts parks a message after this number of failed attempts. The default is 20
	// for effects. It is 1500 for messages to entities and timers, which with the default
	// pauses takes about a day.
	MaxAttempts int
	// MinBackoff is the pause after the first failure. The pause is doubled after each
	// further failure, up to MaxBackoff, and shortened at random by up to a half. The
	// default is 100 milliseconds for effects, and 10 milliseconds for messages to entities
	// and timers.
	MinBackoff time.Duration
	// MaxBackoff bounds the pauses. The default is a minute, or MinBackoff if that is longer.
	MaxBackoff time.Duration
	// MaxAge parks a message at its first failed attempt after this age. The age begins
	// when this engine first knows the message: when the engine stores it, reads it after
	// the engine was opened, or takes it over from another engine. It is measured by the
	// engine's own clock and not from [EffectInfo.Enqueued], so it begins again after a
	// restart or a takeover. For example, with a MaxAge of an hour, a message that has
	// failed for 59 minutes before a restart is retried for another hour. MaxAge does not
	// end an attempt in progress (see Timeout) and does not park a message between two
	// attempts. The default is no limit.
	MaxAge time.Duration
	// Timeout ends the context of a [Perform] handler after this time, with
	// [context.DeadlineExceeded]. The engine still waits for a handler that ignores its
	// context, because it cannot know what the handler has done. The default is no timeout.
	// The field must be zero in [Config.Delivery].
	Timeout time.Duration
}

// Defaults of the fields of a [RetryPolicy].
var (
	effectRetries  = RetryPolicy{MaxAttempts: 20, MinBackoff: 100 * time.Millisecond, MaxBackoff: time.Minute}
	messageRetries = RetryPolicy{MaxAttempts: 1500, MinBackoff: 10 * time.Millisecond, MaxBackoff: time.Minute}
)

// effectOption sets the policy of a Perform rule.
func (p RetryPolicy) effectOption(r *effectRule) {
	if err := p.check("RetryPolicy"); err != nil {
		r.mistake("Perform rule for %v: %w", r.message, err)
	}
	policy := p.or(effectRetries).policy()
	policy.KeepOrder = r.policy.KeepOrder
	r.policy, r.timeout = policy, p.Timeout
}

// check returns an error that names each mistake in the policy, or nil. The policy is called
// name.
func (p RetryPolicy) check(name string) error {
	var errs []error
	if p.MaxAttempts < 0 {
		errs = append(errs, fmt.Errorf("%s.MaxAttempts is negative: %d", name, p.MaxAttempts))
	}
	for _, f := range []struct {
		field string
		value time.Duration
	}{{"MinBackoff", p.MinBackoff}, {"MaxBackoff", p.MaxBackoff}, {"MaxAge", p.MaxAge}, {"Timeout", p.Timeout}} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("%s.%s is negative: %v", name, f.field, f.value))
		}
	}
	if p.MaxBackoff > 0 && p.MaxBackoff < p.MinBackoff {
		errs = append(errs, fmt.Errorf("%s.MaxBackoff is less than its MinBackoff: %v < %v", name, p.MaxBackoff, p.MinBackoff))
	}
	return errors.Join(errs...)
}

// or returns the policy with zero fields replaced by those of standard.
func (p RetryPolicy) or(standard RetryPolicy) RetryPolicy {
	p.MaxAttempts = cmp.Or(p.MaxAttempts, standard.MaxAttempts)
	if p.MinBackoff == 0 {
		p.MinBackoff = standard.MinBackoff
		if p.MaxBackoff > 0 {
			p.MinBackoff = min(p.MinBackoff, p.MaxBackoff)
		}
	}
	p.MaxBackoff = cmp.Or(p.MaxBackoff, max(standard.MaxBackoff, p.MinBackoff))
	return p
}

func (p RetryPolicy) policy() outbox.Policy {
	return outbox.Policy{
		AttemptsMax: uint32(min(p.MaxAttempts, 1<<31)), AgeMax: p.MaxAge, BackoffMin: p.MinBackoff, BackoffMax: p.MaxBackoff,
	}
}
