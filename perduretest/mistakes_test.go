package perduretest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/perduretest"
	"github.com/perdure/perdure/store"
)

// A textError is a common form of an error: a nil pointer to it panics in Error.
type textError struct{ text string }

func (e *textError) Error() string { return e.text }

// TestScenario makes rules return values that no engine can store or report.
func TestScenario(t *testing.T) {
	t.Parallel()
	var noError *textError
	var noRefusal *perdure.Error
	var noNote *testv1.Note
	for _, c := range []struct {
		name   string
		result func() (*perdure.Decision, error)
		want   string
	}{
		{"a typed nil error", func() (*perdure.Decision, error) { return nil, noError }, "nil *perduretest_test.textError as its error"},
		{"a nil refusal", func() (*perdure.Decision, error) { return nil, noRefusal }, "nil *perdure.Error as its error"},
		{"a nil detail", func() (*perdure.Decision, error) {
			return nil, &perdure.Error{Details: []proto.Message{&testv1.Note{}, noNote}}
		}, "detail 1 of the refusal is nil"},
		{"an error that panics", func() (*perdure.Decision, error) { return nil, panicking{} }, "panic: no text"},
		{"a timer without a name", func() (*perdure.Decision, error) {
			return perdure.None().Schedule("", time.Time{}, &testv1.Touch{}), nil
		}, "the timer of perdure.test.v1.Touch has no name"},
		{"a reply without a name", func() (*perdure.Decision, error) {
			return perdure.None().EnqueueTo(bob, &testv1.Touch{}, perdure.ReplyTo("")), nil
		}, "the reply to perdure.test.v1.Touch has no name"},
		{"a message without a target", func() (*perdure.Decision, error) {
			return perdure.None().EnqueueTo(store.Key{}, &testv1.Touch{}), nil
		}, "perdure.test.v1.Touch has no target"},
		{"a timer without a target", func() (*perdure.Decision, error) {
			return perdure.None().ScheduleTo(store.Key{}, "x", time.Time{}, &testv1.Touch{}), nil
		}, "perdure.test.v1.Touch has no target"},
		{"a nil effect", func() (*perdure.Decision, error) { return perdure.None().AfterCommit(&testv1.Touch{}, noNote), nil }, "effect 1: invalid: it is nil"},
		{"a nil message", func() (*perdure.Decision, error) { return perdure.None().Enqueue(nil), nil }, "message 0: invalid: it is nil"},
		{"a cancelled timer without a name", func() (*perdure.Decision, error) { return perdure.None().Cancel(""), nil }, "timer name is empty"},
		{"a claim without a value", func() (*perdure.Decision, error) {
			return perdure.None().Claim(store.Claim{Space: "name", Value: ""}), nil
		}, "claim value is empty"},
	} {
		t.Run("fails for "+c.name, func(t *testing.T) {
			t.Parallel()
			r := goodRules()
			r.deposit = func(context.Context, *testv1.Account, *testv1.Deposit) (*perdure.Decision, error) { return c.result() }
			said, _ := failures(t, func(rec *record) { perduretest.Given(rec, r.kind()).When(&testv1.Deposit{}).ThenNothing() })
			if !strings.Contains(said, c.want) {
				t.Errorf("got %q, want it to say %q", said, c.want)
			}
		})
	}

	t.Run("shows what is sent as it was decided", func(t *testing.T) {
		t.Parallel()
		r := goodRules()
		r.deposit = func(_ context.Context, a *testv1.Account, _ *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(deposited(5)).AfterCommit(a).EnqueueTo(bob, a), nil
		}
		perduretest.Given(t, r.kind(), deposited(1)).When(&testv1.Deposit{}).
			ThenAfterCommit(&testv1.Account{Balance: 1, Operations: 1}).ThenEnqueued(&testv1.Account{Balance: 1, Operations: 1}).
			ThenState(&testv1.Account{Balance: 6, Operations: 2})
	})

	t.Run("takes parts of a decision in the order of the calls", func(t *testing.T) {
		t.Parallel()
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		r := goodRules()
		r.deposit = func(context.Context, *testv1.Account, *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.None().Schedule("x", at, &testv1.Touch{}).Schedule("y", at, &testv1.Touch{}).Cancel("x").
				Claim(store.Claim{Space: "name", Value: "ada"}).Claim(store.Claim{Space: "name", Value: "eda"}).Release(store.Claim{Space: "name", Value: "ada"}), nil
		}
		said, _ := failures(t, func(rec *record) {
			perduretest.Given(rec, r.kind()).When(&testv1.Deposit{}).ThenScheduled("x", at, &testv1.Touch{})
		})
		if !strings.Contains(said, `got no timer "x"`) {
			t.Errorf("a timer that is set and cancelled: got %q", said)
		}
		perduretest.Given(t, r.kind()).When(&testv1.Deposit{}).ThenScheduled("y", at, &testv1.Touch{}).
			ThenCancelled("x").ThenClaimed(store.Claim{Space: "name", Value: "eda"}).ThenReleased(store.Claim{Space: "name", Value: "ada"})
	})
}

type panicking struct{}

func (panicking) Error() string { panic("no text") }
