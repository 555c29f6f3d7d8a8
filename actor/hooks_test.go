package actor_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/actor"
)

// A hook is a place where the package calls code of its user, such as
// "Behavior.Receive". Hooks without a name in this package, such as the methods of a
// logger, have names in lower case.
type hook struct {
	config func(do func()) actor.Config
	// trigger makes the package call the function do at the hook.
	trigger func(h *hooking)
}

// A hooking is one hook with one fault.
type hooking struct {
	t  *testing.T
	s  *actor.System
	do func() // the fault, at the first call
}

// A hooked behavior calls the fault in one of its methods.
type hooked struct {
	at string
	do func()
}

func (b *hooked) hit(where string) {
	if b.at == where {
		b.do()
	}
}

// The things that a hooked behavior does at a message, in addition.
const (
	hookNothing = iota
	hookFails
	hookSpawns // spawns a child and stops it
)

func (b *hooked) Receive(c *actor.Context[int], m int) {
	b.hit("Behavior.Receive")
	switch m {
	case hookFails:
		panic("as it was told")
	case hookSpawns:
		child, err := actor.Spawn(c, "", actor.Func[int](func(*actor.Context[int], int) {}))
		if err == nil {
			child.Stop()
		}
	}
}

func (b *hooked) Started(*actor.Context[int])                   { b.hit("Started.Started") }
func (b *hooked) Restarted(*actor.Context[int], *actor.Failure) { b.hit("Restarted.Restarted") }
func (b *hooked) Stopping(*actor.Context[int], error)           { b.hit("Stopping.Stopping") }
func (b *hooked) Stopped(error)                                 { b.hit("Stopped.Stopped") }
func (b *hooked) Closed(error, []int)                           { b.hit("Closed.Closed") }
func (b *hooked) Signal(*actor.Context[int])                    { b.hit("Signaled.Signal") }
func (b *hooked) ChildStopped(*actor.Context[int], actor.Terminated) {
	b.hit("ChildStopped.ChildStopped")
}

func (b *hooked) Idle() bool {
	b.hit("Idler.Idle")
	return true
}

// A judging behavior decides about its failures itself.
type judging struct{ *hooked }

func (b judging) Failed(*actor.Failure) actor.Directive {
	b.hit("Supervised.Failed")
	return actor.Restart
}

// spawn starts a behavior that can be restarted.
func (h *hooking) spawn(at string, opts ...actor.Option) actor.Ref[int] {
	r, err := actor.SpawnFrom(h.s, "", func() actor.Behavior[int] { return &hooked{at, h.do} }, opts...)
	if err != nil {
		h.t.Errorf("SpawnFrom: %v", err)
	}
	return r
}

func (h *hooking) tells(at string, m int, opts ...actor.Option) {
	_ = h.spawn(at, opts...).Tell(m)
}

// A hookHandler is a handler of a log.
type hookHandler struct {
	slog.Handler
	do func()
}

func (h hookHandler) Handle(context.Context, slog.Record) error {
	h.do()
	return nil
}

// A hookContext is a context of a caller.
type hookContext struct {
	context.Context
	do func()
}

func (c hookContext) Err() error {
	if err := c.Context.Err(); err != nil {
		c.do()
		return err
	}
	return nil
}

// A hookDone is a context of a caller with code in its method Done.
type hookDone struct {
	context.Context
	do func()
}

func (c hookDone) Done() <-chan struct{} {
	c.do()
	return c.Context.Done()
}

// A hookError is an error with code in its method. The method panics on a nil error.
type hookError struct{ do func() }

func (e *hookError) Error() string {
	e.do()
	return "text"
}

type hookEvent struct {
	actor.StartedEvent
	level, title func()
}

func (e hookEvent) Level() slog.Level {
	e.level()
	return slog.LevelInfo
}

func (e hookEvent) Title() string {
	e.title()
	return "title"
}

// hookNone does nothing.
func hookNone() {}

