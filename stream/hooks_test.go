package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/internal/hooktest"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// A hook is a place where the package calls code of a user, see package hooktest.
type hook struct {
	config func(h *hooking, c *stream.SubscriptionConfig)
	// trigger makes a subscription call the code, or calls the code itself if no
	// subscription does.
	trigger func(h *hooking)
	// holds says that the code runs on the goroutine of the caller.
	holds bool
	// shared says that other subscriptions call the code too.
	shared bool
}

// A hooking is one hook with one fault.
type hooking struct {
	*hooktest.Hook
	t   *testing.T
	log *hookLog
	w   *writer
	s   *stream.Subscription
}

// A hookLog is a log of a third party, with a failing method.
type hookLog struct {
	*memory.Log
	h *hooking
}

func (l *hookLog) Heads(ctx context.Context) ([]store.Position, error) {
	if l.h.Reached("store.Log.Heads") {
		return nil, nil
	}
	return l.Log.Heads(ctx)
}

func (l *hookLog) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		if l.h.Reached("store.Log.Scan") {
			return
		}
		if l.h.At == "slog.Handler.Handle" && l.h.Failing() {
			yield(nil, errors.New("the log cannot be read"))
			return
		}
		for _, method := range []string{"Error", "Is", "As", "Unwrap"} {
			if at := "error." + method + ", of the log"; l.h.At == at && l.h.Failing() {
				yield(nil, &hookError{at, l.h})
				return
			}
		}
		l.Log.Scan(ctx, q)(yield)
	}
}

func (l *hookLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if len(group[0].Events) == 0 && l.h.Reached("store.Log.Commit") {
		return nil, nil
	}
	return l.Log.Commit(ctx, group)
}

func (l *hookLog) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		if l.h.Reached("store.Log.Load") {
			return
		}
		l.Log.Load(ctx, key, accept)(yield)
	}
}

func (l *hookLog) Deleted(ctx context.Context) ([]store.Deletion, error) {
	l.h.Reached("store.Log.Deleted")
	return l.Log.Deleted(ctx)
}

func (l *hookLog) Checkpoints(ctx context.Context) ([]store.Checkpoint, error) {
	l.h.Reached("store.Log.Checkpoints")
	return l.Log.Checkpoints(ctx)
}

func (l *hookLog) Changed() <-chan struct{} {
	l.h.Reached("store.Watcher.Changed")
	return nil
}

// A hookError is an error with hooks in its methods.
type hookError struct {
	at string
	h  *hooking
}

func (e *hookError) reached(method string) {
	for _, of := range []string{"the log", "the checkpoints"} {
		e.h.Reached("error." + method + ", of " + of)
	}
}
func (e *hookError) Error() string { e.reached("Error"); return "text" }
func (e *hookError) Is(error) bool { e.reached("Is"); return false }
func (e *hookError) As(any) bool   { e.reached("As"); return false }
func (e *hookError) Unwrap() error { e.reached("Unwrap"); return nil }

// hookCheckpoints keep positions in memory.
type hookCheckpoints struct{ h *hooking }

func (c hookCheckpoints) Claim(context.Context, string) (stream.CheckpointWriter, []store.Position, error) {
	if c.h.Reached("Checkpoints.Claim") {
		return nil, nil, nil
	}
	return hookCheckpoint(c), nil, nil
}

type hookCheckpoint struct{ h *hooking }

func (c hookCheckpoint) Save(context.Context, []store.Position) error {
	c.h.Reached("CheckpointWriter.Save")
	for _, method := range []string{"Error", "Is", "Unwrap"} {
		if at := "error." + method + ", of the checkpoints"; c.h.At == at && c.h.Failing() {
			return &hookError{at, c.h}
		}
	}
	return nil
}

// hookProofs are checkpoints that keep proofs.
type hookProofs struct{ hookCheckpoints }

func (c hookProofs) Claim(ctx context.Context, name string) (stream.CheckpointWriter, []store.Position, error) {
	_, _, err := c.hookCheckpoints.Claim(ctx, name)
	return hookProof{hookCheckpoint(c.hookCheckpoints)}, nil, err
}

type hookProof struct{ hookCheckpoint }

func (c hookProof) Proofs() []stream.Proof { c.h.Reached("ProofKeeper.Proofs"); return nil }

func (c hookProof) SaveProofs(context.Context, []stream.Proof) error {
	c.h.Reached("ProofKeeper.SaveProofs")
	return nil
}

func (h *hooking) short() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	h.t.Cleanup(cancel)
	return ctx
}

