package projection_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/memorytarget"
	"github.com/perdure/perdure/store/memory"
)

// TestInterceptor refuses the first attempts of a projection: by an error, a panic, and the end of
// the goroutine. The events are handled once all the same.
func TestInterceptor(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"error", "panic", "exit", "panic after the work", "exit after the work", "error after the work"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { testInterceptor(t, fault) })
		})
	}
}

func testInterceptor(t *testing.T, fault string) {
	type model struct{ Sum int64 }
	target, err := memorytarget.New(model{})
	if err != nil {
		t.Fatal(err)
	}
	runner := projection.New("sums",
		projection.On(func(ctx context.Context, m *model, e projection.Event[*testv1.Deposited]) error {
			if ctx.Value(interceptedKey{}) != true {
				return errors.New("the context of the interceptor is missing")
			}
			m.Sum += e.Message.GetAmount()
			return nil
		}),
	).Into(target)
	kind := perdure.EventSourced("account",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Deposited) { a.Balance += e.GetAmount() }))
	var seen []string
	fail := func(when string) error {
		if len(seen) > 1 || !strings.HasSuffix(fault, when) {
			return nil
		}
		switch strings.Fields(fault)[0] {
		case "panic":
			panic("interceptor")
		case "exit":
			runtime.Goexit()
		}
		return errors.New("interceptor")
	}
	e, err := perdure.Open(t.Context(), perdure.Config{
		Store: memory.New(), Kinds: []perdure.AnyKind{kind}, Services: []perdure.Service{projection.Service(runner)},
		Interceptors: []perdure.Interceptor{{
			Projection: func(ctx context.Context, p *perdure.ProjectionCall, next func(context.Context) error) error {
				seen = append(seen, fmt.Sprintf("%s version %d: %d from %v", p.Name, p.ModelVersion, len(p.Events), p.Events[0].Position))
				if !strings.HasSuffix(fault, "after the work") {
					if err := fail(""); err != nil {
						return err
					}
				}
				if err := next(context.WithValue(ctx, interceptedKey{}, true)); err != nil {
					return err
				}
				return fail("after the work")
			},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := kind.Ref(e, "1").Do(t.Context(), &testv1.Deposit{Amount: 7})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if err := projection.WaitFor(ctx, runner, receipt); err != nil {
		t.Errorf("WaitFor: %v", err)
	}
	if err := target.View(t.Context(), func(m *model) error {
		if m.Sum != 7 {
			t.Errorf("sum: got %d, want 7", m.Sum)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := e.Close(context.Background()); err != nil {
		t.Error(err)
	}
	want := []string{"sums version 1: 1 from 1"}
	if !strings.HasSuffix(fault, "after the work") {
		want = append(want, want[0])
	}
	if !slices.Equal(seen, want) {
		t.Errorf("attempts: got %q, want %q", seen, want)
	}
}

type interceptedKey struct{}
