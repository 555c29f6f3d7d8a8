package projection

import (
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/project"
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
	LanesMax           = 256
)

// A Failure says what to do with an event that its rule fails at, again and again.
type Failure uint8

// What [OnFailure] takes.
const (
	// Park leaves the entity of the event alone from that event on, until
	// somebody has it retried or dropped. All other entities go on.
	Park Failure = iota
	// Skip leaves the event out and keeps a dead letter that says so.
	Skip
	// Stop stops the projection at the event.
	Stop
)

// An Option changes how a projection is run, see [Projection.With].
type Option interface{ option(*settings) }

type option func(*settings)

func (o option) option(s *settings) { o(s) }

// settings are what does not depend on Tx.
type settings struct {
	name     string
	version  int
	kinds    []string
	types    []string // as said by Types
	tags     []string
	rules    []string // the types that have On rules
	clears   bool
	limits   project.Limits
	policy   project.Policy
	lanes    int
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
		name: name, version: 1, lanes: 1,
		limits: project.Limits{
			Batch: BatchMaxDefault, Parked: ParkedMaxDefault, Dead: DeadLettersDefault,
			FlushEvents: 8192, FlushAfter: 200 * time.Millisecond,
			RetryMin: 50 * time.Millisecond, RetryMax: 10 * time.Second,
			StandbyMin: 100 * time.Millisecond, StandbyMax: 5 * time.Second,
			HoldMin: 5 * time.Millisecond, HoldMax: 250 * time.Millisecond, TakeAfter: time.Second,
		},
		policy: project.Policy{AttemptsMax: AttemptsDefault, BackoffMin: BackoffMinDefault, BackoffMax: BackoffMaxDefault},
	}
}

func (s *settings) mistake(format string, args ...any) {
	s.mistakes = append(s.mistakes, fmt.Errorf(format, args...))
}

// err returns what is wrong with the projection, or nil.
func (s *settings) err() error {
	if len(s.mistakes) == 0 {
		return nil
	}
	return fmt.Errorf("%w: projection %q: %w", store.ErrInvalid, s.name, errors.Join(s.mistakes...))
}

// Version numbers the read model, from 1, which is the default. A higher version
// is built from the start of the log beside the lower one, which goes on; see
// [Runner.Switch]. A change of rules that old rows must show needs a new version.
//
// A rule for one more type of event needs none as long as the log has no such
// event: the program with the rule takes the version over, and one without it stands
// by from then on, also after a restart, rather than pass over what it has no rule
// for. If the log has such events before the position, or if a rule is taken away,
// the runner stops with an error matching [ErrSelection] that asks for a new version.
func Version(n int) Option {
	return option(func(s *settings) {
		if n < 1 || n > 1<<30 {
			s.mistake("Version(%d) is not from 1 to 1073741824", n)
		}
		s.version = n
	})
}

// Classify says whose fault an error of a rule is, where the error itself or the
// target does not tell: return [BlameUnknown] for all others. For example, a rule
// that calls a service may say that the service being away is the fault of no event.
func Classify(blame func(error) Blame) Option {
	return option(func(s *settings) {
		if blame == nil {
			s.mistake("Classify has no function")
		}
		s.classify = blame
	})
}

// AdoptCopies has a version whose notes are of another log go on with the log that
// it is given, if that is a copy: see [Runner.Adopt].
func AdoptCopies() Option { return option(func(s *settings) { s.adopts = true }) }

// Kinds selects the events of entities of these kinds.
func Kinds(kinds ...string) Option {
	return option(func(s *settings) { s.kinds = append(s.kinds, kinds...) })
}

// Types selects the events of these types, by their full protobuf names as they
// are stored. It is for [OnBatch]; [On] rules select by themselves.
func Types(types ...string) Option {
	return option(func(s *settings) { s.types = append(s.types, types...) })
}

// Tags selects the events that have one of these tags.
func Tags(tags ...string) Option {
	return option(func(s *settings) { s.tags = append(s.tags, tags...) })
}

// OnFailure says what becomes of an event whose rule fails as often as [Retry]
// says. The default is [Park].
func OnFailure(f Failure) Option {
	return option(func(s *settings) {
		if f > Stop {
			s.mistake("OnFailure(%d) is none of Park, Skip and Stop", f)
		}
		s.policy.OnFailure = project.Failure(f)
	})
}

// Retry says how often an event is tried in all, and how long the pauses are:
// the first one, doubled with each failure up to the longest, and each longer by up
// to a quarter, so that lanes and programs that fail together do not try again
// together. While an event
// waits for its next attempt, its lane waits with it. The defaults are
// [AttemptsDefault], [BackoffMinDefault] and [BackoffMaxDefault].
func Retry(attempts int, first, longest time.Duration) Option {
	return option(func(s *settings) {
		if attempts < 1 || first <= 0 || longest < first {
			s.mistake("Retry(%d, %v, %v): attempts begin at 1, pauses grow from above zero", attempts, first, longest)
		}
		s.policy.AttemptsMax, s.policy.BackoffMin, s.policy.BackoffMax = attempts, first, longest
	})
}

// Lanes has the events of a partition handled in n transactions at a time. Then
// only the events of one entity are handled in their order, so it is for read
// models whose rows depend on one entity each. It never changes for a version.
// The default is 1, the most [LanesMax].
func Lanes(n int) Option {
	return option(func(s *settings) {
		if n < 1 || n > LanesMax {
			s.mistake("Lanes(%d) is not from 1 to %d", n, LanesMax)
		}
		s.lanes = n
	})
}

// BatchMax bounds the events of one transaction. The default is
// [BatchMaxDefault], the most [BatchMaxMax].
func BatchMax(events int) Option {
	return option(func(s *settings) {
		if events < 1 || events > BatchMaxMax {
			s.mistake("BatchMax(%d) is not from 1 to %d", events, BatchMaxMax)
		}
		s.limits.Batch = events
	})
}

// ParkedMax bounds the parked entities of a lane; one more stops the projection.
// The default is [ParkedMaxDefault].
func ParkedMax(entities int) Option {
	return option(func(s *settings) {
		if entities < 0 {
			s.mistake("ParkedMax(%d) is negative", entities)
		}
		s.limits.Parked = entities
	})
}

// DeadLettersMax bounds the dead letters of a lane; one more stops the
// projection. The default is [DeadLettersDefault].
func DeadLettersMax(events int) Option {
	return option(func(s *settings) {
		if events < 0 {
			s.mistake("DeadLettersMax(%d) is negative", events)
		}
		s.limits.Dead = events
	})
}

// SwitchWhenLive has readers switched to the version as soon as it has caught up
// with the log for the first time.
func SwitchWhenLive() Option {
	return option(func(s *settings) { s.auto = true })
}

// Unhealthy has [Runner.Healthy] fail not only when the projection has failed,
// but also when it is further behind than lag (if that is above zero), or has
// parked entities (if parked is true).
func Unhealthy(lag time.Duration, parked bool) Option {
	return option(func(s *settings) {
		if lag < 0 {
			s.mistake("Unhealthy(%v) is negative", lag)
		}
		s.lagMax, s.strict = lag, parked
	})
}
