package perdure

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure/internal/entity"
	"github.com/perdure/perdure/store"
)

// A Decision is what an event-sourced entity makes of a command. Its methods
// add to it and return it, so that they chain.
type Decision struct{ d entity.Decision }

// Persist decides that events have happened, in this order. The entity keeps
// them; they must not be changed afterwards.
func Persist(events ...proto.Message) *Decision {
	return &Decision{entity.Decision{Events: events}}
}

// None decides that nothing happens. The command succeeds.
func None() *Decision { return &Decision{} }

// Tag puts tags on all events of the decision, so that readers of the log can
// filter by them.
func (d *Decision) Tag(tags ...string) *Decision {
	d.d.Tags = append(d.d.Tags, tags...)
	return d
}

// Events returns the events of the decision, for tests.
func (d *Decision) Events() []proto.Message {
	if d == nil {
		return nil
	}
	return d.d.Events
}

// Tags returns the tags of the decision, for tests.
func (d *Decision) Tags() []string {
	if d == nil {
		return nil
	}
	return d.d.Tags
}

// A Change is what a durable-state entity makes of a command.
type Change struct{ d entity.Decision }

// Save decides that the state, as the rule has changed it, is the new state.
func Save() *Change { return &Change{entity.Decision{Save: true}} }

// Unchanged decides that the state stays what it was, whatever the rule has
// done to its copy. The command succeeds.
func Unchanged() *Change { return &Change{} }

// Saved reports whether the change keeps the state, for tests.
func (c *Change) Saved() bool { return c != nil && c.d.Save }

// Now returns the time of the decision, from the engine's clock. Rules use it
// instead of [time.Now], so that they can be tested and run again. Outside a
// rule it returns the time of the system.
func Now(ctx context.Context) time.Time {
	if i := entity.InfoFrom(ctx); i != nil {
		return i.Now()
	}
	return time.Now()
}

// Rand returns a source of random numbers for one decision. It depends on the
// id of the command alone, so that a command which has to be decided again
// decides the same. Outside a rule it returns nil.
func Rand(ctx context.Context) *rand.Rand {
	if i := entity.InfoFrom(ctx); i != nil {
		return i.Rand()
	}
	return nil
}

// Self returns the key of the entity whose rule runs with ctx, and the version
// of the state that it sees. Outside a rule both are zero.
func Self(ctx context.Context) (store.Key, store.Version) {
	if i := entity.InfoFrom(ctx); i != nil {
		return i.Key, i.Version
	}
	return store.Key{}, 0
}

// CommandID returns the id of the command that is being decided with ctx, or
// the zero ID outside a rule.
func CommandID(ctx context.Context) store.ID {
	if i := entity.InfoFrom(ctx); i != nil {
		return i.Command
	}
	return store.ID{}
}