// parked returns an actor that handles no message until the end of the test.
func (h *hooking) parked(opts ...actor.Option) (actor.Ref[int], func()) {
	gate := make(chan struct{})
	r, err := actor.Spawn(h.s, "", actor.Func[int](func(*actor.Context[int], int) { <-gate }), opts...)
	if err != nil {
		h.t.Fatal(err)
	}
	_ = r.Tell(0)
	sleep(time.Millisecond)
	return r, func() { close(gate) }
}

// watched makes an actor watch another one, and then stops that one.
func (h *hooking) watched(watch func(c *actor.Context[int], to actor.Ref[int])) {
	to, err := actor.Spawn(h.s, "", actor.Func[int](func(*actor.Context[int], int) {}))
	if err != nil {
		h.t.Fatal(err)
	}
	_, err = actor.Spawn(h.s, "", &watcherOf{func(c *actor.Context[int]) { watch(c, to) }})
	if err != nil {
		h.t.Fatal(err)
	}
	sleep(time.Millisecond)
	to.Stop()
}

// asksThen makes an actor ask another one by AskThen.
func (h *hooking) asksThen(message func(actor.Reply[int]) int, then func(int, error) int) {
	to := h.spawn("")
	_ = spawn(h.t, h.s, actor.Func[int](func(c *actor.Context[int], m int) {
		if m == 0 {
			_ = actor.AskThen(context.Background(), c, to, message, then)
		}
	})).Tell(0)
}

func (h *hooking) pipes(work func(context.Context) (int, error), then func(int, error) int) {
	_ = spawn(h.t, h.s, actor.Func[int](func(c *actor.Context[int], m int) {
		if m == 0 {
			_ = actor.Pipe(c, work, then)
		}
	})).Tell(0)
}

type watcherOf struct{ start func(c *actor.Context[int]) }

func (b *watcherOf) Started(c *actor.Context[int])  { b.start(c) }
func (*watcherOf) Receive(*actor.Context[int], int) {}

func supervised(s actor.Strategy) func(func()) actor.Config {
	return func(func()) actor.Config { return actor.Config{Supervision: s} }
}

