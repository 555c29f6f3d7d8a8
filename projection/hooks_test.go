package projection_test

import (
	"context"
	"iter"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/hooktest"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/memorytarget"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A hook is a place where the package calls code of a user, see package hooktest.
type hook struct {
	// early makes the fault active before the runner begins.
	early bool
	// batch gives the runner an OnBatch rule.
	batch bool
	// consumer, if set, runs a consumer instead of the projection.
	consumer func(h *hooking) projection.Rule[*projection.Consumer]
	// shared says that other runners call the code too.
	shared bool
	// trigger makes the package call the code.
	trigger func(h *hooking)
}

// A hooking is one hook with one fault.
type hooking struct {
	*hooktest.Hook
	t   *testing.T
	log *memory.Log
	r   *projection.Runner

	mu   sync.Mutex
	logs strings.Builder
}

func (h *hooking) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logs.Write(b)
}

func (h *hooking) short() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	h.t.Cleanup(cancel)
	return ctx
}

// A hookTarget is a target of a third party.
type hookTarget struct {
	*memorytarget.Target[memo]
	h *hooking
}

func (g *hookTarget) Update(ctx context.Context, do func(*memo) error) error {
	g.h.Reached("Target.Update")
	return g.Target.Update(ctx, do)
}

func (g *hookTarget) View(ctx context.Context, do func(*memo) error) error {
	g.h.Reached("Target.View")
	return g.Target.View(ctx, do)
}

func (g *hookTarget) Note(ctx context.Context, m *memo, key string) ([]byte, error) {
	g.h.Reached("Target.Note")
	return g.Target.Note(ctx, m, key)
}

func (g *hookTarget) SetNote(ctx context.Context, m *memo, key string, value []byte) error {
	g.h.Reached("Target.SetNote")
	return g.Target.SetNote(ctx, m, key, value)
}

func (g *hookTarget) Notes(ctx context.Context, m *memo, prefix string) iter.Seq2[projection.Note, error] {
	return func(yield func(projection.Note, error) bool) {
		g.h.Reached("Target.Notes")
		g.Target.Notes(ctx, m, prefix)(yield)
	}
}

func (g *hookTarget) Check(context.Context, *memo) error { g.h.Reached("Checker.Check"); return nil }

func (g *hookTarget) Flush(context.Context, *memo) error { g.h.Reached("Flusher.Flush"); return nil }

func (g *hookTarget) Volatile() bool { g.h.Reached("Volatile.Volatile"); return false }

func (g *hookTarget) Blame(error) projection.Blame {
	g.h.Reached("Classifier.Blame")
	return projection.BlameUnknown
}

// A hookLog is a log of a third party.
type hookLog struct {
	*memory.Log
	h *hooking
}

func (l *hookLog) Heads(ctx context.Context) ([]store.Position, error) {
	l.h.Reached("store.Log.Heads")
	return l.Log.Heads(ctx)
}

func (l *hookLog) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		l.h.Reached("store.Log.Scan")
		l.Log.Scan(ctx, q)(yield)
	}
}

func (l *hookLog) Read(ctx context.Context, key store.Key, after store.Version) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		l.h.Reached("store.Log.Read")
		l.Log.Read(ctx, key, after)(yield)
	}
}

func (l *hookLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if l.h.Reached("store.Log.Commit") {
		return nil, nil
	}
	return l.Log.Commit(ctx, group)
}

func (l *hookLog) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		l.h.Reached("store.Log.Load")
		l.Log.Load(ctx, key, accept)(yield)
	}
}

func (l *hookLog) Stats(ctx context.Context) (store.Stats, error) {
	l.h.Reached("store.Log.Stats")
	return l.Log.Stats(ctx)
}

func (l *hookLog) Deleted(ctx context.Context) ([]store.Deletion, error) {
	l.h.Reached("store.Log.Deleted")
	return l.Log.Deleted(ctx)
}

// A hookClock is the system clock with hooks.
type hookClock struct{ h *hooking }

func (c hookClock) Now() time.Time {
	c.h.Reached("perdure.Clock.Now")
	return time.Now()
}

func (c hookClock) AfterFunc(d time.Duration, f func()) func() bool {
	c.h.Reached("perdure.Clock.AfterFunc")
	return time.AfterFunc(d, f).Stop
}

// A hookError has hooks in its methods.
type hookError struct{ h *hooking }

