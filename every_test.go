package perdure_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// tickers is a kind that sets a recurring timer with Open, and cancels it with Touch.
// Each firing persists an event with its time, or is refused while the balance is 1.
func tickers(r perdure.Recurrence) *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("ticker",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, _ *testv1.Open) (*perdure.Decision, error) {
			return perdure.None().Every("tick", r, &testv1.Annotate{}), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, _ *testv1.Touch) (*perdure.Decision, error) {
			return perdure.None().Cancel("tick"), nil
		}),
		perdure.Decide(deposit),
		perdure.Decide(func(ctx context.Context, a *testv1.Account, _ *testv1.Annotate) (*perdure.Decision, error) {
			if a.GetBalance() == 1 {
				return nil, perdure.Reject(perdure.FailedPrecondition, "not now")
			}
			return perdure.Persist(&testv1.Annotated{Note: &testv1.Note{Text: perdure.Now(ctx).Format(time.RFC3339)}}), nil
		}),
		perdure.Evolve(onDeposited),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	)
}

func ticks(t *testing.T, ref perdure.Ref[*testv1.Account]) (list []string) {
	t.Helper()
	s, err := ref.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.GetNotes() {
		list = append(list, n.GetText())
	}
	return list
}

func TestEvery(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	set := func(t *testing.T, ref perdure.Ref[*testv1.Account], m *testv1.Open) {
		t.Helper()
		if _, err := ref.Do(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("fires_24_times_in_a_day_each_time_that_a_clock_is_advanced", func(t *testing.T) {
		t.Parallel()
		for range 5 {
			kind, clock := tickers(perdure.Period(time.Hour)), perduretest.NewClock(start)
			e := openConfig(t, perdure.Config{Store: newLog(t, memory.WithClock(clock.Now)), Kinds: []perdure.AnyKind{kind}, Clock: clock})
			ref := kind.Ref(e, "1")
			set(t, ref, &testv1.Open{})
			clock.Advance(24 * time.Hour)
			list := ticks(t, ref)
			if len(list) != 24 || list[0] != "2026-01-01T13:00:00Z" || list[23] != "2026-01-02T12:00:00Z" {
				t.Fatalf("got %d firings in 24 hours: %q", len(list), list)
			}
		}
	})
	t.Run("fires_24_times_in_a_day_in_a_bubble", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			kind := tickers(perdure.Period(time.Hour))
			e := openConfig(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}})
			set(t, kind.Ref(e, "1"), &testv1.Open{})
			pass(24*time.Hour + time.Second)
			if n := len(ticks(t, kind.Ref(e, "1"))); n != 24 {
				t.Errorf("got %d firings in 24 hours", n)
			}
		})
	})
	t.Run("fires_once_for_all_that_were_missed_and_keeps_its_rhythm", func(t *testing.T) {
		t.Parallel()
		kind, clock := tickers(perdure.Period(time.Hour)), perduretest.NewClock(start)
		log := newLog(t, memory.WithClock(clock.Now))
		e, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		set(t, kind.Ref(e, "1"), &testv1.Open{})
		closeAll(t, e)
		clock.Advance(10*time.Hour + 20*time.Minute)
		e = openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Clock: clock})
		clock.Advance(time.Hour)
		if got, want := strings.Join(ticks(t, kind.Ref(e, "1")), " "), "2026-01-01T22:20:00Z 2026-01-01T23:00:00Z"; got != want {
			t.Errorf("after ten hours without an engine: got firings at %s, want %s", got, want)
		}
	})
	t.Run("goes_on_after_a_refusal_and_ends_when_it_is_cancelled", func(t *testing.T) {
		t.Parallel()
		kind, clock := tickers(perdure.Period(time.Minute)), perduretest.NewClock(start)
		e := openConfig(t, perdure.Config{Store: newLog(t, memory.WithClock(clock.Now)), Kinds: []perdure.AnyKind{kind}, Clock: clock})
		ref := kind.Ref(e, "1")
		set(t, ref, &testv1.Open{})
		if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		clock.Advance(3 * time.Minute) // the entity refuses this firing
		if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		clock.Advance(2 * time.Minute)
		if n := len(ticks(t, ref)); n != 2 {
			t.Errorf("after three refused firings and two others: got %d, want 2", n)
		}
		if _, err := ref.Do(t.Context(), &testv1.Touch{}); err != nil {
			t.Fatal(err)
		}
		clock.Advance(time.Hour)
		if n := len(ticks(t, ref)); n != 2 || len(messages(t, e.Pending(t.Context()))) != 0 {
			t.Errorf("after it was cancelled: got %d firings, want 2 and nothing pending", n)
		}
	})
	t.Run("fires_once_a_day_at_its_time_also_when_clocks_are_changed", func(t *testing.T) {
		t.Parallel()
		berlin, err := time.LoadLocation("Europe/Berlin")
		if err != nil {
			t.Skip(err)
		}
		for _, c := range []struct {
			begin        time.Time
			hour, minute int
			want         string
		}{
			{time.Date(2026, 3, 28, 0, 0, 0, 0, berlin), 9, 30, "2026-03-28T08:30:00Z 2026-03-29T07:30:00Z"},
			{time.Date(2026, 10, 24, 0, 0, 0, 0, berlin), 9, 30, "2026-10-24T07:30:00Z 2026-10-25T08:30:00Z"},
			{time.Date(2026, 10, 24, 0, 0, 0, 0, berlin), 2, 30, "2026-10-24T00:30:00Z 2026-10-25T01:30:00Z"},
			{time.Date(2026, 3, 28, 0, 0, 0, 0, berlin), 2, 30, "2026-03-28T01:30:00Z 2026-03-29T01:30:00Z"},
		} {
			kind, clock := tickers(perdure.Daily(c.hour, c.minute, berlin)), perduretest.NewClock(c.begin)
			e := openConfig(t, perdure.Config{Store: newLog(t, memory.WithClock(clock.Now)), Kinds: []perdure.AnyKind{kind}, Clock: clock})
			set(t, kind.Ref(e, "1"), &testv1.Open{})
			clock.Advance(40 * time.Hour)
			if got := strings.Join(ticks(t, kind.Ref(e, "1")), " "); got != c.want {
				t.Errorf("daily at %02d:%02d from %v on: got %s, want %s", c.hour, c.minute, c.begin, got, c.want)
			}
		}
	})
	t.Run("fires_once_on_each_date_of_every_zone", func(t *testing.T) {
		t.Parallel()
		for _, c := range []struct {
			zone         string
			hour, minute int
			begin, want  string
		}{
			{"Europe/Berlin", 2, 30, "2026-03-28T00:00:00Z", "2026-03-28T02:30:00+01:00 2026-03-29T03:30:00+02:00 2026-03-30T02:30:00+02:00"},
			{"Europe/Berlin", 2, 0, "2026-03-28T12:00:00Z", "2026-03-29T03:00:00+02:00 2026-03-30T02:00:00+02:00"},
			{"Europe/Berlin", 2, 30, "2026-10-24T12:00:00Z", "2026-10-25T02:30:00+01:00 2026-10-26T02:30:00+01:00"},
			{"America/New_York", 2, 15, "2026-03-07T12:00:00Z", "2026-03-08T03:15:00-04:00 2026-03-09T02:15:00-04:00"},
			{"America/New_York", 1, 30, "2026-10-31T12:00:00Z", "2026-11-01T01:30:00-04:00 2026-11-02T01:30:00-05:00"},
			// The clock changes by half an hour.
			{"Australia/Lord_Howe", 2, 15, "2026-10-03T00:00:00Z", "2026-10-04T02:45:00+11:00 2026-10-05T02:15:00+11:00"},
			{"Australia/Lord_Howe", 1, 45, "2026-04-04T00:00:00Z", "2026-04-05T01:45:00+10:30 2026-04-06T01:45:00+10:30"},
			{"Pacific/Chatham", 2, 45, "2026-09-26T00:00:00Z", "2026-09-27T03:45:00+13:45 2026-09-28T02:45:00+13:45"},
			{"Asia/Kathmandu", 0, 0, "1985-12-31T00:00:00Z", "1986-01-01T00:15:00+05:45 1986-01-02T00:00:00+05:45"},
			// The clock changes at midnight, and to midnight.
			{"America/Sao_Paulo", 0, 30, "2018-11-02T12:00:00Z", "2018-11-03T00:30:00-03:00 2018-11-04T01:30:00-02:00 2018-11-05T00:30:00-02:00"},
			{"America/Sao_Paulo", 23, 30, "2018-02-17T12:00:00Z", "2018-02-17T23:30:00-02:00 2018-02-18T23:30:00-03:00"},
			{"America/Toronto", 23, 45, "1919-03-30T01:00:00Z", "1919-03-29T23:45:00-05:00 1919-03-30T22:45:00-05:00 1919-03-31T23:45:00-04:00"},
			// There is no 30 December.
			{"Pacific/Apia", 9, 0, "2011-12-29T00:00:00Z", "2011-12-29T09:00:00-10:00 2011-12-31T09:00:00+14:00 2012-01-01T09:00:00+14:00"},
		} {
			zone, err := time.LoadLocation(c.zone)
			if err != nil {
				t.Skip(err)
			}
			at := func(s string) time.Time {
				at, err := time.Parse(time.RFC3339, s)
				if err != nil {
					t.Fatal(err)
				}
				return at
			}
			now := at(c.begin)
			for want := range strings.FieldsSeq(c.want) {
				perduretest.Given(t, tickers(perdure.Daily(c.hour, c.minute, zone))).At(now).When(&testv1.Open{}).
					ThenScheduled("tick", at(want), &testv1.Annotate{})
				now = at(want)
			}
		}
	})
	t.Run("refuses_what_is_no_recurrence", func(t *testing.T) {
		t.Parallel()
		for _, r := range []perdure.Recurrence{
			{},
			perdure.Period(0), perdure.Period(-time.Hour), perdure.Daily(24, 0, nil), perdure.Daily(9, 60, nil),
			perdure.Daily(9, 0, time.Local), perdure.Daily(9, 0, time.FixedZone("here", 3600)),
			perdure.Daily(9, 0, time.FixedZone("Europe/Berlin", 3600)),
		} {
			kind := tickers(r)
			e := open(t, newLog(t), kind)
			_, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Open{})
			if !errors.Is(err, perdure.ErrInvalidDecision) || !errors.Is(err, store.ErrInvalid) {
				t.Errorf("%+v: got %v, want ErrInvalidDecision", r, err)
			}
		}
	})
	t.Run("is_seen_by_a_scenario", func(t *testing.T) {
		t.Parallel()
		perduretest.Given(t, tickers(perdure.Period(time.Hour))).At(start).When(&testv1.Open{}).
			ThenScheduled("tick", start.Add(time.Hour), &testv1.Annotate{})
	})
}

