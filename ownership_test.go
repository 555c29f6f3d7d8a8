package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
)

// A valve is a kind whose rules for Touch and Annotate block until the test releases them. A
// test can act while a rule runs or a command waits.
type valve struct {
	begun chan struct{}
	open  chan struct{}
	kind  *perdure.Kind[*testv1.Account]
}

func newValve() *valve {
	v := &valve{begun: make(chan struct{}, 100), open: make(chan struct{})}
	v.kind = perdure.EventSourced("valve",
		perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
			v.begun <- struct{}{}
			<-v.open
			return perdure.None(), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			v.begun <- struct{}{}
			<-v.open
			return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
			return perdure.None().EnqueueTo(store.Key{Kind: "valve", ID: "target"}, &testv1.Deposit{Amount: c.GetAmount()}), nil
		}),
		perdure.Decide(deposit),
		perdure.Evolve(onDeposited),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	)
	return v
}

// waitUntil waits until a condition is true.
func waitUntil(ctx context.Context, t *testing.T, what string, so func() bool) {
	t.Helper()
	for !so() {
		if ctx.Err() != nil {
			t.Fatalf("waited in vain until %s", what)
		}
		runtime.Gosched()
	}
}

// TestMemoryOfACaller changes messages and options after the call has returned, as their
// owner, the caller, may do.
func TestMemoryOfACaller(t *testing.T) {
	t.Parallel()
	key := store.Key{Kind: "valve", ID: "target"}
	wantUser := func(t *testing.T, log store.Log, want string) {
		t.Helper()
		events := 0
		for ev, err := range log.Read(t.Context(), key, 0) {
			if err != nil {
				t.Fatal(err)
			}
			events++
			if got := ev.Metadata.Values["user"]; got != want {
				t.Errorf("event %d is stored with the user %q, want %q", ev.Version, got, want)
			}
		}
		if events == 0 {
			t.Error("no event is stored")
		}
	}

	t.Run("metadata of a message that is delivered after the call", func(t *testing.T) {
		t.Parallel()
		ctx, v, log := testContext(t), newValve(), newLog(t)
		e := open(t, log, v.kind)
		go func() { _, _ = v.kind.Ref(e, "target").Do(ctx, &testv1.Touch{}) }()
		<-v.begun
		values := map[string]string{"user": "ada"}
		if _, err := v.kind.Ref(e, "source").Do(ctx, &testv1.Withdraw{Amount: 5}, perdure.WithMetadata(store.Metadata{Values: values})); err != nil {
			t.Fatal(err)
		}
		values["user"] = "mallory"
		close(v.open)
		waitUntil(ctx, t, "the message is decided", func() bool {
			s, err := v.kind.Ref(e, "target").State(ctx)
			return err == nil && s.GetBalance() == 5
		})
		wantUser(t, log, "ada")
	})

	t.Run("the command and the metadata of Tell", func(t *testing.T) {
		t.Parallel()
		ctx, v, log := testContext(t), newValve(), newLog(t)
		ref := v.kind.Ref(open(t, log, v.kind), "target")
		go func() { _, _ = ref.Do(ctx, &testv1.Touch{}) }()
		<-v.begun
		values, c := map[string]string{"user": "ada"}, &testv1.Deposit{Amount: 1, Tags: []string{"first"}}
		if err := ref.Tell(ctx, c, perdure.WithMetadata(store.Metadata{Values: values}), perdure.WithIdempotencyKey("k")); err != nil {
			t.Fatal(err)
		}
		values["user"], c.Amount, c.Tags[0] = "mallory", 1000, "changed"
		close(v.open)
		wantBalance(t, ref, 1)
		wantUser(t, log, "ada")
		if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1, Tags: []string{"first"}}, perdure.WithIdempotencyKey("k")); err != nil {
			t.Errorf("the body that was told, again: %v", err)
		}
	})

	t.Run("the command of a caller whose context ends while the rule runs", func(t *testing.T) {
		t.Parallel()
		ctx, v := testContext(t), newValve()
		ref := v.kind.Ref(open(t, &hookedLog{Log: newLog(t)}, v.kind), "1") // a load, and therefore this call, runs on another goroutine
		short, leave := context.WithCancel(ctx)
		c := &testv1.Annotate{Note: &testv1.Note{Text: "as it was sent"}}
		left := make(chan error)
		go func() { _, err := ref.Do(short, c); left <- err }()
		<-v.begun
		leave()
		if err := <-left; !errors.Is(err, perdure.ErrOutcomeUnknown) {
			t.Fatalf("got %v, want ErrOutcomeUnknown", err)
		}
		c.Note.Text = "the next request"
		close(v.open)
		s, err := ref.State(ctx)
		if err != nil || len(s.GetNotes()) != 1 || s.GetNotes()[0].GetText() != "as it was sent" {
			t.Errorf("got %v, %v, want the note as it was sent", s, err)
		}
	})

	t.Run("the command of a caller that has left is not run again", func(t *testing.T) {
		t.Parallel()
		ctx, kind := testContext(t), accounts()
		log := &hookedLog{Log: newLog(t)}
		ref := kind.Ref(open(t, log, kind), "1")
		if _, err := ref.Do(ctx, &testv1.Touch{}); err != nil { // this brings it into memory
			t.Fatal(err)
		}
		short, leave := context.WithCancel(ctx)
		begun, lost := make(chan struct{}), make(chan struct{})
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			log.on(nil)
			close(begun)
			<-lost
			return nil, errors.New("connection reset")
		})
		c, left := &testv1.Deposit{Amount: 1}, make(chan error)
		go func() { _, err := ref.Do(short, c); left <- err }()
		<-begun
		leave()
		if err := <-left; !errors.Is(err, perdure.ErrOutcomeUnknown) {
			t.Fatalf("got %v, want ErrOutcomeUnknown", err)
		}
		c.Amount = 1000
		close(lost)
		if s, err := ref.State(ctx); err != nil || s.GetBalance() != 0 {
			t.Errorf("got balance %d, %v, want 0: the command is not stored, and its caller has gone", s.GetBalance(), err)
		}
	})

	t.Run("a command whose caller leaves just before it is to run again is not run", func(t *testing.T) {
		t.Parallel()
		ctx, kind := testContext(t), accounts()
		log := &hookedLog{Log: newLog(t)}
		ref := kind.Ref(open(t, log, kind), "1")
		if _, err := ref.Do(ctx, &testv1.Touch{}); err != nil { // this brings it into memory
			t.Fatal(err)
		}
		inner, leave := context.WithCancel(ctx)
		asked := make(chan struct{})
		late := &lateContext{Context: inner}
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			log.on(nil)
			late.asked.Store(&asked)
			return nil, errors.New("connection reset")
		})
		c, left := &testv1.Deposit{Amount: 1}, make(chan error)
		late.gone = make(chan struct{})
		go func() { _, err := ref.Do(late, c); left <- err }()
		<-asked // the entity is about to run the command again, and finds that its context has not ended
		leave()
		if err := <-left; !errors.Is(err, perdure.ErrOutcomeUnknown) {
			t.Fatalf("got %v, want ErrOutcomeUnknown", err)
		}
		c.Amount = 1000
		close(late.gone)
		if s, err := ref.State(ctx); err != nil || s.GetBalance() != 0 {
			t.Errorf("got balance %d, %v, want 0: the command is not stored, and its caller has gone", s.GetBalance(), err)
		}
	})

	t.Run("metadata that the caller uses for the next call", func(t *testing.T) {
		t.Parallel()
		ctx, kind := testContext(t), accounts()
		log := &hookedLog{Log: newLog(t)}
		var looked atomic.Bool
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			for _, b := range group {
				for i := range b.Events {
					_ = maps.Clone(b.Events[i].Metadata.Values) // the race detector checks this read
					looked.Store(true)
				}
			}
			return next(group)
		})
		ref := kind.Ref(open(t, log, kind), "1")
		values := map[string]string{"user": "ada"}
		if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}, perdure.WithMetadata(store.Metadata{Values: values})); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			short, leave := context.WithCancel(ctx)
			go leave()
			_, _ = ref.Do(short, &testv1.Deposit{Amount: 1}, perdure.WithMetadata(store.Metadata{Values: values}))
			values["user"] += "."
		}
		if !looked.Load() {
			t.Error("no metadata has reached the store")
		}
	})
}