func (e *hookError) Error() string { e.h.Reached("error.Error"); return "text" }
func (e *hookError) Is(error) bool { e.h.Reached("error.Is"); return false }
func (e *hookError) As(any) bool   { e.h.Reached("error.As"); return false }

// fails reports whether the place needs a rule that fails.
func (h *hooking) fails() bool {
	for _, at := range []string{"error.", "Classif", "slog.", "Runner.", "store.Log.Read"} {
		if strings.HasPrefix(h.At, at) {
			return true
		}
	}
	return false
}

// projection returns the projection whose rules are hooks.
func (h *hooking) projection(batch bool) *projection.Projection[*memo] {
	rules := []projection.Rule[*memo]{
		projection.Prepare(func(context.Context, *memo) error { h.Reached("Prepare(fn)"); return nil }),
		projection.Clear(func(context.Context, *memo) error { h.Reached("Clear(fn)"); return nil }),
	}
	if batch {
		rules = append(rules, projection.OnBatch(func(context.Context, *memo, []projection.AnyEvent) error { h.Reached("OnBatch(fn)"); return nil }))
	} else {
		rules = append(rules, projection.On(func(ctx context.Context, m *memo, e projection.Event[*testv1.Deposited]) error {
			h.Reached("On(fn)")
			if e.Key.ID == "bad" && h.fails() && (!h.Hit() || h.Failing() || strings.HasPrefix(h.At, "Runner.")) {
				return &hookError{h}
			}
			m.rows[e.Key.ID] += int(e.Message.GetAmount())
			return nil
		}))
	}
	return projection.New("hooked", rules...).With(attempts(1, 1, 1), projection.Classify(func(error) projection.Blame {
		h.Reached("Classify(blame)")
		return projection.BlameUnknown
	}))
}

func handles(h *hooking) projection.Rule[*projection.Consumer] {
	return projection.Handle(func(context.Context, projection.Event[*testv1.Deposited]) error { h.Reached("Handle(fn)"); return nil })
}

func deposits(h *hooking) { deposit(h.t, h.log, "bad", 0, 3) }

// retries makes the runner read the events of a parked entity again.
func retries(h *hooking) {
	deposits(h)
	<-time.After(time.Second)
	_ = h.r.Retry(h.short(), store.Key{Kind: "account", ID: "bad"})
}

func resets(h *hooking) { deposits(h); _ = h.r.Reset(h.short()) }

func loops[T any](h *hooking, all iter.Seq2[T, error]) {
	deposits(h)
	<-time.After(time.Second)
	all(func(T, error) bool { h.Do(); return false })
}

func newMemory() *memorytarget.Target[memo] {
	return memorytarget.NewClone(&memo{rows: map[string]int{}, notes: map[string][]byte{}}, func(m *memo) *memo {
		return &memo{rows: maps.Clone(m.rows), notes: maps.Clone(m.notes)}
	})
}

