package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// A badError is an error whose methods misbehave: they panic or end the goroutine.
type badError struct {
	text, is, as, unwrap func()
}

func (e *badError) Error() string   { call(e.text); return "bad" }
func (e *badError) Is(error) bool   { call(e.is); return false }
func (e *badError) As(any) bool     { call(e.as); return false }
func (e *badError) Unwrap() error   { call(e.unwrap); return nil }
func (e *badError) GRPCStatus() any { panic("GRPCStatus") }

// badErrors is a list of errors, like those that validators return: a nil list is not equal to
// nil.
type badErrors []error

func (badErrors) Error() string { return "bad" }

func call(f func()) {
	if f != nil {
		f()
	}
}

// TestRuleError makes rules return errors that misbehave. Each call gets an answer: alone,
// with a key, and as a message. The engine closes normally, and answers its other calls.
func TestRuleError(t *testing.T) {
	t.Parallel()
	panics := func() { panic("in a method of the error") }
	var noText *badError
	var noRefusal *perdure.Error
	for _, tt := range []struct {
		name string
		err  error
		want error
		text string
	}{
		{"that is a nil pointer", noText, perdure.ErrInvalidDecision, "a nil *perdure_test.badError as its error"},
		{"that is a nil refusal", noRefusal, perdure.ErrInvalidDecision, "a nil *perdure.Error as its error"},
		{"that is a nil slice", badErrors(nil), perdure.ErrInvalidDecision, "a nil perdure_test.badErrors as its error"},
		{"that wraps a nil refusal", errors.Join(noRefusal), perdure.ErrInvalidDecision, "wraps a nil *perdure.Error"},
		{"with a nil detail", &perdure.Error{Code: perdure.NotFound, Details: []proto.Message{nil}}, perdure.ErrInvalidDecision, "detail 0 of the refusal is nil"},
		{"with a typed nil detail", &perdure.Error{Details: []proto.Message{(*testv1.Note)(nil)}}, perdure.ErrInvalidDecision, "detail 0 of the refusal is nil"},
		{"that panics in Error", &badError{text: panics}, perdure.ErrPanicked, "panic: in a method"},
		{"that panics in As", &badError{as: panics}, perdure.ErrPanicked, "panic: in a method"},
		{"that panics in Unwrap", &badError{unwrap: panics}, perdure.ErrPanicked, "panic: in a method"},
		{"that ends the goroutine in Error", &badError{text: runtime.Goexit}, perdure.ErrPanicked, "runtime.Goexit"},
		{"that ends the goroutine in As", &badError{as: runtime.Goexit}, perdure.ErrPanicked, "runtime.Goexit"},
		{"that is good", &badError{}, perdure.Unknown, "bad"},
	} {
		for _, instant := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s is answered, instant %v", tt.name, instant), func(t *testing.T) {
				t.Parallel()
				ctx := testContext(t)
				kind := perdure.EventSourced("refuser",
					perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) { return nil, tt.err }),
					perdure.Decide(func(context.Context, *testv1.Account, *testv1.Withdraw) (*perdure.Decision, error) {
						return perdure.None().EnqueueTo(store.Key{Kind: "refuser", ID: "1"}, &testv1.Touch{}), nil
					}),
					perdure.Decide(deposit), perdure.Evolve(onDeposited),
					perdure.Answer(func(context.Context, *testv1.Account, *testv1.GetBalance) (*testv1.Balance, error) {
						return nil, tt.err
					}),
				)
				var log store.Log = newLog(t)
				if !instant {
					log = &hookedLog{Log: newLog(t)}
				}
				e := open(t, log, kind)
				ref := kind.Ref(e, "1")
				if _, err := kind.Ref(e, "2").Do(ctx, &testv1.Withdraw{}); err != nil {
					t.Fatal(err)
				}
				for name, try := range map[string]func() error{
					"a command":            func() error { _, err := ref.Do(ctx, &testv1.Touch{}); return err },
					"a command with a key": func() error { _, err := ref.Do(ctx, &testv1.Touch{}, perdure.WithIdempotencyKey("k")); return err },
					"a query":              func() error { _, err := perdure.Query[*testv1.Balance](ctx, ref, &testv1.GetBalance{}); return err },
				} {
					answered, err := answerOf(ctx, t, try, name)
					if !answered && strings.Contains(tt.name, "ends the goroutine") {
						continue // this is the caller's goroutine, which has run the rule
					}
					if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
						t.Errorf("%s: got %v, want %v with %q", name, err, tt.want, tt.text)
					}
				}
				if s, err := ref.Ask(ctx, &testv1.Deposit{Amount: 7}); err != nil || s.GetBalance() != 7 {
					t.Errorf("the next command: got %v, %v", s, err)
				}
				waitUntil(ctx, t, "no delivery is under way", func() bool { return e.Stats().Delivering == 0 })
			})
		}
	}
}

