package perdure_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// accounts is the kind that most tests run. Its rules keep their promises, except for
// Misbehave.
func accounts(options ...perdure.KindOption) *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("account",
		perdure.Decide(openAccount),
		perdure.Decide(deposit),
		perdure.Decide(withdraw),
		perdure.Decide(annotate),
		perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
			return perdure.None(), nil
		}),
		perdure.Decide(misbehave),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner, a.OpenedAt = e.GetOwner(), e.GetAt() }),
		perdure.Evolve(onDeposited),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Withdrawn) { a.Balance -= e.GetAmount(); a.Operations++ }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
		perdure.Evolve(onMisbehaved),
		perdure.Answer(getBalance),
		perdure.Answer(func(_ context.Context, a *testv1.Account, _ *testv1.GetNotes) (*testv1.Account, error) { return a, nil }),
	).With(options...)
}

// Values that the package documents.
const (
	rescueAfter     = 30 * time.Second // default of Config.RescueAfter
	refusalBytesMax = 64 << 10         // bound of the text of a refusal
)

var errNoMoney = errors.New("no money")

func openAccount(ctx context.Context, a *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
	if a.GetOwner() != "" {
		return nil, perdure.Reject(perdure.AlreadyExists, "account of %s is open", a.GetOwner())
	}
	return perdure.Persist(&testv1.Opened{Owner: c.GetOwner(), At: c.GetAt()}), nil
}

func deposit(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
	if c.GetAmount() <= 0 {
		return nil, perdure.Reject(perdure.InvalidArgument, "amount %d is not positive", c.GetAmount())
	}
	d := perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()})
	if n := int(c.GetParts()); n > 1 {
		events := make([]proto.Message, n)
		for i := range events {
			events[i] = &testv1.Deposited{Amount: c.GetAmount() / int64(n)}
		}
		d = perdure.Persist(events...)
	}
	return d.Tag(c.GetTags()...), nil
}

func onDeposited(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount(); a.Operations++ }

func withdraw(_ context.Context, a *testv1.Account, c *testv1.Withdraw) (*perdure.Decision, error) {
	if a.GetBalance() < c.GetAmount() {
		return nil, perdure.Reject(perdure.FailedPrecondition, "balance is %d", a.GetBalance())
	}
	return perdure.Persist(&testv1.Withdrawn{Amount: c.GetAmount()}), nil
}

func annotate(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
	return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
}

func getBalance(_ context.Context, a *testv1.Account, q *testv1.GetBalance) (*testv1.Balance, error) {
	if q.GetRefuse() {
		return nil, errNoMoney
	}
	return &testv1.Balance{Amount: a.GetBalance(), Operations: a.GetOperations()}, nil
}

// blocked receives a channel from every rule that blocks. The rule continues when the channel
// is closed.
var blocked = make(chan chan struct{}, 1)

func misbehave(_ context.Context, _ *testv1.Account, c *testv1.Misbehave) (*perdure.Decision, error) {
	switch c.GetHow() {
	case testv1.Misbehave_HOW_PANIC:
		panic(errNoMoney)
	case testv1.Misbehave_HOW_EXIT:
		runtime.Goexit()
	case testv1.Misbehave_HOW_UNKNOWN_EVENT:
		return perdure.Persist(&testv1.Opened{Owner: "x"}, &testv1.Note{}), nil
	case testv1.Misbehave_HOW_NIL_EVENT:
		return perdure.Persist(nil), nil
	case testv1.Misbehave_HOW_INVALID_TEXT:
		return perdure.Persist(&testv1.Opened{Owner: "\xff"}), nil
	case testv1.Misbehave_HOW_BLOCK:
		release := make(chan struct{})
		blocked <- release
		<-release
		return perdure.None(), nil
	}
	return perdure.Persist(&testv1.Deposited{Amount: 1}, &testv1.Misbehaved{How: c.GetHow()}), nil
}

func onMisbehaved(a *testv1.Account, e *testv1.Misbehaved) {
	a.Balance = -1 // a state that must never be visible
	switch e.GetHow() {
	case testv1.Misbehave_HOW_EVOLVE_PANIC:
		panic("evolve")
	case testv1.Misbehave_HOW_EVOLVE_EXIT:
		runtime.Goexit()
	}
}

// shelves is a durable-state kind with the same messages.
func shelves(options ...perdure.KindOption) *perdure.Kind[*testv1.Account] {
	return perdure.DurableState("shelf",
		perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Deposit) (*perdure.Change, error) {
			a.Balance += c.GetAmount()
			if a.Balance > 1000 {
				return nil, perdure.Reject(perdure.OutOfRange, "too much")
			}
			a.Operations++
			return perdure.Save(), nil
		}),
		perdure.Update(func(_ context.Context, a *testv1.Account, c *testv1.Annotate) (*perdure.Change, error) {
			a.Notes = append(a.Notes, c.GetNote())
			return perdure.Save(), nil
		}),
		perdure.Update(func(_ context.Context, a *testv1.Account, _ *testv1.Touch) (*perdure.Change, error) {
			a.Balance = -1 // a state that must never be visible
			return perdure.Unchanged(), nil
		}),
		perdure.Answer(getBalance),
	).With(options...)
}

// waitMax bounds every wait of a test.
const waitMax = 30 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	t.Cleanup(cancel)
	return ctx
}

// pass advances the time in a bubble of package synctest.
func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // it is the time of the bubble

// open opens an engine that is closed when the test ends.
func open(t testing.TB, log store.Log, kinds ...perdure.AnyKind) *perdure.Engine {
	t.Helper()
	return openConfig(t, perdure.Config{Store: log, Kinds: kinds})
}

func openConfig(t testing.TB, c perdure.Config) *perdure.Engine {
	t.Helper()
	e, err := perdure.Open(t.Context(), c)
	if err != nil {
		t.Fatalf("open engine: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitMax)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Errorf("close engine: %v", err)
		}
	})
	return e
}

// newLog returns a memory log that is closed when the test ends.
func newLog(t testing.TB, options ...memory.Option) *memory.Log {
	t.Helper()
	log := memory.New(options...)
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Errorf("close log: %v", err)
		}
	})
	return log
}
