package linearize_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

const (
	poisoners       = 64 // number of bad commands at the same time
	poisoned        = 40 // number of entities that get bad commands
	neighbours      = 8
	neighbourEach   = 500
	hugeEvery       = 1000 // one in this many bad commands is a message that is too large
	goroutinesExtra = 20   // goroutines that may remain: timers, the garbage collector
	settleMax       = 20 * time.Second
)

// spinning makes the rules that loop continue while enough is false.
type spinning struct{ enough atomic.Bool }

// poisonous returns a kind whose rules misbehave in every way.
func (s *spinning) poisonous() *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("poisonous",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Misbehave) (*perdure.Decision, error) {
			switch c.GetHow() {
			case testv1.Misbehave_HOW_PANIC:
				panic(errors.New("poison"))
			case testv1.Misbehave_HOW_EXIT:
				runtime.Goexit()
			case testv1.Misbehave_HOW_UNKNOWN_EVENT:
				return perdure.Persist(&testv1.Deposited{Amount: 1}, &testv1.Note{}), nil
			case testv1.Misbehave_HOW_NIL_EVENT:
				return perdure.Persist(&testv1.Deposited{Amount: 1}, nil), nil
			case testv1.Misbehave_HOW_INVALID_TEXT:
				return perdure.Persist(&testv1.Opened{Owner: "\xff"}), nil
			case testv1.Misbehave_HOW_BLOCK:
				for !s.enough.Load() {
				}
				return perdure.None(), nil
			}
			return perdure.Persist(&testv1.Deposited{Amount: 1}, &testv1.Misbehaved{How: c.GetHow()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Misbehaved) {
			a.Balance = -1 // no caller may ever see this balance
			if e.GetHow() == testv1.Misbehave_HOW_EVOLVE_EXIT {
				runtime.Goexit()
			}
			panic("poison")
		}),
	).With(perdure.SnapshotEvery(50))
}

// poison returns the n-th bad command and the error that it must be answered with.
func poison(n int) (command proto.Message, want error) {
	hows := []testv1.Misbehave_How{
		testv1.Misbehave_HOW_PANIC, testv1.Misbehave_HOW_EXIT, testv1.Misbehave_HOW_EVOLVE_PANIC, testv1.Misbehave_HOW_EVOLVE_EXIT,
		testv1.Misbehave_HOW_UNKNOWN_EVENT, testv1.Misbehave_HOW_NIL_EVENT, testv1.Misbehave_HOW_INVALID_TEXT,
	}
	switch i := n % (len(hows) + 2); {
	case n%hugeEvery == 0:
		return &testv1.Annotate{Note: &testv1.Note{Text: strings.Repeat("x", store.PayloadBytesMax)}}, store.ErrTooLarge
	case i < 4:
		return &testv1.Misbehave{How: hows[i]}, perdure.ErrPanicked
	case i < len(hows):
		return &testv1.Misbehave{How: hows[i]}, perdure.ErrInvalidDecision
	case i == len(hows):
		return nil, store.ErrInvalid
	default:
		return (*testv1.Deposit)(nil), store.ErrInvalid
	}
}

