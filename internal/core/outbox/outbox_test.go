package outbox_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/perdure/perdure/internal/core/outbox"
	"github.com/perdure/perdure/store"
)

const (
	seeds = 600
	steps = 800
)

func TestQueueDeliversInOrderAndEverything(t *testing.T) {
	t.Parallel()
	most := uint64(seeds)
	if testing.Short() {
		most /= 10
	}
	for seed := range most {
		if err := newWorld(seed, "").run(steps); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestQueueMutantsAreFound(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: a queue is of one goroutine, so nothing can race")
	}
	for _, fault := range []string{
		outbox.ForgetGone, outbox.ForgetBehind, outbox.ForgetLate, outbox.ForgetSettled,
		dispatchBeforeCommit, doneBeforeHandled, ignoreFlows, scanBehind, retryAtOnce, ignoreDoubt,
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				if err := newWorld(seed, fault).run(steps); err != nil {
					t.Logf("found with seed %d: %v", seed, err)
					return
				}
			}
			t.Errorf("not found with %d seeds", seeds)
		})
	}
}

// A calm is a shell whose pauses are exact.
type calm struct{}

func (calm) Policy(m *store.Message) outbox.Policy {
	if m.Type == "busy" {
		return outbox.Policy{AttemptsMax: 1, BackoffMin: 10 * time.Millisecond, BackoffMax: time.Minute}
	}
	return outbox.Policy{AttemptsMax: 10, BackoffMin: time.Second, BackoffMax: 10 * time.Second, AgeMax: time.Hour}
}

func (calm) Jitter(d time.Duration) time.Duration { return d }

// scanned returns a queue that has read its empty store.
func scanned(limits outbox.Limits, now time.Time) *outbox.Queue {
	q := outbox.New(calm{}, limits)
	q.ScanBegins()
	q.ScanEnded(time.Time{}, false, now)
	return q
}

// from returns messages to one handler, each from a different source.
func from(name string, first uint64, count int, now time.Time) (list []*store.Message) {
	for n := range count {
		list = append(list, &store.Message{
			Sequence: first + uint64(n), Source: store.Key{Kind: name, ID: fmt.Sprint(n)}, Type: name, Time: now,
		})
	}
	return list
}

func TestQueueThatIsFullNeedsNoWake(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 4, FlowMax: 4, InFlight: 4, Late: 4}, now)
	list := from("slow", 1, 6, now) // two more than the limit
	q.Committed(list, now)
	var rows []*outbox.Row
	for r := q.Next(now); r != nil; r = q.Next(now) {
		rows = append(rows, r)
	}
	now = now.Add(time.Minute)
	if at, ok := q.Wake(); len(rows) != 4 || ok && !at.After(now) || q.WantsScan(now) {
		t.Errorf("with %d of 4 messages under way and two in the store: wake %v, %t, want none", len(rows), at, ok)
	}
	for _, r := range rows {
		q.Finished(r, outbox.Gone, nil, now)
	}
	if !q.WantsScan(now) {
		t.Fatal("with room again, the queue does not want what it has left out")
	}
	if plan := q.ScanBegins(); !plan.Undue || plan.After != 4 || plan.Timers {
		t.Errorf("the scan is %+v, want what comes after message 4 and no timers", plan)
	}
	if at, ok := q.Wake(); ok {
		t.Errorf("during a scan: wake %v, want none", at)
	}
	q.ScanEnded(time.Time{}, true, now)
	at, ok := q.Wake()
	if !ok || !at.After(now) || q.WantsScan(now) || !q.WantsScan(at) {
		t.Errorf("after a scan that has failed: wake %v, %t, want a pause and another scan", at, ok)
	}
	q.ScanBegins()
	for _, m := range list[4:] {
		q.Scanned(m)
	}
	q.ScanEnded(time.Time{}, false, at)
	for _, want := range list[4:] {
		if r := q.Next(at); r == nil || r.Message != want {
			t.Errorf("after the scan: got %+v to deliver, want message %d", r, want.Sequence)
		}
	}
}

