package projection

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
)

// ParallelismMax bounds the number of segments of a partition, see [Parallelism].
const ParallelismMax = 256

// batchEventsMax bounds [BatchMax].
const batchEventsMax = 100_000

// versionMax bounds [Version].
const versionMax = 1 << 30

// A FailurePolicy is the policy for an event whose rule fails at each of its attempts.
type FailurePolicy uint8

// The policies for [OnFailure].
const (
	// Park keeps this event and all later events of its entity from the rules, until the operator
	// retries or drops the entity. All other entities go on.
	Park FailurePolicy = iota
	// Skip leaves the event out and keeps a dead letter that names it.
	Skip
	// Stop stops the projection at the event.
	Stop
)

// An Option changes how a projection is run, see [Projection.With].
type Option interface{ option(*settings) }

type option func(*settings)

func (o option) option(s *settings) { o(s) }

// settings are the parts of a declaration that do not depend on Tx.
type settings struct {
	name     string
	version  int
	kinds    []string
	types    []string // the argument of Types
	tags     []string
	rules    []string // the types that have On rules
	clears   bool
	limits   projector.Limits
	policy   projector.Policy
	segments int
	auto     bool
	lagMax   time.Duration
	unparked bool // healthy only if no entity is parked
	classify func(error) Blame
	adopts   bool
	skips    []store.Position // damaged events
	mistakes []error
}

func defaults(name string) settings {
	s := settings{
		name: name, version: 1, segments: 1,
		limits: projector.Limits{
			Batch: 4096, Parked: 1000, Dead: 10_000,
			FlushEvents: 8192, FlushAfter: 200 * time.Millisecond,
			RetryMin: 50 * time.Millisecond, RetryMax: 10 * time.Second,
			StandbyMin: 100 * time.Millisecond, StandbyMax: 5 * time.Second,
			HoldMin: 5 * time.Millisecond, HoldMax: 250 * time.Millisecond, TakeAfter: time.Second,
		},
	}
	RetryPolicy{}.set(&s)
	return s
}

func (s *settings) mistake(format string, args ...any) {
	s.mistakes = append(s.mistakes, fmt.Errorf(format, args...))
}

// err returns an error that lists the mistakes in the declaration, or nil.
func (s *settings) err() error {
	named := make([]error, len(s.mistakes)) // the name stands on every line
	for i, mistake := range s.mistakes {
		named[i] = fmt.Errorf("%w: projection %q: %w", store.ErrInvalid, s.name, mistake)
	}
	return errors.Join(named...)
}

// Version sets the number of the read model, from 1, which is the default. The runner builds a
// higher version from the start of the log, beside the lower version, which goes on; see
// [Runner.Switch]. If a change of rules must also change old rows, it needs a new version.
//
// A rule for one more type of event needs no new version as long as the log has no such event.
// The program with the new rule takes the version over. From then on a program without it stands
// by, also after a restart, because it would pass over those events. If the log has such events
// before the position, or if a rule was removed, the runner stops with an error matching
// [ErrSelection] that asks for a new version.
func Version(n int) Option {
	return option(func(s *settings) {
		if n < 1 || n > versionMax {
			s.mistake("Version(%d) is out of range (use 1 to %d)", n, versionMax)
		}
		s.version = n
	})
}

// Classify sets a function that says whose fault an error of a rule is. The runner asks it first,
// and then the target. For example, if a rule calls a service, the function can return
// [BlameTarget] while the service is down, so that no event is blamed. Return [BlameUnknown] for
// all other errors.
func Classify(blame func(error) Blame) Option {
	return option(func(s *settings) {
		if blame == nil {
			s.mistake("Classify(nil) has no function (leave it out, or give it one)")
		}
		s.classify = blame
	})
}

// AdoptCopies makes a version whose notes name another log go on with the log that the runner
// reads, if that log is a copy: see [Runner.Adopt].
func AdoptCopies() Option { return option(func(s *settings) { s.adopts = true }) }

// Kinds selects the events of entities of these kinds.
func Kinds(kinds ...string) Option {
	return option(func(s *settings) { s.kinds = append(s.kinds, kinds...) })
}

// Types selects the events of these types, by the full protobuf names in the log, for example
// "library.v1.BookLent". It is for [OnBatch]; [On] rules select their types themselves.
func Types(types ...string) Option {
	return option(func(s *settings) { s.types = append(s.types, types...) })
}

// Tags selects the events that have one of these tags.
func Tags(tags ...string) Option {
	return option(func(s *settings) { s.tags = append(s.tags, tags...) })
}

// OnFailure sets the policy for an event after the last attempt that [Retry] allows has failed.
// The default is [Park].
func OnFailure(f FailurePolicy) Option {
	return option(func(s *settings) {
		if f > Stop {
			s.mistake("OnFailure(%d) is no policy (use Park, Skip or Stop)", f)
		}
		s.policy.OnFailure = projector.Failure(f)
	})
}

