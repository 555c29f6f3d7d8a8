package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

func TestCanceledCaller(t *testing.T) {
	t.Parallel()
	t.Run("costs the engine nothing", func(t *testing.T) {
		t.Parallel()
		ctx, v, good := testContext(t), newValve(), accounts()
		e := openConfig(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{v.kind, good}, CallsMax: 20})
		defer close(v.open)
		go func() { _, _ = v.kind.Ref(e, "stuck").Do(ctx, &testv1.Touch{}) }()
		<-v.begun
		var gone sync.WaitGroup
		for range 19 {
			gone.Go(func() {
				short, leave := context.WithCancel(ctx)
				go leave()
				if _, err := v.kind.Ref(e, "stuck").Do(short, &testv1.Deposit{Amount: 1}); !errors.Is(err, context.Canceled) || errors.Is(err, perdure.ErrOutcomeUnknown) {
					t.Errorf("got %v, want the certainty that it was not run", err)
				}
			})
		}
		gone.Wait()
		if n := e.Stats().Calls; n != 1 {
			t.Errorf("%d calls are in the engine, want the one that is stuck", n)
		}
		for range 20 {
			if _, err := good.Ref(e, "1").Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatalf("another entity: %v", err)
			}
		}
	})
	t.Run("is not run", func(t *testing.T) {
		t.Parallel()
		ctx, v := testContext(t), newValve()
		ref := v.kind.Ref(open(t, newLog(t), v.kind), "1")
		go func() { _, _ = ref.Do(ctx, &testv1.Touch{}) }()
		<-v.begun
		short, leave := context.WithCancel(ctx)
		go leave()
		_, _ = ref.Do(short, &testv1.Deposit{Amount: 1})
		close(v.open)
		wantBalance(t, ref, 0)
	})
}

// TestStoreFault uses a store that answers every commit with an error of unknown
// outcome.
func TestStoreFault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &hookedLog{Log: newLog(t)}
		kind := accounts()
		ref := kind.Ref(open(t, log, kind), "1")
		var commits atomic.Int64
		log.on(func([]*store.Batch, commitFunc) ([]store.Result, error) {
			commits.Add(1)
			return nil, errors.New("proxy answers 502")
		})
		began := time.Now()
		_, err := ref.Do(context.Background(), &testv1.Deposit{Amount: 1})
		if n, took := commits.Load(), time.Since(began); !errors.Is(err, perdure.ErrOutcomeUnknown) || n > 20 || took < 100*time.Millisecond || took > 3*time.Second {
			t.Errorf("got %v after %d commits and %v, want ErrOutcomeUnknown after a few with pauses", err, n, took)
		}
		log.on(nil)
		if s, err := ref.Ask(context.Background(), &testv1.Deposit{Amount: 5}); err != nil || s.GetBalance() != 5 {
			t.Errorf("afterwards: got %v, %v, want balance 5", s, err)
		}
	})
}