func TestQueue(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	shared := outbox.Limits{
		Window: 8, FlowMax: 8, InFlight: 8, Late: 8, Owner: 7,
		Poll: hour, RescueEvery: 8 * time.Minute, RescueAfter: 16 * time.Minute, Grace: 30 * time.Millisecond,
	}
	// scan reads the whole outbox into a queue.
	scan := func(q *outbox.Queue, now time.Time, list ...*store.Message) {
		q.Changed()
		if !q.WantsScan(now) {
			t.Fatalf("at %v: no scan is wanted", now)
		}
		plan := q.ScanBegins()
		for _, m := range list {
			if m.Due.IsZero() && plan.Undue && m.Sequence > plan.After || !m.Due.IsZero() && plan.Timers {
				copied := *m
				q.Scanned(&copied)
			}
		}
		q.ScanEnded(time.Time{}, false, now)
	}
	// delivers returns the sequences of the deliveries that begin now. They do not end.
	delivers := func(q *outbox.Queue, now time.Time) (list []uint64) {
		for r := q.Next(now); r != nil; r = q.Next(now) {
			list = append(list, r.Message.Sequence)
		}
		return list
	}
	// fetch answers every read that the queue wants.
	fetch := func(q *outbox.Queue, now time.Time, list ...*store.Message) {
		for _, r := range q.Fetches(100) {
			_, sequence := r.Place()
			var found *store.Message
			for _, m := range list {
				if m.Sequence == sequence {
					copied := *m
					found = &copied
				}
			}
			q.Fetched(r, found, false, now)
		}
	}
	begin := time.Unix(1000, 0)
	foreign := func(sequence uint64) *store.Message {
		m := from("effect", sequence, 1, begin)[0]
		m.Owner = 9
		return m
	}

	t.Run("leaves_an_effect_of_another_engine_alone_until_it_has_seen_it_for_RescueAfter", func(t *testing.T) {
		t.Parallel()
		q, m, now := outbox.New(calm{}, shared), foreign(1), begin
		m.Time = begin.Add(-1000 * hour) // the clock of the store does not matter
		scan(q, now, m)
		for now.Before(begin.Add(shared.RescueAfter)) {
			scan(q, now, m) // whether it is undue or due
			if got := delivers(q, now); got != nil || q.Unsaved() {
				t.Fatalf("after %v: it is taken from the engine that has it", now.Sub(begin))
			}
			now = now.Add(time.Minute)
		}
		for limit := now.Add(shared.RescueAfter / 16); !q.Unsaved(); now = now.Add(time.Second) {
			if now.After(limit) {
				t.Fatalf("after %v it is not taken over", now.Sub(begin))
			}
			if q.WantsScan(now) {
				scan(q, now, m)
			}
		}
		list := q.Settlements(10)
		if got := delivers(q, now); got != nil {
			t.Fatalf("it is performed before other engines can see that")
		}
		if len(list) != 1 || list[0].Message == nil || list[0].Message.Owner != 7 || list[0].Message.Attempts != 0 {
			t.Fatalf("got the settlements %+v, want a claim", list)
		}
		q.Settled(list)
		if got := delivers(q, now); !slices.Equal(got, []uint64{1}) {
			t.Errorf("after the claim: got %d delivered, want 1", got)
		}
	})
	t.Run("counts_from_anew_when_the_other_engine_has_tried_it", func(t *testing.T) {
		t.Parallel()
		q, m, now := outbox.New(calm{}, shared), foreign(1), begin
		scan(q, now, m)
		now = now.Add(shared.RescueAfter - time.Second)
		m.Attempts, m.LastError = 1, "away"
		q.OutcomeUnknown() // read everything
		scan(q, now, m)
		now = now.Add(shared.RescueAfter)
		q.OutcomeUnknown()
		scan(q, now, m)
		if q.Unsaved() {
			t.Error("an effect that was tried RescueAfter ago, and waits for a second more, is taken over")
		}
	})
	t.Run("waits_for_the_effect_of_another_engine_that_comes_before_an_own_one", func(t *testing.T) {
		t.Parallel()
		q, now := outbox.New(calm{}, shared), begin
		list := []*store.Message{foreign(1), foreign(2)}
		list[1].Owner, list[1].Source = 7, list[0].Source
		scan(q, now)
		q.Committed(list[1:], now) // the first message is of another engine that was a little faster
		scan(q, now, list...)
		for range 20 {
			if got := delivers(q, now); got != nil {
				t.Fatalf("message 2 overtakes message 1 of the other engine: got %d", got)
			}
			fetch(q, now, list...)
			now = now.Add(time.Second)
		}
		list = list[1:] // the other engine has performed the effect
		now = now.Add(shared.RescueAfter / 8)
		delivers(q, now)
		fetch(q, now, list...)
		if got := delivers(q, now); !slices.Equal(got, []uint64{2}) {
			t.Errorf("after the end of message 1: got %d delivered, want 2", got)
		}
	})
	// waiting returns a queue that performs effect 1. It has kept effect 2 of the same flow for
	// so long that another engine may have taken effect 2 over.
	waiting := func() (q *outbox.Queue, now time.Time, list []*store.Message) {
		q, now = outbox.New(calm{}, shared), begin
		list = []*store.Message{foreign(1), foreign(2)}
		list[0].Owner, list[1].Owner, list[1].Source = 7, 7, list[0].Source
		scan(q, now)
		q.Committed(list, now)
		r := q.Next(now)
		now = now.Add(shared.RescueAfter)
		q.Finished(r, outbox.Done, nil, now)
		return q, now, list
	}
	t.Run("claims_an_effect_again_that_has_waited_for_half_of_RescueAfter", func(t *testing.T) {
		t.Parallel()
		q, now, _ := waiting()
		if got := delivers(q, now); got != nil {
			t.Fatalf("got %d delivered, want none: another engine may perform it by now", got)
		}
		list := q.Settlements(10)
		if len(list) != 2 || list[1].Message == nil || !list[1].Required || !list[1].Conditional || list[1].IfOwner != 7 {
			t.Fatalf("got the settlements %+v, want the end of message 1 and a claim on the condition that message 2 is still of engine 7", list)
		}
		q.Settled(list)
		if got := delivers(q, now); !slices.Equal(got, []uint64{2}) {
			t.Errorf("after the claim: got %d delivered, want 2", got)
		}
	})
	t.Run("leaves_an_effect_to_the_engine_that_has_claimed_it_first", func(t *testing.T) {
		t.Parallel()
		q, now, list := waiting()
		delivers(q, now)
		settled := q.Settlements(10)
		q.Settled(settled[:1])
		q.Refused(settled[1])
		list[1].Owner = 9
		fetch(q, now, list...)
		for end := now.Add(shared.RescueAfter); now.Before(end); now = now.Add(time.Minute) {
			if got := delivers(q, now); got != nil || q.Unsaved() {
				t.Fatalf("got %d delivered, or a claim: another engine performs it", got)
			}
			scan(q, now, list[1])
		}
	})
	t.Run("stores_a_failure_only_while_the_message_is_its_own", func(t *testing.T) {
		t.Parallel()
		q, m, now := outbox.New(calm{}, shared), foreign(1), begin
		m.Owner = 7
		scan(q, now)
		q.Committed([]*store.Message{m}, now)
		q.Finished(q.Next(now), outbox.Retry, errors.New("no"), now)
		list := q.Settlements(10)
		if len(list) != 1 || !list[0].Required || !list[0].Conditional || list[0].IfOwner != 7 {
			t.Fatalf("got the settlements %+v, want one on the condition that the message is of engine 7", list)
		}
		q.Refused(list[0])
		fetch(q, now) // the other engine has ended the delivery
		if got := delivers(q, now.Add(time.Minute)); got != nil || q.Unsaved() {
			t.Errorf("got %d delivered, or a settlement: the message is gone", got)
		}
	})
	t.Run("takes_what_an_operator_has_made_of_a_message_that_is_under_way", func(t *testing.T) {
		t.Parallel()
		q, m, now := outbox.New(calm{}, shared), foreign(1), begin
		m.Owner = 7
		scan(q, now)
		q.Committed([]*store.Message{m}, now)
		r := q.Next(now)
		edited := *m // another engine has taken it over and parked it; then it was unparked with another body
		edited.Payload = []byte("edited")
		q.Unparked(&edited, now)
		q.Finished(r, outbox.Retry, errors.New("no"), now)
		if q.Unsaved() {
			t.Fatalf("got the settlements %+v, want none: it is not the message that has failed", q.Settlements(10))
		}
		fetch(q, now, &edited)
		if r := q.Next(now); r == nil || string(r.Message.Payload) != "edited" {
			t.Errorf("got %+v to deliver, want the edited message", r)
		}
	})
	t.Run("delivers_the_message_of_another_engine_that_comes_before_an_own_one", func(t *testing.T) {
		t.Parallel()
		q, now := outbox.New(calm{}, shared), begin
		list := []*store.Message{foreign(1), foreign(2)}
		list[1].Owner, list[1].Source = 7, list[0].Source
		list[0].Target, list[1].Target = store.Key{Kind: "t", ID: "1"}, store.Key{Kind: "t", ID: "1"}
		scan(q, now)
		q.Committed(list[1:], now)
		scan(q, now, list...)
		fetch(q, now, list...)
		r := q.Next(now)
		if r == nil || r.Message.Sequence != 1 || q.Next(now) != nil {
			t.Fatalf("got %+v to deliver, want message 1 alone: its target decides it once", r)
		}
		q.Finished(r, outbox.Gone, nil, now)
		if got := delivers(q, now); !slices.Equal(got, []uint64{2}) {
			t.Errorf("then: got %d delivered, want 2", got)
		}
	})
	t.Run("takes_an_open_effect_soon_and_once", func(t *testing.T) {
		t.Parallel()
		m := foreign(1)
		m.Open, m.Owner = true, 0
		engines := []*outbox.Queue{}
		for owner := range uint64(4) {
			limits := shared
			limits.Owner = 100 + owner
			q := outbox.New(calm{}, limits)
			scan(q, begin, m)
			engines = append(engines, q)
		}
		var got []uint64
		for n := range 40 {
			now := begin.Add(time.Duration(n) * time.Millisecond)
			for _, q := range engines {
				got = append(got, delivers(q, now)...)
				fetch(q, now, m)
				list := q.Settlements(10)
				for _, s := range list {
					*m = *s.Message
				}
				q.Settled(list)
			}
		}
		if !slices.Equal(got, []uint64{1}) {
			t.Errorf("four engines that could perform it have begun it %d times in 40 ms, want once", len(got))
		}
	})
	t.Run("lets_a_hung_target_hold_up_only_itself", func(t *testing.T) {
		t.Parallel()
		now := begin
		q := scanned(outbox.Limits{Window: 100, FlowMax: 100, TargetMax: 50, InFlight: 4, TargetInFlight: 2, Stall: time.Second, Late: 4}, now)
		var list []*store.Message
		for n := range 30 { // three targets hang
			m := from("any", uint64(1+n), 1, now)[0]
			m.Source.ID, m.Target = fmt.Sprint(n), store.Key{Kind: "hung", ID: fmt.Sprint(n % 3)}
			list = append(list, m)
		}
		q.Committed(list, now)
		delivers(q, now)
		m := from("any", 99, 1, now)[0]
		m.Target = store.Key{Kind: "fine", ID: "1"}
		q.Committed([]*store.Message{m}, now)
		for range 3 {
			at, ok := q.Wake()
			if !ok {
				break
			}
			now = at
			if slices.Contains(delivers(q, now), 99) {
				return
			}
		}
		t.Error("a message to another target is not delivered while three targets hang")
	})
	t.Run("keeps_a_backlog_in_the_store", func(t *testing.T) {
		t.Parallel()
		now := begin
		q := scanned(outbox.Limits{Window: 16, FlowMax: 16, PlacesMax: 64, InFlight: 2, Late: 16}, now)
		var stored []*store.Message
		for n := range 40 { // a handler fails, for forty sources
			list := from("broken", uint64(1+5*n), 5, now)
			for _, m := range list {
				m.Source.ID = fmt.Sprint(n)
			}
			stored = append(stored, list...)
			q.Committed(list, now)
			for r := q.Next(now); r != nil; r = q.Next(now) {
				q.Finished(r, outbox.Retry, errors.New("away"), now)
			}
			q.Settled(q.Settlements(100))
			if q.WantsScan(now) {
				scan(q, now, stored...)
			}
		}
		if rows, _ := q.Load(); rows > 16 || q.Waiting() > 64 {
			t.Errorf("%d messages and %d places are in memory, want at most 16 and 64 of 200", rows, q.Waiting())
		}
		fine := from("broken", 500, 1, now)[0]
		fine.Source.ID = "fine"
		q.Committed([]*store.Message{fine}, now)
		if q.WantsScan(now) {
			scan(q, now, append(stored, fine)...)
		}
		if r := q.Next(now); r == nil || r.Message.Sequence != 500 {
			t.Errorf("got %+v to deliver, want the message of another source: those that wait fill the window", r)
		}
		timer := &store.Message{Sequence: 999, Due: now.Add(-time.Second), Type: "timer", Timer: "t", Target: store.Key{Kind: "t", ID: "1"}}
		q.Committed([]*store.Message{timer}, now)
		if r := q.Next(now); r == nil || r.Message != timer {
			t.Errorf("got %+v to deliver, want the timer", r)
		}
	})
	t.Run("keeps_its_lists_short_while_a_backlog_lasts", func(t *testing.T) {
		t.Parallel()
		now, sequence := begin, uint64(0)
		q := scanned(outbox.Limits{Window: 100, FlowMax: 10, InFlight: 1, Late: 10}, now)
		add := func() {
			sequence++
			m := from("x", sequence, 1, now)[0]
			m.Source.ID = fmt.Sprint(sequence % 7)
			q.Committed([]*store.Message{m}, now)
		}
		for range 3 {
			add()
		}
		for range 20_000 { // three rows wait at any time
			add()
			q.Finished(q.Next(now), outbox.Gone, nil, now)
		}
		if n := q.ReadyPlaces(); n > 100 {
			t.Errorf("with three messages in memory, the list of what is ready has %d places", n)
		}
	})
	t.Run("bounds_the_bytes_of_a_class", func(t *testing.T) {
		t.Parallel()
		q := scanned(outbox.Limits{Window: 100, FlowMax: 100, BytesMax: 1000, InFlight: 100, Late: 4}, begin)
		list := from("large", 1, 10, begin)
		for _, m := range list {
			m.Payload = make([]byte, 300)
		}
		q.Committed(list, begin)
		if rows, _ := q.Load(); rows != 3 {
			t.Errorf("%d messages of 300 bytes are in memory, want the 3 that fit in 1000", rows)
		}
	})
	t.Run("delivers_the_timers_of_one_entity_beside_each_other", func(t *testing.T) {
		t.Parallel()
		now := begin
		q := scanned(outbox.Limits{Window: 8, FlowMax: 8, InFlight: 8, TargetInFlight: 8, Late: 4}, now)
		key := store.Key{Kind: "k", ID: "1"}
		var list []*store.Message
		for n, name := range []string{"bad", "good"} {
			list = append(list, &store.Message{Sequence: uint64(1 + n), Source: key, Target: key, Timer: name, Due: now, Type: "t"})
		}
		q.Committed(list, now)
		bad := q.Next(now)
		q.Finished(bad, outbox.Retry, errors.New("a bug"), now)
		if r := q.Next(now); r == nil || r.Message.Timer != "good" {
			t.Errorf("got %+v to deliver, want the other timer", r)
		}
	})
	t.Run("parks_what_no_engine_has_a_rule_for_after_a_day_and_not_before", func(t *testing.T) {
		t.Parallel()
		limits := shared
		limits.Owner, limits.ParkAfter = 0, 24*hour
		q, now := outbox.New(picky{}, limits), begin
		m := from("unknown", 1, 1, now)[0]
		scan(q, now, m)
		for range 23 {
			now = now.Add(hour)
			q.OutcomeUnknown()
			scan(q, now, m)
			if q.Unsaved() || q.Next(now) != nil {
				t.Fatalf("after %v it is not left alone any more", now.Sub(begin))
			}
		}
		at, ok := q.Wake()
		if !ok || !at.Equal(begin.Add(24*hour)) || !q.WantsScan(at) {
			t.Fatalf("wake %v, %t, want a scan after a day", at, ok)
		}
		scan(q, at, m)
		list := q.Settlements(10)
		if len(list) != 1 || !list[0].Message.Parked || list[0].Message.LastError != "no rule" {
			t.Errorf("after a day: got %+v, want it parked", list)
		}
	})
	t.Run("fires_a_timer_by_the_time_of_day_in_whatever_direction_it_steps", func(t *testing.T) {
		t.Parallel()
		q, now := scanned(outbox.Limits{Window: 8, FlowMax: 8, InFlight: 8, Late: 4}, begin), begin
		wall := time.Unix(500_000, 0)
		q.Clock(wall, now)
		m := &store.Message{Sequence: 1, Timer: "t", Due: wall.Add(hour), Type: "t", Target: store.Key{Kind: "t", ID: "1"}}
		q.Committed([]*store.Message{m}, now)
		for _, step := range []struct {
			past, back time.Duration
			due        bool
		}{{30 * time.Minute, 0, false}, {20 * time.Minute, 40 * time.Minute, false}, {40 * time.Minute, 0, false}, {0, -20 * time.Minute, true}} {
			now = now.Add(step.past)
			wall = wall.Add(step.past - step.back)
			q.Clock(wall, now)
			if at, ok := q.Wake(); !ok || !step.due && at.Sub(now) != m.Due.Sub(wall) {
				t.Fatalf("at %v of the day: wake in %v, %t, want in %v", wall, at.Sub(now), ok, m.Due.Sub(wall))
			}
			if got := q.WantsScan(now); got != step.due {
				t.Fatalf("at %v of the day, with a timer due at %v: a scan is wanted: %t, want %t", wall, m.Due, got, step.due)
			}
		}
	})
}

