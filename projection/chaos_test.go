package projection_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

var seeds = flag.Int("seeds", 30, "how many times everything fails")

func TestRunnerSkipsAndDoublesNothingWhateverFails(t *testing.T) {
	t.Parallel()
	for seed := range uint64(*seeds) {
		bubble(t, func(t *testing.T) {
			if err := chaos(t, seed, false); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		})
	}
}

func TestTargetThatTearsItsTransactionsIsCaught(t *testing.T) {
	t.Parallel()
	caught := 0
	for seed := range uint64(20) {
		bubble(t, func(t *testing.T) {
			if chaos(t, seed, true) != nil {
				caught++
			}
		})
	}
	if caught == 0 {
		t.Error("it was not caught")
	}
}

// chaos runs two runners of a projection with failing rules, a failing target and restarts, then
// stops all faults, and returns the errors that it finds in the read model.
func chaos(t *testing.T, seed uint64, torn bool) error {
	t.Helper()
	const entities, partitions = 6, 2
	random := rand.New(rand.NewPCG(seed, 1))
	log, g := newLog(t, partitions), newTarget()
	g.torn = torn
	var mu sync.Mutex
	poison := map[store.Position]int{}
	rule := projection.On(func(ctx context.Context, m *memo, e projection.Event[*testv1.Deposited]) error {
		m.rows[projection.TableName(ctx, "sum")+" "+e.Key.ID] += int(e.Message.GetAmount())
		m.rows["last "+e.Key.ID]++
		if n := m.rows["last "+e.Key.ID]; n != int(e.Version) && !torn {
			t.Errorf("seed %d: event %d of %v comes after %d", seed, e.Version, e.Key, n-1)
		}
		mu.Lock()
		defer mu.Unlock()
		if poison[e.Position] > 0 {
			poison[e.Position]--
			return errPoison
		}
		return nil
	})
	q := projection.New("sums", rule).With(projection.Parallelism(1+random.IntN(3)), projection.BatchMax(1+random.IntN(40)),
		attempts(1+random.IntN(3), time.Millisecond, 5*time.Millisecond))
	c := projection.Config{Log: log}
	var runners [2]*projection.Runner
	var stops [2]func()
	start := func(i int) {
		runners[i] = q.Into(g)
		stops[i] = background(t, c, runners[i])
	}
	start(0)
	start(1)
	versions := [entities]int{}
	for range 150 {
		switch n := random.IntN(10); {
		case n < 4:
			i, n := random.IntN(entities), 1+random.IntN(20)
			deposit(t, log, account(i), versions[i], n)
			versions[i] += n
			heads, err := log.Heads(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			if h := heads[random.IntN(partitions)]; random.IntN(3) == 0 {
				poison[h] = 1 + random.IntN(6)
			}
			mu.Unlock()
		case n < 6:
			g.set(func(g *target) {
				var none error
				g.before = []error{none, errors.New("lost before"), store.ErrNotStored}[:random.IntN(4)]
				g.after = []error{none, none, errors.New("lost after")}[:random.IntN(4)]
			})
		case n < 7:
			i := random.IntN(2)
			stops[i]()
			start(i)
		default:
			<-time.After(time.Duration(random.IntN(30)) * time.Millisecond)
		}
	}
	mu.Lock()
	clear(poison)
	mu.Unlock()
	g.set(func(g *target) { g.before, g.after = nil, nil })
	synctest.Wait() // both runners have started
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	var errs []error
	heads, err := log.Heads(t.Context())
	errs = append(errs, err)
	for _, r := range runners {
		for _, h := range heads {
			errs = append(errs, r.AtLeast(ctx, h))
		}
	}
	for _, e := range parkedOf(t, runners[0]) {
		errs = append(errs, runners[seed%2].Retry(ctx, e.Key))
	}
	for i, n := range versions {
		if got := g.row("sum_v1 " + account(i)); got != sum(n) {
			errs = append(errs, fmt.Errorf("the sum of %s is %d, want %d", account(i), got, sum(n)))
		}
	}
	stops[0]()
	stops[1]()
	return errors.Join(errs...)
}
