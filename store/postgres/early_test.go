package postgres_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// A crowd is so many clients that commit at the same time that transactions of
// their log begin early.
type crowd []*client

func newCrowd() crowd {
	c := make(crowd, postgres.EarlyCalls+postgres.EarlyCalls/2)
	for i := range c {
		c[i] = &client{key: key(fmt.Sprint(i))}
	}
	return c
}

// round lets each client commit once, and returns what no client may meet.
func (c crowd) round(ctx context.Context, l store.Log) error {
	errs := make([]error, len(c))
	var wg sync.WaitGroup
	for i := range c {
		wg.Go(func() { errs[i] = c[i].step(ctx, l) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// rounds lets the clients commit until at least one transaction has begun early.
func (c crowd) rounds(ctx context.Context, l store.Log, begun *atomic.Int64) error {
	const roundsMax = 200
	before := begun.Load()
	for range roundsMax {
		if err := c.round(ctx, l); err != nil {
			return err
		}
		if begun.Load() > before {
			return nil
		}
	}
	return fmt.Errorf("none of the transactions of %d rounds of %d clients has begun early", roundsMax, len(c))
}

// early are the options of a log whose transactions begin early as soon as there are
// enough clients, and which counts them.
func early(begun *atomic.Int64, more ...postgres.Option) []postgres.Option {
	return slices.Concat([]postgres.Option{
		postgres.WithoutProbation(), postgres.WithPatience(time.Millisecond), postgres.WithBegun(func() { begun.Add(1) }),
	}, more)
}

func TestTransactionsThatBeginEarlyStoreWhatTheyAcknowledge(t *testing.T) {
	t.Parallel()
	var begun, held, missed atomic.Int64
	count := postgres.WithAhead(func(holds bool) {
		if holds {
			held.Add(1)
		} else {
			missed.Add(1)
		}
	})
	at := place{pgtest.Shared(t), newSchema()}
	logs := []*postgres.Log{openAt(t, at, early(&begun, count)...), openAt(t, at, early(&begun, count)...)}
	all := newCrowd()
	all = append(all, newCrowd()...)
	crowds := []crowd{all[:len(all)/2], all[len(all)/2:]}
	for _, c := range crowds[1] {
		c.key = key("other " + c.key.ID)
	}
	const rounds, turn = 60, 6 // rounds that one log has before the other
	for i := range rounds {
		log := i / turn % 2
		if err := crowds[log].round(t.Context(), logs[log]); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
	verify(t, logs[0], all)
	if begun.Load() == 0 || held.Load() == 0 || missed.Load() == 0 {
		t.Errorf("%d transactions began early; of those decided ahead %d held and %d did not; want some of each",
			begun.Load(), held.Load(), missed.Load())
	}
}

func TestARefusalInATransactionThatBeginsEarlyIsItsCallersAlone(t *testing.T) {
	t.Parallel()
	var begun atomic.Int64
	l := newLog(t, early(&begun)...)
	c := newCrowd()
	if err := c.rounds(t.Context(), l, &begun); err != nil {
		t.Fatal(err)
	}
	const roundsMax = 2 * postgres.WholeMax
	before := begun.Load()
	for range roundsMax {
		refused := make(chan error, 1)
		go func() { refused <- commitOne(t.Context(), l, one(key("0"), 0, "stale")) }()
		if err := c.round(t.Context(), l); err != nil {
			t.Error(err)
		}
		if err := <-refused; !errors.Is(err, store.ErrConflict) {
			t.Errorf("a commit at a version that is taken: got %v, want a conflict", err)
		}
	}
	verify(t, l, c)
	if n := begun.Load() - before; n == 0 || n > roundsMax/4 {
		t.Errorf("of the transactions of %d rounds with a refusal %d began early; want some at first, and few", roundsMax, n)
	}
}

// TestATransactionThatBeginsEarlyAndGetsNoCallsStoresNothing cancels all calls once
// it has begun.
func TestATransactionThatBeginsEarlyAndGetsNoCallsStoresNothing(t *testing.T) {
	t.Parallel()
	var begun atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var armed atomic.Bool
	l := newLog(t, early(&begun, postgres.WithBegun(func() {
		if begun.Add(1); armed.Load() {
			cancel()
		}
	}))...)
	c := newCrowd()
	if err := c.rounds(t.Context(), l, &begun); err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	if err := c.rounds(ctx, l, &begun); err != nil {
		t.Fatal(err)
	}
	armed.Store(false)
	verify(t, l, c)
	if err := c.round(t.Context(), l); err != nil {
		t.Errorf("the next commits: %v", err)
	}
	verify(t, l, c)
}

// TestACommitThatPanicsAfterItsTransactionHasBegunLeavesALogThatGoesOn loses the
// leader of one transaction.
func TestACommitThatPanicsAfterItsTransactionHasBegunLeavesALogThatGoesOn(t *testing.T) {
	t.Parallel()
	var begun, panics atomic.Int64
	l := newLog(t, early(&begun, postgres.WithBegun(func() {
		if begun.Add(1); panics.CompareAndSwap(0, 1) {
			panic("the leader is lost")
		}
	}))...)
	c := newCrowd()
	errs := make([]any, len(c))
	const roundsMax = 200
	for i := 0; panics.Load() == 0; i++ {
		if i == roundsMax {
			t.Fatalf("no transaction of %d rounds has begun early", roundsMax)
		}
		var wg sync.WaitGroup
		for i := range c {
			wg.Go(func() {
				defer func() { errs[i] = cmp.Or(recover(), errs[i]) }()
				if err := c[i].step(t.Context(), l); err != nil {
					errs[i] = err
				}
			})
		}
		wg.Wait()
	}
	lost := slices.DeleteFunc(errs, func(e any) bool { return e == nil })
	if len(lost) != 1 || lost[0] != "the leader is lost" {
		t.Errorf("clients saw %v, want one panic and no error", lost)
	}
	if err := c.round(t.Context(), l); err != nil {
		t.Errorf("the next commits: %v", err)
	}
	verify(t, l, c)
}

func TestWhatIsNotInsideOfItsTransactionIsNotWritten(t *testing.T) {
	t.Parallel()
	lame := func(more ...postgres.Option) (*postgres.Log, crowd, error) {
		var begun atomic.Int64
		l := newLog(t, early(&begun, append(more, postgres.WithLameBegin())...)...)
		c := newCrowd()
		var err error
		for range 5 {
			err = errors.Join(err, c.rounds(t.Context(), l, &begun))
		}
		return l, c, err
	}
	l, c, err := lame()
	if err != nil {
		t.Error(err)
	}
	verify(t, l, c)
	if _, _, err := lame(postgres.WithoutChain()); err == nil {
		t.Error("a log that writes outside of its transactions is not caught")
	} else {
		t.Logf("the twin is caught: %v", err)
	}
}

// cutEarly cuts the connection at each message, one after the other, of a round in
// which a transaction begins early.
func cutEarly(t *testing.T, stride int, more ...postgres.Option) error {
	p, address := newProxy(t, pgtest.Open(t))
	var begun atomic.Int64
	l, err := postgres.Open(t.Context(), address, early(&begun, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	c := newCrowd()
	const messagesMax = 1000
	for n := 0; n < messagesMax; n += stride {
		if err := c.rounds(t.Context(), l, &begun); err != nil {
			return fmt.Errorf("before the cut at message %d: %w", n, err)
		}
		before := begun.Load()
		p.arm(n)
		err := c.round(t.Context(), l)
		cut := p.disarm()
		if err != nil {
			return fmt.Errorf("cut before message %d: %w", n, err)
		}
		if !cut && begun.Load() > before {
			t.Logf("a round is %d messages", n)
			verify(t, l, c)
			return nil
		}
	}
	return fmt.Errorf("no round without a cut within %d messages", messagesMax)
}

func TestATransactionThatBeginsEarlyAndIsCutAnywhereIsMadeGood(t *testing.T) {
	t.Parallel()
	longOnly(t)
	if err := cutEarly(t, 1); err != nil {
		t.Error(err)
	}
	if err := cutEarly(t, 2, postgres.WithGuess()); err == nil {
		t.Error("a log that takes a lost connection for a failed commit is not caught")
	} else {
		t.Logf("the twin is caught: %v", err)
	}
}