// A picky shell has no rule for any message.
type picky struct{ calm }

func (picky) Fits(*store.Message) bool { return false }

func (picky) Misfit(*store.Message) error { return errors.New("no rule") }

func TestQueueBrokenHandlerDelaysNoOther(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 4, FlowMax: 4, InFlight: 2, Late: 4}, now)
	for n := range 2 {
		q.Committed(from("broken", uint64(1+4*n), 4, now), now)
		for r := q.Next(now); r != nil; r = q.Next(now) {
			q.Finished(r, outbox.Retry, errors.New("away"), now)
		}
	}
	q.Committed(from("fine", 100, 1, now), now)
	r := q.Next(now)
	if r == nil || r.Message.Type != "fine" {
		rows, flight := q.Load()
		t.Fatalf("got %+v to deliver, want the message to the other handler; %d rows, %d under way", r, rows, flight)
	}
	q.Finished(r, outbox.Gone, nil, now)
}

func TestQueueCountsNoAttemptThatWasNotTried(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 4, FlowMax: 4, InFlight: 4, Late: 4}, now)
	q.Committed(from("busy", 1, 1, now), now)
	for n, pause := range []int{10, 20, 40, 80, 160, 320, 640, 1000, 1000} {
		q.Finished(q.Next(now), outbox.Later, errors.New("overloaded"), now)
		at, ok := q.Wake()
		if got := int(at.Sub(now).Milliseconds()); !ok || got != pause || q.Unsaved() {
			t.Fatalf("after %d times: the pause is %d ms, unsaved %t, want %d ms and nothing to store", n+1, got, q.Unsaved(), pause)
		}
		now = at
	}
}

