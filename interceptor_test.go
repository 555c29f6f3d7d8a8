package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/scribble"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A diary collects lines from many goroutines.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

// take returns the lines since the last call.
func (d *diary) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lines
	d.lines = nil
	return l
}

type askedKey struct{}

var errUnwelcome = perdure.Reject(perdure.PermissionDenied, "not you")

// openIntercepted opens an engine with interceptors on a log of its own.
func openIntercepted(t *testing.T, kinds []perdure.AnyKind, effects []perdure.EffectRule, list ...perdure.Interceptor) (*perdure.Engine, store.Log) {
	t.Helper()
	log := memory.New()
	e, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: kinds, Effects: effects, Interceptors: list})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return e, log
}

// testEachStore runs a test on a log that commits synchronously and on one that does not.
func testEachStore(t *testing.T, test func(t *testing.T, open func(perdure.Config) *perdure.Engine)) {
	for _, instant := range []bool{true, false} {
		t.Run(fmt.Sprintf("instant=%v", instant), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				test(t, func(c perdure.Config) *perdure.Engine {
					if c.Store = memory.New(); !instant {
						c.Store = newLog(t)
					}
					e, err := perdure.Open(t.Context(), c)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() {
						if err := e.Close(context.Background()); err != nil {
							t.Errorf("Close: %v", err)
						}
					})
					return e
				})
			})
		})
	}
}