func TestClock(t *testing.T) {
	t.Parallel()
	t.Run("tells_rules_the_time_in_UTC", func(t *testing.T) {
		t.Parallel()
		auckland := time.FixedZone("Auckland", 13*3600)
		clock := perduretest.NewClock(time.Date(2026, 1, 1, 1, 0, 0, 0, auckland))
		var got time.Time
		kind := perdure.EventSourced("k", perdure.Decide(func(ctx context.Context, _ *testv1.Account, _ *testv1.Touch) (*perdure.Decision, error) {
			got = perdure.Now(ctx)
			return perdure.None(), nil
		}), perdure.Evolve(onDeposited))
		e := openConfig(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}, Clock: clock})
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Touch{}); err != nil {
			t.Fatal(err)
		}
		if got.Location() != time.UTC || got.Day() != 31 {
			t.Errorf("Now in a rule: got %v, want it in UTC", got)
		}
	})
	t.Run("may_be_set_back_and_forward", func(t *testing.T) {
		t.Parallel()
		start := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
		kind, clock := mailers(), perduretest.NewClock(start)
		e := openConfig(t, perdure.Config{
			Store: newLog(t, memory.WithClock(clock.Now)), Kinds: []perdure.AnyKind{kind}, Clock: clock, Effects: []perdure.EffectRule{(&postman{}).rule()},
		})
		ref := kind.Ref(e, "1")
		if _, err := ref.Do(t.Context(), &testv1.Open{At: timestamppb.New(start.Add(time.Hour))}); err != nil {
			t.Fatal(err)
		}
		fired := func() uint64 {
			s, err := ref.State(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s.GetOperations()
		}
		clock.Advance(30 * time.Minute)
		clock.Set(start)
		clock.Advance(59 * time.Minute)
		if fired() != 0 {
			t.Error("it fires before its time of day")
		}
		clock.Set(start.Add(2 * time.Hour))
		clock.Advance(10 * time.Second)
		if fired() != 1 {
			t.Error("it has not fired after the clock was set forward")
		}
	})
}
