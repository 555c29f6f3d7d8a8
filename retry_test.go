package perdure_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

func TestRetryPolicy(t *testing.T) {
	t.Parallel()
	t.Run("parks_a_message_at_the_first_failure_after_its_age", func(t *testing.T) {
		t.Parallel()
		onBothLogs(t, func(t *testing.T, log store.Log) {
			r, kind := &recorder{fail: func(*perdure.EffectInfo) error { return errors.New("boom") }}, senders()
			e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: r.rules(
				perdure.RetryPolicy{MaxAttempts: 1000, MinBackoff: time.Minute, MaxBackoff: time.Minute, MaxAge: time.Hour},
			)})
			if _, err := kind.Ref(e, "a").Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Hour - time.Second)
			synctest.Wait()
			if parked := messages(t, e.Parked(t.Context())); len(parked) != 0 {
				t.Fatalf("parked %+v before the age", parked)
			}
			<-time.After(time.Minute + 2*time.Second)
			synctest.Wait()
			parked := messages(t, e.Parked(t.Context()))
			if len(parked) != 1 || parked[0].LastError != "boom" || parked[0].Attempts < 60 || parked[0].Attempts > 122 {
				t.Errorf("parked %+v, want the message after an attempt every 30 to 60 seconds", parked)
			}
		})
	})
	t.Run("gives_an_effect_20_attempts_by_default", func(t *testing.T) {
		t.Parallel()
		onBothLogs(t, func(t *testing.T, log store.Log) {
			r, kind := &recorder{fail: func(*perdure.EffectInfo) error { return errors.New("boom") }}, senders()
			e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: r.rules(perdure.RetryPolicy{})})
			if _, err := kind.Ref(e, "a").Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Hour)
			synctest.Wait()
			if parked := messages(t, e.Parked(t.Context())); len(parked) != 1 || parked[0].Attempts != 20 {
				t.Errorf("parked %+v, want the message after 20 attempts", parked)
			}
		})
	})
	t.Run("keeps_the_order_that_another_option_asks_for", func(t *testing.T) {
		t.Parallel()
		for _, options := range [][]perdure.EffectOption{
			{perdure.KeepOrder(), perdure.RetryPolicy{MaxAttempts: 1}},
			{perdure.RetryPolicy{MaxAttempts: 1}, perdure.KeepOrder()},
		} {
			onBothLogs(t, func(t *testing.T, log store.Log) {
				r, kind := &recorder{fail: func(*perdure.EffectInfo) error { return errors.New("boom") }}, senders()
				e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: r.rules(options...)})
				if _, err := kind.Ref(e, "a").Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if parked := messages(t, e.Parked(t.Context())); len(parked) != 1 || !parked[0].Halted || parked[0].Attempts != 1 {
					t.Errorf("parked %+v, want the message halted after one attempt", parked)
				}
			})
		}
	})
	t.Run("is_refused_by_Open_if_it_is_wrong", func(t *testing.T) {
		t.Parallel()
		for _, c := range []struct {
			policy perdure.RetryPolicy
			want   string
		}{
			{perdure.RetryPolicy{MaxAttempts: -1}, "RetryPolicy.MaxAttempts is negative: -1"},
			{perdure.RetryPolicy{MaxAge: -time.Second}, "RetryPolicy.MaxAge is negative: -1s"},
			{perdure.RetryPolicy{Timeout: -time.Second}, "RetryPolicy.Timeout is negative: -1s"},
			{perdure.RetryPolicy{MinBackoff: time.Minute, MaxBackoff: time.Second}, "RetryPolicy.MaxBackoff is less than its MinBackoff: 1s < 1m0s"},
		} {
			_, err := perdure.Open(t.Context(), perdure.Config{
				Store: newLog(t), Kinds: []perdure.AnyKind{accounts()},
				Effects: []perdure.EffectRule{perdure.Perform(func(context.Context, *testv1.Note) error { return nil }, c.policy)},
			})
			want := "open engine: invalid: Perform rule for *testv1.Note: " + c.want
			if err == nil || err.Error() != want || !errors.Is(err, store.ErrInvalid) {
				t.Errorf("with %+v\n got %v\nwant %s", c.policy, err, want)
			}
		}
		for _, c := range []struct {
			policy perdure.RetryPolicy
			want   string
		}{
			{perdure.RetryPolicy{MinBackoff: -1}, "Config.Delivery.MinBackoff is negative: -1ns"},
			{perdure.RetryPolicy{Timeout: 1}, "Config.Delivery.Timeout is set (a timeout is for effects: give the RetryPolicy to Perform)"},
		} {
			_, err := perdure.Open(t.Context(), perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{accounts()}, Delivery: c.policy})
			want := "open engine: invalid: " + c.want
			if err == nil || err.Error() != want || !errors.Is(err, store.ErrInvalid) {
				t.Errorf("with Config.Delivery %+v\n got %v\nwant %s", c.policy, err, want)
			}
		}
	})
}
