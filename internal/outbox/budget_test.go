package outbox_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/outbox"
	"github.com/perdure/perdure/store"
)

// A selective shell has no rule for the kind "theirs".
type selective struct{ calm }

func (selective) Fits(m *store.Message) bool { return m.Target.Kind != "theirs" }

func (s selective) Misfit(m *store.Message) error {
	if s.Fits(m) {
		return nil
	}
	return errors.New("the engine does not run the kind")
}

// A shelf is the store of a queue: its messages by sequence.
type shelf map[uint64]*store.Message

// turn lets a queue read the messages that it wants and deliver as many as it can. Deliveries
// to the entity "dead" fail. It returns the sequences of the other deliveries.
func (s shelf) turn(q *outbox.Queue, now time.Time) (delivered []uint64) {
	q.Clock(now, now)
	for _, r := range q.Fetches(1000) {
		_, sequence := r.Place()
		m := s[sequence]
		if m != nil && m.Parked {
			m = nil
		}
		q.Fetched(r, m, false, now)
	}
	if q.WantsScan(now) {
		plan := q.ScanBegins()
		for _, sequence := range slices.Sorted(func(yield func(uint64) bool) {
			for n := range s {
				if !yield(n) {
					return
				}
			}
		}) {
			m := *s[sequence]
			if timed := !m.Due.IsZero(); m.Parked || timed && !plan.Timers || !timed && (!plan.Undue || m.Sequence <= plan.After) {
				continue
			}
			q.Scanned(&m)
		}
		q.ScanEnded(time.Time{}, false, now)
	}
	for r := q.Next(now); r != nil; r = q.Next(now) {
		if r.Message.Target.ID == "dead" {
			q.Finished(r, outbox.Retry, errors.New("it cannot be loaded"), now)
			continue
		}
		delivered = append(delivered, r.Message.Sequence)
		delete(s, r.Message.Sequence)
		q.Finished(r, outbox.Gone, nil, now)
	}
	for _, m := range q.Settlements(1000) {
		if m.Message != nil {
			s[m.Sequence] = m.Message
		}
		q.Settled([]store.Settlement{m})
	}
	return delivered
}

// TestBudgets checks that waiting messages use no room of messages that could be delivered.
func TestBudgets(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	timer := func(entity string, sequence uint64) *store.Message {
		key := store.Key{Kind: "timed", ID: entity}
		return &store.Message{Sequence: sequence, Source: key, Target: key, Timer: fmt.Sprint(sequence), Due: now, Type: "m", Time: now}
	}
	message := func(target store.Key, sequence uint64) *store.Message {
		return &store.Message{
			Sequence: sequence, Source: store.Key{Kind: "from", ID: fmt.Sprint(sequence)}, Target: target, Type: "m", Time: now,
		}
	}
	t.Run("a_dead_entity_does_not_hold_up_another_one_however_many_timers_it_has", func(t *testing.T) {
		t.Parallel()
		q := outbox.New(calm{}, outbox.Limits{Window: 8, TargetMax: 4, LaneMax: 8, PlacesMax: 32, InFlight: 64, TargetFlight: 64, Late: 80})
		s := shelf{}
		for n := range uint64(100) {
			s[n+1] = timer("dead", n+1)
		}
		s[200] = timer("alive", 200)
		var got []uint64
		for turn := range 20 {
			got = append(got, s.turn(q, now.Add(time.Duration(turn)*time.Millisecond))...)
		}
		if !slices.Equal(got, []uint64{200}) {
			t.Errorf("beside 100 timers of a dead entity: got %v delivered, want 200", got)
		}
		if rows, _ := q.Load(); rows+q.Waiting() > 4 {
			t.Errorf("got %d timers of the dead entity in memory, want 4 at most", rows+q.Waiting())
		}
		// Their turn comes when the first ones are parked.
		for turn := range 4000 {
			s.turn(q, now.Add(time.Duration(turn)*time.Second))
		}
		for sequence, m := range s {
			if !m.Parked {
				t.Fatalf("after an hour timer %d of the dead entity was tried %d times and is not parked", sequence, m.Attempts)
			}
		}
	})
	t.Run("timers_that_wait_do_not_hold_up_another_one_of_their_entity", func(t *testing.T) {
		t.Parallel()
		limits := outbox.Limits{Window: 64, TargetMax: 16, LaneMax: 8, InFlight: 64, TargetFlight: 64, Late: 80}
		q := outbox.New(calm{}, limits)
		s := shelf{}
		for n := range uint64(16) {
			s[n+1] = timer("dead", n+1)
		}
		s.turn(q, now)
		s.turn(q, now)
		s[17] = timer("dead", 17)
		q.Committed([]*store.Message{s[17]}, now)
		s.turn(q, now)
		s.turn(q, now)
		if s[17].Attempts != 1 {
			t.Errorf("beside as many timers that wait for their next attempt as there is room for: got %d attempts, want 1", s[17].Attempts)
		}
	})
	t.Run("messages_of_other_programs_take_no_room_of_those_that_this_one_delivers", func(t *testing.T) {
		t.Parallel()
		q := outbox.New(selective{}, outbox.Limits{
			Window: 4, LaneMax: 8, PlacesMax: 8, InFlight: 8, Late: 8, ParkAfter: 24 * time.Hour,
			Owner: 7, Poll: time.Hour, RescueEvery: time.Hour, RescueAfter: time.Hour,
		})
		s := shelf{}
		for n := range uint64(50) {
			s[n+1] = message(store.Key{Kind: "theirs", ID: fmt.Sprint(n)}, n+1)
			s[n+1].Open = true
		}
		s[51] = message(store.Key{Kind: "ours", ID: "x"}, 51)
		s[51].Owner = 7
		if got := s.turn(q, now); !slices.Equal(got, []uint64{51}) {
			t.Errorf("behind 50 messages to a kind that the engine does not run: got %v delivered, want 51", got)
		}
		if n := q.Waiting(); n > 8 {
			t.Errorf("got %d of them in memory, want 8 at most", n)
		}
	})
}