// answerOf makes a call on a separate goroutine and returns its answer, or false if the call
// has ended the goroutine.
func answerOf(ctx context.Context, t *testing.T, try func() error, what string) (answered bool, err error) {
	t.Helper()
	got := make(chan error, 1)
	go func() {
		defer close(got)
		got <- try()
	}()
	select {
	case err, answered = <-got:
		return answered, err
	case <-ctx.Done():
		t.Fatalf("%s is not answered: %v", what, ctx.Err())
		return false, nil
	}
}

// A badText is an argument of panic whose text cannot be made.
type badText struct{ text func() }

func (b badText) Error() string { b.text(); return "bad" }

func TestHandlerPanic(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]func(){
		"whose text is told":                  func() {},
		"whose text panics":                   func() { panic("in Error") },
		"whose text ends the goroutine":       runtime.Goexit,
		"whose text is never told until then": func() { pass(time.Second) },
	} {
		for _, sends := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s is a failed attempt, sent %v", name, sends), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					kind := perdure.EventSourced("k", perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
						if sends {
							return perdure.None().AfterCommit(&testv1.Note{}), nil
						}
						return perdure.None().Enqueue(&testv1.Note{}), nil
					}), perdure.Evolve(onDeposited))
					e := openConfig(t, perdure.Config{
						Store: newLog(t), Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{
							perdure.Perform(func(context.Context, *testv1.Note) error { panic(badText{text}) }, perdure.RetryPolicy{MaxAttempts: 3}),
						},
					})
					if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Touch{}); err != nil {
						t.Fatal(err)
					}
					pass(time.Minute)
					failed, parked := uint64(3), uint64(1)
					if sends {
						failed, parked = 1, 0
					}
					if s := e.Stats(); s.Delivering != 0 || s.Delivered != 0 || s.DeliveriesFailed != failed || s.Parked != parked {
						t.Errorf("got %+v, want %d failed and %d parked", s, failed, parked)
					}
				})
			})
		}
	}
}

