package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

func TestRuleFailureFailsItsOwnCommandOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		how  testv1.Misbehave_How
		want error
		text string
	}{
		{testv1.Misbehave_HOW_PANIC, perdure.ErrPanicked, "Decide perdure.test.v1.Misbehave: panic: no money"},
		{testv1.Misbehave_HOW_UNKNOWN_EVENT, perdure.ErrInvalidDecision, "event perdure.test.v1.Note has no Evolve rule"},
		{testv1.Misbehave_HOW_NIL_EVENT, perdure.ErrInvalidDecision, "event 0 is nil"},
		{testv1.Misbehave_HOW_INVALID_TEXT, perdure.ErrInvalidDecision, "invalid UTF-8"},
		{testv1.Misbehave_HOW_EVOLVE_PANIC, perdure.ErrPanicked, "Evolve after perdure.test.v1.Misbehave: panic: evolve"},
	} {
		for _, instant := range []bool{true, false} {
			t.Run(fmt.Sprintf("%v instant %v", tt.how, instant), func(t *testing.T) {
				t.Parallel()
				ctx := testContext(t)
				kind := accounts()
				var log store.Log = newLog(t)
				if !instant {
					log = &hookedLog{Log: newLog(t)}
				}
				e := open(t, log, kind)
				ref := kind.Ref(e, "1")
				if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 3}); err != nil {
					t.Fatal(err)
				}
				_, err := ref.Do(ctx, &testv1.Misbehave{How: tt.how})
				if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
				}
				state, err := ref.Ask(ctx, &testv1.Deposit{Amount: 4})
				if err != nil || state.GetBalance() != 7 || state.GetOwner() != "" {
					t.Errorf("afterwards: got %v, %v, want balance 7", state, err)
				}
				if s, err := kind.Ref(e, "2").Ask(ctx, &testv1.Deposit{Amount: 1}); err != nil || s.GetBalance() != 1 {
					t.Errorf("neighbour: got %v, %v", s, err)
				}
			})
		}
	}
}

func TestRuleCannotCallAnEntity(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	var other perdure.Ref[*testv1.Account]
	kind := perdure.EventSourced("nesting",
		perdure.Decide(func(ctx context.Context, _ *testv1.Account, _ *testv1.Touch) (*perdure.Decision, error) {
			_, err := other.Do(ctx, &testv1.Touch{})
			return nil, err
		}),
		perdure.Evolve(onDeposited),
	)
	e := open(t, newLog(t), kind)
	other = kind.Ref(e, "2")
	if _, err := kind.Ref(e, "1").Do(ctx, &testv1.Touch{}); !errors.Is(err, perdure.ErrNested) {
		t.Errorf("got %v, want ErrNested", err)
	}
}

func TestRuleGoexitFailsItsOwnCommandOnly(t *testing.T) {
	t.Parallel()
	for _, how := range []testv1.Misbehave_How{testv1.Misbehave_HOW_EXIT, testv1.Misbehave_HOW_EVOLVE_EXIT} {
		t.Run(how.String(), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			kind := accounts()
			e := open(t, newLog(t), kind)
			ref := kind.Ref(e, "1")
			if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 3}); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() { // the rule ends this goroutine
					if _, err := ref.Do(ctx, &testv1.Misbehave{How: how}); !errors.Is(err, perdure.ErrPanicked) {
						t.Errorf("got %v, want ErrPanicked", err)
					}
				})
				wg.Go(func() {
					if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if s, err := ref.State(ctx); err != nil || s.GetBalance() != 23 {
				t.Errorf("got %v, %v, want balance 23", s, err)
			}
			if n := e.Stats().Calls; n != 0 {
				t.Errorf("%d calls are left in the engine", n)
			}
		})
	}
}

// TestRuleGoexitEndsNoOtherGoroutine makes callers of one entity come and go while others
// send it a command whose rule ends its goroutine. The rule may end the goroutine of the caller
// that sent the command, and never the goroutine of another caller.
func TestRuleGoexitEndsNoOtherGoroutine(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind := accounts()
	log := &hookedLog{Log: newLog(t)}
	ref := kind.Ref(openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, InFlightMax: 1}), "1")
	const callers, each = 8, 300
	var wg sync.WaitGroup
	var back atomic.Int64
	for range callers {
		wg.Go(func() {
			for range each {
				if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
					t.Error(err)
				}
			}
			back.Add(1)
		})
		wg.Go(func() {
			for range each {
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					if _, err := ref.Do(ctx, &testv1.Misbehave{How: testv1.Misbehave_HOW_EXIT}); !errors.Is(err, perdure.ErrPanicked) {
						t.Errorf("got %v, want ErrPanicked", err)
					}
				}()
				<-ended
			}
		})
	}
	wg.Wait()
	if n := back.Load(); n != callers {
		t.Errorf("%d of %d callers of good commands have come back", n, callers)
	}
}

