package perdure_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// TestSharedLogDeliversToAnEntityOnce opens and closes engines on one log. Each finds
// the messages that the others are delivering. On one of the logs every second commit has an
// unknown outcome.
func TestSharedLogDeliversToAnEntityOnce(t *testing.T) {
	t.Parallel()
	for _, instant := range []bool{true, false} {
		for _, doubt := range []bool{true, false} {
			t.Run(fmt.Sprintf("instant %v doubt %v", instant, doubt), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					ctx := t.Context()
					kind, target, r := senders(), accounts(), &recorder{}
					rules := r.rules()
					log := &doubtfulLog{Log: newLog(t, memory.Shared()), instant: instant, trusted: !doubt}
					openOne := func() *perdure.Engine {
						e, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind, target}, Effects: rules})
						if err != nil {
							t.Fatal(err)
						}
						return e
					}
					const engines, commands = 4, 10
					var all []*perdure.Engine
					var wg sync.WaitGroup
					for n := range engines {
						e := openOne() // it reads the messages of the other engines
						all = append(all, e)
						for i := range commands {
							wg.Go(func() {
								key := perdure.WithIdempotencyKey(fmt.Sprint(n, i))
								if _, err := kind.Ref(e, fmt.Sprint(i%2)).Do(ctx, &testv1.Withdraw{Amount: 1}, key); err != nil {
									t.Error(err)
								}
							})
						}
					}
					wg.Wait()
					for _, e := range all[1:] {
						if err := e.Close(ctx); err != nil {
							t.Fatal(err)
						}
					}
					last := openOne()
					<-time.After(time.Hour)
					log.trust()
					s, err := target.Ref(last, "target").State(ctx)
					if err != nil || s.GetBalance() != engines*commands || s.GetOperations() != engines*commands {
						t.Errorf("target: got %v, %v, want %d deposits of 1", s, err, engines*commands)
					}
					replies := 0
					for i := range 2 {
						s, err := kind.Ref(last, fmt.Sprint(i)).State(ctx)
						if err != nil {
							t.Fatal(err)
						}
						replies += len(s.GetNotes())
					}
					if replies != engines*commands {
						t.Errorf("the senders have got %d replies, want %d", replies, engines*commands)
					}
					for _, parked := range []bool{false, true} {
						for m, err := range log.Messages(ctx, store.MessageQuery{Parked: parked}) {
							t.Errorf("message %+v (%v) is still there", m, err)
						}
					}
					for _, e := range []*perdure.Engine{all[0], last} {
						if err := e.Close(ctx); err != nil {
							t.Fatal(err)
						}
					}
				})
			})
		}
	}
}