// A message is parked that could not be tried for a day. The day counts from its first delivery
// that could not be tried, and not from attempts that the store could not record.
func TestQueueParksAMessageThatIsNeverTried(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	now := time.Unix(1_000_000_000, 0)
	q := scanned(outbox.Limits{Window: 4, FlowMax: 4, InFlight: 4, Late: 4, ParkAfter: day}, now)
	q.Committed(from("mail", 1, 1, now), now)
	away := errors.New("away")
	// deliver ends an attempt, and returns the settlements to store.
	deliver := func(result outbox.Result) []store.Settlement {
		t.Helper()
		r := q.Next(now)
		if r == nil {
			t.Fatal("there is nothing to deliver")
		}
		q.Finished(r, result, away, now)
		return q.Settlements(10)
	}
	pass := func() {
		at, ok := q.Wake()
		if !ok {
			t.Fatal("the queue does not ask to be woken")
		}
		now = at
	}
	for range 3 { // the store is unavailable: it cannot record the failure of the attempt
		q.Unsettled(deliver(outbox.Retry))
		pass()
	}
	begun := now
	for now.Sub(begun) < day {
		for _, s := range deliver(outbox.Later) {
			if s.Message == nil || s.Message.Parked {
				t.Fatalf("it is parked %v after it could not be tried first", now.Sub(begun))
			}
		}
		pass()
	}
	if list := deliver(outbox.Later); len(list) != 1 || list[0].Message == nil || !list[0].Message.Parked {
		t.Errorf("after a day: to be settled is %+v, want that it is parked", list)
	}
}