// A RetryPolicy configures how an event is tried again after its rule has failed. A field that is
// zero has its default. It has the same fields and rules as [perdure.RetryPolicy].
type RetryPolicy struct {
	// MaxAttempts is the number of attempts, including the first, after which the policy of
	// [OnFailure] applies. The default is 5.
	MaxAttempts int
	// MinBackoff is the pause after the first failure. The pause is doubled after each further
	// failure, up to MaxBackoff. A random part of up to a quarter is added to each pause, so that
	// segments and programs that fail together do not try again together. The default is 50
	// milliseconds, or MaxBackoff if that is shorter.
	MinBackoff time.Duration
	// MaxBackoff bounds the pauses. The default is 10 seconds, or MinBackoff if that is longer.
	MaxBackoff time.Duration
}

// Retry sets the number of attempts for an event, and the pauses between them. While an event
// waits for its next attempt, its segment waits too.
func Retry(p RetryPolicy) Option { return option(p.set) }

// set checks the policy and puts it, with the defaults, into settings.
func (p RetryPolicy) set(s *settings) {
	if p.MaxAttempts < 0 {
		s.mistake("RetryPolicy.MaxAttempts is negative: %d (zero means 5)", p.MaxAttempts)
	}
	if p.MinBackoff < 0 {
		s.mistake("RetryPolicy.MinBackoff is negative: %v (zero means 50ms)", p.MinBackoff)
	}
	if p.MaxBackoff < 0 {
		s.mistake("RetryPolicy.MaxBackoff is negative: %v (zero means 10s)", p.MaxBackoff)
	}
	if p.MaxBackoff > 0 && p.MaxBackoff < p.MinBackoff {
		s.mistake("RetryPolicy.MaxBackoff is less than its MinBackoff: %v < %v", p.MaxBackoff, p.MinBackoff)
	}
	if p.MinBackoff == 0 {
		p.MinBackoff = 50 * time.Millisecond
		if p.MaxBackoff > 0 {
			p.MinBackoff = min(p.MinBackoff, p.MaxBackoff)
		}
	}
	s.policy.AttemptsMax = cmp.Or(p.MaxAttempts, 5)
	s.policy.BackoffMin = p.MinBackoff
	s.policy.BackoffMax = cmp.Or(p.MaxBackoff, max(10*time.Second, p.MinBackoff))
}

// Parallelism divides the entities of a partition into n segments. A segment is the share of one
// worker, with its own goroutine and transactions, so that n transactions run at a time. Then only
// the events of one entity are handled in order. Use it for read models in which each row depends
// on one entity. The number of segments of a version never changes. The default is 1, the maximum
// [ParallelismMax].
func Parallelism(n int) Option {
	return option(func(s *settings) {
		if n < 1 || n > ParallelismMax {
			s.mistake("Parallelism(%d) is out of range (use 1 to %d)", n, ParallelismMax)
		}
		s.segments = n
	})
}

// BatchMax bounds the number of events in one transaction. The default is 4096, the
// maximum 100,000.
func BatchMax(events int) Option {
	return option(func(s *settings) {
		if events < 1 || events > batchEventsMax {
			s.mistake("BatchMax(%d) is out of range (use 1 to %d)", events, batchEventsMax)
		}
		s.limits.Batch = events
	})
}

// ParkedMax bounds the number of parked entities of a segment. One more stops the projection. The
// default is 1000.
func ParkedMax(entities int) Option {
	return option(func(s *settings) {
		if entities < 0 {
			s.mistake("ParkedMax(%d) is negative", entities)
		}
		s.limits.Parked = entities
	})
}

// DeadLettersMax bounds the number of dead letters of a segment. One more stops the projection. The
// default is 10,000.
func DeadLettersMax(events int) Option {
	return option(func(s *settings) {
		if events < 0 {
			s.mistake("DeadLettersMax(%d) is negative", events)
		}
		s.limits.Dead = events
	})
}

// SwitchWhenLive switches readers to the version as soon as it has caught up with the log for the
// first time.
func SwitchWhenLive() Option {
	return option(func(s *settings) { s.auto = true })
}

// HealthyWithin makes [Runner.Healthy] return an error that matches [ErrLagging] if the first
// event that the runner has not handled is older than lag.
func HealthyWithin(lag time.Duration) Option {
	return option(func(s *settings) {
		if lag <= 0 {
			s.mistake("HealthyWithin(%v) is not above zero", lag)
		}
		s.lagMax = lag
	})
}

// UnhealthyIfParked makes [Runner.Healthy] return an error that matches [ErrParked] if entities
// are parked.
func UnhealthyIfParked() Option {
	return option(func(s *settings) { s.unparked = true })
}