func TestErrorsNameTheBadCall(t *testing.T) {
	t.Parallel()
	kind, other := accounts(), shelves()
	e := open(t, newLog(t), kind)
	var nilDeposit *testv1.Deposit
	for _, tt := range []struct {
		name string
		call func(ctx context.Context) error
		want error
		text string
	}{
		{"no rule", func(ctx context.Context) error { _, err := kind.Ref(e, "1").Do(ctx, &testv1.Note{}); return err }, perdure.ErrUnhandled, "perdure.test.v1.Note"},
		{"no answer rule", func(ctx context.Context) error {
			_, err := perdure.Query[*testv1.Balance](ctx, kind.Ref(e, "1"), &testv1.Touch{})
			return err
		}, perdure.ErrUnhandled, "perdure.test.v1.Touch"},
		{"other answer", func(ctx context.Context) error {
			_, err := perdure.Query[*testv1.Note](ctx, kind.Ref(e, "1"), &testv1.GetBalance{})
			return err
		}, perdure.ErrUnhandled, "not a *testv1.Note"},
		{"nil", func(ctx context.Context) error { _, err := kind.Ref(e, "1").Do(ctx, nil); return err }, store.ErrInvalid, "message is nil"},
		{"typed nil", func(ctx context.Context) error { _, err := kind.Ref(e, "1").Do(ctx, nilDeposit); return err }, store.ErrInvalid, "message is nil"},
		{"empty id", func(ctx context.Context) error { _, err := kind.Ref(e, "").Do(ctx, &testv1.Touch{}); return err }, store.ErrInvalid, "entity id is empty"},
		{"zero byte", func(ctx context.Context) error { _, err := kind.Ref(e, "a\x00b").Do(ctx, &testv1.Touch{}); return err }, store.ErrInvalid, "zero byte"},
		{"kind not run", func(ctx context.Context) error { _, err := other.Ref(e, "1").Do(ctx, &testv1.Touch{}); return err }, store.ErrInvalid, "shelf/1"},
		{"zero ref", func(ctx context.Context) error {
			_, err := perdure.Ref[*testv1.Account]{}.Do(ctx, &testv1.Touch{})
			return err
		}, store.ErrInvalid, "ref was not made by Kind.Ref"},
		{"metadata too large", func(ctx context.Context) error {
			_, err := kind.Ref(e, "1").Do(ctx, &testv1.Deposit{Amount: 1}, perdure.WithMetadata(store.Metadata{Values: map[string]string{"k": strings.Repeat("x", store.MetadataBytesMax+1)}}))
			return err
		}, store.ErrInvalid, "metadata value of k"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if err := tt.call(testContext(t)); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

func TestMemoryIsNotSharedWithCallers(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind, shelf := accounts(), shelves()
	e := open(t, newLog(t), kind, shelf)
	ref := kind.Ref(e, "1")
	note := &testv1.Note{Text: "first"}
	state, err := ref.Ask(ctx, &testv1.Annotate{Note: note})
	if err != nil {
		t.Fatal(err)
	}
	note.Text = "changed by the sender"
	state.Notes[0].Text = "changed by the receiver"
	answer, err := perdure.Query[*testv1.Account](ctx, ref, &testv1.GetNotes{})
	if err != nil || answer.GetNotes()[0].GetText() != "first" {
		t.Fatalf("got %v, %v, want the note as it was sent", answer, err)
	}
	answer.Notes[0].Text = "changed by the asker"
	want := &testv1.Account{Notes: []*testv1.Note{{Text: "first"}}}
	if s, err := ref.State(ctx); err != nil || !proto.Equal(s, want) {
		t.Errorf("got %v, %v, want %v", s, err, want)
	}

	note = &testv1.Note{Text: "first"}
	state, err = shelf.Ref(e, "1").Ask(ctx, &testv1.Annotate{Note: note})
	if err != nil {
		t.Fatal(err)
	}
	note.Text, state.Notes[0].Text = "changed by the sender", "changed by the receiver"
	if s, err := shelf.Ref(e, "1").State(ctx); err != nil || !proto.Equal(s, want) {
		t.Errorf("durable state: got %v, %v, want %v", s, err, want)
	}
}

func TestOverloadedEntity(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind := accounts()
	log := &hookedLog{Log: newLog(t)}
	e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, EntityCallsMax: 8, InFlightMax: 2})
	ref := kind.Ref(e, "1")
	if _, err := ref.Do(ctx, &testv1.Touch{}); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
		<-release
		return next(group)
	})
	var accepted int
	for range 100 {
		err := ref.Tell(ctx, &testv1.Deposit{Amount: 1})
		switch {
		case err == nil:
			accepted++
		case !errors.Is(err, perdure.ErrOverloaded) || !errors.Is(err, perdure.ResourceExhausted):
			t.Fatalf("got %v, want ErrOverloaded", err)
		}
	}
	if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}); !errors.Is(err, perdure.ErrOverloaded) {
		t.Errorf("got %v, want ErrOverloaded", err)
	}
	close(release)
	s, err := ref.State(ctx)
	for errors.Is(err, perdure.ErrOverloaded) {
		s, err = ref.State(ctx)
	}
	if err != nil || s.GetBalance() > int64(accepted) {
		t.Errorf("got %v, %v, want at most the %d accepted commands", s, err, accepted)
	}
}

func TestOverloadedEngine(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind := accounts()
	log := &hookedLog{Log: newLog(t)}
	e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, CallsMax: 50})
	release := make(chan struct{})
	log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
		<-release
		return next(group)
	})
	accepted := 0
	for n := range 200 {
		err := kind.Ref(e, fmt.Sprint(n)).Tell(ctx, &testv1.Deposit{Amount: 1})
		switch {
		case err == nil:
			accepted++
		case !errors.Is(err, perdure.ErrOverloaded):
			t.Fatalf("got %v, want ErrOverloaded", err)
		}
	}
	if accepted != 50 {
		t.Errorf("%d calls were accepted, want 50", accepted)
	}
	close(release)
}