func TestScanEndsWhenTooMuchIsSettled(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	const window = 8
	q := outbox.New(calm{}, outbox.Limits{Window: window, FlowMax: 4, InFlight: 4, Late: 4})
	q.ScanBegins()
	read := 0
	for _, m := range from("quick", 1, 10*window, now) {
		read++
		if !q.Scanned(m) {
			break
		}
		q.Finished(q.Next(now), outbox.Gone, nil, now)
	}
	if read > 2*window {
		t.Errorf("%d rows are read and settled in one scan, want at most twice the window of %d", read, window)
	}
	q.ScanEnded(time.Time{}, false, now)
	if !q.WantsScan(now) {
		t.Error("the queue does not want to read what it has left out")
	}
}

func TestQueueClosedDeliversOnlyEffects(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 8, FlowMax: 4, InFlight: 2, Late: 4}, now)
	source := store.Key{Kind: "source", ID: "1"}
	q.Committed(from("handler", 1, 2, now), now)
	begun := q.Next(now)
	for n := range 2 {
		if !q.Volatile(&store.Message{Source: source}, n) {
			t.Fatalf("effect %d is refused", n)
		}
	}
	q.Committed([]*store.Message{{Sequence: 9, Due: now.Add(time.Second)}}, now)
	q.Close()
	for n := range 2 {
		r := q.Next(now)
		if q.Drained(0, false) || r == nil || r.Value != n {
			t.Fatalf("got %+v to deliver, drained %t, want effect %d", r, q.Drained(0, false), n)
		}
		q.Finished(r, outbox.Done, nil, now)
	}
	q.Finished(begun, outbox.Gone, nil, now)
	if r := q.Next(now); r != nil || !q.Drained(0, false) {
		t.Errorf("got %+v to deliver, drained %t, want nothing more", r, q.Drained(0, false))
	}
	if at, ok := q.Wake(); ok || q.WantsScan(now.Add(time.Hour)) {
		t.Errorf("a closed queue wants to be woken at %v, %t, or scan", at, ok)
	}
}

