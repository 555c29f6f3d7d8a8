package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

type serviceFunc func(context.Context, *perdure.Engine) error

func (f serviceFunc) Serve(ctx context.Context, e *perdure.Engine) error { return f(ctx, e) }

func openWith(t *testing.T, log store.Log, services ...perdure.Service) *perdure.Engine {
	t.Helper()
	e, err := perdure.Open(t.Context(), perdure.Config{Store: log, Kinds: []perdure.AnyKind{accounts()}, Services: services})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestServicesRunUntilTheEngineIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		follower := serviceFunc(func(ctx context.Context, e *perdure.Engine) error {
			for event, err := range e.Events(ctx, store.Query{Types: []string{"perdure.test.v1.Deposited"}}) {
				if err != nil {
					return err
				}
				seen = append(seen, event.Type)
			}
			return nil
		})
		ends := serviceFunc(func(context.Context, *perdure.Engine) error { return errors.New("no more") })
		panics := serviceFunc(func(context.Context, *perdure.Engine) error { panic("oh") })
		e := openWith(t, memory.New(), follower, ends, panics)
		ref := accounts().Ref(e, "a")
		if _, err := ref.Do(t.Context(), &testv1.Open{Owner: "ada"}); err != nil {
			t.Fatal(err)
		}
		if _, err := ref.Do(t.Context(), &testv1.Deposit{Amount: 3}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s := e.Services()
		if len(s) != 3 || !s[0].Running || s[1].Running || s[2].Running {
			t.Fatalf("services are %+v", s)
		}
		if s[1].Err == nil || s[1].Err.Error() != "no more" || !strings.Contains(s[2].Err.Error(), "panic: oh") {
			t.Errorf("they say %v and %v", s[1].Err, s[2].Err)
		}
		if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Fatal(err)
		}
		if s := e.Services(); s[0].Running || s[0].Err != nil {
			t.Errorf("after the end: %+v", s[0])
		}
		if len(seen) != 1 {
			t.Errorf("the follower has seen %v", seen)
		}
	})
}

func TestServicesAreAwaitedByClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := serviceFunc(func(ctx context.Context, _ *perdure.Engine) error {
			<-ctx.Done()
			<-time.After(time.Second)
			return nil
		})
		e := openWith(t, memory.New(), slow)
		if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if e.Services()[0].Running {
			t.Error("it was not waited for")
		}
		e = openWith(t, memory.New(), slow)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Millisecond)
		defer cancel()
		if err := e.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it says %v", err)
		}
		<-time.After(time.Minute)
	})
}

func TestServicesRefuseNil(t *testing.T) {
	t.Parallel()
	_, err := perdure.Open(t.Context(), perdure.Config{Store: memory.New(), Kinds: []perdure.AnyKind{accounts()}, Services: []perdure.Service{nil}})
	if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "Services[0]") {
		t.Errorf("it says %v", err)
	}
}

// TestServicesAreStartedAgain runs services that end, and measures the pauses before they run
// again.
func TestServicesAreStartedAgain(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"error", "nothing", "panic", "exit"} {
		t.Run("after "+how, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var starts []time.Time
				ends := serviceFunc(func(ctx context.Context, _ *perdure.Engine) error {
					starts = append(starts, time.Now())
					switch n := len(starts); {
					case n == 15: // works for some time, and fails then
						pass(2 * time.Minute)
					case n == 18:
						<-ctx.Done()
						return nil
					}
					switch how {
					case "panic":
						panic("oh")
					case "exit":
						runtime.Goexit()
					case "nothing":
						return nil
					}
					return errors.New("no more")
				})
				e := openWith(t, memory.New(), ends)
				pass(time.Hour)
				s := e.Services()[0]
				want := map[string]string{
					"error": "no more", "nothing": "returned before its context ended", "panic": "panic: oh", "exit": "Goexit",
				}[how]
				if !s.Running || s.Restarts != 17 || !s.Next.IsZero() || s.Err == nil || !strings.Contains(s.Err.Error(), want) {
					t.Errorf("state: got %+v, want a running service with 17 restarts and an error with %q", s, want)
				}
				if n := e.Stats().ServicesFailed; n != 17 {
					t.Errorf("ServicesFailed: got %d, want 17", n)
				}
				if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
				pause := 100 * time.Millisecond
				for i := 1; i < len(starts); i++ {
					got := starts[i].Sub(starts[i-1])
					if i == 15 { // it had worked for two minutes
						got, pause = got-2*time.Minute, 100*time.Millisecond
					}
					if got <= pause/2 || got > pause {
						t.Errorf("pause %d: got %v, want more than %v and at most %v", i, got, pause/2, pause)
					}
					pause = min(2*pause, time.Minute)
				}
			})
		})
	}
	t.Run("but not for a mistake or Once", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var calls atomic.Int32
			service := func(err error) perdure.Service {
				return serviceFunc(func(context.Context, *perdure.Engine) error { calls.Add(1); return err })
			}
			mistake := fmt.Errorf("%w: no such table", perdure.ErrInvalid)
			e := openWith(t, memory.New(), service(mistake), perdure.Once(service(errors.New("no more"))), perdure.Once(service(nil)))
			pass(time.Hour)
			s := e.Services()
			if n := calls.Load(); n != 3 || s[0].Err != mistake || s[1].Err == nil || s[2].Err != nil { //nolint:errorlint // the error itself
				t.Errorf("got %d calls and %+v, want one call each", n, s)
			}
			for i := range s {
				if s[i].Running || s[i].Restarts != 0 || !s[i].Next.IsZero() {
					t.Errorf("service %d: got %+v, want an ended one", i, s[i])
				}
			}
			if n := e.Stats().ServicesFailed; n != 2 {
				t.Errorf("ServicesFailed: got %d, want 2", n)
			}
			if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("but not once the engine is closed", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			e := openWith(t, memory.New(), serviceFunc(func(context.Context, *perdure.Engine) error {
				calls++
				return errors.New("no more")
			}))
			pass(10 * time.Minute)
			synctest.Wait()
			before := calls
			if s := e.Services()[0]; s.Running || s.Next.Before(time.Now()) {
				t.Errorf("state during a pause: got %+v", s)
			}
			closing := time.Now()
			if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
			if d := time.Since(closing); d > 0 {
				t.Errorf("Close during a pause took %v", d)
			}
			pass(time.Hour)
			if calls != before {
				t.Errorf("a closed engine has started a service %d times", calls-before)
			}
			if s := e.Services()[0]; s.Running || !s.Next.IsZero() {
				t.Errorf("state after Close: got %+v", s)
			}
		})
	})
}