// hooks are the places where the package calls code of users.
var hooks = map[string]hook{
	"On(fn)":      {trigger: deposits},
	"OnBatch(fn)": {batch: true, trigger: deposits},
	"Handle(fn)":  {consumer: handles, trigger: deposits},
	"HandleAny(fn)": {trigger: deposits, consumer: func(h *hooking) projection.Rule[*projection.Consumer] {
		return projection.HandleAny(func(context.Context, projection.AnyEvent) error { h.Reached("HandleAny(fn)"); return nil })
	}},
	"store.Log.Commit":     {consumer: handles, shared: true, trigger: deposits},
	"store.Log.Load":       {consumer: handles, shared: true, early: true, trigger: deposits},
	"Prepare(fn)":          {early: true, trigger: deposits},
	"Clear(fn)":            {trigger: resets},
	"Classify(blame)":      {trigger: deposits},
	"Classifier.Blame":     {trigger: deposits},
	"Checker.Check":        {trigger: deposits},
	"Flusher.Flush":        {trigger: deposits},
	"Volatile.Volatile":    {early: true, trigger: deposits},
	"Target.Update":        {trigger: deposits},
	"Target.View":          {early: true, trigger: deposits},
	"Target.Note":          {trigger: deposits},
	"Target.SetNote":       {trigger: deposits},
	"Target.Notes":         {early: true, trigger: deposits},
	"Runner.Parked(yield)": {trigger: func(h *hooking) { loops(h, h.r.Parked(h.short())) }},
	"Runner.DeadLetters(yield)": {trigger: func(h *hooking) {
		deposits(h)
		<-time.After(time.Second)
		_ = h.r.SkipEvent(h.short(), store.Key{Kind: "account", ID: "bad"})
		loops2(h, h.r.DeadLetters(h.short()))
	}},
	"error.Error":             {trigger: deposits},
	"error.Is":                {trigger: deposits},
	"error.As":                {trigger: deposits},
	"slog.Handler.Handle":     {trigger: deposits},
	"perdure.Clock.Now":       {shared: true, trigger: deposits},
	"perdure.Clock.AfterFunc": {shared: true, trigger: deposits},
	"store.Log.Heads":         {shared: true, trigger: deposits},
	"store.Log.Scan":          {shared: true, trigger: deposits},
	"store.Log.Read":          {trigger: retries},
	"store.Log.Stats":         {shared: true, early: true, trigger: deposits},
	"store.Log.Deleted":       {shared: true, early: true, trigger: deposits},
	"context.Context.Err":     {trigger: func(h *hooking) { _ = h.r.AtLeast(hooktest.Context{Context: h.short(), Hook: h.Hook}, position(50)) }},
	"context.Context.Done":    {trigger: func(h *hooking) { _ = h.r.AtLeast(hooktest.Context{Context: h.short(), Hook: h.Hook}, position(50)) }},
	"context.Context.Value": {trigger: func(h *hooking) {
		_ = projection.TableName(hooktest.Context{Context: h.short(), Hook: h.Hook}, "x")
		deposits(h)
	}},
}

func loops2[T any](h *hooking, all iter.Seq2[T, error]) {
	all(func(T, error) bool { h.Do(); return false })
}

func TestHooks(t *testing.T) {
	t.Parallel()
	hooktest.EachLasting(t, hooks, testHook)
}

// testHook makes the code of a user fail. It checks that other projections go on, even while the
// code blocks, that the projection goes on afterwards, and that Run ends.
func testHook(t *testing.T, place hook, fault *hooktest.Hook) {
	h := &hooking{Hook: fault, t: t, log: memory.New()}
	blocks := fault.Fault == hooktest.Waits || fault.Fault == hooktest.Blocks
	h.r = h.projection(place.batch).Into(&hookTarget{newMemory(), h})
	if place.consumer != nil {
		h.r = projection.Consume("hooked", place.consumer(h)).With(attempts(1, 1, 1)).Into(projection.InLog(&hookLog{h.log, h}))
	}
	goodTarget := newMemory()
	good := projection.New("good", projection.On(func(_ context.Context, m *memo, e projection.Event[*testv1.Deposited]) error {
		m.rows[e.Key.ID] += int(e.Message.GetAmount())
		return nil
	})).Into(goodTarget)
	if place.early {
		h.Arm()
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() {
		ran <- projection.Run(ctx, projection.Config{
			Log: &hookLog{h.log, h}, Clock: hookClock{h}, Logger: slog.New(hooktest.Handler{Handler: slog.NewTextHandler(h, nil), Hook: h.Hook}),
			Kinds: []perdure.AnyKind{accounts()},
		}, h.r, good)
	}()
	deposit(t, h.log, "first", 0, 1)
	<-time.After(time.Second)
	h.Arm()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() { _ = recover() }() // of code that the caller runs itself
		place.trigger(h)
	}()
	<-time.After(10 * time.Second)
	if !h.Hit() {
		t.Error("the code was not called")
	}
	reads := func(when string) {
		deposit(t, h.log, when, 0, 1)
		if err := good.AtLeast(h.short(), h.head()); err != nil {
			t.Errorf("%s: another projection: %v", when, err)
		}
	}
	if !((blocks || fault.Lasts()) && place.shared) {
		reads("while the code fails")
	}
	h.Release()
	<-time.After(time.Minute)
	reads("after the code has returned")
	if err := h.r.AtLeast(h.short(), h.head()); err != nil {
		t.Errorf("after the code has returned: the projection: %v; %s", err, h.logged())
	}
	cancel()
	select {
	case err := <-ran:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(time.Hour):
		t.Error("Run has not ended after its context")
	}
	<-ended
}

func (h *hooking) logged() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logs.String()
}

func (h *hooking) head() store.Position {
	heads, err := h.log.Heads(context.Background())
	if err != nil {
		h.t.Error(err)
	}
	return heads[0]
}
