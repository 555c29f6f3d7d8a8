package perdure_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/testlog"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// TestSmallStore runs engines on a store that embeds store.Unsupported: it stores events and
// states only.
func TestSmallStore(t *testing.T) {
	t.Parallel()
	run := func(name string, test func(t *testing.T, log store.Log)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { test(t, testlog.Bare(newLog(t))) })
		})
	}
	wantUnsupported := func(t *testing.T, what string, err error) {
		t.Helper()
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: got %v, want an error that matches %v", what, err, errors.ErrUnsupported)
		}
	}
	run("runs_entities", func(t *testing.T, log store.Log) {
		var text strings.Builder
		logged := &lockedWriter{mu: new(sync.Mutex), to: &text}
		kind := accounts(perdure.SnapshotEvery(2), perdure.RetainEvents(0), perdure.KeepReceipts(8, 8*time.Minute))
		for range 2 {
			e, err := perdure.Open(t.Context(), perdure.Config{
				Store: log, Kinds: []perdure.AnyKind{kind}, Logger: slog.New(slog.NewTextHandler(logged, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			deposits(t, kind.Ref(e, "1"), 5)
			for event, err := range e.Events(t.Context(), store.Query{}) {
				if err != nil {
					t.Fatal(err)
				}
				if event.Position == 5 {
					break
				}
			}
			pass(3 * time.Minute)
			if err := e.Close(t.Context()); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		wantBalance(t, kind.Ref(open(t, log, kind), "1"), 10)
		synctest.Wait()
		logged.mu.Lock()
		defer logged.mu.Unlock()
		if n := strings.Count(text.String(), "\n"); n != 2 || strings.Count(text.String(), "events could not be deleted") != 2 {
			t.Errorf("got these log records, want one for each engine about events that cannot be deleted:\n%s", text.String())
		}
	})
	run("refuses_commands_that_need_more", func(t *testing.T, log store.Log) {
		account, sender := accounts(), senders()
		e := open(t, log, account, sender)
		_, err := account.Ref(e, "1").Do(t.Context(), &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey("k"))
		wantUnsupported(t, "a command with an idempotency key", err)
		_, err = sender.Ref(e, "1").Do(t.Context(), &testv1.Withdraw{Amount: 1})
		wantUnsupported(t, "a command that enqueues a message", err)
		_, err = sender.Ref(e, "1").Do(t.Context(), &testv1.Open{Owner: "first", At: timestamppb.New(time.Now())})
		wantUnsupported(t, "a command that sets a timer", err)
		for _, err := range e.Parked(t.Context()) {
			wantUnsupported(t, "the parked messages", err)
		}
		wantBalance(t, account.Ref(e, "1"), 0)
		wantBalance(t, sender.Ref(e, "1"), 0)
	})
	run("is_refused_by_an_engine_with_effects", func(t *testing.T, log store.Log) {
		_, err := perdure.Open(t.Context(), perdure.Config{
			Store: log, Kinds: []perdure.AnyKind{senders()},
			Effects: []perdure.EffectRule{perdure.Perform(func(context.Context, *testv1.Note) error { return nil })},
		})
		wantUnsupported(t, "open", err)
		if text := "Perform rule for perdure.test.v1.Note needs the outbox of the store"; err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("open: got %v, want an error with the text %q", err, text)
		}
		e := open(t, log, senders())
		if err := e.Close(t.Context()); err != nil {
			t.Errorf("close the engine that was opened after the refused one: %v", err)
		}
	})
}
