package actortest

import (
	"context"
	"testing"
	"time"

	"github.com/perdure/perdure/actor"
)

// Patience bounds every wait of this package. It is long, because a test that passes never
// waits until its end.
const Patience = 20 * time.Second

// NewSystem returns a system that is shut down at the end of the test. The test fails if
// that takes longer than [Patience].
func NewSystem(t testing.TB, c actor.Config) *actor.System {
	t.Helper()
	s := actor.NewSystem(c)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shut down the system of the test: %v", err)
		}
	})
	return s
}

// ExpectStopped waits until an actor and all its children have stopped.
func ExpectStopped(t testing.TB, a actor.Address) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if err := a.Wait(ctx); err != nil {
		t.Fatalf("waited %v for %s to stop", Patience, a)
	}
}