// hooks is the list of all hooks. A test of package tidy fails if the package calls
// code of users that is not in the list.
var hooks = map[string]hook{
	"Behavior.Receive":          {trigger: func(h *hooking) { h.tells("Behavior.Receive", hookNothing) }},
	"Started.Started":           {trigger: func(h *hooking) { h.spawn("Started.Started") }},
	"Restarted.Restarted":       {trigger: func(h *hooking) { h.tells("Restarted.Restarted", hookFails) }},
	"Stopping.Stopping":         {trigger: func(h *hooking) { h.spawn("Stopping.Stopping").Stop() }},
	"Stopped.Stopped":           {trigger: func(h *hooking) { h.spawn("Stopped.Stopped").Stop() }},
	"Closed.Closed":             {trigger: func(h *hooking) { h.spawn("Closed.Closed").Stop() }},
	"Signaled.Signal":           {trigger: func(h *hooking) { h.spawn("Signaled.Signal").Signal() }},
	"ChildStopped.ChildStopped": {trigger: func(h *hooking) { h.tells("ChildStopped.ChildStopped", hookSpawns) }},
	"Idler.Idle":                {trigger: func(h *hooking) { r := h.spawn("Idler.Idle"); sleep(time.Millisecond); r.StopIfIdle() }},
	"Supervised.Failed": {trigger: func(h *hooking) {
		r, err := actor.SpawnFrom(h.s, "", func() actor.Behavior[int] { return judging{&hooked{"Supervised.Failed", h.do}} })
		if err != nil {
			h.t.Error(err)
		}
		_ = r.Tell(hookFails)
	}},
	"Func": {trigger: func(h *hooking) {
		_ = spawn(h.t, h.s, actor.Func[int](func(*actor.Context[int], int) { h.do() })).Tell(0)
	}},
	"Try": {trigger: func(h *hooking) {
		_ = spawn(h.t, h.s, actor.Try[int](func(*actor.Context[int], int) error { h.do(); return (*hookError)(nil) })).Tell(0)
	}},
	"Route": {trigger: func(h *hooking) { _ = actor.Route[int](func(int) error { h.do(); return nil })(1) }},
	"Config.Executor": {
		config: func(do func()) actor.Config {
			return actor.Config{Executor: func(turn func()) { do(); go turn() }}
		},
		trigger: func(h *hooking) { h.tells("", hookNothing) },
	},
	"Strategy.Decide": {
		config: func(do func()) actor.Config {
			return actor.Config{Supervision: actor.Strategy{Decide: func(*actor.Failure) actor.Directive { do(); return actor.Restart }}}
		},
		trigger: func(h *hooking) { h.tells("", hookFails) },
	},
	"Backoff.Random": {
		config: func(do func()) actor.Config {
			return actor.Config{Supervision: actor.Strategy{Backoff: actor.Backoff{Min: 1, Random: func() float64 { do(); return 0 }}}}
		},
		trigger: func(h *hooking) { h.tells("", hookFails) },
	},
	"Middleware.Receive": {trigger: func(h *hooking) {
		h.tells("", hookNothing, actor.Use(actor.Middleware{Receive: func(_ actor.Envelope, next func()) { h.do(); next() }}))
	}},
	"Middleware.Send": {trigger: func(h *hooking) {
		to := h.spawn("")
		_ = spawn(h.t, h.s, actor.Func[int](func(c *actor.Context[int], _ int) { _ = actor.Tell(c, to, 1) }),
			actor.Use(actor.Middleware{Send: func(_ actor.Envelope, next func() error) error { h.do(); return next() }})).Tell(0)
	}},
	"Ask(message)": {trigger: func(h *hooking) {
		_, _ = actor.Ask(context.Background(), h.spawn(""), func(actor.Reply[int]) int { h.do(); return 0 })
	}},
	"AskFrom(message)": {trigger: func(h *hooking) {
		to := h.spawn("")
		_ = spawn(h.t, h.s, actor.Func[int](func(c *actor.Context[int], _ int) {
			_, _ = actor.AskFrom(context.Background(), c, to, func(actor.Reply[int]) int { h.do(); return 0 })
		}), actor.InlineNever()).Tell(0)
	}},
	"AskThen(message)": {trigger: func(h *hooking) {
		h.asksThen(func(actor.Reply[int]) int { h.do(); return 0 }, func(int, error) int { return 1 })
	}},
	"AskThen(then)": {trigger: func(h *hooking) {
		h.asksThen(func(actor.Reply[int]) int { return 0 }, func(int, error) int { h.do(); return 1 })
	}},
	"Pipe(work)": {trigger: func(h *hooking) {
		h.pipes(func(context.Context) (int, error) { h.do(); return 0, nil }, func(int, error) int { return 1 })
	}},
	"Pipe(then)": {trigger: func(h *hooking) {
		h.pipes(func(context.Context) (int, error) { return 0, nil }, func(int, error) int { h.do(); return 1 })
	}},
	"AskRouter(message)": {trigger: func(h *hooking) {
		_, _ = actor.AskRouter(context.Background(), actor.NewRouter(nil, h.spawn("")), func(actor.Reply[int]) int { h.do(); return 0 })
	}},
	"NewRouter(key)": {trigger: func(h *hooking) {
		_ = actor.NewRouter(func(int) string { h.do(); return "" }, h.spawn("")).Tell(1)
	}},
	"SpawnRouter(key)": {trigger: func(h *hooking) {
		r, err := actor.SpawnRouter(h.s, "", 2, func(int) string { h.do(); return "" }, func() actor.Behavior[int] { return &hooked{} })
		if err == nil {
			_ = r.Tell(1)
		}
	}},
	"SpawnRouter(fresh)": {trigger: func(h *hooking) {
		n := 0
		r, err := actor.SpawnRouter(h.s, "", 1, nil, func() actor.Behavior[int] {
			if n++; n > 1 {
				h.do()
			}
			return &hooked{}
		})
		if err == nil {
			r.Members()[0].Stop()
		}
	}},
	"Watch(message)": {trigger: func(h *hooking) {
		h.watched(func(c *actor.Context[int], to actor.Ref[int]) {
			actor.Watch(c, to, func(actor.Terminated) int { h.do(); return 0 })
		})
	}},
	"WatchAddress(message)": {trigger: func(h *hooking) {
		h.watched(func(c *actor.Context[int], to actor.Ref[int]) {
			actor.WatchAddress(c, to.Address(), func(actor.Terminated) int { h.do(); return 0 })
		})
	}},
	"Listen(event)": {trigger: func(h *hooking) {
		actor.Listen(h.s, h.spawn(""), func(string) int { h.do(); return 0 }, func(uint64) int { return 0 })
		h.s.Publish("news")
	}},
	"Listen(missed)": {trigger: func(h *hooking) {
		r, free := h.parked(actor.MailboxMax(1))
		actor.Listen(h.s, r, func(string) int { return 0 }, func(uint64) int { h.do(); return 0 })
		h.s.Publish("one")
		h.s.Publish("two, which is missed")
		free()
		sleep(time.Millisecond)
		h.s.Publish("three")
	}},
	"SpawnFrom(fresh)": {trigger: func(h *hooking) {
		n := 0
		r, _ := actor.SpawnFrom(h.s, "", func() actor.Behavior[int] {
			if n++; n > 1 {
				h.do()
			}
			return &hooked{}
		})
		_ = r.Tell(hookFails)
	}},
	"SpawnPool(fresh)": {trigger: func(h *hooking) {
		_, _ = actor.SpawnPool(h.s, "pool", 3, func() actor.Behavior[int] { h.do(); return &hooked{} })
	}},
	"ConsistentHash(key)": {trigger: func(h *hooking) {
		_ = actor.ConsistentHash(func(int) string { h.do(); return "" }, h.spawn(""))(1)
	}},
	"OnFailure(decide)": {trigger: func(h *hooking) {
		h.tells("", hookFails, actor.OnFailure(func(*actor.Failure) actor.Directive { h.do(); return actor.Restart }))
	}},
	"Event.Level": {trigger: func(h *hooking) {
		actor.Log(context.Background(), slog.New(slog.DiscardHandler), hookEvent{level: h.do, title: hookNone})
	}},
	"Event.Title": {trigger: func(h *hooking) {
		actor.Log(context.Background(), slog.New(slog.DiscardHandler), hookEvent{level: hookNone, title: h.do})
	}},
	"slog.Handler.Handle": {
		config: func(do func()) actor.Config {
			return actor.Config{Logger: slog.New(hookHandler{slog.NewTextHandler(new(bytes.Buffer), nil), do})}
		},
		trigger: func(h *hooking) { h.tells("", hookFails) },
	},
	"error.Error, that a behavior panics with": {
		config: func(func()) actor.Config {
			return actor.Config{Logger: slog.New(slog.NewTextHandler(new(bytes.Buffer), nil))}
		},
		trigger: func(h *hooking) {
			_ = spawn(h.t, h.s, actor.Func[int](func(*actor.Context[int], int) { panic(&hookError{h.do}) })).Tell(0)
		},
	},
	"error.Error, that a behavior stops with, told to who has asked": {
		config: supervised(actor.Strategy{RestartsMax: -1}),
		trigger: func(h *hooking) {
			gate := make(chan struct{})
			r := spawn(h.t, h.s, actor.Func[request](func(*actor.Context[request], request) { <-gate; panic(&hookError{h.do}) }))
			_ = r.Tell(request{})
			asked := make(chan error)
			go func() {
				_, err := actor.Ask(context.Background(), r, asking(1))
				asked <- err
			}()
			sleep(time.Millisecond)
			close(gate)
			if err := <-asked; !errors.Is(err, actor.ErrStopped) {
				h.t.Errorf("Ask of a message behind a failure: %T, want ErrStopped", err)
			}
			h.do()
		},
	},
	"context.Context.Err, of Ask": {trigger: func(h *hooking) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r := spawn(h.t, h.s, actor.Func[request](func(_ *actor.Context[request], m request) { m.reply.Keep() }))
		_, _ = actor.Ask(hookContext{ctx, h.do}, r, asking(1))
	}},
	"context.Context.Done": {trigger: func(h *hooking) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r := spawn(h.t, h.s, actor.Func[request](func(_ *actor.Context[request], m request) { m.reply.Keep() }))
		_, _ = actor.Ask(hookDone{ctx, h.do}, r, asking(1))
	}},
	"System.Walk(yield)": {trigger: func(h *hooking) {
		h.spawn("")
		h.s.Walk()(func(actor.Info) bool { h.do(); return false })
	}},
	"context.Context.Err, of TellWait": {trigger: func(h *hooking) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r, free := h.parked(actor.MailboxMax(1))
		defer free()
		_ = r.Tell(1)
		_ = r.TellWait(hookContext{ctx, func() {
			r.Address().Info() // Info would wait for the lock if the package held it
			h.do()
		}}, 2)
	}},
}