// A lateContext reports once that it has not ended, and waits before it does so.
type lateContext struct {
	context.Context

	asked atomic.Pointer[chan struct{}] // closed when Err is called; nil to answer at once
	gone  chan struct{}                 // closed to let it answer
}

func (c *lateContext) Err() error {
	if asked := c.asked.Swap(nil); asked != nil {
		close(*asked)
		<-c.gone
		return nil
	}
	return c.Context.Err()
}

// A keeper is a kind whose rules return messages that they keep, and parts of the state.
type keeper struct {
	kind   *perdure.Kind[*testv1.Account]
	error  *perdure.Error
	event  *testv1.Annotated
	shelf  *perdure.Kind[*wrapperspb.Int64Value]
	number *wrapperspb.Int64Value // the state that an Update rule saved
}

func newKeeper() *keeper {
	k := &keeper{}
	k.kind = perdure.EventSourced("keeper",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			k.event = &testv1.Annotated{Note: c.GetNote()}
			return perdure.Persist(k.event), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Note) (*perdure.Decision, error) {
			return perdure.Persist(c), nil // the event is the command itself, and it becomes a part of the state
		}),
		perdure.Decide(func(_ context.Context, a *testv1.Account, _ *testv1.Withdraw) (*perdure.Decision, error) {
			k.error = &perdure.Error{Code: perdure.AlreadyExists, Message: "there", Details: []proto.Message{a.GetNotes()[0]}}
			return nil, k.error
		}),
		perdure.Decide(func(_ context.Context, a *testv1.Account, _ *testv1.Touch) (*perdure.Decision, error) {
			return nil, fmt.Errorf("wrapped: %w", &perdure.Error{Code: perdure.Aborted, Details: []proto.Message{a.GetNotes()[0]}})
		}),
		perdure.Decide(func(_ context.Context, a *testv1.Account, _ *testv1.Misbehave) (*perdure.Decision, error) {
			panic(a.GetNotes()[0])
		}),
		perdure.Decide(func(_ context.Context, a *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Opened{Owner: c.GetOwner()}).AfterCommit(a), nil
		}),
		perdure.Decide(deposit),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Note) { a.Notes = append(a.Notes, e) }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
		perdure.Evolve(onDeposited),
		perdure.Answer(func(_ context.Context, a *testv1.Account, q *testv1.GetBalance) (*testv1.Note, error) {
			if q.GetRefuse() {
				return nil, &perdure.Error{Code: perdure.NotFound, Details: []proto.Message{a.GetNotes()[0]}}
			}
			return a.GetNotes()[0], nil
		}),
	).With(perdure.SnapshotEvery(2))
	k.shelf = perdure.DurableState("keeping shelf",
		perdure.Update(func(_ context.Context, n *wrapperspb.Int64Value, c *testv1.Deposit) (*perdure.Change, error) {
			n.Value += c.GetAmount()
			k.number = n
			return perdure.Save(), nil
		}))
	return k
}

