package actor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/actor/actortest"
)

// resulting returns a task that records a result.
func resulting(log *diary) func(int, error) task {
	return func(v int, err error) task {
		return func(*actor.Context[task]) {
			switch {
			case errors.Is(err, actor.ErrFailed):
				log.write("failed")
			case err != nil:
				log.write(err.Error())
			default:
				log.write(fmt.Sprint(v))
			}
		}
	}
}

// written returns the results that resulting has recorded.
func written(log *diary) []string {
	return slices.DeleteFunc(log.read(), func(l string) bool {
		return len(l) > 2 && l[:2] == "a " || l == " started" || l == " restarted" || l == " stopping" || l == " stopped" || l == " closed"
	})
}

func TestPipeDeliversTheResultAsAMessage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		begin func(c *actor.Context[task], log *diary) error
		want  string
	}{
		"an answer": {func(c *actor.Context[task], log *diary) error {
			to := spawn(t, c.System(), server(func(_ *actor.Context[request], m request) { m.reply.Send(m.n) }))
			return actor.AskThen(context.Background(), c, to, asking(7), resulting(log))
		}, "7"},
		"no answer": {func(c *actor.Context[task], log *diary) error {
			to := spawn(t, c.System(), server(func(*actor.Context[request], request) {}))
			return actor.AskThen(context.Background(), c, to, asking(7), resulting(log))
		}, "message was handled without a reply"},
		"a failure": {func(c *actor.Context[task], log *diary) error {
			to := spawn(t, c.System(), server(func(*actor.Context[request], request) { panic("ill") }))
			return actor.AskThen(context.Background(), c, to, asking(7), resulting(log))
		}, "failed"},
		"a context that ends": {func(c *actor.Context[task], log *diary) error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			time.AfterFunc(time.Hour, cancel)
			to := spawn(t, c.System(), server(func(_ *actor.Context[request], m request) { m.reply.Keep() }))
			return actor.AskThen(ctx, c, to, asking(7), resulting(log))
		}, "ask: context deadline exceeded"},
		"work": {func(c *actor.Context[task], log *diary) error {
			return actor.Pipe(c, func(context.Context) (int, error) { sleepOnly(time.Second); return 8, nil }, resulting(log))
		}, "8"},
		"an error": {func(c *actor.Context[task], log *diary) error {
			return actor.Pipe(c, func(context.Context) (int, error) { return 0, io.EOF }, resulting(log))
		}, "EOF"},
		"a panic": {func(c *actor.Context[task], log *diary) error {
			return actor.Pipe(c, func(context.Context) (int, error) { panic("ill") }, resulting(log))
		}, "failed"},
		"an exit": {func(c *actor.Context[task], log *diary) error {
			return actor.Pipe(c, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil }, resulting(log))
		}, "failed"},
	} {
		for _, stops := range []bool{false, true} { // a stop waits for the result
			synctest.Test(t, func(t *testing.T) {
				var log diary
				s := newSystem(t, actor.Config{})
				r := spawn(t, s, &do{log: &log}, actor.MailboxMax(1))
				run(t, r, func(x *actor.Context[task]) {
					if err := c.begin(x, &log); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
				if stops {
					r.Stop()
				}
				sleep(time.Minute)
				if got := written(&log); !slices.Equal(got, []string{c.want}) {
					t.Errorf("%s: got %q, want %q", name, got, c.want)
				}
				if is := r.Address().Info().Condition; stops != (is == actor.Gone) {
					t.Errorf("%s: after a stop (%t) and the result the actor is %s", name, stops, is)
				}
				sleep(time.Hour)
			})
		}
	}
}

func TestStopInTheTurnOfAPipeWaitsForItsResult(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]actor.Option{"inline": nil, "on a goroutine": {actor.InlineNever()}} {
		synctest.Test(t, func(t *testing.T) {
			var log diary
			r := spawn(t, newSystem(t, actor.Config{}), &do{log: &log}, opts...)
			work := func(context.Context) (int, error) { sleepOnly(time.Second); return 8, nil }
			tell(t, r, task(func(c *actor.Context[task]) {
				if err := actor.Pipe(c, work, resulting(&log)); err != nil {
					t.Errorf("%s: Pipe: %v", name, err)
				}
				c.Stop()
			}))
			synctest.Wait()
			if is := r.Address().Info().Condition; is != actor.ShuttingDown {
				t.Errorf("%s: while its work is under way the actor is %s, want shutting down", name, is)
			}
			sleep(time.Minute)
			if got := written(&log); !slices.Equal(got, []string{"8"}) {
				t.Errorf("%s: got %q, want the result 8", name, got)
			}
			if is := r.Address().Info().Condition; is != actor.Gone {
				t.Errorf("%s: after the result the actor is %s, want gone", name, is)
			}
		})
	}
}

