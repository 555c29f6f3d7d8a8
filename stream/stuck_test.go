package stream_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// TestSubscriberThatIsStuckIsToldAndAHundredOthersNoticeNothing blocks one of many
// subscribers while more events are written than the hub keeps. The clock of the bubble
// stands still while any goroutine can run: a subscriber that had to wait for the
// blocked one would not have all events before the clock moves.
func TestSubscriberThatIsStuckIsToldAndAHundredOthersNoticeNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const others, perCommit = 100, 100
		const total = (stream.BufferEventsMax/perCommit + 5) * perCommit
		log := memory.New()
		w := newWriter(t, log, 0)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var reading sync.WaitGroup
		defer reading.Wait()
		defer cancel()
		got := make([]atomic.Uint64, others)
		for i := range got {
			reading.Go(func() {
				for e, err := range w.hub.Follow(ctx, store.Query{}) {
					if errors.Is(err, context.Canceled) {
						return
					}
					if err != nil || e.Position.Sequence() != got[i].Load()+1 {
						t.Errorf("reader %d after %d: got %v, %v, want the next event", i, got[i].Load(), e, err)
						return
					}
					got[i].Add(1)
				}
			})
		}
		stuck := w.subscribe(stream.SubscriptionConfig{OpenMax: 2 * perCommit})
		var open []*stream.Delivery
		began := time.Now()
		for n := 0; n < total; n += perCommit {
			w.write(book("a"), perCommit)
			synctest.Wait()
			if n < 2*perCommit {
				open = append(open, next(t, stuck))
			}
			for i := range got {
				if g := got[i].Load(); g != uint64(n+perCommit) {
					t.Fatalf("reader %d: got %d events of %d, beside one that is stuck", i, g, n+perCommit)
				}
			}
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("writing took %v beside a subscriber that is stuck, want no wait", d)
		}
		if stats := stuck.Stats(); stats.Open != 2*perCommit {
			t.Errorf("the stuck one holds %d events, want %d", stats.Open, 2*perCommit)
		}
		ack(t, stuck, open...)
		resume(t, stuck, 2*perCommit, total, perCommit)
	})
}

// resume reads the remaining commits of the subscriber that was blocked.
func resume(t *testing.T, s *stream.Subscription, at, total, perCommit store.Position) {
	t.Helper()
	var lagged *stream.LaggedError
	for at < total {
		d, err := s.Next(t.Context())
		if errors.As(err, &lagged) {
			if lagged.Position < at || lagged.Head != total {
				t.Errorf("got the notice %v at %v, want one of a position from there on and the head %v", lagged, at, total)
			}
			continue
		}
		if err != nil {
			t.Fatalf("next after %v: %v", at, err)
		}
		if d.Through != at+perCommit || d.Events[0].Position != at+1 {
			t.Fatalf("got the commit from %v through %v after %v", d.Events[0].Position, d.Through, at)
		}
		at = d.Through
		ack(t, s, d)
	}
	if lagged == nil {
		t.Error("the one that was stuck was not told that it lags")
	}
}