func elsewhere(h *hooking, c *stream.SubscriptionConfig) { c.Checkpoints = hookCheckpoints{h} }
func proofs(h *hooking, c *stream.SubscriptionConfig)    { c.Checkpoints = hookProofs{hookCheckpoints{h}} }

// subscribes opens another subscription.
func subscribes(c func(h *hooking) stream.Checkpoints) func(h *hooking) {
	return func(h *hooking) {
		checkpoints := stream.LogCheckpoints(h.log)
		if c != nil {
			checkpoints = c(h)
		}
		s, err := h.w.hub.Subscribe(h.short(), stream.SubscriptionConfig{Name: "another", Checkpoints: checkpoints})
		if err == nil {
			_ = s.Close(h.short())
		}
	}
}

// moves writes and acknowledges, so that the position is saved.
func moves(h *hooking) {
	h.w.write(book("hook"), 1)
	ctx := h.short()
	for d, err := range h.s.All(ctx) {
		if err != nil {
			return
		}
		if d.Events[0].Key == book("hook") {
			_ = d.Ack()
			return
		}
	}
}

func iterates[T any](h *hooking, all iter.Seq2[T, error]) {
	h.w.write(book("hook"), 1)
	all(func(T, error) bool { h.Do(); return false })
}

// hooks are the places where the package calls code of users.
var hooks = map[string]hook{
	"store.Log.Heads":                  {shared: true, holds: true, trigger: subscribes(nil)},
	"store.Log.Load":                   {holds: true, trigger: subscribes(nil)},
	"store.Log.Commit":                 {trigger: moves},
	"store.Log.Scan":                   {shared: true, trigger: func(h *hooking) { h.w.commit(book("hook"), store.Event{}); h.w.write(book("hook"), 1) }},
	"error.Error, of the log":          {shared: true, trigger: func(h *hooking) { h.w.commit(book("hook"), store.Event{}); h.w.write(book("hook"), 1) }},
	"error.Is, of the log":             {shared: true, trigger: func(h *hooking) { h.w.commit(book("hook"), store.Event{}); h.w.write(book("hook"), 1) }},
	"error.Unwrap, of the log":         {shared: true, trigger: func(h *hooking) { h.w.commit(book("hook"), store.Event{}); h.w.write(book("hook"), 1) }},
	"store.Log.Deleted":                {holds: true, trigger: func(h *hooking) { iterates(h, h.w.hub.Follow(h.short(), store.Query{})) }},
	"store.Log.Checkpoints":            {holds: true, trigger: func(h *hooking) { _, _ = h.w.hub.Keep(h.short(), 0) }},
	"store.Watcher.Changed":            {shared: true, holds: true, trigger: func(h *hooking) { iterates(h, h.w.hub.Follow(h.short(), store.Query{})) }},
	"Checkpoints.Claim":                {holds: true, trigger: subscribes(func(h *hooking) stream.Checkpoints { return hookCheckpoints{h} })},
	"CheckpointWriter.Save":            {config: elsewhere, trigger: moves},
	"ProofKeeper.Proofs":               {holds: true, trigger: subscribes(func(h *hooking) stream.Checkpoints { return hookProofs{hookCheckpoints{h}} })},
	"ProofKeeper.SaveProofs":           {config: proofs, trigger: moves},
	"error.Error, of the checkpoints":  {config: elsewhere, trigger: moves},
	"error.Is, of the checkpoints":     {config: elsewhere, trigger: moves},
	"error.Unwrap, of the checkpoints": {config: elsewhere, trigger: moves},
	"SubscriptionConfig.DeadLetter": {holds: true, trigger: func(h *hooking) {
		h.w.write(book("hook"), 1)
		for d, err := range h.s.All(h.short()) {
			if err != nil {
				return
			}
			_ = d.Nack(h.short(), 0, errRefused)
			if h.Hit() {
				return
			}
		}
	}},
	"Hub.Follow(yield)":       {holds: true, trigger: func(h *hooking) { iterates(h, h.w.hub.Follow(h.short(), store.Query{})) }},
	"Hub.Commits(yield)":      {holds: true, trigger: func(h *hooking) { iterates(h, h.w.hub.Commits(h.short(), stream.Query{})) }},
	"Subscription.All(yield)": {holds: true, trigger: func(h *hooking) { iterates(h, h.s.All(h.short())) }},
	"context.Context.Err":     {holds: true, trigger: func(h *hooking) { _, _ = h.s.Next(hooktest.Context{Context: h.short(), Hook: h.Hook}) }},
	"context.Context.Done":    {holds: true, trigger: func(h *hooking) { _, _ = h.s.Next(hooktest.Context{Context: h.short(), Hook: h.Hook}) }},
	"slog.Handler.Handle":     {shared: true, trigger: func(h *hooking) { h.w.commit(book("hook"), store.Event{}); h.w.write(book("hook"), 1) }},
}

