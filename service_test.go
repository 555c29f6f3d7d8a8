package perdure_test

import (
	"context"
	"errors"
	"strings"
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