func TestSettlementsFitInABatch(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 100, FlowMax: 4, InFlight: 100, Late: 4}, now)
	const count = 4 // the maximum number of messages of a class in memory
	list := from("large", 1, count, now)
	for _, m := range list {
		m.Payload = make([]byte, store.PayloadBytesMax)
	}
	q.Committed(list, now)
	for r := q.Next(now); r != nil; r = q.Next(now) {
		q.Finished(r, outbox.Retry, errors.New("away"), now)
	}
	stored := 0
	for q.Unsaved() {
		b := store.Batch{Settle: q.Settlements(count)}
		bytes := 0
		for _, s := range b.Settle {
			bytes += len(s.Message.Payload)
		}
		if len(b.Settle) == 0 || bytes > store.BatchBytesMax {
			t.Fatalf("%d settlements of %d bytes, want some that fit in %d", len(b.Settle), bytes, store.BatchBytesMax)
		}
		stored += len(b.Settle)
	}
	if stored != count {
		t.Errorf("%d settlements in all, want %d", stored, count)
	}
}

func TestQueueParksAMessageThatIsTooOld(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := scanned(outbox.Limits{Window: 4, FlowMax: 4, InFlight: 4, Late: 4}, now)
	q.Committed(from("away", 1, 1, now), now)
	text := strings.Repeat("ä", 5000) + "\xff"
	for n, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second} {
		q.Finished(q.Next(now), outbox.Retry, errors.New(text), now)
		m := q.Settlements(1)[0].Message
		if m.Parked || int(m.Attempts) != n+1 || len(m.LastError) > 1024 || !utf8.ValidString(m.LastError) {
			t.Fatalf("after attempt %d: got %d attempts, parked %t, an error of %d bytes", n+1, m.Attempts, m.Parked, len(m.LastError))
		}
		at, ok := q.Wake()
		if got := at.Sub(now); !ok || got != pause {
			t.Fatalf("after attempt %d: the pause is %v, want %v", n+1, got, pause)
		}
		now = at
	}
	now = now.Add(time.Hour)
	q.Finished(q.Next(now), outbox.Retry, nil, now)
	if m := q.Settlements(1)[0].Message; !m.Parked || m.Attempts != 6 || m.LastError == "" {
		t.Errorf("after an hour: got %+v, want it parked", m)
	}
}