func TestHooks(t *testing.T) {
	t.Parallel()
	gate := func() chan struct{} { return make(chan struct{}) }
	for name, fault := range map[string]hookFault{
		"panics":                               {false, func(chan struct{}) { panic("fault") }},
		"panics with a typed nil":              {false, func(chan struct{}) { panic((*hookError)(nil)) }},
		"ends its goroutine":                   {false, func(chan struct{}) { runtime.Goexit() }},
		"blocks until the test is over":        {false, func(gate chan struct{}) { <-gate }},
		"panics at every call":                 {true, func(chan struct{}) { panic("fault") }},
		"ends the goroutine of every call":     {true, func(chan struct{}) { runtime.Goexit() }},
		"blocks at every call to the test end": {true, func(gate chan struct{}) { <-gate }},
	} {
		for _, at := range slices.Sorted(maps.Keys(hooks)) {
			if at == "Config.Executor" && fault.lasts && !strings.HasPrefix(name, "panics") {
				continue // the test itself calls the executor too, and only the executor runs turns
			}
			t.Run(at+" "+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { testHook(t, hooks[at], fault, gate()) })
			})
		}
	}
}

// A hookFault is a fault that comes once, or lasts until the end of the test.
type hookFault struct {
	lasts bool
	do    func(gate chan struct{})
}