// closing closes an engine with a deadline that has to pass, and expects Close to return.
func closing(t *testing.T, e *perdure.Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- e.Close(ctx) }()
	select {
	case err := <-ended:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: got %v, want the error of its context", err)
		}
	case <-time.After(waitMax):
		t.Fatal("Close has not come back after its context")
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	t.Run("keeps its context while a commit hangs, and gives the store up afterwards", func(t *testing.T) {
		t.Parallel()
		kind, log := accounts(), &hookedLog{Log: newLog(t)}
		e, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
		if err != nil {
			t.Fatal(err)
		}
		release, begun := make(chan struct{}), make(chan struct{})
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			log.on(nil)
			close(begun)
			<-release
			return next(group)
		})
		go func() { _, _ = kind.Ref(e, "1").Do(context.Background(), &testv1.Deposit{Amount: 1}) }()
		<-begun
		closing(t, e)
		if b, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}}); err == nil {
			t.Error("another engine has the store while a commit of the first one is on its way")
			_ = b.Close(t.Context())
		}
		close(release)
		ctx := testContext(t)
		waitUntil(ctx, t, "the store is given up", func() bool {
			b, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
			if err != nil {
				return false
			}
			wantBalance(t, kind.Ref(b, "1"), 1)
			return b.Close(ctx) == nil
		})
	})
	t.Run("lets no rule store anything that outlives it", func(t *testing.T) {
		t.Parallel()
		for _, instant := range []bool{true, false} {
			v, memory := newValve(), newLog(t)
			var log store.Log = memory
			if !instant {
				log = &hookedLog{Log: memory}
			}
			e, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{v.kind}})
			if err != nil {
				t.Fatal(err)
			}
			got := make(chan error, 1)
			go func() {
				_, err := v.kind.Ref(e, "1").Do(context.Background(), &testv1.Annotate{Note: &testv1.Note{}})
				got <- err
			}()
			<-v.begun
			closing(t, e)
			b := open(t, log, v.kind) // it holds the log alone, and answers from memory
			wantBalance(t, v.kind.Ref(b, "1"), 0)
			close(v.open)
			if err := <-got; !errors.Is(err, perdure.ErrClosed) && !errors.Is(err, perdure.ErrOutcomeUnknown) && !errors.Is(err, store.ErrClosed) {
				t.Errorf("instant %v: the caller of the rule: got %v", instant, err)
			}
			if heads, err := memory.Heads(t.Context()); err != nil || heads[0] != 0 {
				t.Errorf("instant %v: the engine that is closed has stored an event: %v, %v", instant, heads, err)
			}
		}
	})
	t.Run("answers what waits for the store", func(t *testing.T) {
		t.Parallel()
		ctx, kind, log := testContext(t), senders(), &hookedLog{Log: newLog(t)}
		e, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{
			perdure.Perform(func(context.Context, *testv1.Note) error { return perdure.Park(errors.New("no")) }),
			perdure.Perform(func(context.Context, *testv1.Touch) error { return perdure.Park(errors.New("no")) }),
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kind.Ref(e, "1").Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		var sequence uint64
		waitUntil(ctx, t, "a message is parked", func() bool {
			for m, err := range e.Parked(ctx) {
				if err == nil {
					sequence = m.Sequence
				}
			}
			return sequence > 0
		})
		release, begun := make(chan struct{}), make(chan struct{})
		defer close(release)
		var once sync.Once
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			once.Do(func() { close(begun) })
			<-release
			return next(group)
		})
		go func() { _, _ = kind.Ref(e, "2").Do(context.Background(), &testv1.Deposit{Amount: 1}) }()
		<-begun
		got := make(chan error, 1)
		go func() { got <- e.Drop(context.Background(), sequence) }()
		waitUntil(ctx, t, "the Drop is on its way", func() bool { return e.Stats().Calls >= 2 })
		closing(t, e)
		select {
		case err := <-got:
			if !errors.Is(err, perdure.ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		case <-ctx.Done():
			t.Error("Drop is not answered after Close has returned")
		}
	})
	t.Run("tells effects before it waits for them", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			kind, begun := senders(), make(chan struct{}, 10)
			wait := func(ctx context.Context) error { begun <- struct{}{}; <-ctx.Done(); return ctx.Err() }
			e, err := perdure.Open(t.Context(), perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}, Effects: []perdure.EffectRule{
				perdure.Perform(func(ctx context.Context, _ *testv1.Note) error { return wait(ctx) }),
				perdure.Perform(func(ctx context.Context, _ *testv1.Touch) error { return wait(ctx) }),
			}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
			<-begun
			began := time.Now()
			if err := e.Close(context.Background()); err != nil || time.Since(began) > 10*time.Second {
				t.Errorf("got %v after %v, want nil after seconds", err, time.Since(began))
			}
		})
	})
}

// A panickyLog is a log whose reads of entities misbehave: they panic or end the goroutine.
type panickyLog struct {
	hookedLog
	fail func()
}

func (l *panickyLog) Load(context.Context, store.Key, func(*store.State) bool) iter.Seq2[*store.Event, error] {
	l.fail()
	return nil
}

func (l *panickyLog) ReceiptHeads(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	l.fail()
	return nil
}

func TestLoadFailureIsReported(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(){"panic": func() { panic("page 7 is damaged") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, kind := testContext(t), accounts()
			log := &panickyLog{hookedLog: hookedLog{Log: newLog(t)}, fail: fail}
			e := open(t, log, kind)
			for range 3 {
				_, err := kind.Ref(e, "1").Do(ctx, &testv1.Deposit{Amount: 1})
				if !errors.Is(err, perdure.ErrStore) || errors.Is(err, perdure.ErrClosed) || !strings.Contains(err.Error(), "load: ") {
					t.Errorf("got %v, want ErrStore", err)
				}
			}
		})
	}
}

func TestPassivationBoundsTheEntities(t *testing.T) {
	t.Parallel()
	ctx, kind := testContext(t), accounts()
	const most = 200
	e := openConfig(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}, EntitiesMax: most})
	hot := kind.Ref(e, "hot")
	for i := range 20 * most {
		if _, err := kind.Ref(e, fmt.Sprint("looked at ", i)).State(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := kind.Ref(e, fmt.Sprint("used ", i)).Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := hot.Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		if n := e.Stats().Entities; n > most {
			t.Fatalf("%d entities are in memory, want at most %d", n, most)
		}
	}
	wantBalance(t, hot, 20*most)
	wantBalance(t, kind.Ref(e, "used 0"), 1)
}

