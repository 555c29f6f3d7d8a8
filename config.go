package perdure

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/perdure/perdure/store"
)

// Defaults of [Config].
const (
	EntityCallsMaxDefault = 1024
	CallsMaxDefault       = 16_384
	InFlightMaxDefault    = 512
	EntitiesMaxDefault    = 100_000
	ConflictsMaxDefault   = 32
	DeliveriesMaxDefault  = 256
	PollDefault           = 50 * time.Millisecond
	RescueAfterDefault    = 30 * time.Second
)

// loadRetriesMax bounds how often a load is tried again while the outcome of a
// command depends on it; with the pauses between them that is about six seconds.
const loadRetriesMax = 11

// doubtsMax bounds how often a command is tried again after a commit whose outcome is
// unknown, while the entity can be read; with the pauses between the attempts that is
// about a second. See [ErrOutcomeUnknown].
const doubtsMax = 7

// A Config says what an engine runs, and within which bounds. Store and Kinds
// are needed; the zero value of everything else is a good default.
type Config struct {
	// Store keeps everything. The engine does not close it.
	Store store.Log
	// Kinds are the kinds that the engine runs. Their names differ.
	Kinds []AnyKind

	// Effects say what to do with messages that commands send or enqueue without
	// an entity as their target.
	Effects []EffectRule

	// Services work beside the entities from when the engine is open until it
	// is closed, such as projections.
	Services []Service

	// Logger takes what the engine has to say. Nil discards it. Its handler is called
	// on a goroutine of its own, one record after the other; while it is slower than
	// what there is to say, records are left out, see [Stats].
	Logger *slog.Logger
	// Clock tells the time. Nil is the clock of the system.
	Clock Clock

	// CallsMax bounds the calls in the engine that have not been answered.
	// Above it a call fails with [ErrOverloaded]. Zero is [CallsMaxDefault].
	CallsMax int
	// EntityCallsMax is the same for one entity. Zero is [EntityCallsMaxDefault].
	EntityCallsMax int
	// EntitiesMax bounds the entities in memory. Above it those that have been
	// idle for longest are passivated, whatever their kinds say of [PassivateAfter];
	// entities that are at work stay. Zero is [EntitiesMaxDefault].
	EntitiesMax int
	// InFlightMax bounds how many commands an entity decides ahead of the
	// store. Zero is [InFlightMaxDefault].
	InFlightMax int
	// ConflictsMax bounds how often a command is decided anew because another
	// engine was faster. Zero is [ConflictsMaxDefault].
	ConflictsMax int
	// DeliveriesMax bounds the deliveries that are under way at a time. Messages to
	// entities, timers, and the effects of each [Perform] rule have that bound each,
	// so that none of them holds up the others. Messages to one entity take an
	// eighth of it at most. Zero is [DeliveriesMaxDefault].
	DeliveriesMax int
	// Delivery says how often a message to an entity, or a timer, is tried again
	// when its target fails. A refusal is no failure: it ends the message. The zero
	// value tries for about a day, see [RetryPolicy].
	Delivery RetryPolicy
	// Poll is how often the readers of [Engine.Events] look for commits of
	// other engines, on a store that several engines share. Zero is [PollDefault].
	// If the store tells of them, as a [store.Watcher] does, they hear of them at
	// once and look every second or less often.
	Poll time.Duration
	// RescueAfter is how long a message of another engine must have been seen in
	// the outbox, on a store that several engines share, before this one delivers it:
	// that engine may have died. The pause that the message waits for another attempt
	// comes on top. The time counts from when this engine has met the message, by its
	// own monotonic clock; how far the clocks of machines differ does not matter. It
	// should be longer than the slowest effect takes, else that may be performed by two
	// engines. Zero is [RescueAfterDefault].
	RescueAfter time.Duration

	logs bool // there is a logger
}

// defaults fills in what is zero and checks the rest.
func (c *Config) defaults() error {
	for _, f := range []struct {
		name     string
		value    *int
		standard int
	}{
		{"CallsMax", &c.CallsMax, CallsMaxDefault},
		{"EntityCallsMax", &c.EntityCallsMax, EntityCallsMaxDefault},
		{"EntitiesMax", &c.EntitiesMax, EntitiesMaxDefault},
		{"InFlightMax", &c.InFlightMax, InFlightMaxDefault},
		{"ConflictsMax", &c.ConflictsMax, ConflictsMaxDefault},
		{"DeliveriesMax", &c.DeliveriesMax, DeliveriesMaxDefault},
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
		{"Poll", &c.Poll, PollDefault},
		{"RescueAfter", &c.RescueAfter, RescueAfterDefault},
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
	if err := c.Delivery.defaults(); err != nil {
		return err
	}
	if c.logs = c.Logger != nil; !c.logs {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = systemClock{}
	}
	return nil
}
