package outbox_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/core/outbox"
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

// Runs is part of [outbox.KindFilter].
func (selective) Runs(kind string) bool { return kind != "theirs" }

// An old shell runs every kind, and has no rule for messages of the type "new".
type old struct{ calm }

func (old) Fits(m *store.Message) bool { return m.Type != "new" }

func (o old) Misfit(m *store.Message) error {
	if o.Fits(m) {
		return nil
	}
	return errors.New("the kind has no rule for new")
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
		q := outbox.New(calm{}, outbox.Limits{Window: 8, TargetMax: 4, FlowMax: 8, PlacesMax: 32, InFlight: 64, TargetInFlight: 64, Late: 80})
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
		limits := outbox.Limits{Window: 64, TargetMax: 16, FlowMax: 8, InFlight: 64, TargetInFlight: 64, Late: 80}
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
			Window: 4, FlowMax: 8, PlacesMax: 8, InFlight: 8, Late: 8, ParkAfter: 24 * time.Hour,
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

// TestMessagesWithoutARule checks that a message keeps its place in its flow although this engine
// has no rule for it and no room for its place: another engine delivers it, later ones wait.
func TestMessagesWithoutARule(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1000, 0)
	const minute = time.Minute
	limits := outbox.Limits{
		Window: 4, FlowMax: 8, PlacesMax: 2, InFlight: 8, Late: 8, ParkAfter: 24 * time.Hour,
		Owner: 7, Poll: time.Second, RescueEvery: minute, RescueAfter: 2 * minute,
	}
	message := func(flow string, sequence uint64, kind string) *store.Message {
		m := &store.Message{
			Sequence: sequence, Source: store.Key{Kind: "from", ID: flow}, Target: store.Key{Kind: "to", ID: flow}, Type: kind, Time: begin,
		}
		if m.Open = kind == "new"; !m.Open {
			m.Owner = 7
		}
		return m
	}
	// shelve returns a store with list.
	shelve := func(list ...*store.Message) shelf {
		s := shelf{}
		for _, m := range list {
			s[m.Sequence] = m
		}
		return s
	}
	// during returns the deliveries of some time.
	during := func(s shelf, q *outbox.Queue, now *time.Time, d time.Duration) (got []uint64) {
		for end := now.Add(d); now.Before(end); *now = now.Add(time.Second) {
			got = append(got, s.turn(q, *now)...)
		}
		return got
	}
	// full returns a store in which messages 1 and 2 take all places, and message 10 has none.
	full := func() shelf {
		return shelve(message("a", 1, "new"), message("b", 2, "new"), message("x", 10, "new"), message("x", 11, "m"), message("y", 12, "m"))
	}
	expect := func(t *testing.T, when string, got []uint64, want ...uint64) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Fatalf("%s: got %v delivered, want %v", when, got, want)
		}
	}
	t.Run("are_not_overtaken_when_their_places_are_full", func(t *testing.T) {
		t.Parallel()
		s, q, now := full(), outbox.New(old{}, limits), begin
		expect(t, "behind a message without a rule", during(s, q, &now, 10*minute), 12)
		s[13] = message("x", 13, "m")
		q.Committed([]*store.Message{s[13]}, now)
		expect(t, "after another commit", during(s, q, &now, 10*minute))
		if n := q.Waiting(); n > 2 {
			t.Errorf("got %d messages without a rule in memory, want 2 at most", n)
		}
		delete(s, 10) // the other engine has delivered it, and is too slow for messages 1 and 2
		expect(t, "after its end, with all places taken", during(s, q, &now, 3*minute), 11, 13)
	})
	t.Run("are_not_overtaken_when_they_are_committed_here", func(t *testing.T) {
		t.Parallel()
		s, now := shelve(message("a", 1, "new"), message("b", 2, "new")), begin
		q := outbox.New(old{}, limits)
		during(s, q, &now, minute)
		list := []*store.Message{message("x", 3, "m"), message("x", 4, "new"), message("x", 5, "m")}
		for _, m := range list {
			s[m.Sequence] = m
		}
		q.Committed(list, now)
		expect(t, "before a message without a rule", during(s, q, &now, 10*minute), 3)
		delete(s, 4)
		expect(t, "after its end", during(s, q, &now, 3*minute), 5)
	})
	t.Run("take_places_that_become_free", func(t *testing.T) {
		t.Parallel()
		s, q, now := full(), outbox.New(old{}, limits), begin
		during(s, q, &now, minute)
		delete(s, 1)
		delete(s, 2)
		expect(t, "with free places", during(s, q, &now, 3*minute))
		if rows, _ := q.Load(); rows+q.Waiting() != 2 {
			t.Errorf("with free places: got %d messages in memory, want 10 and 11", rows+q.Waiting())
		}
		delete(s, 10)
		expect(t, "after the end of message 10", during(s, q, &now, minute), 11)
	})
	t.Run("take_places_that_become_free_long_before_the_next_sweep", func(t *testing.T) {
		t.Parallel()
		rare := limits
		rare.RescueEvery, rare.RescueAfter = 24*time.Hour, 10*minute
		s, q, now := full(), outbox.New(old{}, rare), begin
		s[3], s[4] = message("a", 3, "m"), message("b", 4, "m") // the engine looks whether 1 and 2 have ended
		expect(t, "behind messages without a rule", during(s, q, &now, minute), 12)
		delete(s, 1)
		delete(s, 2)
		got := during(s, q, &now, 5*minute)
		slices.Sort(got)
		expect(t, "after the end of messages 1 and 2", got, 3, 4)
		if rows, _ := q.Load(); rows+q.Waiting() != 2 {
			t.Errorf("with free places: got %d messages in memory, want 10 and 11", rows+q.Waiting())
		}
	})
	t.Run("are_parked_in_their_order_when_no_other_engine_is_there", func(t *testing.T) {
		t.Parallel()
		alone := limits
		alone.Owner, alone.Poll, alone.RescueEvery, alone.RescueAfter = 0, 0, 0, 0
		alone.ParkAfter = 10 * minute
		s, q, now := full(), outbox.New(old{}, alone), begin
		expect(t, "before they are parked", during(s, q, &now, 9*minute), 12)
		expect(t, "after they are parked", during(s, q, &now, 20*minute), 11)
	})
	t.Run("make_their_class_wait_when_too_many_lanes_wait", func(t *testing.T) {
		t.Parallel()
		few := limits
		few.LeftMax = 3
		s, q, now := full(), outbox.New(old{}, few), begin
		delete(s, 12)
		for n := range uint64(10) {
			s[20+n] = message(fmt.Sprint(n), 20+n, "new")
			s[30+n] = message(fmt.Sprint(n), 30+n, "m")
		}
		expect(t, "behind messages without a rule", during(s, q, &now, 10*minute))
		if n := q.Left(); n != 3 {
			t.Errorf("got %d flows left to the store, want 3", n)
		}
		s[50] = message("z", 50, "m")
		q.Committed([]*store.Message{s[50]}, now)
		expect(t, "beyond the bound", during(s, q, &now, 3*minute))
		delete(s, 10)
		for n := range uint64(10) {
			delete(s, 20+n)
		}
		got := during(s, q, &now, 10*minute)
		slices.Sort(got)
		expect(t, "after their end", got, 11, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 50)
		if n := q.Left(); n != 0 {
			t.Errorf("got %d flows left to the store after that, want 0", n)
		}
	})
}