func TestPipeDropsTheResultOfAnEarlierBehavior(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log diary
		s := newSystem(t, actor.Config{})
		gate := make(chan struct{})
		r, err := actor.SpawnFrom(s, "", func() actor.Behavior[task] { return &do{log: &log} })
		if err != nil {
			t.Fatal(err)
		}
		ended := false
		tell(t, r, func(c *actor.Context[task]) {
			err := actor.Pipe(c, func(ctx context.Context) (int, error) {
				<-ctx.Done()
				ended = true
				return 1, nil
			}, resulting(&log))
			err2 := actor.Pipe(c, func(context.Context) (int, error) { return 2, nil }, resulting(&log))
			err3 := actor.Pipe(c, func(context.Context) (int, error) { <-gate; return 3, nil }, resulting(&log))
			sleepOnly(time.Second) // the second result waits in the mailbox
			panic(errors.Join(err, err2, err3))
		})
		sleep(2 * time.Second)
		close(gate)
		synctest.Wait()
		if got := written(&log); len(got) != 0 || !ended {
			t.Errorf("after a restart the results %q have come, and the work has ended: %t; want none and true", got, ended)
		}
		r.Stop() // Stop waits for no result that does not come any more
		synctest.Wait()
		if is := r.Address().Info().Condition; is != actor.Gone {
			t.Errorf("after Stop the actor is %s", is)
		}
	})
}

func TestStopNowDoesNotWaitForResults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log diary
		s := actor.NewSystem(actor.Config{})
		r := spawn(t, s, &do{log: &log})
		gate := make(chan struct{})
		run(t, r, func(c *actor.Context[task]) {
			if err := actor.Pipe(c, func(context.Context) (int, error) { <-gate; return 1, nil }, resulting(&log)); err != nil {
				t.Error(err)
			}
		})
		r.Stop()
		if r.StopIfIdle() {
			t.Error("StopIfIdle: true while work is under way")
		}
		sleep(time.Second)
		if is := r.Address().Info().Condition; is != actor.ShuttingDown {
			t.Errorf("while work is under way the actor is %s, want shutting down", is)
		}
		r.StopNow()
		synctest.Wait()
		if is := r.Address().Info().Condition; is != actor.Gone {
			t.Errorf("after StopNow the actor is %s", is)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown while work is under way: %v, want the error of its context", err)
		}
		close(gate)
		shutdown(t, s)
		if got := written(&log); len(got) != 0 {
			t.Errorf("after StopNow the result %q has come", got)
		}
	})
}

func TestAwaitedResultsHaveABound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		var log diary
		gate := make(chan struct{})
		r := spawn(t, s, &do{log: &log})
		work := func(context.Context) (int, error) { <-gate; return 1, nil }
		run(t, r, func(c *actor.Context[task]) {
			for range actor.AwaitedMax {
				if err := actor.Pipe(c, work, resulting(&log)); err != nil {
					t.Error(err)
				}
			}
			if err := actor.Pipe(c, work, resulting(&log)); !errors.Is(err, actor.ErrMailboxFull) {
				t.Errorf("one more: %v, want ErrMailboxFull", err)
			}
		})
		close(gate)
		synctest.Wait()
		if n := len(written(&log)); n != actor.AwaitedMax {
			t.Errorf("%d results have come, want %d", n, actor.AwaitedMax)
		}
		run(t, r, func(c *actor.Context[task]) {
			if err := actor.AskThen(t.Context(), c, actor.Ref[request]{}, asking(1), resulting(&log)); !errors.Is(err, actor.ErrStopped) {
				t.Errorf("AskThen of no actor: %v, want ErrStopped", err)
			}
		})
		r.Stop()
		stopped(t, r)
	})
}

func TestSchedulerMakesTheStepsOfResults(t *testing.T) {
	t.Parallel()
	scheduler := actortest.NewScheduler()
	s := scheduler.NewSystem(t, actor.Config{})
	var log diary
	to := spawn(t, s, server(func(_ *actor.Context[request], m request) { m.reply.Send(m.n) }))
	r := spawn(t, s, &do{log: &log})
	tell(t, r, func(c *actor.Context[task]) {
		if err := actor.AskThen(t.Context(), c, to, asking(1), resulting(&log)); err != nil {
			t.Error(err)
		}
		if err := actor.Pipe(c, func(context.Context) (int, error) { return 2, nil }, resulting(&log)); err != nil {
			t.Error(err)
		}
	})
	scheduler.Run(t)
	if got := written(&log); len(got) != 2 {
		t.Errorf("got %q, want two results", got)
	}
}

