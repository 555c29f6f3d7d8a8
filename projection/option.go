package projection

import (
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
)

// Defaults and bounds of options.
const (
	BatchMaxDefault    = 4096
	BatchMaxMax        = 100_000
	AttemptsDefault    = 5
	BackoffMinDefault  = 50 * time.Millisecond
	BackoffMaxDefault  = 10 * time.Second
	ParkedMaxDefault   = 1000
	DeadLettersDefault = 10_000
	ParallelismMax     = 256
)

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
	strict   bool
	classify func(error) Blame
	adopts   bool
	skips    []store.Position // damaged events
	mistakes []error
}

func defaults(name string) settings {
	return settings{
		name: name, version: 1, segments: 1,
		limits: projector.Limits{
			Batch: BatchMaxDefault, Parked: ParkedMaxDefault, Dead: DeadLettersDefault,
			FlushEvents: 8192, FlushAfter: 200 * time.Millisecond,
			RetryMin: 50 * time.Millisecond, RetryMax: 10 * time.Second,
			StandbyMin: 100 * time.Millisecond, StandbyMax: 5 * time.Second,
			HoldMin: 5 * time.Millisecond, HoldMax: 250 * time.Millisecond, TakeAfter: time.Second,
		},
		policy: projector.Policy{AttemptsMax: AttemptsDefault, BackoffMin: BackoffMinDefault, BackoffMax: BackoffMaxDefault},
	}
}

func (s *settings) mistake(format string, args ...any) {
	s.mistakes = append(s.mistakes, fmt.Errorf(format, args...))
}

// err returns an error that lists the mistakes in the declaration, or nil.
func (s *settings) err() error {
	if len(s.mistakes) == 0 {
		return nil
	}
	return fmt.Errorf("%w: projection %q: %w", store.ErrInvalid, s.name, errors.Join(s.mistakes...))
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
		if n < 1 || n > 1<<30 {
			s.mistake("Version(%d) is not from 1 to 1073741824", n)
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
			s.mistake("Classify has no function")
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
			s.mistake("OnFailure(%d) is none of Park, Skip and Stop", f)
		}
		s.policy.OnFailure = projector.Failure(f)
	})
}

// Retry sets the number of attempts for an event, and the pauses between them. The first pause is
// first; each failure doubles it, up to longest. A random part of up to a quarter is added to
// each pause, so that segments and programs that fail together do not try again together. While an
// event waits for its next attempt, its segment waits too. The defaults are [AttemptsDefault],
// [BackoffMinDefault] and [BackoffMaxDefault].
func Retry(attempts int, first, longest time.Duration) Option {
	return option(func(s *settings) {
		if attempts < 1 || first <= 0 || longest < first {
			s.mistake("Retry(%d, %v, %v): attempts begin at 1, pauses grow from above zero", attempts, first, longest)
		}
		s.policy.AttemptsMax, s.policy.BackoffMin, s.policy.BackoffMax = attempts, first, longest
	})
}

// Parallelism divides the entities of a partition into n segments. A segment is the share of one
// worker, with its own goroutine and transactions, so that n transactions run at a time. Then only
// the events of one entity are handled in order. Use it for read models in which each row depends
// on one entity. The number of segments of a version never changes. The default is 1, the maximum
// [ParallelismMax].
func Parallelism(n int) Option {
	return option(func(s *settings) {
		if n < 1 || n > ParallelismMax {
			s.mistake("Parallelism(%d) is not from 1 to %d", n, ParallelismMax)
		}
		s.segments = n
	})
}

// BatchMax bounds the number of events in one transaction. The default is [BatchMaxDefault], the
// maximum [BatchMaxMax].
func BatchMax(events int) Option {
	return option(func(s *settings) {
		if events < 1 || events > BatchMaxMax {
			s.mistake("BatchMax(%d) is not from 1 to %d", events, BatchMaxMax)
		}
		s.limits.Batch = events
	})
}

// ParkedMax bounds the number of parked entities of a segment. One more stops the projection. The
// default is [ParkedMaxDefault].
func ParkedMax(entities int) Option {
	return option(func(s *settings) {
		if entities < 0 {
			s.mistake("ParkedMax(%d) is negative", entities)
		}
		s.limits.Parked = entities
	})
}

// DeadLettersMax bounds the number of dead letters of a segment. One more stops the projection. The
// default is [DeadLettersDefault].
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

// Unhealthy makes [Runner.Healthy] stricter. Healthy then also fails if the projection is further
// behind than lag (if that is above zero), or has parked entities (if parked is true).
func Unhealthy(lag time.Duration, parked bool) Option {
	return option(func(s *settings) {
		if lag < 0 {
			s.mistake("Unhealthy(%v) is negative", lag)
		}
		s.lagMax, s.strict = lag, parked
	})
}
