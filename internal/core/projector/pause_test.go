package projector_test

import (
	"errors"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/core/projector"
	"github.com/perdure/perdure/store"
)

func TestPause(t *testing.T) {
	t.Parallel()
	t.Run("of_segments_and_runners_that_fail_together_differs_by_up_to_a_quarter", func(t *testing.T) {
		t.Parallel()
		const least = time.Minute
		pauses := map[time.Duration]bool{}
		for n := range 32 {
			now := time.Unix(0, 0)
			l := projector.New(store.ID{byte(n / 4)}, projector.Limits{Batch: 10, Segment: n % 4, Segments: 4},
				projector.Policy{AttemptsMax: 5, BackoffMin: least, BackoffMax: least})
			if a := l.Next(now); a.Kind != projector.Load {
				t.Fatalf("it begins with %v", a.Kind)
			}
			state := &projector.State{Position: store.NewPosition(0, 0), Revision: 1}
			state.SetEffects(projector.AllEffectsAfter(state.Position))
			l.Loaded(state, nil, nil, now)
			if a := l.Next(now); a.Kind != projector.Seek {
				t.Fatalf("it goes on with %v", a.Kind)
			}
			event := store.Event{Key: store.Key{Kind: "k", ID: "a"}, Version: 1, Position: store.NewPosition(0, 1)}
			l.Offer(projector.Chunk{After: state.Position, Through: event.Position, Events: []store.Event{event}}, now)
			if a := l.Next(now); a.Kind != projector.Try {
				t.Fatalf("with an event it does %v", a.Kind)
			}
			l.Tried(projector.Outcome{Result: projector.Failed, Err: errors.New("down"), To: 1}, now)
			a := l.Next(now)
			pause := a.At.Sub(now)
			if a.Kind != projector.Wait || pause < least || pause > least+least/4 {
				t.Errorf("after a failure it does %v for %v, want a wait of %v and up to a quarter more", a.Kind, pause, least)
			}
			pauses[pause] = true
		}
		if len(pauses) < 16 {
			t.Errorf("32 segments that fail together have %d different pauses", len(pauses))
		}
	})
}
