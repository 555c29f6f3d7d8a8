package perdure

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/store"
)

// Defaults of [Config], whose fields name them too.
const (
	entityCallsMaxDefault   = 1024
	callsMaxDefault         = 16_384
	inFlightMaxDefault      = 512
	entitiesMaxDefault      = 100_000
	entitiesBytesMaxDefault = 64 << 20
	conflictsMaxDefault     = 32
	deliveriesMaxDefault    = 1024
	pollDefault             = 50 * time.Millisecond
	rescueAfterDefault      = 30 * time.Second
)

// loadRetriesMax bounds the repeated loads while the outcome of a command depends on a load.
// With the pauses between them this takes about six seconds.
const loadRetriesMax = 11

// unknownsMax bounds the further attempts of a command after a commit with an unknown outcome,
// while the entity can be read. With the pauses between them this takes about a second. See
// [ErrOutcomeUnknown].
const unknownsMax = 7

// A Config configures an engine: what it runs, and its bounds. Store and Kinds are
// required. For all other fields, zero selects the default.
type Config struct {
	// Store is the log that holds all records. The engine does not close it.
	Store store.Log
	// Kinds are the kinds that the engine runs. No two of them have the same name.
	Kinds []AnyKind

	// Effects are the rules for the messages of decisions that have no target entity; see
	// [Decision.Enqueue] and [Decision.AfterCommit].
	Effects []EffectRule

	// Services run from the opening of the engine until it is closed, such as projections. A
	// service that ends is started again, see [Service].
	Services []Service

	// Interceptors are around the work of the engine: calls, deliveries, loads, commits,
	// snapshots and projections. The first one is the outermost.
	Interceptors []Interceptor

	// Logger is the logger of the engine. Nil discards all records. The engine calls its
	// handler on a separate goroutine, one record at a time. If the handler is too slow,
	// records are dropped and counted in [Stats].
	Logger *slog.Logger
	// Clock is the source of time and timers. Nil is the system clock.
	Clock Clock

	// CallsMax bounds the calls of the engine that are not yet answered. A call above the
	// bound fails with [ErrOverloaded]. The default is 16,384.
	CallsMax int
	// EntityCallsMax is the same bound for one entity. The default is 1,024.
	EntityCallsMax int
	// EntitiesMax bounds the entities in memory. Above the bound, the engine passivates the
	// entities that have been idle longest, before the time of their [PassivateAfter].
	// Entities with work in progress stay. The default is 100,000.
	EntitiesMax int
	// EntitiesBytesMax bounds, approximately, the bytes of memory that the entities use: their
	// states, the receipts of their commands with a key, and a kilobyte for each entity. Above
	// the bound, the engine passivates entities as it does above EntitiesMax. If a program
	// always uses a few large entities with long histories, set it above the sum of their
	// sizes. The default is 64 MiB.
	EntitiesBytesMax int
	// InFlightMax bounds the commands that one entity has decided and the store has not yet
	// committed. The default is 512.
	InFlightMax int
	// ConflictsMax bounds how often a command is decided again because another engine
	// changed the entity first. The default is 32.
	ConflictsMax int
	// DeliveriesMax bounds the deliveries in progress. Messages to entities, timers, and
	// the effects of each [Perform] rule are counted separately, each with this bound, so
	// that a slow one does not delay the others. Messages to one entity use at most an
	// eighth of it, or more while half of it is free. The default is 256.
	DeliveriesMax int
	// Delivery configures the retries of messages to entities, and of timers, whose target
	// fails. By default the engine retries for about a day; see [RetryPolicy].
	Delivery RetryPolicy
	// Poll is the interval at which readers of [Engine.Events] look for commits of other
	// engines, on a store that several engines share. The default is 50 milliseconds. If the store
	// notifies readers of commits, as a [store.Watcher] does, they read at once, and poll
	// only every second or less often.
	Poll time.Duration
	// RescueAfter is the time after which this engine delivers a message of another engine,
	// which may have died, on a store that several engines share. The time begins when this
	// engine first sees the message in the outbox, and is measured by its own monotonic
	// clock, so a difference between the clocks of machines does not matter. A pause before
	// a retry is added to it. Set it above the duration of the slowest effect; otherwise
	// two engines may perform that effect. The default is 30 seconds.
	RescueAfter time.Duration

	logs bool // the caller gave a logger
}

// defaults replaces zero fields with their defaults and checks the other fields.
func (c *Config) defaults() error {
	for _, f := range []struct {
		name     string
		value    *int
		standard int
	}{
		{"CallsMax", &c.CallsMax, callsMaxDefault},
		{"EntityCallsMax", &c.EntityCallsMax, entityCallsMaxDefault},
		{"EntitiesMax", &c.EntitiesMax, entitiesMaxDefault},
		{"EntitiesBytesMax", &c.EntitiesBytesMax, entitiesBytesMaxDefault},
		{"InFlightMax", &c.InFlightMax, inFlightMaxDefault},
		{"ConflictsMax", &c.ConflictsMax, conflictsMaxDefault},
		{"DeliveriesMax", &c.DeliveriesMax, deliveriesMaxDefault},
	} {
		if *f.value < 0 {
			return fmt.Errorf("%w: Config.%s is negative: %d", store.ErrInvalid, f.name, *f.value)
		}
		if *f.value == 0 {
			*f.value = f.standard
		}
	}
	for _, f := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{
		{"Poll", &c.Poll, pollDefault},
		{"RescueAfter", &c.RescueAfter, rescueAfterDefault},
	} {
		if *f.value < 0 {
			return fmt.Errorf("%w: Config.%s is negative: %v", store.ErrInvalid, f.name, *f.value)
		}
		*f.value = cmp.Or(*f.value, f.standard)
	}
	for i, s := range c.Services {
		if s == nil {
			return fmt.Errorf("%w: Config.Services[%d] is nil", store.ErrInvalid, i)
		}
	}
	if err := c.Delivery.check("Config.Delivery"); err != nil {
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	if c.Delivery.Timeout > 0 {
		return fmt.Errorf("%w: Config.Delivery.Timeout is set (a timeout is for effects: give the RetryPolicy to Perform)", store.ErrInvalid)
	}
	c.Delivery = c.Delivery.or(messageRetries)
	if c.logs = c.Logger != nil; !c.logs {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = guard.SystemClock{}
	}
	return nil
}