func TestInterceptor(t *testing.T) {
	t.Parallel()
	t.Run("the first is the outermost", func(t *testing.T) {
		t.Parallel()
		var d diary
		named := func(name string) perdure.Interceptor {
			return perdure.Interceptor{
				Command: func(ctx context.Context, c *perdure.CommandCall, next func(context.Context) error) error {
					d.add("%s before %T %s %v", name, c.Message, c.Key, ctx.Value(askedKey{}))
					err := next(context.WithValue(ctx, askedKey{}, name))
					d.add("%s after %d %v", name, c.Receipt.Version, err)
					return err
				},
				Query: func(ctx context.Context, q *perdure.QueryCall, next func(context.Context) error) error {
					d.add("%s query %T", name, q.Message)
					err := next(ctx)
					d.add("%s answered at %d", name, q.Receipt.Version)
					return err
				},
			}
		}
		kind := accounts()
		e, _ := openIntercepted(t, []perdure.AnyKind{kind}, nil, named("a"), named("b"))
		var receipt perdure.Receipt
		if _, err := kind.Ref(e, "1").Ask(t.Context(), &testv1.Deposit{Amount: 1}, perdure.WithReceipt(&receipt)); err != nil || receipt.Version != 1 {
			t.Errorf("Ask: got %+v and %v, want version 1", receipt, err)
		}
		want := []string{"a before *testv1.Deposit account/1 <nil>", "b before *testv1.Deposit account/1 a", "b after 1 <nil>", "a after 1 <nil>"}
		if got := d.take(); !slices.Equal(got, want) {
			t.Errorf("command:\ngot  %q\nwant %q", got, want)
		}
		if _, err := kind.Ref(e, "1").State(t.Context()); err != nil {
			t.Error(err)
		}
		if got, want := d.take(), []string{"a query <nil>", "b query <nil>", "b answered at 1", "a answered at 1"}; !slices.Equal(got, want) {
			t.Errorf("query:\ngot  %q\nwant %q", got, want)
		}
	})
	t.Run("refuses a call, which never reaches its entity", func(t *testing.T) {
		t.Parallel()
		kind := accounts()
		e, log := openIntercepted(t, []perdure.AnyKind{kind}, nil, perdure.Interceptor{
			Command: func(ctx context.Context, c *perdure.CommandCall, next func(context.Context) error) error {
				if c.Key.ID != "1" {
					return next(ctx)
				}
				return errUnwelcome
			},
			Query: func(context.Context, *perdure.QueryCall, func(context.Context) error) error { return errUnwelcome },
		})
		ref := kind.Ref(e, "1")
		_, asked := ref.Ask(t.Context(), &testv1.Deposit{Amount: 1})
		_, done := ref.Do(t.Context(), &testv1.Deposit{Amount: 1})
		_, queried := perdure.Query[*testv1.Balance](t.Context(), ref, &testv1.GetBalance{})
		for call, err := range map[string]error{"Ask": asked, "Do": done, "Tell": ref.Tell(t.Context(), &testv1.Deposit{Amount: 1}), "Query": queried} {
			if !errors.Is(err, perdure.PermissionDenied) || !strings.HasSuffix(err.Error(), "account/1: permission denied: not you") {
				t.Errorf("%s: got %v", call, err)
			}
		}
		if _, err := kind.Ref(e, "2").Do(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			t.Errorf("another entity: %v", err)
		}
		if n := e.Stats().Calls; n != 0 {
			t.Errorf("calls in progress: got %d, want 0", n)
		}
		if heads, err := log.Heads(t.Context()); err != nil || heads[0].Sequence() != 1 {
			t.Errorf("log: got head %v and %v, want one event", heads, err)
		}
	})
	t.Run("changes the metadata and nothing else", func(t *testing.T) {
		t.Parallel()
		kind := accounts()
		e, log := openIntercepted(t, []perdure.AnyKind{kind}, nil, perdure.Interceptor{
			Command: func(ctx context.Context, c *perdure.CommandCall, next func(context.Context) error) error {
				values := map[string]string{"tenant": "7", "by": c.Metadata.Values["by"]}
				c.Metadata.CorrelationID, c.Metadata.Values, c.Key, c.ID = "corr", values, store.Key{}, store.ID{}
				err := next(ctx)
				values["tenant"] = "spoilt"
				return err
			},
		})
		if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{Amount: 1},
			perdure.WithMetadata(store.Metadata{Values: map[string]string{"by": "ada"}})); err != nil {
			t.Fatal(err)
		}
		for event, err := range log.Read(t.Context(), store.Key{Kind: "account", ID: "1"}, 0) {
			if err != nil {
				t.Fatal(err)
			}
			m := event.Metadata
			if m.CorrelationID != "corr" || fmt.Sprint(m.Values) != "map[by:ada tenant:7]" || m.CausationID.IsZero() {
				t.Errorf("metadata of the event: got %+v", m)
			}
		}
		hold := make(chan error, 1)
		go func() {
			_, err := kind.Ref(e, "2").Do(t.Context(), &testv1.Misbehave{How: testv1.Misbehave_HOW_BLOCK})
			hold <- err
		}()
		release := <-blocked
		if err := kind.Ref(e, "2").Tell(t.Context(), &testv1.Deposit{Amount: 1}); err != nil {
			t.Fatal(err)
		}
		close(release)
		if _, err := kind.Ref(e, "2").State(t.Context()); err != nil || <-hold != nil {
			t.Fatal(err)
		}
		for event, err := range log.Read(t.Context(), store.Key{Kind: "account", ID: "2"}, 0) {
			if err != nil || event.Metadata.Values["tenant"] != "7" {
				t.Errorf("event of a command that waited: got %+v and %v, want the tenant before the interceptor changed its map", event, err)
			}
		}
		_, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{Amount: 1}, perdure.WithMetadata(store.Metadata{CausationID: store.ID{1}}))
		if !errors.Is(err, perdure.ErrInvalid) {
			t.Errorf("metadata with a CausationID: got %v, want ErrInvalid", err)
		}
	})
	t.Run("cannot run the work again, leave it out, or hide its outcome", func(t *testing.T) {
		t.Parallel()
		for name, c := range map[string]struct {
			outer func(ctx context.Context, next func(context.Context) error) error
			inner error  // what an inner interceptor returns without calling next
			want  string // text of the error; empty if the command must succeed
		}{
			"again": {outer: func(ctx context.Context, next func(context.Context) error) error {
				return errors.Join(next(ctx), next(ctx))
			}},
			"left out":     {outer: func(context.Context, func(context.Context) error) error { return nil }, want: "interceptor 0 has returned nil and has not called next"},
			"hidden":       {outer: func(ctx context.Context, next func(context.Context) error) error { _ = next(ctx); return errUnwelcome }},
			"nil context":  {outer: func(_ context.Context, next func(context.Context) error) error { return next(nil) }, want: "nil context"},
			"around inner": {outer: func(ctx context.Context, next func(context.Context) error) error { _ = next(ctx); return next(ctx) }, inner: errUnwelcome, want: "called next again"},
		} {
			kind := accounts()
			e, log := openIntercepted(t, []perdure.AnyKind{kind}, nil,
				perdure.Interceptor{Command: func(ctx context.Context, _ *perdure.CommandCall, next func(context.Context) error) error {
					return c.outer(ctx, next)
				}},
				perdure.Interceptor{Command: func(ctx context.Context, _ *perdure.CommandCall, next func(context.Context) error) error {
					if c.inner != nil {
						return c.inner
					}
					return next(ctx)
				}})
			receipt, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{Amount: 1})
			heads, _ := log.Heads(t.Context())
			switch {
			case c.want == "" && (err != nil || receipt.Version != 1 || heads[0].Sequence() != 1):
				t.Errorf("%s: got %+v, %v and head %v, want one event", name, receipt, err, heads)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || heads[0].Sequence() != 0):
				t.Errorf("%s: got %v and head %v, want an error with %q", name, err, heads, c.want)
			}
		}
	})
	t.Run("without a function is a mistake", func(t *testing.T) {
		t.Parallel()
		_, err := perdure.Open(t.Context(), perdure.Config{
			Store: memory.New(), Kinds: []perdure.AnyKind{accounts()},
			Interceptors: []perdure.Interceptor{{Load: func(context.Context, *perdure.LoadCall, func(context.Context) error) error { return nil }}, {}},
		})
		if !errors.Is(err, perdure.ErrInvalid) || !strings.Contains(err.Error(), "Config.Interceptors[1] has no function") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("sees a repeated command", func(t *testing.T) {
		t.Parallel()
		var d diary
		kind := accounts()
		e, _ := openIntercepted(t, []perdure.AnyKind{kind}, nil, perdure.Interceptor{
			Command: func(ctx context.Context, c *perdure.CommandCall, next func(context.Context) error) error {
				err := next(ctx)
				d.add("%s %v %d", c.IdempotencyKey, c.Repeated, c.Receipt.Version)
				return err
			},
		})
		for range 2 {
			if _, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey("k")); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := d.take(), []string{"k false 1", "k true 1"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestInterceptorAllocatesLittle counts two allocations for a command: its description, which is
// a chain too, and the function next.
//
//nolint:paralleltest // other goroutines would be counted too
func TestInterceptorAllocatesLittle(t *testing.T) {
	if raceEnabled || scribble.On {
		t.Skip("the race detector allocates as well, and what is spoilt is copied before")
	}
	kind := accounts()
	command := &testv1.Deposit{Amount: 5}
	allocations := func(list ...perdure.Interceptor) float64 {
		e, _ := openIntercepted(t, []perdure.AnyKind{kind}, nil, list...)
		ref := kind.Ref(e, "1")
		return testing.AllocsPerRun(1000, func() {
			if _, err := ref.Do(t.Context(), command); err != nil {
				t.Fatal(err)
			}
		})
	}
	without, with := allocations(), allocations(passing())
	if with > without+2 {
		t.Errorf("Do: got %v allocations with an interceptor and %v without, want at most 2 more", with, without)
	}
}

// passing returns an interceptor of commands that only calls next.
func passing() perdure.Interceptor {
	return perdure.Interceptor{
		Command: func(ctx context.Context, _ *perdure.CommandCall, next func(context.Context) error) error {
			return next(ctx)
		},
	}
}

// TestInterceptorOfDeliveries refuses some deliveries: an attempt that was refused is repeated, or
// its message is parked.
func TestInterceptorOfDeliveries(t *testing.T) {
	t.Parallel()
	testEachStore(t, func(t *testing.T, open func(perdure.Config) *perdure.Engine) {
		var d diary
		target := store.Key{Kind: "account", ID: "target"}
		sender := perdure.EventSourced("sender",
			perdure.Decide(func(ctx context.Context, _ *testv1.Account, _ *testv1.Open) (*perdure.Decision, error) {
				return perdure.None().Enqueue(&testv1.Note{Text: "effect"}).EnqueueTo(target, &testv1.Deposit{Amount: 1}).
					ScheduleTo(target, "soon", perdure.Now(ctx).Add(time.Hour), &testv1.Deposit{Amount: 10}), nil
			}),
			perdure.Evolve(onDeposited))
		kind := accounts()
		effects := []perdure.EffectRule{perdure.Perform(func(ctx context.Context, m *testv1.Note) error {
			d.add("performed %s with %v", m.GetText(), ctx.Value(askedKey{}))
			return nil
		})}
		e := open(perdure.Config{
			Kinds: []perdure.AnyKind{sender, kind}, Effects: effects,
			Interceptors: []perdure.Interceptor{{
				Delivery: func(ctx context.Context, c *perdure.DeliveryCall, next func(context.Context) error) error {
					what := fmt.Sprintf("%T to %q, timer %q, attempt %d from %s", c.Message, c.Target.String(), c.Timer, c.Attempt, c.Source)
					switch {
					case c.Timer != "":
						d.add("park %s", what)
						return perdure.Park(errUnwelcome)
					case c.Attempt == 1:
						d.add("refuse %s", what)
						return errUnwelcome
					}
					d.add("deliver %s", what)
					c.Metadata.Values = map[string]string{"tenant": "7"}
					return next(context.WithValue(ctx, askedKey{}, "value"))
				},
			}},
		})
		if _, err := sender.Ref(e, "1").Do(t.Context(), &testv1.Open{}); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Hour)
		synctest.Wait()
		got := d.take()
		slices.Sort(got)
		if want := []string{
			`deliver *testv1.Deposit to "account/target", timer "", attempt 2 from sender/1`,
			`deliver *testv1.Note to "/", timer "", attempt 2 from sender/1`,
			`park *testv1.Deposit to "account/target", timer "soon", attempt 1 from sender/1`,
			`performed effect with value`,
			`refuse *testv1.Deposit to "account/target", timer "", attempt 1 from sender/1`,
			`refuse *testv1.Note to "/", timer "", attempt 1 from sender/1`,
		}; !slices.Equal(got, want) {
			t.Errorf("deliveries:\ngot  %q\nwant %q", got, want)
		}
		for event, err := range e.Store().Read(t.Context(), target, 0) {
			if err != nil || event.Metadata.Values["tenant"] != "7" || event.Metadata.CausationID.IsZero() {
				t.Errorf("event of the delivered command: got %+v and %v, want the metadata of the interceptor", event, err)
			}
		}
		if s, err := kind.Ref(e, "target").State(t.Context()); err != nil || s.GetBalance() != 1 {
			t.Errorf("target: got %v and %v, want a balance of 1", s, err)
		}
		for m, err := range e.Parked(t.Context()) {
			if err != nil || m.Timer != "soon" || !strings.Contains(m.LastError, "not you") {
				t.Errorf("parked: got %+v and %v", m, err)
			}
		}
		if s := e.Stats(); s.Parked != 1 || s.Delivered != 2 || s.DeliveriesFailed != 3 {
			t.Errorf("stats: got %+v, want 1 parked, 2 delivered and 3 failed", s)
		}
	})
}

// TestInterceptorOfStore refuses loads, commits and snapshots.
func TestInterceptorOfStore(t *testing.T) {
	t.Parallel()
	testEachStore(t, func(t *testing.T, open func(perdure.Config) *perdure.Engine) {
		var d diary
		refuse := "" // the work to refuse
		kind := accounts(perdure.SnapshotEvery(2), perdure.PassivateAfter(time.Minute))
		e := open(perdure.Config{
			Kinds: []perdure.AnyKind{kind},
			Interceptors: []perdure.Interceptor{{
				Load: func(ctx context.Context, l *perdure.LoadCall, next func(context.Context) error) error {
					if refuse == "load" {
						return errUnwelcome
					}
					err := next(ctx)
					d.add("load of %s: %d events to version %d, for %v", l.Key, l.Events, l.Version, ctx.Value(askedKey{}))
					return err
				},
				Commit: func(ctx context.Context, c *perdure.CommitCall, next func(context.Context) error) error {
					if refuse == "commit" {
						return errUnwelcome
					}
					err := next(ctx)
					d.add("commit of %d: %d results", len(c.Batches), len(c.Results))
					return err
				},
				Snapshot: func(ctx context.Context, s *perdure.SnapshotCall, next func(context.Context) error) error {
					if refuse == "snapshot by exit" {
						runtime.Goexit()
					}
					if refuse == "snapshot" {
						d.add("no snapshot at %d", s.Version)
						return errUnwelcome
					}
					err := next(ctx)
					d.add("snapshot at %d: %v", s.Version, s.Bytes > 0)
					return err
				},
			}},
		})
		ctx := context.WithValue(t.Context(), askedKey{}, "asked")
		do := func(want error, lines ...string) {
			t.Helper()
			if _, err := kind.Ref(e, "1").Do(ctx, &testv1.Deposit{Amount: 1}); !errors.Is(err, want) {
				t.Errorf("Do while %q is refused: got %v, want %v", refuse, err, want)
			}
			if got := d.take(); !slices.Equal(got, lines) {
				t.Errorf("while %q is refused:\ngot  %q\nwant %q", refuse, got, lines)
			}
		}
		do(nil, "load of account/1: 0 events to version 0, for asked", "commit of 1: 1 results")
		refuse = "commit"
		do(perdure.ErrStore, "snapshot at 2: true")
		refuse = ""
		do(nil, "load of account/1: 1 events to version 1, for asked", "snapshot at 2: true", "commit of 1: 1 results")
		do(nil, "commit of 1: 1 results")
		refuse = "snapshot by exit"
		do(nil, "commit of 1: 1 results")
		do(nil, "commit of 1: 1 results")
		refuse = "snapshot"
		do(nil, "no snapshot at 6", "commit of 1: 1 results")
		pass(time.Hour) // the entity leaves
		refuse = "load"
		do(perdure.ErrStore)
		refuse = ""
		do(nil, "load of account/1: 4 events to version 6, for asked", "snapshot at 7: true", "commit of 1: 1 results")
	})
}
