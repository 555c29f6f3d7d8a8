package actortest

import (
	"context"
	"testing"

	"github.com/perdure/perdure/actor"
)

// A Recording keeps the events of type E. Its methods are for the goroutine of
// the test.
type Recording[E any] struct {
	t   testing.TB
	sub *actor.Subscription[E]
}

// Record begins a recording, which ends with the test. To miss an event, of
// [KeptMax] that nobody has looked at, fails the test.
func Record[E any](t testing.TB, s *actor.System) *Recording[E] {
	t.Helper()
	r := &Recording[E]{t: t, sub: actor.Subscribe[E](s, KeptMax)}
	t.Cleanup(r.sub.Close)
	return r
}

// Next waits for an event and returns it.
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

// Fish waits for an event that match accepts and returns it. Those before it
// are dropped.
func (r *Recording[E]) Fish(match func(E) bool) E {
	r.t.Helper()
	return fish(r.t, "event", r.before, match)
}

// before returns the next event, if there is one before ctx ends.
func (r *Recording[E]) before(ctx context.Context) (e E, ok bool) {
	r.t.Helper()
	e, err := r.sub.Next(ctx)
	if err != nil && ctx.Err() == nil {
		r.t.Fatalf("next event: %v", err)
	}
	return e, err == nil
}
