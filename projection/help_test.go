package projection_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// accounts is a kind with deposits and remarks.
func accounts(options ...perdure.KindOption) *perdure.Kind[*testv1.Account] {
	return perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, _ *testv1.Touch) (*perdure.Decision, error) {
			return perdure.None(), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) { a.Notes = append(a.Notes, e.GetNote()) }),
	).With(options...)
}

// sums adds up the deposits of each account, under the name of the version's table, and counts
// them.
func sums(rules ...projection.Rule[*memo]) *projection.Projection[*memo] {
	rules = append(rules,
		projection.On(func(ctx context.Context, m *memo, e projection.Event[*testv1.Deposited]) error {
			m.rows[projection.TableName(ctx, "sum")+" "+e.Key.ID] += int(e.Message.GetAmount())
			m.rows[projection.TableName(ctx, "count")]++
			return nil
		}),
		projection.Prepare(func(ctx context.Context, m *memo) error {
			m.rows[projection.TableName(ctx, "prepared")]++
			return nil
		}),
		projection.Clear(func(ctx context.Context, m *memo) error {
			for k := range m.rows {
				if len(k) >= 4 && (k == projection.TableName(ctx, "count") || k == projection.TableName(ctx, "prepared") || len(k) > len(projection.TableName(ctx, "sum")) && k[:len(projection.TableName(ctx, "sum"))+1] == projection.TableName(ctx, "sum")+" ") {
					delete(m.rows, k)
				}
			}
			return nil
		}))
	return projection.New("sums", rules...)
}

func newLog(t testing.TB, partitions int) store.Log {
	t.Helper()
	return memory.New(memory.WithPartitions(partitions))
}

// mustDeposit commits one deposit, for examples.
func mustDeposit(log store.Log, id string, amount int64) {
	payload, err := proto.Marshal(&testv1.Deposited{Amount: amount})
	if err != nil {
		panic(err)
	}
	b := &store.Batch{Key: store.Key{Kind: "account", ID: id}, Events: []store.Event{{
		ID: store.ID{1}, Type: "perdure.test.v1.Deposited", Payload: payload,
	}}}
	if results, err := log.Commit(context.Background(), []*store.Batch{b}); err != nil || results[0].Err != nil {
		panic(err)
	}
}

// deposit commits deposits of amounts 1, 2, 3 … to an account, without an engine.
func deposit(t testing.TB, log store.Log, id string, expected, n int) {
	t.Helper()
	b := &store.Batch{Key: store.Key{Kind: "account", ID: id}, Expected: store.Version(expected)}
	for i := range n {
		payload, err := proto.Marshal(&testv1.Deposited{Amount: int64(expected + i + 1)})
		if err != nil {
			t.Fatal(err)
		}
		b.Events = append(b.Events, store.Event{ID: store.ID{1, byte(i)}, Type: "perdure.test.v1.Deposited", Payload: payload})
	}
	results, err := log.Commit(t.Context(), []*store.Batch{b})
	if err != nil || results[0].Err != nil {
		t.Fatal(err, results)
	}
}

// sum is 1 + 2 + … + n.
func sum(n int) int { return n * (n + 1) / 2 }

// background runs the runners until the test ends.
func background(t *testing.T, c projection.Config, runners ...*projection.Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := projection.Run(ctx, c, runners...); err != nil {
			t.Error(err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// runOnce is projection.RunOnce within ten minutes of virtual time, which is far more than it
// needs. A runner that never ends fails the test.
func runOnce(t *testing.T, c projection.Config, r *projection.Runner) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	err := projection.RunOnce(ctx, c, r)
	if ctx.Err() != nil {
		t.Errorf("waited ten minutes for RunOnce: %v", err)
	}
	return err
}

func status(t *testing.T, r *projection.Runner) projection.Status {
	t.Helper()
	s, err := r.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func atLeast(t *testing.T, r *projection.Runner, p store.Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if err := r.AtLeast(ctx, p); err != nil {
		t.Fatalf("waiting for position %v: %v; %+v", p, err, status(t, r))
	}
}

func wantRow(t *testing.T, g *target, name string, want int) {
	t.Helper()
	if got := g.row(name); got != want {
		t.Errorf("row %q is %d, want %d", name, got, want)
	}
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, fn)
}

func position(n int) store.Position { return store.NewPosition(0, uint64(n)) }

// attempts is the option for a number of attempts with pauses from first to longest.
func attempts(n int, first, longest time.Duration) projection.Option {
	return projection.Retry(projection.RetryPolicy{MaxAttempts: n, MinBackoff: first, MaxBackoff: longest})
}

func account(n int) string { return fmt.Sprintf("a%d", n) }

// depositOld commits a deposit in the form of former releases.
func depositOld(t testing.TB, log store.Log, id string, units int64) {
	t.Helper()
	payload, err := proto.Marshal(&testv1.DepositedV0{Units: units})
	if err != nil {
		t.Fatal(err)
	}
	b := &store.Batch{Key: store.Key{Kind: "account", ID: id}, Events: []store.Event{{
		ID: store.ID{1}, Type: "perdure.test.v1.DepositedV0", Payload: payload,
	}}}
	if results, err := log.Commit(t.Context(), []*store.Batch{b}); err != nil || results[0].Err != nil {
		t.Fatal(err, results)
	}
}