func TestPassivationBoundsTheBytes(t *testing.T) {
	t.Parallel()
	const most = 1 << 20
	for _, test := range []struct {
		name string
		one  int // maximum bytes of one entity
		do   func(ctx context.Context, ref perdure.Ref[*testv1.Account], i int) error
	}{
		{"of states", 200 << 10, func(ctx context.Context, ref perdure.Ref[*testv1.Account], _ int) error {
			_, err := ref.Do(ctx, &testv1.Annotate{Note: &testv1.Note{Text: strings.Repeat("x", 2000)}})
			return err
		}},
		{"of receipts", 20 << 10, func(ctx context.Context, ref perdure.Ref[*testv1.Account], i int) error {
			_, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey(fmt.Sprint(i)))
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, kind := testContext(t), accounts()
			log := &loads{Log: newLog(t), of: "hot"}
			e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, EntitiesBytesMax: most})
			const entities, times = 600, 20
			for n := range entities {
				for i := range times {
					if err := test.do(ctx, kind.Ref(e, fmt.Sprint(n)), i); err != nil {
						t.Fatal(err)
					}
					if _, err := kind.Ref(e, "hot").Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
						t.Fatal(err)
					}
					if got := e.Stats().EntitiesBytes; got > most+test.one {
						t.Fatalf("with %d entities: they take %d bytes, want %d at most, and one entity more", n+1, got, most)
					}
				}
			}
			if got := e.Stats().Entities; got >= entities/2 {
				t.Errorf("%d of %d entities are in memory, want fewer than half: all take several times %d bytes", got, entities, most)
			}
			if n := log.count.Load(); n != 1 {
				t.Errorf("an entity that is used all the time was loaded %d times, want once", n)
			}
			state, err := kind.Ref(e, "0").State(ctx)
			if err != nil || len(state.GetNotes()) != times && state.GetBalance() != times {
				t.Errorf("an entity that had to leave: got %v and %v, want all %d commands", state, err, times)
			}
		})
	}
}

func TestPassivationMakesRoomForGrowingEntities(t *testing.T) {
	t.Parallel()
	ctx, kind := testContext(t), accounts()
	const most = 1 << 20
	e := openConfig(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}, EntitiesBytesMax: most})
	const entities = 20
	annotate := func(n, bytes int) {
		if _, err := kind.Ref(e, fmt.Sprint(n)).Do(ctx, &testv1.Annotate{Note: &testv1.Note{Text: strings.Repeat("x", bytes)}}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range entities {
		annotate(n, 1)
	}
	for n := range entities / 2 { // the others stay idle, and no new one comes
		annotate(n, 60_000)
	}
	if s := e.Stats(); s.EntitiesBytes > most || s.Entities == entities {
		t.Errorf("%d entities take %d bytes, want %d at most", s.Entities, s.EntitiesBytes, most)
	}
}

// loads counts the loads of an entity.
type loads struct {
	*memory.Log
	of    string
	count atomic.Int64
}

func (l *loads) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	if key.ID == l.of {
		l.count.Add(1)
	}
	return l.Log.Load(ctx, key, accept)
}

func TestPassivationKeepsTheEntityUsedLast(t *testing.T) {
	t.Parallel()
	ctx, kind := testContext(t), accounts()
	log := &loads{Log: newLog(t), of: "hot"}
	e := openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, EntitiesMax: 64})
	for i := range 1000 {
		for _, id := range []string{"hot", fmt.Sprint(i)} {
			if _, err := kind.Ref(e, id).Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := log.count.Load(); n != 1 {
		t.Errorf("an entity that is used all the time was loaded %d times, want once", n)
	}
}

func TestPassivationWaitsForTheIdleTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kind := accounts(perdure.PassivateAfter(time.Minute))
		log := &loads{Log: newLog(t), of: "1"}
		ref := kind.Ref(open(t, log, kind), "1")
		do := func() {
			if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
				t.Fatal(err)
			}
		}
		pass(14 * time.Second) // shortly before a sweep
		do()
		for range 5 {
			pass(59 * time.Second)
			do()
		}
		if n := log.count.Load(); n != 1 {
			t.Errorf("an entity that is used within its time was loaded %d times, want once", n)
		}
		pass(2 * time.Minute)
		do()
		if n := log.count.Load(); n != 2 {
			t.Errorf("an entity that was idle for twice its time was loaded %d times, want twice", n)
		}
	})
}

