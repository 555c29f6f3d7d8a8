package stream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A refusing log takes no commits while the test has set it so.
type refusing struct {
	*memory.Log
	refuses bool
}

func (r *refusing) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if r.refuses {
		return nil, errors.New("connection reset by peer")
	}
	return r.Log.Commit(ctx, group)
}

// TestRegistrationThatIsMissingCountsUntilItIsRenewed has a reader that already knows
// of a lapse when its registration is renewed: no registration has held the events that
// were deleted between the two.
func TestRegistrationThatIsMissingCountsUntilItIsRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &refusing{Log: memory.New()}
		hub, err := NewHub(t.Context(), Config{Log: log, Register: true})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := hub.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		l := hub.live
		lapses, err := l.join(t.Context(), store.NewPosition(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		held, lapses, err := l.held(t.Context(), lapses)
		if err != nil || !held {
			t.Fatalf("at first: got held %v, %v, want true", held, err)
		}
		if err := l.readers.RemoveInstance(t.Context(), LiveReaders, l.id); err != nil {
			t.Fatal(err)
		}
		log.refuses = true
		for range 2 { // the first attempt cannot read the registration, the second cannot store it
			if _, _, err := l.held(t.Context(), lapses); err == nil {
				t.Fatal("the commit of the registration was to fail")
			}
		}
		held, lapses, err = l.held(t.Context(), lapses)
		if err != nil || held {
			t.Fatalf("while nothing is registered: got held %v, %v, want false", held, err)
		}
		log.refuses = false
		if err := l.store(t.Context()); err != nil {
			t.Fatal(err)
		}
		if held, lapses, err = l.held(t.Context(), lapses); err != nil || held {
			t.Errorf("once it is registered again: got held %v, %v, want false for the time before", held, err)
		}
		if held, _, err = l.held(t.Context(), lapses); err != nil || !held {
			t.Errorf("from then on: got held %v, %v, want true", held, err)
		}
	})
}