// TestSharedLogDeliversTheMessagesOfADeadEngine makes an engine store messages which it never
// delivers, while another engine continues.
func TestSharedLogDeliversTheMessagesOfADeadEngine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		kind, target, r := senders(), accounts(), &recorder{}
		log := newLog(t, memory.Shared())
		openOne := func(log store.Log) *perdure.Engine {
			e, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind, target}, Effects: r.rules()})
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		alive := openOne(log)
		dying := &hookedLog{Log: log}
		dead := openOne(dying)
		synctest.Wait() // both have read the store
		dying.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			if group[0].Key.Kind == kind.Name() {
				return next(group)
			}
			return nil, fmt.Errorf("%w: it has died", store.ErrNotStored)
		})
		if _, err := kind.Ref(dead, "1").Do(ctx, &testv1.Withdraw{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		balance := func() int64 {
			s, err := target.Ref(alive, "target").State(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return s.GetBalance()
		}
		<-time.After(rescueAfter / 2)
		if n := balance(); n != 0 {
			t.Errorf("the other engine has taken a message that is not old: balance %d, want 0", n)
		}
		<-time.After(2 * rescueAfter)
		if n := balance(); n != 1 {
			t.Errorf("the message of an engine that has died: balance of its target %d, want 1", n)
		}
		for _, e := range []*perdure.Engine{dead, alive} {
			if err := e.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A watchedLog returns different answers when it is asked for the next change.
type watchedLog struct {
	hookedLog
	changed func() <-chan struct{}
}

func (l *watchedLog) Changed() <-chan struct{} { return l.changed() }

func TestHops(t *testing.T) {
	t.Parallel()
	never := func() <-chan struct{} { return nil }
	for name, c := range map[string]struct {
		changed func() <-chan struct{} // nil means the log's own answer
		most    time.Duration
		commits time.Duration // time between the commits of a third engine
	}{
		"between two services take no poll":               {nil, 50 * time.Millisecond, 0},
		"between two services on a busy log take no poll": {nil, 50 * time.Millisecond, 7 * time.Millisecond},
		"of a log that does not tell take a poll":         {never, 100 * time.Millisecond, 0},
		"of a log that panics take a poll":                {func() <-chan struct{} { panic("in Changed") }, 100 * time.Millisecond, 0},
		"of a log that ends the goroutine take a poll":    {func() <-chan struct{} { runtime.Goexit(); return nil }, 100 * time.Millisecond, 0},
		"of a log that is slow to answer take a poll":     {func() <-chan struct{} { pass(time.Hour); return nil }, 100 * time.Millisecond, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				inner := newLog(t, memory.Shared())
				var log store.Log = inner
				if c.changed != nil {
					log = &watchedLog{hookedLog: hookedLog{Log: inner}, changed: c.changed}
				}
				var mu sync.Mutex
				var at time.Time
				var hops []time.Duration
				from := perdure.EventSourced("from", perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
					mu.Lock()
					defer mu.Unlock()
					at = time.Now()
					return perdure.None().EnqueueTo(store.Key{Kind: "to", ID: "1"}, &testv1.Deposit{Amount: 1}), nil
				}), perdure.Decide(deposit), perdure.Evolve(onDeposited))
				to := perdure.EventSourced("to", perdure.Decide(func(context.Context, *testv1.Account, *testv1.Deposit) (*perdure.Decision, error) {
					mu.Lock()
					defer mu.Unlock()
					hops = append(hops, time.Since(at))
					return perdure.Persist(&testv1.Deposited{Amount: 1}), nil
				}), perdure.Evolve(onDeposited))
				a := sharing(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{from}})
				b := sharing(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{to}})
				pass(12345 * time.Millisecond)
				for n := range 100 {
					pass(time.Duration(n*37) * time.Millisecond)
					if c.commits > 0 { // a commit just before, whose notification the other engine handles
						if _, err := from.Ref(a, "2").Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
							t.Fatal(err)
						}
						pass(c.commits)
					}
					if _, err := from.Ref(a, "1").Do(t.Context(), &testv1.Touch{}); err != nil {
						t.Fatal(err)
					}
					pass(2 * time.Second)
				}
				mu.Lock()
				defer mu.Unlock()
				if len(hops) != 100 {
					t.Fatalf("got %d of 100 messages", len(hops))
				}
				if longest := slices.Max(hops); longest > c.most {
					t.Errorf("the longest of 100 hops took %v, want at most %v", longest, c.most)
				}
				closeAll(t, a, b)
				pass(2 * time.Hour)
			})
		})
	}
}

// TestOutboxTakesNoRoomOfCallers blocks more messages at entities than the number of callers
// that the engine admits.
func TestOutboxTakesNoRoomOfCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		kind := perdure.EventSourced("k",
			perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Open) (*perdure.Decision, error) {
				d, target := perdure.None(), store.Key{Kind: "k", ID: c.GetOwner()}
				for i := range 50 {
					d.EnqueueTo(target, &testv1.Touch{}, perdure.Unordered()).ScheduleTo(target, fmt.Sprint(i), time.Now(), &testv1.Touch{})
				}
				return d, nil
			}),
			perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
				<-hang
				return perdure.None(), nil
			}),
			perdure.Decide(deposit), perdure.Evolve(onDeposited))
		e := sharing(t, perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}, CallsMax: 20})
		for n := range 4 {
			if _, err := kind.Ref(e, "source").Do(t.Context(), &testv1.Open{Owner: fmt.Sprint(n)}); err != nil {
				t.Errorf("with %+v: %v", e.Stats(), err)
			}
			pass(10 * time.Second)
		}
		if s := e.Stats(); s.Delivering <= 20 {
			t.Errorf("got %+v, want more than 20 deliveries that hang", s)
		}
		if _, err := kind.Ref(e, "other").Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			t.Errorf("another call while messages hang: %v", err)
		}
		close(hang)
		pass(time.Hour)
		if s := e.Stats(); s.Calls != 0 || s.Delivering != 0 || s.Deliveries != 0 {
			t.Errorf("at the end: got %+v, want nothing in progress", s)
		}
		closeAll(t, e)
	})
}