// TestMemoryOfARule changes, in rules and in callers, the values that a rule has returned.
func TestMemoryOfARule(t *testing.T) {
	t.Parallel()
	setUp := func(t *testing.T) (context.Context, *keeper, perdure.Ref[*testv1.Account]) {
		t.Helper()
		k := newKeeper()
		ref := k.kind.Ref(openConfig(t, perdure.Config{
			Store: newLog(t), Kinds: []perdure.AnyKind{k.kind},
			Effects: []perdure.EffectRule{perdure.Perform(func(context.Context, *testv1.Account) error { return nil })},
		}), "1")
		if _, err := ref.Do(t.Context(), &testv1.Annotate{Note: &testv1.Note{Text: "first"}}); err != nil {
			t.Fatal(err)
		}
		return testContext(t), k, ref
	}
	wantNote := func(t *testing.T, ref perdure.Ref[*testv1.Account], texts ...string) {
		t.Helper()
		s, err := ref.State(t.Context())
		if err != nil || len(s.GetNotes()) != len(texts) {
			t.Fatalf("got %v, %v, want %d notes", s, err, len(texts))
		}
		for i, n := range s.GetNotes() {
			if n.GetText() != texts[i] {
				t.Errorf("note %d is %q, want %q", i, n.GetText(), texts[i])
			}
		}
	}
	change := func(t *testing.T, err error) {
		t.Helper()
		var refusal *perdure.Error
		if !errors.As(err, &refusal) || len(refusal.Details) != 1 {
			t.Fatalf("got %v, want a refusal with a detail", err)
		}
		n := refusal.Details[0].(*testv1.Note)
		if n.GetText() != "first" {
			t.Errorf("the detail says %q, want %q", n.GetText(), "first")
		}
		n.Text = "changed by the caller"
	}

	t.Run("details of a refusal", func(t *testing.T) {
		t.Parallel()
		ctx, _, ref := setUp(t)
		_, err := ref.Do(ctx, &testv1.Withdraw{})
		change(t, err)
		_, err = ref.Do(ctx, &testv1.Touch{})
		change(t, err)
		_, err = perdure.Query[*testv1.Note](ctx, ref, &testv1.GetBalance{Refuse: true})
		change(t, err)
		wantNote(t, ref, "first")
	})
	t.Run("an error that its rule keeps", func(t *testing.T) {
		t.Parallel()
		ctx, k, ref := setUp(t)
		_, err := ref.Do(ctx, &testv1.Withdraw{}, perdure.WithIdempotencyKey("k"))
		k.error.Message, k.error.Code, k.error.Details[0] = "another", perdure.NotFound, &testv1.Note{Text: "another"}
		if !errors.Is(err, perdure.AlreadyExists) || err.Error() != "already exists: there" {
			t.Errorf("got %q, want what the rule has returned", err)
		}
		change(t, err)
		_, err = ref.Do(ctx, &testv1.Withdraw{}, perdure.WithIdempotencyKey("k"))
		change(t, err)
	})
	t.Run("a part of the state that a rule panics with", func(t *testing.T) {
		t.Parallel()
		ctx, _, ref := setUp(t)
		_, err := ref.Do(ctx, &testv1.Misbehave{})
		var p *perdure.PanicError
		if !errors.As(err, &p) {
			t.Fatalf("got %v, want a PanicError", err)
		}
		p.Value.(*testv1.Note).Text = "changed by the caller"
		wantNote(t, ref, "first")
	})
	t.Run("an answer", func(t *testing.T) {
		t.Parallel()
		ctx, _, ref := setUp(t)
		n, err := perdure.Query[*testv1.Note](ctx, ref, &testv1.GetBalance{})
		if err != nil {
			t.Fatal(err)
		}
		n.Text = "changed by the caller"
		wantNote(t, ref, "first")
	})
	t.Run("an event that its rule keeps", func(t *testing.T) {
		t.Parallel()
		_, k, ref := setUp(t)
		k.event.Note.Text = "changed by the rule"
		wantNote(t, ref, "first")
	})
	t.Run("an event that is the command and a part of the state", func(t *testing.T) {
		t.Parallel()
		ctx, _, ref := setUp(t)
		n := &testv1.Note{Text: "second"}
		if _, err := ref.Do(ctx, n); err != nil {
			t.Fatal(err)
		}
		n.Text = "changed by the caller"
		wantNote(t, ref, "first", "second")
	})
	t.Run("the state that an Update rule keeps", func(t *testing.T) {
		t.Parallel()
		ctx, k := testContext(t), newKeeper()
		ref := k.shelf.Ref(open(t, newLog(t), k.shelf), "1")
		if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 3}); err != nil {
			t.Fatal(err)
		}
		k.number.Value = 1000
		if s, err := ref.State(ctx); err != nil || s.GetValue() != 3 {
			t.Errorf("got %v, %v, want 3", s, err)
		}
	})
	t.Run("the state as an effect that is sent", func(t *testing.T) {
		t.Parallel()
		ctx, k := testContext(t), newKeeper()
		begun, look, saw := make(chan struct{}), make(chan struct{}), make(chan *testv1.Account, 1)
		ref := k.kind.Ref(openConfig(t, perdure.Config{
			Store: newLog(t), Kinds: []perdure.AnyKind{k.kind},
			Effects: []perdure.EffectRule{perdure.Perform(func(_ context.Context, a *testv1.Account) error {
				close(begun)
				<-look
				saw <- a
				return nil
			})},
		}), "1")
		if _, err := ref.Do(ctx, &testv1.Open{Owner: "ada"}); err != nil {
			t.Fatal(err)
		}
		<-begun
		if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 77}); err != nil {
			t.Fatal(err)
		}
		close(look)
		if got := <-saw; !proto.Equal(got, &testv1.Account{}) {
			t.Errorf("the effect shows %v, want the state that the rule has seen", got)
		}
	})
}
