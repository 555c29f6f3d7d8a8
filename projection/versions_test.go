package projection_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/store"
)

func TestVersionsHaveEveryRowAndEveryEffectOnceWhateverFails(t *testing.T) {
	t.Parallel()
	for seed := range uint64(*seeds) {
		bubble(t, func(t *testing.T) {
			if err := versions(t, seed); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		})
	}
}

// effects counts, in the rows, how often the effect of each event was done, and adds up deposits
// for each version.
func effects() *projection.Projection[*memo] {
	return projection.New("effects", projection.On(func(ctx context.Context, m *memo, e projection.Event[*testv1.Deposited]) error {
		m.rows[projection.TableName(ctx, "sum")+" "+e.Key.ID] += int(e.Message.GetAmount())
		if !projection.Replaying(ctx) {
			m.rows["effect "+e.Position.String()]++
		}
		return nil
	}), projection.Clear(func(ctx context.Context, m *memo) error {
		for k := range m.rows {
			if strings.HasPrefix(k, projection.TableName(ctx, "sum")+" ") {
				delete(m.rows, k)
			}
		}
		return nil
	}))
}

// versions runs two versions, each in two programs. The programs start, stop, switch, reset and
// remove the versions, while the target fails. At the end all faults stop, and versions returns
// the errors that it finds.
func versions(t *testing.T, seed uint64) error {
	t.Helper()
	const entities, partitions = 5, 2
	random := rand.New(rand.NewPCG(seed, 7))
	log, g := newLog(t, partitions), newTarget()
	c := projection.Config{Log: log}
	var segments [2]int
	for v := range segments {
		segments[v] = 1 + random.IntN(3)
	}
	program := func(v int) *projection.Runner {
		return effects().With(projection.Version(v+1), projection.Parallelism(segments[v]), projection.BatchMax(1+random.IntN(20)),
			attempts(2, time.Millisecond, 5*time.Millisecond)).Into(g)
	}
	var runners [2][2]*projection.Runner
	var stops [2][2]func()
	start := func(v, i int) {
		runners[v][i] = program(v)
		stops[v][i] = background(t, c, runners[v][i])
	}
	stop := func(v, i int) {
		if runners[v][i] != nil {
			stops[v][i]()
			runners[v][i], stops[v][i] = nil, nil
		}
	}
	start(0, 0)
	counts := [entities]int{}
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(3000))*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	for range 120 {
		v, i := random.IntN(2), random.IntN(2)
		r := runners[v][i]
		switch n := random.IntN(20); {
		case n < 6:
			id, n := random.IntN(entities), 1+random.IntN(12)
			deposit(t, log, account(id), counts[id], n)
			counts[id] += n
		case n < 8:
			g.set(func(g *target) {
				var none error
				g.before = []error{none, errors.New("lost before"), store.ErrNotStored}[:random.IntN(4)]
				g.after = []error{none, none, errors.New("lost after")}[:random.IntN(4)]
			})
		case n < 11:
			if r == nil {
				start(v, i)
			} else {
				stop(v, i)
			}
		case n < 13 && r != nil:
			_ = r.Switch(short())
		case n < 14 && r != nil:
			_ = r.Reset(short())
		case n < 15 && r != nil:
			if r.Remove(short()) == nil {
				stop(v, i)
			}
		case n < 17 && r != nil:
			heads, err := log.Heads(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_ = r.AtLeast(short(), heads[random.IntN(partitions)])
		case n < 18 && r == nil:
			_ = projection.RunOnce(short(), c, program(v))
		default:
			<-time.After(time.Duration(random.IntN(2000)) * time.Millisecond)
		}
	}
	g.set(func(g *target) { g.before, g.after = nil, nil })
	for v := range runners { // programs that a removal has stopped start again
		for i := range runners[v] {
			stop(v, i)
			start(v, i)
		}
	}
	synctest.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	heads, err := log.Heads(t.Context())
	errs := []error{err}
	for v := range runners {
		for i, r := range runners[v] {
			for _, h := range heads {
				errs = append(errs, r.AtLeast(ctx, h))
			}
			defer stop(v, i)
		}
		for i, n := range counts {
			if got := g.row(fmt.Sprintf("sum_v%d %s", v+1, account(i))); got != sum(n) {
				errs = append(errs, fmt.Errorf("in version %d the sum of %s is %d, want %d", v+1, account(i), got, sum(n)))
			}
		}
	}
	for p, h := range heads {
		for n := range h.Sequence() {
			at := store.NewPosition(p, n+1)
			if got := g.row("effect " + at.String()); got != 1 {
				errs = append(errs, fmt.Errorf("the effect of the event at %v was done %d times", at, got))
			}
		}
	}
	return errors.Join(errs...)
}
