package stream_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

func TestSubscriptionOverDamage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := memory.New()
		key := store.Key{Kind: "book", ID: "a"}
		for i := range 10 { // batches of three events
			b := &store.Batch{Key: key, Expected: store.Version(3 * i), Events: make([]store.Event, 3)}
			for k := range b.Events {
				b.Events[k] = store.Event{ID: store.ID{byte(i), byte(k), 1}, Type: "t", Payload: []byte("payload")}
			}
			if r, err := log.Commit(t.Context(), []*store.Batch{b}); err != nil || r[0].Err != nil {
				t.Fatal(err, r)
			}
		}
		damaged := []store.Position{5, 6, 18, 30}
		var events []*store.Event
		for e, err := range log.Scan(t.Context(), store.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, e.Clone())
		}
		for _, p := range damaged {
			if err := log.Corrupt(events[p-1], func(sealed []byte) { sealed[len(sealed)/2] ^= 1 }); err != nil {
				t.Fatal(err)
			}
		}
		hub, err := stream.NewHub(t.Context(), stream.Config{Log: log})
		if err != nil {
			t.Fatal(err)
		}
		defer hub.Close()
		subscribe := func(skip ...store.Position) (*stream.Subscription, error) {
			return hub.Subscribe(t.Context(), stream.SubscriptionConfig{Name: "s", Checkpoints: stream.LogCheckpoints(log), SkipDamaged: skip})
		}
		// read acknowledges deliveries until the subscription ends or has delivered all
		// events.
		read := func(s *stream.Subscription) (got []store.Position, failure error) {
			for {
				d, err := s.Next(t.Context())
				if err != nil {
					return got, err
				}
				for i := range d.Events {
					got = append(got, d.Events[i].Position)
				}
				ack(t, s, d)
				if d.Through >= 29 {
					return got, nil
				}
			}
		}
		for _, wrong := range []store.Position{4, 31, store.NewPosition(1, 1)} {
			if _, err := subscribe(5, wrong); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), fmt.Sprint("position ", wrong)) {
				t.Errorf("subscribe and skip position %v: got %v, want %v that names it", wrong, err, store.ErrInvalid)
			}
		}
		s, err := subscribe(5)
		if err != nil {
			t.Fatal(err)
		}
		first, err := read(s)
		if c, ok := errors.AsType[*store.CorruptError](err); !ok || c.Position != 6 || !strings.Contains(err.Error(), fmt.Sprint("position ", store.Position(6))) {
			t.Errorf("got events %v and %v, want damage that names position 6", first, err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s, err = subscribe(damaged...); err != nil {
			t.Fatal(err)
		}
		rest, err := read(s)
		if err != nil {
			t.Fatal(err)
		}
		got := append(first, rest...)
		slices.Sort(got)
		var want []store.Position
		for p := store.Position(1); p <= 30; p++ {
			if !slices.Contains(damaged, p) {
				want = append(want, p)
			}
		}
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Errorf("events: got %v, want %v", got, want)
		}
		if got := s.Stats().Damaged; len(got) < 3 || got[len(got)-1] != 18 && got[len(got)-1] != 30 {
			t.Errorf("damaged events of the figures: got %v, want those that it has passed", got)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
