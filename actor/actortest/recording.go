package actortest

import (
	"context"
	"testing"

	"github.com/perdure/perdure/actor"
)

// A Recording keeps the events of type E. Only the goroutine of the test may call its
// methods.
type Recording[E any] struct {
	t   testing.TB
	sub *actor.Subscription[E]
}

// Record begins a recording, which ends with the test. It keeps up to [KeptMax] events that
// the test has not taken yet; if it misses an event, the test fails.
func Record[E any](t testing.TB, s *actor.System) *Recording[E] {
	t.Helper()
	r := &Recording[E]{t: t, sub: actor.Subscribe[E](s, KeptMax)}
	t.Cleanup(r.sub.Close)
	return r
}

// Next waits for an event and returns it. It fails the test after [Patience].
func (r *Recording[E]) Next() E {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	e, ok := r.before(ctx)
	if !ok {
		r.t.Fatalf("waited %v for an event", Patience)
	}
	return e
}

// Fish waits for an event that match accepts and returns it. It drops the events before it.
func (r *Recording[E]) Fish(match func(E) bool) E {
	r.t.Helper()
	return fish(r.t, "event", r.before, match)
}

// before returns the next event, if one comes before ctx ends.
func (r *Recording[E]) before(ctx context.Context) (e E, ok bool) {
	r.t.Helper()
	e, err := r.sub.Next(ctx)
	if err != nil && ctx.Err() == nil {
		r.t.Fatalf("next event: %v", err)
	}
	return e, err == nil
}