func TestRuleGoexitIsReportedWithItsStack(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind := accounts()
	var log strings.Builder
	e, err := perdure.Open(ctx, perdure.Config{
		Store: &hookedLog{Log: newLog(t)}, Kinds: []perdure.AnyKind{kind}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	for how, rule := range map[testv1.Misbehave_How]string{
		testv1.Misbehave_HOW_EXIT: "perdure_test.misbehave", testv1.Misbehave_HOW_EVOLVE_EXIT: "perdure_test.onMisbehaved",
	} {
		if err := kind.Ref(e, "1").Tell(ctx, &testv1.Misbehave{How: how}); err != nil {
			t.Fatal(err)
		}
		waitUntil(ctx, t, "the command has failed", func() bool { return e.Stats().Calls == 0 })
		answered, err := answerOf(ctx, t, func() error {
			_, err := kind.Ref(e, "2").Do(ctx, &testv1.Misbehave{How: how})
			return err
		}, "a command")
		var p *perdure.PanicError
		if answered && (!errors.As(err, &p) || !strings.Contains(string(p.Stack), rule)) {
			t.Errorf("%v: got %v, want a PanicError with the stack of %s", how, err, rule)
		}
	}
	closeAll(t, e)
	if text := log.String(); strings.Count(text, "level=ERROR") != 2 || !strings.Contains(text, "perdure_test.misbehave") || !strings.Contains(text, "perdure_test.onMisbehaved") {
		t.Errorf("two told commands have failed, want a line with a stack for each: got\n%s", text)
	}
}

// TestNil puts a nil into the configuration, a kind, an effect, a call or a message. The error
// names each, and none is a panic.
func TestNil(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	var noKind *perdure.Kind[*testv1.Account]
	perform := func(context.Context, *testv1.Note) error { return nil }
	for text, c := range map[string]perdure.Config{
		"Config.Store is nil":                            {Kinds: []perdure.AnyKind{accounts()}},
		"Config.Kinds[1] is nil":                         {Kinds: []perdure.AnyKind{accounts(), nil}},
		"Config.Kinds[0] is nil":                         {Kinds: []perdure.AnyKind{noKind}},
		"Config.Effects[0] is nil":                       {Kinds: []perdure.AnyKind{accounts()}, Effects: []perdure.EffectRule{nil}},
		"Config.Services[0] is nil":                      {Kinds: []perdure.AnyKind{accounts()}, Services: []perdure.Service{nil}},
		`kind "account": option 0 is nil`:                {Kinds: []perdure.AnyKind{accounts(nil)}},
		"Perform rule for *testv1.Note: option 0 is nil": {Kinds: []perdure.AnyKind{accounts()}, Effects: []perdure.EffectRule{perdure.Perform(perform, nil)}},
	} {
		if c.Store = newLog(t); text == "Config.Store is nil" {
			c.Store = nil
		}
		if _, err := perdure.Open(ctx, c); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want an error that says %q", err, text)
		}
	}
	kind := perdure.EventSourced("k", perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
		return perdure.None().EnqueueTo(store.Key{Kind: "k", ID: "2"}, &testv1.Touch{}, nil), nil
	}), perdure.Decide(deposit), perdure.Evolve(onDeposited))
	ref := kind.Ref(open(t, newLog(t), kind), "1")
	if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}, nil); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "option 0 of the call is nil") {
		t.Errorf("an option of a call: got %v", err)
	}
	if _, err := ref.Do(ctx, &testv1.Touch{}); !errors.Is(err, perdure.ErrInvalidDecision) || !strings.Contains(err.Error(), "option 0 of the message is nil") {
		t.Errorf("an option of a message: got %v", err)
	}
	if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
		t.Errorf("the next command: got %v", err)
	}
	if err := perdure.Park(nil); err != nil {
		t.Errorf("Park(nil): got %v, want nil", err)
	}
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	refuse := func(t *testing.T, err error) (first, second error) {
		t.Helper()
		ctx := testContext(t)
		kind := perdure.EventSourced("refuser",
			perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) { return nil, err }),
			perdure.Evolve(onDeposited))
		ref := kind.Ref(open(t, newLog(t), kind), "1")
		_, first = ref.Do(ctx, &testv1.Touch{}, perdure.WithIdempotencyKey("k"))
		_, second = ref.Do(ctx, &testv1.Touch{}, perdure.WithIdempotencyKey("k"))
		return first, second
	}
	for name, err := range map[string]error{
		"with text that is not UTF-8":        perdure.Reject(perdure.NotFound, "no \xff here"),
		"that wraps text that is not UTF-8":  fmt.Errorf("\xff: %w", perdure.NotFound),
		"with a detail that is not UTF-8":    &perdure.Error{Code: perdure.Aborted, Message: "no", Details: []proto.Message{&testv1.Note{Text: "\xff"}, &testv1.Note{Text: "ok"}}},
		"that is a code":                     perdure.OutOfRange,
		"with a text of the largest size":    perdure.Reject(perdure.NotFound, "%s", strings.Repeat("x", refusalBytesMax)),
		"with a text that is too large":      perdure.Reject(perdure.NotFound, "%s", strings.Repeat("€", 1<<20)),
		"with details that are too large":    &perdure.Error{Code: perdure.Aborted, Message: "no", Details: []proto.Message{&testv1.Note{Text: "ok"}, &testv1.Note{Text: strings.Repeat("x", 2<<20)}}},
		"that wraps a refusal with a detail": fmt.Errorf("outside: %w", &perdure.Error{Code: perdure.Aborted, Message: "in", Details: []proto.Message{&testv1.Note{Text: "ok"}}}),
	} {
		t.Run(name+" is the same when it is repeated", func(t *testing.T) {
			t.Parallel()
			first, second := refuse(t, err)
			var a, b *perdure.Error
			if !errors.As(first, &a) || !errors.As(second, &b) || a.Code != b.Code || a.Message != b.Message || len(a.Details) != len(b.Details) {
				t.Fatalf("got %.200v and then %.200v, want the same", first, second)
			}
			for i := range a.Details {
				if !proto.Equal(a.Details[i], b.Details[i]) {
					t.Errorf("detail %d: got %v and then %v", i, a.Details[i], b.Details[i])
				}
			}
			if !errors.Is(first, a.Code) || len(a.Message) > refusalBytesMax || !utf8.ValidString(first.Error()) {
				t.Errorf("got code %v and a text of %d bytes", a.Code, len(a.Message))
			}
		})
	}
	t.Run("that is shortened says so", func(t *testing.T) {
		t.Parallel()
		first, _ := refuse(t, perdure.Reject(perdure.NotFound, "%s", strings.Repeat("x", 100_000)))
		if !strings.Contains(first.Error(), "bytes are left out)") || !strings.HasPrefix(first.Error(), "not found: xxx") {
			t.Errorf("got %q", first.Error()[len(first.Error())-60:])
		}
		first, _ = refuse(t, &perdure.Error{Message: "why", Details: []proto.Message{&testv1.Note{Text: strings.Repeat("x", 2<<20)}}})
		if !strings.HasPrefix(first.Error(), "why (1 of 1 details are left out") {
			t.Errorf("got %.80q", first)
		}
	})
	t.Run("matches what the rule's error matches", func(t *testing.T) {
		t.Parallel()
		cause := errors.New("cause")
		first, _ := refuse(t, fmt.Errorf("lend: %w", cause))
		if !errors.Is(first, cause) || first.Error() != "lend: cause" {
			t.Errorf("got %v, want it to match its cause", first)
		}
	})
	t.Run("that is larger than a message ends the message", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			kind := perdure.EventSourced("wordy",
				perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
					return nil, perdure.Reject(perdure.InvalidArgument, "%s", strings.Repeat("x", store.PayloadBytesMax))
				}),
				perdure.Decide(func(context.Context, *testv1.Account, *testv1.Withdraw) (*perdure.Decision, error) {
					return perdure.None().EnqueueTo(store.Key{Kind: "wordy", ID: "target"}, &testv1.Touch{}, perdure.ReplyTo("x")), nil
				}),
				perdure.Evolve(onDeposited))
			e := open(t, newLog(t), kind)
			if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Withdraw{}); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Minute)
			for _, m := range messages(t, e.Pending(t.Context())) {
				if m.Target.ID == "target" {
					t.Errorf("the message has been refused %d times and is still to be delivered: %s", m.Attempts, m.LastError)
				}
			}
		})
	})
}