// TestBadCommandsHarmNoOtherEntity sends bad commands to some entities from many
// goroutines, while other entities work normally. Between the bad commands the same
// entities execute good ones.
func TestBadCommandsHarmNoOtherEntity(t *testing.T) {
	t.Parallel()
	s := new(spinning)
	kind, ledger := s.poisonous(), ledgers()
	log := memory.New()
	engine, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind, ledger}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), runMax)
	defer cancel()
	var wg sync.WaitGroup
	var good [poisoned]atomic.Int64
	room := make(chan struct{}, poisoners)
	wg.Go(func() {
		for n := range poisons {
			room <- struct{}{}
			wg.Go(func() { // a goroutine of its own, because a rule may end the goroutine of its caller
				defer func() { <-room }()
				entity := n % poisoned
				ref := kind.Ref(engine, fmt.Sprint(entity))
				if n%3 == 0 {
					if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
						t.Errorf("a good command before bad command %d: %v", n, err)
					}
					good[entity].Add(1)
				}
				command, want := poison(n)
				if _, err := ref.Do(ctx, command); !errors.Is(err, want) {
					t.Errorf("bad command %d: got %v, want %v", n, err, want)
				}
			})
		}
	})
	for n := range neighbours {
		wg.Go(func() {
			ref := ledger.Ref(engine, fmt.Sprint(n))
			for i := range neighbourEach {
				if r, err := ref.Do(ctx, &testv1.Deposit{Amount: int64(i), Parts: 1}); err != nil || r.Version != store.Version(i+1) {
					t.Errorf("neighbour %d: command %d: version %d, %v", n, i, r.Version, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for n := range poisoned {
		a, err := kind.Ref(engine, fmt.Sprint(n)).State(ctx)
		if err != nil || a.GetBalance() != good[n].Load() || len(a.GetNotes()) > 0 || a.GetOwner() != "" {
			t.Errorf("poisoned entity %d: got %v, %v, want the balance %d and nothing else", n, a, err, good[n].Load())
		}
	}
	if s := engine.Stats(); s.Calls != 0 {
		t.Errorf("%d calls are left in the engine", s.Calls)
	}
	if err := engine.Close(ctx); err != nil {
		t.Error(err)
	}
}

// TestRuleThatNeverEndsBlocksItsOwnEntityOnly makes a rule loop. Go cannot end it: the
// goroutine that runs it, which may be its caller's own, stays occupied. Other callers of
// the entity are answered by the deadline of their call, with an error that says that the
// command was not run. Callers of other entities are answered as usual.
func TestRuleThatNeverEndsBlocksItsOwnEntityOnly(t *testing.T) {
	t.Parallel()
	s := new(spinning)
	kind := s.poisonous()
	engine, err := perdure.Open(t.Context(), perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{kind}})
	if err != nil {
		t.Fatal(err)
	}
	stuck := kind.Ref(engine, "stuck")
	if err := stuck.Tell(t.Context(), &testv1.Misbehave{How: testv1.Misbehave_HOW_BLOCK}); err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := stuck.Do(ctx, &testv1.Deposit{Amount: 1})
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, perdure.ErrOutcomeUnknown) {
			t.Errorf("a call of the entity: got %v, want DeadlineExceeded, and nothing in doubt", err)
		}
		cancel()
		if _, err := kind.Ref(engine, fmt.Sprint(n)).Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			t.Errorf("a neighbour: %v", err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	closing := make(chan error, 1)
	go func() { closing <- engine.Close(short) }()
	select {
	case err := <-closing:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: got %v, want DeadlineExceeded", err)
		}
	case <-time.After(settleMax):
		t.Errorf("the engine was not closed in %v", settleMax)
	}
	s.enough.Store(true)
}

// TestLargeEntity makes the state of an entity larger than a snapshot
// can be.
func TestLargeEntity(t *testing.T) {
	t.Parallel()
	s := new(spinning)
	log := memory.New()
	const each = 4 << 20
	n := store.PayloadBytesMax/each + 3
	text := strings.Repeat("x", each)
	for round := range 2 {
		kind := s.poisonous().With(perdure.SnapshotEvery(6))
		engine, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
		if err != nil {
			t.Fatal(err)
		}
		ref := kind.Ref(engine, "1")
		for round == 0 && n > 0 {
			if _, err := ref.Do(t.Context(), &testv1.Annotate{Note: &testv1.Note{Text: text}}); err != nil {
				t.Fatal(err)
			}
			n--
		}
		a, err := ref.State(t.Context())
		if want := store.PayloadBytesMax/each + 3; err != nil || len(a.GetNotes()) != want {
			t.Errorf("round %d: got %d notes, %v, want %d", round, len(a.GetNotes()), err, want)
		}
		if err := engine.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