// testHook makes a hook fail, and checks that the fault harms no other actor and does
// not delay Shutdown.
func testHook(t *testing.T, k hook, fault hookFault, gate chan struct{}) {
	var hit, over atomic.Bool
	h := &hooking{t: t, do: func() {
		if hit.CompareAndSwap(false, true) || fault.lasts && !over.Load() {
			fault.do(gate)
		}
	}}
	var c actor.Config
	if k.config != nil {
		c = k.config(h.do)
	}
	h.s = actor.NewSystem(c)
	var others []actor.Ref[request]
	spawnOthers := func() {
		for range 20 {
			others = append(others, spawn(t, h.s, &steady{}))
		}
	}
	if c.Executor == nil { // the first use of the executor fails
		spawnOthers()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() { _ = recover() }() // a panic of a hook that the caller runs itself reaches the caller
		k.trigger(h)
	}()
	sleep(10 * time.Second) // 10 s of the bubble's clock: pauses and contexts end
	if !hit.Load() {
		t.Error("the hook was not called")
	}
	spawnOthers()
	for i, r := range others {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if got, err := actor.Ask(ctx, r, asking(i)); got != i || err != nil {
			t.Errorf("another actor answers %d, %v; want %d", got, err, i)
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begin := time.Now()
	err := h.s.Shutdown(ctx)
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("Shutdown returned after %v, want the minute of its context", took)
	}
	for i, r := range others {
		if is := r.Address().Info().Condition; is != actor.Gone {
			t.Errorf("after Shutdown actor %d is %s, want gone", i, is)
		}
	}
	over.Store(true)
	close(gate)
	if err != nil {
		err = h.s.Shutdown(t.Context())
	}
	if err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	<-ended
}

// A steady behavior answers asks, and has the capabilities of the end of an actor.
type steady struct{ stopped bool }

func (*steady) Receive(_ *actor.Context[request], m request) { m.reply.Send(m.n) }

func (b *steady) Stopped(error) { b.stopped = true }

func (b *steady) Closed(error, []request) {
	if !b.stopped {
		panic("Closed before Stopped")
	}
}