func TestHooks(t *testing.T) {
	t.Parallel()
	hooktest.EachLasting(t, hooks, testHook)
}

// testHook makes code of a user fail, and checks that other subscriptions and readers
// go on, that the subscription goes on, and that Close ends with its context.
func testHook(t *testing.T, place hook, fault *hooktest.Hook) {
	h := &hooking{Hook: fault, t: t}
	h.log = &hookLog{memory.New(), h}
	blocks := fault.Fault == hooktest.Waits || fault.Fault == hooktest.Blocks
	h.w = newWriter(t, h.log, time.Second)
	hub, err := stream.NewHub(t.Context(), stream.Config{
		Log: h.log, Poll: time.Second, Register: true, Logger: slog.New(hooktest.Handler{Handler: slog.NewTextHandler(new(bytes.Buffer), nil), Hook: h.Hook}),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.w.hub = hub
	c := stream.SubscriptionConfig{
		Name: "s", Checkpoints: stream.LogCheckpoints(h.log), AttemptsMax: 1,
		DeadLetter: func(context.Context, *stream.Delivery, error) error {
			h.Reached("SubscriptionConfig.DeadLetter")
			return nil
		},
	}
	if place.config != nil {
		place.config(h, &c)
	}
	if h.s, err = hub.Subscribe(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	other, err := hub.Subscribe(t.Context(), stream.SubscriptionConfig{Name: "other", Checkpoints: stream.LogCheckpoints(h.log.Log)})
	if err != nil {
		t.Fatal(err)
	}
	pass(1500 * time.Millisecond) // between two looks at the log
	synctest.Wait()
	h.Arm()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() { _ = recover() }() // recovers a panic of code that the caller runs itself
		place.trigger(h)
	}()
	pass(10 * time.Second)
	if !h.Hit() {
		t.Error("the code was not called")
	}
	released := false
	read := func(when string) {
		t.Helper()
		h.w.write(book(fmt.Sprint(when)), 1)
		h.Stats()
		for d, err := range other.All(h.short()) {
			if err != nil && !errors.Is(err, stream.ErrLagged) {
				if !(place.shared && fault.Fault >= hooktest.Waits && !released) { // else the fault has blocked this subscription's reader of the log
					t.Errorf("%s: another subscription: %v", when, err)
				}
				return
			}
			if d != nil {
				_ = d.Ack()
				if d.Events[0].Key == book(when) {
					return
				}
			}
		}
	}
	read("while the code fails")
	if fault.Fault == hooktest.Waits || !blocks {
		released = true
		h.Release()
		pass(time.Minute)
		read("after the code has returned")
		h.goesOn()
		<-ended
	}
	begin := time.Now()
	err = h.s.Close(h.short())
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("Close took %v, want the minute of its context", took)
	}
	if fault.Fault != hooktest.Blocks && err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := other.Close(h.short()); err != nil && !(fault.Fault == hooktest.Blocks && place.shared) {
		t.Errorf("Close of another subscription: %v", err)
	}
	begin = time.Now()
	err = hub.Shutdown(h.short())
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("Shutdown took %v, want the minute of its context", took)
	}
	if fault.Fault != hooktest.Blocks && err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	h.Release()
	<-ended
	if err := h.s.Close(h.short()); err != nil {
		t.Errorf("Close once more: %v", err)
	}
}

// Stats takes the locks of the package. If one of them is held, the test blocks.
func (h *hooking) Stats() {
	_ = h.s.Stats()
	_, _ = h.w.hub.Passed(0), h.w.hub.ReadErr()
}

// goesOn checks that the subscription delivers and saves.
func (h *hooking) goesOn() {
	h.w.write(book("last"), 1)
	for d, err := range h.s.All(h.short()) {
		switch {
		case errors.Is(err, stream.ErrLagged) || errors.Is(err, stream.ErrDeleted):
		case err != nil:
			h.t.Errorf("the subscription does not go on: %v", err)
			return
		default:
			_ = d.Ack()
		}
		if d != nil && d.Events[0].Key == book("last") {
			break
		}
	}
	pass(time.Minute)
	if s := h.s.Stats(); s.SaveErr != nil || s.ReadErr != nil || s.Saved[0] != s.Positions[0] {
		h.t.Errorf("the subscription does not read or save: %+v", s)
	}
}
