package outbox_test

import (
	"testing"
	"time"

	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/store"
)

// TestLeft checks that a message which stayed in the store for lack of room is read when there
// is room.
func TestLeft(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	to := func(target string, sequence uint64) *store.Message {
		return &store.Message{
			Sequence: sequence, Source: store.Key{Kind: "from", ID: "a"}, Target: store.Key{Kind: "to", ID: target}, Type: "m", Time: now,
		}
	}
	// read runs one scan of a store that holds list.
	read := func(t *testing.T, q *outbox.Queue, now time.Time, failed bool, list ...*store.Message) {
		t.Helper()
		if !q.WantsScan(now) {
			t.Fatal("no scan is wanted")
		}
		plan := q.ScanBegins()
		for _, m := range list {
			if plan.Undue && m.Sequence > plan.After {
				copied := *m
				q.Scanned(&copied)
			}
		}
		q.ScanEnded(time.Time{}, failed, now)
	}
	next := func(t *testing.T, q *outbox.Queue, now time.Time, want uint64) *outbox.Row {
		t.Helper()
		r := q.Next(now)
		if r == nil || r.Message.Sequence != want {
			t.Fatalf("next: got %v, want message %d", r, want)
		}
		return r
	}
	t.Run("by_a_scan_that_failed_at_its_end", func(t *testing.T) {
		t.Parallel()
		now := now
		q := outbox.New(calm{}, outbox.Limits{Window: 8, FlowMax: 1, InFlight: 8, Late: 8})
		list := []*store.Message{to("x", 1), to("x", 2)}
		read(t, q, now, true, list...)
		now = now.Add(time.Minute)
		q.Clock(now, now)
		read(t, q, now, false, list...)
		r := next(t, q, now, 1)
		third := to("x", 3)
		q.Committed([]*store.Message{third}, now)
		q.Finished(r, outbox.Gone, nil, now)
		read(t, q, now, false, list[1], third)
		next(t, q, now, 2)
	})
	t.Run("by_a_full_class_before_the_clock_was_set_back", func(t *testing.T) {
		t.Parallel()
		q := outbox.New(calm{}, outbox.Limits{Window: 1, FlowMax: 8, InFlight: 8, Late: 8})
		wall := time.Unix(500_000, 0)
		timer := func(sequence uint64) *store.Message {
			m := to("x", sequence)
			m.Timer, m.Due = "t", wall
			return m
		}
		list := []*store.Message{timer(1), timer(2)} // the second has no room
		scan := func(wall time.Time) {
			q.Clock(wall, now)
			if !q.WantsScan(now) {
				t.Fatal("no scan is wanted")
			}
			plan := q.ScanBegins()
			var due time.Time
			for _, m := range list {
				switch {
				case m.Due.After(wall):
					due = m.Due
				case plan.Timers:
					copied := *m
					q.Scanned(&copied)
				}
			}
			if !plan.First {
				due = time.Time{}
			}
			q.ScanEnded(due, false, now)
		}
		scan(wall)
		q.Finished(next(t, q, now, 1), outbox.Gone, nil, now)
		list = list[1:]
		scan(wall.Add(-time.Hour))
		at, ok := q.Wake()
		if want := now.Add(time.Hour); !ok || !at.Equal(want) {
			t.Fatalf("with a timer that is due in an hour: wake %v, %t, want %v", at, ok, want)
		}
		scan(wall)
		next(t, q, now, 2)
	})
	t.Run("by_a_full_class", func(t *testing.T) {
		t.Parallel()
		// Ten places: five of them are of other engines, and one target is full.
		q := outbox.New(calm{}, outbox.Limits{
			Window: 8, FlowMax: 8, TargetMax: 1, PlacesMax: 4, InFlight: 8, Late: 8,
			Owner: 7, Poll: time.Hour, RescueEvery: time.Hour, RescueAfter: time.Hour,
		})
		own := func(m *store.Message) *store.Message { m.Owner = 7; return m }
		foreign := func(m *store.Message) *store.Message { m.Owner = 8; m.Source.ID = "other"; return m }
		list := []*store.Message{
			own(to("x", 1)), own(to("x", 2)), // the second has no room
			foreign(to("f1", 3)), foreign(to("f2", 4)), foreign(to("f3", 5)), foreign(to("f4", 6)), // these rows fill the places
		}
		read(t, q, now, false, list...)
		r := next(t, q, now, 1)
		q.Finished(r, outbox.Gone, nil, now) // there is room for the target, and its class is full
		now := now.Add(2 * time.Hour)
		q.Clock(now, now)
		if !q.WantsScan(now) {
			t.Fatal("no sweep is wanted")
		}
		q.ScanBegins()
		second := *list[1]
		q.Scanned(&second)
		q.ScanEnded(time.Time{}, false, now) // the other engines have delivered theirs
		if q.WantsScan(now) {
			q.ScanBegins()
			third := *list[1]
			q.Scanned(&third)
			q.ScanEnded(time.Time{}, false, now)
		}
		if r := q.Next(now); r == nil || r.Message.Sequence != 2 {
			t.Errorf("after the class has room: got %v, want message 2", r)
		}
	})
	t.Run("by_places_of_rows_that_are_gone", func(t *testing.T) {
		t.Parallel()
		q := outbox.New(calm{}, outbox.Limits{
			Window: 8, FlowMax: 8, PlacesMax: 2, InFlight: 8, Late: 8,
			Owner: 7, Poll: time.Hour, RescueEvery: time.Hour, RescueAfter: time.Hour,
		})
		list := []*store.Message{to("f1", 1), to("f2", 2), to("x", 3)}
		list[0].Owner, list[1].Owner, list[2].Owner = 8, 8, 7
		read(t, q, now, false, list...)
		if at, ok := q.Wake(); !ok || at.Sub(now) > 2*time.Minute {
			t.Errorf("with an own message left out for places of others: wake %v, %t, want a sweep within two minutes", at.Sub(now), ok)
		}
	})
}
