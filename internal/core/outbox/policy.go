package outbox

import (
	"time"

	"github.com/perdure/perdure/store"
)

// A Policy says how often and when a failed delivery is tried again.
type Policy struct {
	// AttemptsMax and AgeMax end the attempts; the message is then parked. This engine counts
	// the age from the time at which it first read the message, by its own clock.
	AttemptsMax uint32
	AgeMax      time.Duration
	// BackoffMin is the pause after the first failure. Each further failure doubles the pause,
	// up to BackoffMax.
	BackoffMin, BackoffMax time.Duration
	// KeepOrder makes a message that has failed for good halt its flow instead of being parked.
	KeepOrder bool
}

// A Shell gives the queue its retry policies and its randomness.
type Shell interface {
	// Policy returns the policy for a message.
	Policy(*store.Message) Policy
	// Jitter returns a random part of d, at least half of it.
	Jitter(d time.Duration) time.Duration
}

// A Filter is a [Shell] of an engine that cannot deliver every message.
type Filter interface {
	// Fits reports whether this engine has a rule for a message. It may be called
	// by several goroutines.
	Fits(*store.Message) bool
	// Misfit returns the reason why this engine cannot deliver a message at all, such as a
	// missing rule. It returns nil if it can.
	Misfit(*store.Message) error
}

// A KindFilter is a [Filter] that knows which kinds of entities its engine runs.
type KindFilter interface {
	Filter
	// Runs reports whether the engine runs a kind. If it does not, the engine can deliver no
	// message to an entity of the kind.
	Runs(kind string) bool
}

func backoff(p Policy, attempts uint32) time.Duration {
	d := p.BackoffMin
	for range attempts - 1 {
		if d *= 2; d >= p.BackoffMax || d <= 0 {
			return p.BackoffMax
		}
	}
	return d
}