// asks makes an actor ask another one for a number, by AskFrom.
type asks struct {
	to    func() actor.Ref[request]
	keeps bool
	errs  chan error
}

func (b *asks) Receive(c *actor.Context[request], m request) {
	to := b.to()
	if to == (actor.Ref[request]{}) {
		m.reply.Send(m.n)
		return
	}
	if b.keeps {
		m.reply.Keep()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	v, err := actor.AskFrom(ctx, c, to, asking(m.n))
	if err != nil {
		b.errs <- err
		m.reply.Fail(err)
		return
	}
	m.reply.Send(v)
}

func TestActorsThatWaitForEachOtherAreTold(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]actor.Option{"inline": nil, "on goroutines": {actor.InlineNever()}} {
		for size, want := range map[int]string{
			1: "ask: actors wait for each other: /user/a0 asks /user/a0",
			3: "ask: actors wait for each other: /user/a2 asks /user/a0 asks /user/a1 asks /user/a2",
		} {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(t, actor.Config{})
				refs := make([]actor.Ref[request], size)
				errs := make(chan error, 10)
				for i := range refs {
					r, err := actor.Spawn(s, fmt.Sprint("a", i), &asks{to: func() actor.Ref[request] { return refs[(i+1)%size] }, errs: errs}, opts...)
					if err != nil {
						t.Fatal(err)
					}
					refs[i] = r
				}
				begin := time.Now()
				_, err := actor.Ask(t.Context(), refs[0], asking(1))
				var cycle *actor.CycleError
				if !errors.As(err, &cycle) || !errors.Is(err, actor.ErrCycle) || err.Error() != want || time.Since(begin) != 0 {
					t.Errorf("%s: after %v got  %v\nwant %s", name, time.Since(begin), err, want)
				}
			})
		}
	}
}

func TestAskThatCanBeAnsweredIsNoCircle(t *testing.T) {
	t.Parallel()
	for name, keeps := range map[string]bool{"a chain": false, "a promise": true} {
		synctest.Test(t, func(t *testing.T) {
			s := newSystem(t, actor.Config{})
			errs := make(chan error, 10)
			end := spawn(t, s, &asks{to: func() actor.Ref[request] { return actor.Ref[request]{} }, errs: errs})
			middle := spawn(t, s, &asks{to: func() actor.Ref[request] { return end }, keeps: keeps, errs: errs}, actor.InlineNever())
			first := spawn(t, s, &asks{to: func() actor.Ref[request] { return middle }, errs: errs})
			for i := range 3 {
				if got, err := actor.Ask(t.Context(), first, asking(i)); got != i || err != nil {
					t.Errorf("%s: got %d, %v, want %d", name, got, err, i)
				}
			}
		})
	}
}

// The asker of a forwarded message does not wait for the actor that it asked.
func TestForwardedAskIsNoCircle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, actor.Config{})
		gate := make(chan struct{})
		answers := spawn(t, s, server(func(_ *actor.Context[request], m request) {
			<-gate
			m.reply.Send(m.n)
		}), actor.InlineNever())
		errs := make(chan error, 10)
		var first actor.Ref[request]
		forwards := spawn(t, s, server(func(c *actor.Context[request], m request) {
			if err := actor.Forward(c, answers, m); err != nil {
				t.Error(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			// The first actor waits for the one that answers, and is free soon.
			_, err := actor.AskFrom(ctx, c, first, asking(-1))
			errs <- err
		}), actor.InlineNever())
		first = spawn(t, s, server(func(c *actor.Context[request], m request) {
			if m.n < 0 {
				m.reply.Send(0)
				return
			}
			v, err := actor.AskFrom(t.Context(), c, forwards, asking(m.n))
			if err != nil {
				t.Error(err)
			}
			m.reply.Send(v)
		}), actor.InlineNever())
		got := make(chan int, 1)
		go func() {
			v, _ := actor.Ask(t.Context(), first, asking(5))
			got <- v
		}()
		sleep(time.Second)
		close(gate)
		if v, err := <-got, <-errs; v != 5 || err != nil {
			t.Errorf("got %d, %v, want 5 and no error", v, err)
		}
	})
}