func TestDecisionParts(t *testing.T) {
	t.Parallel()
	t.Run("take effect in the order of the calls", func(t *testing.T) {
		t.Parallel()
		ctx := testContext(t)
		kind := perdure.EventSourced("k",
			perdure.Decide(func(ctx context.Context, _ *testv1.Account, _ *testv1.Touch) (*perdure.Decision, error) {
				at := perdure.Now(ctx).Add(time.Hour)
				return perdure.None().Schedule("x", at, &testv1.Touch{}).Cancel("x").Cancel("y").Schedule("y", at, &testv1.Touch{}).
					Claim(store.Claim{Space: "s", Value: "a"}).Release(store.Claim{Space: "s", Value: "a"}).Release(store.Claim{Space: "s", Value: "b"}).Claim(store.Claim{Space: "s", Value: "b"}), nil
			}),
			perdure.Evolve(onDeposited))
		log := newLog(t)
		e := open(t, log, kind)
		for range 2 {
			if _, err := kind.Ref(e, "1").Do(ctx, &testv1.Touch{}); err != nil {
				t.Fatal(err)
			}
		}
		if m := messages(t, e.Pending(ctx)); len(m) != 1 || m[0].Timer != "y" {
			t.Errorf("got %v, want the timer y", m)
		}
		if _, err := log.Owner(ctx, store.Claim{Space: "s", Value: "a"}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a value that was claimed and released: got %v, want ErrNotFound", err)
		}
		if owner, err := log.Owner(ctx, store.Claim{Space: "s", Value: "b"}); err != nil || owner.ID != "1" {
			t.Errorf("a value that was released and claimed: got %v, %v", owner, err)
		}
	})
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	t.Run("are forgotten by version, whatever the store's clock says", func(t *testing.T) {
		t.Parallel()
		ctx := testContext(t)
		var offset atomic.Int64
		log := memory.New(memory.WithClock(func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }))
		kind := accounts(perdure.KeepReceipts(4, 24*time.Hour))
		do := func(e *perdure.Engine, key int) int64 {
			t.Helper()
			s, err := kind.Ref(e, "1").Ask(ctx, &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey(fmt.Sprint(key)))
			if err != nil {
				t.Fatal(err)
			}
			return s.GetBalance()
		}
		for key, step := range []time.Duration{0, time.Hour, -2 * time.Hour, time.Minute, -time.Hour, 3 * time.Hour, -90 * time.Minute} {
			offset.Store(int64(step))
			e, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
			if err != nil {
				t.Fatal(err)
			}
			do(e, key)
			for back := range min(4, key+1) {
				if got := do(e, key-back); got != int64(key-back+1) {
					t.Errorf("after command %d: key %d is answered with balance %d, want %d", key, key-back, got, key-back+1)
				}
			}
			if err := e.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("are read without their answers", func(t *testing.T) {
		t.Parallel()
		ctx, kind := testContext(t), shelves()
		log := &heads{Log: newLog(t)}
		ref := kind.Ref(open(t, log, kind), "1")
		for range 2 {
			if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey("k")); err != nil {
				t.Fatal(err)
			}
		}
		wantBalance(t, ref, 1)
	})
	t.Run("whose key was used again by another engine are looked at", func(t *testing.T) {
		t.Parallel()
		ctx := testContext(t)
		log := newLog(t, memory.Shared())
		kind := accounts(perdure.KeepReceipts(1, time.Hour))
		a, b := kind.Ref(open(t, log, kind), "1"), kind.Ref(open(t, log, kind), "1")
		touch := &testv1.Touch{} // a Touch makes no version, so the other engine does not notice it
		if _, err := a.Do(ctx, touch, perdure.WithIdempotencyKey("k")); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"x", "k"} { // the key "k" is used again for another command
			c := &testv1.Deposit{Amount: -1}
			if _, err := b.Do(ctx, c, perdure.WithIdempotencyKey(key)); !errors.Is(err, perdure.InvalidArgument) {
				t.Fatalf("key %s: got %v, want a refusal", key, err)
			}
		}
		if _, err := a.Do(ctx, touch, perdure.WithIdempotencyKey("k")); !errors.Is(err, perdure.ErrKeyReused) {
			t.Errorf("got %v, want ErrKeyReused: the answer under the key is that of another command", err)
		}
	})
}

// heads is a log whose receipts can be read only without their answers.
type heads struct{ *memory.Log }

func (l *heads) Receipts(context.Context, store.Key) iter.Seq2[*store.Receipt, error] {
	return func(yield func(*store.Receipt, error) bool) { yield(nil, errors.New("all answers are read")) }
}
