package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A hookedLog is a memory log that commits on the committer's goroutine and
// asks a hook what to do with each group.
type hookedLog struct {
	*memory.Log

	mu     sync.Mutex
	commit func(group []*store.Batch, next commitFunc) ([]store.Result, error)
}

type commitFunc func(group []*store.Batch) ([]store.Result, error)

func (l *hookedLog) Synchronous() bool { return false }

func (l *hookedLog) on(commit func(group []*store.Batch, next commitFunc) ([]store.Result, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commit = commit
}

func (l *hookedLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	l.mu.Lock()
	commit := l.commit
	l.mu.Unlock()
	next := func(group []*store.Batch) ([]store.Result, error) { return l.Log.Commit(ctx, group) }
	if commit == nil {
		return next(group)
	}
	return commit(group, next)
}

// A reply is the result of a call that a test has started.
type reply struct {
	state *testv1.Account
	err   error
}

func askLater(ctx context.Context, ref perdure.Ref[*testv1.Account], command *testv1.Deposit) <-chan reply {
	done := make(chan reply, 1)
	go func() {
		s, err := ref.Ask(ctx, command)
		done <- reply{s, err}
	}()
	return done
}

// notYet fails the test if the channel has a value.
func notYet[T any](t *testing.T, what string, c <-chan T) {
	t.Helper()
	synctest.Wait()
	select {
	case v := <-c:
		t.Fatalf("%s was answered before the commit: %v", what, v)
	default:
	}
}

func TestDurabilityOfEachAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		kind := accounts()
		log := &hookedLog{Log: newLog(t)}
		e := open(t, log, kind)
		ref := kind.Ref(e, "1")
		release := make(chan struct{})
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			<-release
			return next(group)
		})
		first := askLater(ctx, ref, &testv1.Deposit{Amount: 10})
		synctest.Wait()
		second := askLater(ctx, ref, &testv1.Deposit{Amount: 20})
		synctest.Wait()
		refused := make(chan error, 1)
		go func() { _, err := ref.Do(ctx, &testv1.Withdraw{Amount: 31}); refused <- err }()
		balance := make(chan *testv1.Balance, 1)
		go func() {
			b, err := perdure.Query[*testv1.Balance](ctx, ref, &testv1.GetBalance{})
			if err != nil {
				t.Error(err)
			}
			balance <- b
		}()
		nothing := make(chan error, 1)
		go func() { _, err := ref.Do(ctx, &testv1.Touch{}); nothing <- err }()
		events := make(chan store.Position, 10)
		readCtx, stop := context.WithCancel(ctx)
		read := make(chan error, 1)
		go func() {
			for ev, err := range e.Events(readCtx, store.Query{}) {
				if err != nil {
					read <- err
					return
				}
				events <- ev.Position
			}
		}()
		notYet(t, "the first command", first)
		notYet(t, "the second command", second)
		notYet(t, "a refusal that saw undurable state", refused)
		notYet(t, "a query that saw undurable state", balance)
		notYet(t, "a command without events that saw undurable state", nothing)
		notYet(t, "the live stream", events)
		close(release)
		if r := <-first; r.err != nil || r.state.GetBalance() != 10 {
			t.Errorf("first: got %v, %v, want balance 10", r.state, r.err)
		}
		if r := <-second; r.err != nil || r.state.GetBalance() != 30 {
			t.Errorf("second: got %v, %v, want balance 30", r.state, r.err)
		}
		if err := <-refused; !errors.Is(err, perdure.FailedPrecondition) {
			t.Errorf("refusal: got %v", err)
		}
		if b := <-balance; b.GetAmount() != 30 {
			t.Errorf("query: got %v, want 30", b)
		}
		if err := <-nothing; err != nil {
			t.Errorf("touch: %v", err)
		}
		if p1, p2 := <-events, <-events; p1 != 1 || p2 != 2 {
			t.Errorf("stream: got positions %v and %v, want 1 and 2", p1, p2)
		}
		stop()
		if err := <-read; !errors.Is(err, context.Canceled) {
			t.Errorf("stream ended with %v", err)
		}
	})
}

func TestUnknownOutcomeIsResolved(t *testing.T) {
	t.Parallel()
	lost := errors.New("connection lost")
	for _, stored := range []bool{true, false} {
		t.Run(fmt.Sprintf("stored %v", stored), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				kind := accounts(perdure.SnapshotEvery(2))
				log := &hookedLog{Log: newLog(t)}
				ref := kind.Ref(open(t, log, kind), "1")
				if _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
					t.Fatal(err)
				}
				failing := true
				release := make(chan struct{})
				log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
					if !failing {
						return next(group)
					}
					failing = false
					<-release
					if stored {
						if _, err := next(group); err != nil {
							return nil, err
						}
					}
					return nil, lost
				})
				replies := []<-chan reply{}
				for n := range 5 {
					replies = append(replies, askLater(ctx, ref, &testv1.Deposit{Amount: int64(10 * (n + 1))}))
					synctest.Wait()
				}
				close(release)
				for n, r := range replies {
					want := int64(1 + 5*(n+1)*(n+2))
					if r := <-r; r.err != nil || r.state.GetBalance() != want {
						t.Errorf("command %d: got %v, %v, want balance %d", n, r.state, r.err, want)
					}
				}
				got := readBalance(t, log, ref)
				if got != 151 {
					t.Errorf("the log adds up to %d, want 151: each command once", got)
				}
			})
		})
	}
}