// TestCommandMetadata makes snapshots, receipts and replies due for decisions of the
// largest size.
func TestCommandMetadata(t *testing.T) {
	t.Parallel()
	t.Run("takes no room from it", func(t *testing.T) {
		t.Parallel()
		ctx := testContext(t)
		kind := accounts(perdure.SnapshotEvery(5))
		e := open(t, newLog(t), kind)
		largest := &testv1.Deposit{Amount: store.BatchRecordsMax, Parts: store.BatchRecordsMax}
		if _, err := kind.Ref(e, "1").Do(ctx, largest, perdure.WithIdempotencyKey("k")); err != nil {
			t.Error(err)
		}
		_, err := kind.Ref(e, "1").Do(ctx, &testv1.Deposit{Amount: 1, Parts: store.BatchRecordsMax + 1})
		if !errors.Is(err, perdure.ErrInvalidDecision) || !strings.Contains(err.Error(), "10001 records") {
			t.Errorf("one event more: got %v, want ErrInvalidDecision", err)
		}
		wantBalance(t, kind.Ref(e, "1"), store.BatchRecordsMax)
	})
	t.Run("takes no room from a message", func(t *testing.T) {
		t.Parallel()
		ctx := testContext(t)
		kind := perdure.EventSourced("target",
			perdure.Decide(deposit), perdure.Evolve(onDeposited),
			perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
				return perdure.None().EnqueueTo(store.Key{Kind: "target", ID: "2"},
					&testv1.Deposit{Amount: store.BatchRecordsMax, Parts: store.BatchRecordsMax}, perdure.ReplyTo("x")), nil
			}),
		).With(perdure.SnapshotEvery(5))
		e := open(t, newLog(t), kind)
		if _, err := kind.Ref(e, "1").Do(ctx, &testv1.Touch{}); err != nil {
			t.Fatal(err)
		}
		waitUntil(ctx, t, "the message is decided", func() bool {
			s, err := kind.Ref(e, "2").State(ctx)
			return err == nil && s.GetBalance() == store.BatchRecordsMax
		})
	})
}