func TestDispatcher(t *testing.T) {
	t.Parallel()
	t.Run("stores_the_other_settlements_at_once_when_one_is_of_a_message_of_another_engine", func(t *testing.T) {
		t.Parallel()
		now := time.Unix(1000, 0)
		d := outbox.NewDispatcher(calm{}, outbox.Limits{
			Window: 8, FlowMax: 8, InFlight: 8, Late: 8, Owner: 7, Poll: time.Hour, RescueEvery: time.Hour, RescueAfter: time.Hour,
		}, outbox.Bounds{Deliveries: 8, Settlements: 8, Fetches: 8, Pause: time.Hour, Look: time.Hour})
		if w := d.Step(now, now); !w.Scans {
			t.Fatal("no scan is wanted")
		}
		d.ScanEnded(time.Time{}, false, now)
		list := from("effect", 1, 3, now)
		for _, m := range list {
			m.Owner, m.Unordered = 7, true
		}
		d.Committed(list, now)
		for _, r := range d.Step(now, now).Deliver {
			d.Finished(r, outbox.Retry, errors.New("no"), now)
		}
		if w := d.Step(now, now); len(w.Settle) != 3 {
			t.Fatalf("got the settlements %+v, want three failures", w.Settle)
		}
		d.Stored(nil, &store.MessageGoneError{Sequence: 2}, now)
		w := d.Step(now, now)
		if len(w.Settle) != 2 || w.Settle[0].Sequence != 1 || w.Settle[1].Sequence != 3 {
			t.Errorf("got the settlements %+v, want those of messages 1 and 3", w.Settle)
		}
		if len(w.Fetch) != 1 {
			t.Errorf("got %d messages to read again, want message 2", len(w.Fetch))
		}
	})
}