// readBalance adds up the events of an account.
func readBalance(t *testing.T, log store.Log, ref perdure.Ref[*testv1.Account]) int64 {
	t.Helper()
	kind := accounts()
	shared, ok := log.(*hookedLog)
	if ok {
		log = sharedView{shared.Log}
	} else if m, ok := log.(*memory.Log); ok {
		log = sharedView{m}
	}
	e, err := perdure.Open(context.Background(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	s, err := kind.Ref(e, ref.Key().ID).State(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s.GetBalance()
}

// A sharedView is a log that no engine can hold alone, so several engines can run on it.
type sharedView struct{ store.Log }

func (sharedView) Acquire() (func(), error) { return nil, errors.ErrUnsupported }

func TestUnknownOutcomeIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		kind := accounts()
		inner := &hookedLog{Log: newLog(t)}
		log := &deafLog{hookedLog: inner}
		ref := kind.Ref(open(t, log, kind), "1")
		if _, err := ref.Do(ctx, &testv1.Touch{}); err != nil {
			t.Fatal(err)
		}
		lost, deaf := errors.New("connection lost"), errors.New("no route")
		inner.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			log.fail(deaf)
			if _, err := next(group); err != nil {
				return nil, err
			}
			return nil, lost
		})
		_, err := ref.Ask(ctx, &testv1.Deposit{Amount: 1})
		if !errors.Is(err, perdure.ErrOutcomeUnknown) || !errors.Is(err, lost) || !errors.Is(err, deaf) {
			t.Errorf("got %v, want ErrOutcomeUnknown with both causes", err)
		}
		if _, err := ref.State(ctx); !errors.Is(err, perdure.ErrStore) || !errors.Is(err, deaf) {
			t.Errorf("a read while the store is away: got %v, want ErrStore", err)
		}
		log.fail(nil)
		inner.on(nil)
		if s, err := ref.State(ctx); err != nil || s.GetBalance() != 1 {
			t.Errorf("after the store is back: got %v, %v, want what it has stored", s, err)
		}
	})
}

// Load implements store.Log.
func (l *deafLog) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	if l.slow != nil {
		<-l.slow
	}
	l.mu.Lock()
	failure := l.failure
	l.mu.Unlock()
	if failure != nil {
		return func(yield func(*store.Event, error) bool) { yield(nil, failure) }
	}
	return l.Log.Load(ctx, key, accept)
}

// A deafLog fails every load while it is set to, after it has waited for slow.
type deafLog struct {
	*hookedLog
	failure error
	slow    chan struct{}
}

func (l *deafLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = err
}

func TestDeadlineReportsWhatIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kind := accounts()
		log := &hookedLog{Log: newLog(t)}
		ref := kind.Ref(openConfig(t, perdure.Config{Store: log, Kinds: []perdure.AnyKind{kind}, InFlightMax: 1}), "1")
		release := make(chan struct{})
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			<-release
			return next(group)
		})
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		running := askLater(short, ref, &testv1.Deposit{Amount: 1})
		synctest.Wait()
		queued := askLater(short, ref, &testv1.Deposit{Amount: 10})
		if r := <-running; !errors.Is(r.err, perdure.ErrOutcomeUnknown) || !errors.Is(r.err, context.DeadlineExceeded) {
			t.Errorf("a command on its way: got %v, want ErrOutcomeUnknown and DeadlineExceeded", r.err)
		}
		if r := <-queued; errors.Is(r.err, perdure.ErrOutcomeUnknown) || !errors.Is(r.err, context.DeadlineExceeded) {
			t.Errorf("a command that was not run: got %v, want DeadlineExceeded alone", r.err)
		}
		close(release)
		if s, err := ref.State(t.Context()); err != nil || s.GetBalance() != 1 {
			t.Errorf("got %v, %v, want the first command alone", s, err)
		}
	})
}

func TestDeadlineEndsTheWaitForALoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kind := accounts()
		log := &deafLog{hookedLog: &hookedLog{Log: newLog(t)}, slow: make(chan struct{})}
		ref := kind.Ref(open(t, log, kind), "1")
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := ref.Do(short, &testv1.Deposit{Amount: 1})
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, perdure.ErrOutcomeUnknown) {
			t.Errorf("got %v, want DeadlineExceeded, and nothing in doubt", err)
		}
		close(log.slow)
		wantBalance(t, ref, 0)
	})
}
