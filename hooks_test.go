package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/internal/hooktest"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A hook is a place where the engine calls user code, see package hooktest.
type hook struct {
	// before prepares the log before there is an engine.
	before func(h *hooking)
	// config changes the configuration of the engine.
	config func(h *hooking, c *perdure.Config)
	// trigger makes the engine call the code, and returns the error that its caller gets. It is
	// nil if Open or Close calls the code.
	trigger func(h *hooking) error
	// opens is true if the fault happens while the engine is opened.
	opens bool
	// closes is true if the fault happens only while the engine is closed.
	closes bool
	// holds is true if the code runs on the caller's goroutine, or can block the caller's
	// entity.
	holds bool
	// stalls is true if the whole engine waits for the code.
	stalls bool
	// delays is true if no delivery is made while the code waits.
	delays bool
	// afar is true for stores that do not commit synchronously: with others, the code is not
	// called.
	afar bool
	// keeps is true if the store is not released after a fault.
	keeps bool
	// spot is true if the code runs on the caller's goroutine with a synchronous store.
	spot bool
	// silent is true if a fault need not be logged or returned.
	silent bool
}

// A hooking is one hook with one fault in one engine.
type hooking struct {
	*hooktest.Hook
	t   *testing.T
	log *hookStore
	e   *perdure.Engine
	own bool // callers of a synchronous store call the code themselves

	kind  *perdure.Kind[*testv1.Account] // its rules are hooks
	shelf *perdure.Kind[*testv1.Account]
	good  *perdure.Kind[*testv1.Account]
	done  chan string // effects that the good Perform rule performs

	mu   sync.Mutex
	logs strings.Builder
}

func (h *hooking) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logs.Write(b)
}

func (h *hooking) logged() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logs.String()
}

// short returns a context that ends after a minute of the bubble.
func (h *hooking) short() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	h.t.Cleanup(cancel)
	return ctx
}

func (h *hooking) do(command proto.Message, options ...perdure.CallOption) error {
	_, err := h.kind.Ref(h.e, "1").Do(h.short(), command, options...)
	return err
}

// hookedKinds makes the kinds of a hooking.
func (h *hooking) hookedKinds() []perdure.AnyKind {
	target := store.Key{Kind: "good", ID: "target"}
	h.kind = perdure.EventSourced("hooked",
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Deposit) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Deposited{Amount: c.GetAmount()}), nil
		}),
		perdure.Evolve(onDeposited),
		perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
			if h.Reached("Decide(fn)") {
				return nil, nil
			}
			return perdure.None(), nil
		}),
		perdure.Decide(func(context.Context, *testv1.Account, *testv1.Withdraw) (*perdure.Decision, error) {
			return nil, &hookError{h}
		}),
		perdure.Decide(func(_ context.Context, _ *testv1.Account, c *testv1.Annotate) (*perdure.Decision, error) {
			switch c.GetNote().GetText() {
			case "panic":
				panic(hookPanic{h})
			case "enqueue old":
				return perdure.None().Enqueue(&testv1.Touch{}), nil
			case "enqueue":
				return perdure.None().Enqueue(&testv1.Note{Text: "hooked"}), nil
			case "send":
				return perdure.None().AfterCommit(&testv1.Note{Text: "hooked"}), nil
			case "command":
				return perdure.None().EnqueueTo(store.Key{Kind: "hooked", ID: "2"}, &testv1.Touch{}), nil
			case "timer":
				return perdure.None().ScheduleTo(target, "t", time.Now().Add(time.Second), &testv1.Deposit{Amount: 1}), nil
			}
			return perdure.Persist(&testv1.Annotated{Note: c.GetNote()}), nil
		}),
		perdure.Decide(func(ctx context.Context, _ *testv1.Account, _ *testv1.Open) (*perdure.Decision, error) {
			return perdure.Persist(&testv1.Opened{Owner: fmt.Sprint(perdure.Now(ctx).Year() > 0, ctx.Value(hookKey{}), ctx.Err(), ctx.Done() == nil)}), nil
		}),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Opened) { a.Owner = e.GetOwner() }),
		perdure.Evolve(func(a *testv1.Account, e *testv1.Annotated) {
			if h.Reached("Evolve(fn)") || h.Reached("Evolve(fn), when the engine is opened") || h.Reached("Evolve(fn), of a load") {
				return
			}
			a.Notes = append(a.Notes, e.GetNote())
		}),
		perdure.Answer(func(context.Context, *testv1.Account, *testv1.GetBalance) (*testv1.Balance, error) {
			if h.Reached("Answer(fn)") {
				return nil, nil
			}
			return &testv1.Balance{}, nil
		}),
	).With(perdure.SnapshotEvery(2), perdure.RetainEvents(0), perdure.KeepReceipts(100, time.Minute),
		perdure.Upcast(func(e *testv1.DepositedV0) *testv1.Deposited {
			if h.Reached("Upcast(fn)") || h.Reached("Upcast(fn), when the engine is opened") {
				return nil
			}
			return &testv1.Deposited{Amount: e.GetUnits()}
		}),
		perdure.UpcastMany(func(e *testv1.DepositedV00) []proto.Message {
			if h.Reached("UpcastMany(fn)") || h.Reached("UpcastMany(fn), when the engine is opened") {
				return []proto.Message{nil}
			}
			return []proto.Message{&testv1.Deposited{Amount: int64(len(e.GetText()))}}
		}, (*testv1.Deposited)(nil)),
		perdure.UpcastCommand(func(*testv1.DepositedV0) *testv1.Deposit {
			if h.Reached("UpcastCommand(fn)") {
				return nil
			}
			return &testv1.Deposit{Amount: 1}
		}),
		perdure.MigrateSnapshot(func(s *testv1.Balance) *testv1.Account {
			if h.Reached("MigrateSnapshot(fn)") || h.Reached("MigrateSnapshot(fn), when the engine is opened") {
				return nil
			}
			return &testv1.Account{Balance: s.GetAmount()}
		}))
	h.shelf = perdure.DurableState("shelf", perdure.Update(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Change, error) {
		if h.Reached("Update(fn)") {
			return nil, nil
		}
		return perdure.Save(), nil
	}))
	h.good = perdure.EventSourced("good",
		perdure.Decide(deposit), perdure.Evolve(onDeposited),
		perdure.Decide(func(context.Context, *testv1.Account, *testv1.Touch) (*perdure.Decision, error) {
			return perdure.None().Enqueue(&testv1.Balance{}).
				EnqueueTo(store.Key{Kind: "good", ID: "target"}, &testv1.Deposit{Amount: 1}).
				Schedule("soon", time.Now().Add(time.Second), &testv1.Deposit{Amount: 1}), nil
		}))
	return []perdure.AnyKind{h.kind, h.shelf, h.good}
}

// hookedEffects returns two Perform rules, of which one is a hook.
func (h *hooking) hookedEffects() []perdure.EffectRule {
	return []perdure.EffectRule{
		perdure.Perform(func(context.Context, *testv1.Note) error {
			h.Reached("Perform(fn)")
			h.Reached("Perform(fn), of a sent effect")
			if strings.HasPrefix(h.At, "error.") || strings.HasPrefix(h.At, "slog.") || strings.HasSuffix(h.At, "of a handler") || h.At == "Engine.Parked(yield)" || strings.HasSuffix(h.At, "(match)") {
				return &hookError{h}
			}
			return nil
		}, perdure.RetryPolicy{MaxAttempts: 1}),
		perdure.UpcastEffect(func(*testv1.Touch) *testv1.Note {
			if h.Reached("UpcastEffect(fn)") {
				return nil
			}
			return &testv1.Note{Text: "old"}
		}),
		perdure.Perform(func(context.Context, *testv1.Balance) error { h.done <- "performed"; return nil }),
	}
}

type hookKey struct{}

// A hookError has hooks in its methods.
type hookError struct{ h *hooking }

func (e *hookError) reached(method string) {
	for _, of := range []string{"a rule", "a told command", "a handler", "the store"} {
		e.h.Reached("error." + method + ", of " + of)
	}
}
func (e *hookError) Error() string { e.reached("Error"); return "text" }
func (e *hookError) Is(error) bool { e.reached("Is"); return false }
func (e *hookError) As(any) bool   { e.reached("As"); return false }
func (e *hookError) Unwrap() error { e.reached("Unwrap"); return nil }

// A hookPanic is the argument of a rule's panic.
type hookPanic struct{ h *hooking }

func (p hookPanic) String() string { p.h.Do(); return "text" }

// A hookContext is a context of a caller.
type hookContext struct{ hooktest.Context }

func (c hookContext) Value(key any) any {
	if _, ok := key.(hookKey); ok {
		c.Hook.Reached("context.Context.Value, by a rule")
	}
	return c.Context.Value(key)
}

// context returns a context of a caller around another one.
func (h *hooking) context(ctx context.Context) hookContext {
	return hookContext{hooktest.Context{Context: ctx, Hook: h.Hook}}
}

// A hookMessage is a message with a method that is user code.
type hookMessage struct {
	*testv1.Deposit
	h *hooking
}

func (m *hookMessage) ProtoReflect() protoreflect.Message {
	m.h.Reached("proto.Message.ProtoReflect")
	return m.Deposit.ProtoReflect()
}

// A hookHandler is a log handler.
type hookHandler struct {
	slog.Handler
	h *hooking
}

func (s hookHandler) Enabled(ctx context.Context, l slog.Level) bool {
	s.h.Reached("slog.Handler.Enabled")
	return s.Handler.Enabled(ctx, l)
}

func (s hookHandler) Handle(ctx context.Context, r slog.Record) error {
	s.h.Reached("slog.Handler.Handle")
	s.h.Reached("slog.Handler.Handle, of the readers of events")
	s.h.Reached("slog.Handler.Handle, of the opening")
	return s.Handler.Handle(ctx, r)
}

func (s hookHandler) WithAttrs(a []slog.Attr) slog.Handler {
	if s.h.Reached("slog.Handler.WithAttrs") {
		return nil
	}
	return hookHandler{s.Handler.WithAttrs(a), s.h}
}

func (s hookHandler) WithGroup(name string) slog.Handler {
	if s.h.Reached("slog.Handler.WithGroup") {
		return nil
	}
	return hookHandler{s.Handler.WithGroup(name), s.h}
}

// A hookClock is the system clock with hooks.
type hookClock struct{ h *hooking }

func (c hookClock) Now() time.Time {
	if c.h.Reached("Clock.Now") || c.h.Reached("Clock.Now, in a rule") || c.h.Reached("Clock.Now, when the engine is opened") {
		return time.Time{}
	}
	return time.Now()
}

func (c hookClock) AfterFunc(d time.Duration, f func()) func() bool {
	if c.h.Reached("Clock.AfterFunc") || c.h.Reached("Clock.AfterFunc, when the engine is opened") {
		return nil
	}
	stop := time.AfterFunc(d, f).Stop
	return func() bool { c.h.Reached("Clock.AfterFunc, stop"); return stop() }
}

func (c hookClock) Elapsed() time.Duration {
	c.h.Reached("steadyClock.Elapsed")
	c.h.Reached("steadyClock.Elapsed, when the engine is opened")
	return time.Since(stopwatchStart)
}

func (c hookClock) Attach(settle func(context.Context)) func() {
	if c.h.Reached("patientClock.Attach") {
		return nil
	}
	return func() { c.h.Reached("patientClock.Attach, detach") }
}

var stopwatchStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// A hookStore is a store of a third party.
type hookStore struct {
	*memory.Log
	h               *hooking
	instant, shared bool
	failed          sync.Once // fails one commit with a hookError
}

func (l *hookStore) Acquire() (func(), error) {
	if l.h.Reached("store.Log.Acquire") {
		return nil, nil
	}
	if l.shared {
		return nil, errors.ErrUnsupported
	}
	release, err := l.Log.Acquire()
	return func() { l.h.Reached("store.Log.Acquire, release"); release() }, err
}

func (l *hookStore) Synchronous() bool {
	l.h.Reached("store.Synchronous.Synchronous")
	return l.instant
}

func (l *hookStore) Heads(ctx context.Context) ([]store.Position, error) {
	if l.h.Reached("store.Log.Heads") {
		return nil, nil
	}
	return l.Log.Heads(ctx)
}

func (l *hookStore) Commit(ctx context.Context, group []*store.Batch) (results []store.Result, err error) {
	settles := len(group) > 0 && len(group[0].Settle) > 0 && group[0].Key.IsZero()
	if settles && l.h.Reached("store.Log.Commit, of settlements") || !settles && l.h.Reached("store.Log.Commit") {
		return nil, nil
	}
	if l.h.armedAt("of the store") && !settles {
		l.failed.Do(func() { err = &hookError{l.h} })
		if err != nil {
			return nil, err
		}
	}
	return l.Log.Commit(ctx, group)
}

func (h *hooking) armedAt(suffix string) bool { return strings.HasSuffix(h.At, suffix) && h.Armed() }

func (l *hookStore) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	if key.Kind == "hooked" && l.h.Reached("store.Log.Load") {
		return nil
	}
	return func(yield func(*store.Event, error) bool) {
		if key.Kind == "hooked" {
			l.h.Reached("store.Log.Load, iterator")
		}
		l.Log.Load(ctx, key, accept)(yield)
	}
}

func (l *hookStore) Messages(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	if l.h.Reached("store.Log.Messages") {
		return nil
	}
	return func(yield func(*store.Message, error) bool) {
		l.h.Reached("store.Log.Messages, iterator")
		l.Log.Messages(ctx, q)(yield)
	}
}

func (l *hookStore) Undelivered(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	if l.h.Reached("store.Log.Undelivered") {
		return nil
	}
	return func(yield func(*store.Message, error) bool) {
		l.h.Reached("store.Log.Undelivered, iterator")
		l.Log.Undelivered(ctx, q)(yield)
	}
}

// withOrder adds an effect that keeps its order.
func withOrder(_ *hooking, c *perdure.Config) {
	c.Effects = append(c.Effects, perdure.Perform(func(context.Context, *testv1.Withdrawn) error { return nil }, perdure.KeepOrder()))
}

func (l *hookStore) DeleteEvents(ctx context.Context, key store.Key, below store.Version, through store.Position) (int, error) {
	l.h.Reached("store.Log.DeleteEvents")
	return l.Log.DeleteEvents(ctx, key, below, through)
}

func (l *hookStore) ReceiptHeads(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	if l.h.Reached("store.Log.ReceiptHeads") {
		return nil
	}
	return l.Log.ReceiptHeads(ctx, key)
}

func (l *hookStore) Receipts(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	if l.h.Reached("store.Log.Receipts") {
		return nil
	}
	return l.Log.Receipts(ctx, key)
}

func (l *hookStore) Receipt(ctx context.Context, key store.Key, name string) (*store.Receipt, error) {
	if l.h.Reached("store.Log.Receipt") {
		return nil, nil
	}
	return l.Log.Receipt(ctx, key, name)
}

func (l *hookStore) Entities(ctx context.Context, kind, after string) iter.Seq2[store.Entity, error] {
	return func(yield func(store.Entity, error) bool) {
		l.h.Reached("store.Log.Entities")
		l.Log.Entities(ctx, kind, after)(yield)
	}
}

// Changed belongs to a log that engines share.
func (l *hookStore) Changed() <-chan struct{} {
	l.h.Reached("store.Watcher.Changed")
	return nil
}

type hookService struct{ h *hooking }

func (s hookService) Serve(ctx context.Context, e *perdure.Engine) error {
	if s.h.Reached("Service.Serve") {
		return nil
	}
	if s.h.At == "slog.Handler.WithAttrs" || s.h.At == "slog.Handler.WithGroup" {
		<-time.After(time.Second)
		e.Config().Logger.With("a", 1).WithGroup("b").Error("a line of a service")
	}
	<-ctx.Done()
	return nil
}

func note(text string) *testv1.Annotate { return &testv1.Annotate{Note: &testv1.Note{Text: text}} }

// stored puts a batch into the log of a hooking.
func (h *hooking) stored(b *store.Batch) {
	r, err := h.log.Log.Commit(context.Background(), []*store.Batch{b})
	if err = errors.Join(err, r[0].Err); err != nil {
		h.t.Fatal(err)
	}
}

func payload(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func sharedLog(h *hooking, _ *perdure.Config) { h.log.shared = true }

func withClock(h *hooking, c *perdure.Config) { c.Clock = hookClock{h} }

func enqueues(h *hooking) error { return h.do(note("enqueue")) }

func refuses(h *hooking) error { return h.do(&testv1.Withdraw{}, perdure.WithIdempotencyKey("k")) }

func tells(h *hooking) error { return h.kind.Ref(h.e, "1").Tell(h.short(), &testv1.Withdraw{}) }

func deposits1(h *hooking) error { return h.do(&testv1.Deposit{Amount: 1}) }

// hooks are the places where the engine calls user code.
var hooks = map[string]hook{
	"Decide(fn)": {holds: true, trigger: func(h *hooking) error { return h.do(&testv1.Touch{}) }},
	"Update(fn)": {holds: true, trigger: func(h *hooking) error {
		_, err := h.shelf.Ref(h.e, "1").Do(h.short(), &testv1.Touch{})
		return err
	}},
	"Answer(fn)": {holds: true, trigger: func(h *hooking) error {
		_, err := perdure.Query[*testv1.Balance](h.short(), h.kind.Ref(h.e, "1"), &testv1.GetBalance{})
		return err
	}},
	"Evolve(fn)":                                     {holds: true, trigger: func(h *hooking) error { return h.do(note("text")) }},
	"Evolve(fn), when the engine is opened":          {opens: true, silent: true},
	"Upcast(fn), when the engine is opened":          {opens: true, silent: true},
	"UpcastMany(fn), when the engine is opened":      {opens: true, silent: true},
	"MigrateSnapshot(fn), when the engine is opened": {opens: true, silent: true},
	"Evolve(fn), of a load": {
		before: func(h *hooking) {
			h.stored(&store.Batch{Key: store.Key{Kind: "hooked", ID: "1"}, Events: []store.Event{{ID: store.ID{6: 0x70, 8: 0x80, 15: 1}, Type: "perdure.test.v1.Annotated"}}})
		},
		holds:   true,
		trigger: deposits1,
	},
	"Upcast(fn)": {
		holds: true,
		before: func(h *hooking) {
			h.stored(&store.Batch{Key: store.Key{Kind: "hooked", ID: "1"}, Events: []store.Event{{ID: store.ID{6: 0x70, 8: 0x80, 15: 1}, Type: "perdure.test.v1.DepositedV0"}}})
		},
		trigger: deposits1,
	},
	"UpcastMany(fn)": {
		holds: true,
		before: func(h *hooking) {
			h.stored(&store.Batch{Key: store.Key{Kind: "hooked", ID: "1"}, Events: []store.Event{{ID: store.ID{6: 0x70, 8: 0x80, 15: 1}, Type: "perdure.test.v1.DepositedV00"}}})
		},
		trigger: deposits1,
	},
	"MigrateSnapshot(fn)": {
		holds: true,
		before: func(h *hooking) {
			h.stored(&store.Batch{
				Key:      store.Key{Kind: "hooked", ID: "1"},
				Events:   []store.Event{{ID: store.ID{6: 0x70, 8: 0x80, 15: 1}, Type: "unknown"}},
				Snapshot: &store.State{ID: store.ID{6: 0x70, 8: 0x80, 15: 1}, Type: "perdure.test.v1.Balance", Payload: payload(&testv1.Balance{Amount: 1})},
			})
		},
		trigger: deposits1,
	},
	"UpcastCommand(fn)":             {holds: true, trigger: func(h *hooking) error { return h.do(&testv1.DepositedV0{}) }},
	"UpcastEffect(fn)":              {trigger: func(h *hooking) error { return h.do(note("enqueue old")) }},
	"Perform(fn)":                   {trigger: enqueues},
	"Perform(fn), of a sent effect": {trigger: func(h *hooking) error { return h.do(note("send")) }},

	"error.Error, of a rule":          {holds: true, trigger: refuses},
	"error.As, of a rule":             {holds: true, trigger: refuses},
	"error.Unwrap, of a rule":         {holds: true, trigger: refuses},
	"fmt.Stringer.String, of a panic": {holds: true, silent: true, trigger: func(h *hooking) error { return h.do(note("panic")) }},
	"error.Error, of a told command":  {trigger: tells},
	"error.As, of a told command":     {trigger: tells},
	"error.Unwrap, of a told command": {trigger: tells},
	"error.Error, of a handler":       {trigger: enqueues},
	"error.As, of a handler":          {trigger: enqueues},
	"error.Unwrap, of a handler":      {trigger: enqueues},
	"error.Error, of the store":       {stalls: true, trigger: deposits1},
	"error.Is, of the store":          {stalls: true, trigger: deposits1},
	"error.As, of the store":          {stalls: true, trigger: deposits1},
	"error.Unwrap, of the store":      {stalls: true, trigger: deposits1},

	"context.Context.Err":      {holds: true, silent: true, trigger: inContext},
	"context.Context.Done":     {holds: true, silent: true, afar: true, trigger: inContext},
	"context.Context.Value":    {holds: true, silent: true, trigger: inContext},
	"context.Context.Deadline": {holds: true, silent: true, closes: true},
	"context.Context.Value, by a rule": {holds: true, trigger: func(h *hooking) error {
		_, err := h.kind.Ref(h.e, "1").Do(h.context(h.short()), &testv1.Open{})
		return err
	}},
	"proto.Message.ProtoReflect": {holds: true, silent: true, trigger: func(h *hooking) error {
		return h.do(&hookMessage{&testv1.Deposit{Amount: 1}, h})
	}},

	"slog.Handler.Enabled":   {silent: true, trigger: enqueues},
	"slog.Handler.Handle":    {silent: true, trigger: enqueues},
	"slog.Handler.WithAttrs": {silent: true, trigger: enqueues},
	"slog.Handler.WithGroup": {silent: true, trigger: enqueues},

	"Service.Serve": {opens: true},
	"Clock.Now":     {config: withClock, stalls: true, silent: true, trigger: deposits1},
	"Clock.Now, in a rule": {config: withClock, holds: true, stalls: true, silent: true, trigger: func(h *hooking) error {
		return h.do(&testv1.Open{})
	}},
	"Clock.Now, when the engine is opened":           {config: withClock, opens: true, stalls: true, silent: true},
	"Clock.AfterFunc":                                {config: withClock, stalls: true, silent: true, trigger: func(h *hooking) error { return h.do(note("timer")) }},
	"Clock.AfterFunc, when the engine is opened":     {config: withClock, opens: true, stalls: true, silent: true},
	"Clock.AfterFunc, stop":                          {config: withClock, closes: true, silent: true},
	"steadyClock.Elapsed":                            {config: withClock, stalls: true, silent: true, trigger: enqueues},
	"steadyClock.Elapsed, when the engine is opened": {config: withClock, opens: true, stalls: true, silent: true},
	"patientClock.Attach":                            {config: withClock, opens: true},
	"patientClock.Attach, detach":                    {config: withClock, closes: true},

	"store.Log.Acquire":                {opens: true},
	"store.Log.Acquire, release":       {closes: true, silent: true, keeps: true},
	"store.Synchronous.Synchronous":    {opens: true},
	"store.Log.Heads":                  {opens: true},
	"store.Log.Commit":                 {stalls: true, trigger: deposits1},
	"store.Log.Commit, of settlements": {stalls: true, trigger: enqueues},
	"store.Log.Load":                   {spot: true, trigger: deposits1},
	"store.Log.Load, iterator":         {spot: true, trigger: deposits1},
	"store.Log.Undelivered":            {config: withOrder, opens: true, delays: true},
	"store.Log.Undelivered, iterator":  {config: withOrder, opens: true, delays: true},
	"store.Log.Messages":               {opens: true, delays: true},
	"store.Log.Messages, iterator":     {opens: true, delays: true},
	"store.Log.DeleteEvents":           {trigger: func(h *hooking) error { return errors.Join(deposits1(h), deposits1(h), deposits1(h)) }},
	"store.Log.Receipts": {trigger: func(h *hooking) error {
		return errors.Join(h.do(&testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey("k")), deposits1(h), deposits1(h), deposits1(h))
	}},
	"store.Log.ReceiptHeads": {spot: true, trigger: func(h *hooking) error {
		return h.do(&testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey("k"))
	}},
	"store.Log.Receipt": {spot: true, trigger: func(h *hooking) error {
		first := h.do(&testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey("k"))
		return errors.Join(first, h.do(&testv1.Deposit{Amount: 1}, perdure.WithIdempotencyKey("k")))
	}},
	"store.Log.Entities":    {trigger: func(*hooking) error { pass(2 * time.Minute); return nil }},
	"store.Watcher.Changed": {config: sharedLog, opens: true},

	"Interceptor.Command": {config: intercepts, holds: true, trigger: deposits1},
	"Interceptor.Query": {config: intercepts, holds: true, trigger: func(h *hooking) error {
		_, err := h.kind.Ref(h.e, "1").State(h.short())
		return err
	}},
	"Interceptor.Delivery":               {config: intercepts, trigger: enqueues},
	"Interceptor.Delivery, of a command": {config: intercepts, trigger: func(h *hooking) error { return h.do(note("command")) }},
	"Interceptor.Load":                   {config: intercepts, spot: true, trigger: deposits1},
	"Interceptor.Commit":                 {config: intercepts, stalls: true, trigger: deposits1},
	"Interceptor.Commit, after":          {config: intercepts, stalls: true, silent: true, trigger: deposits1},
	"Interceptor.Snapshot": {config: intercepts, holds: true, silent: true, trigger: func(h *hooking) error {
		return errors.Join(deposits1(h), deposits1(h))
	}},

	"Engine.Events(yield)":  {holds: true, silent: true, trigger: func(h *hooking) error { return iterates(h, h.e.Events(h.short(), store.Query{})) }},
	"Engine.Pending(yield)": {holds: true, silent: true, trigger: func(h *hooking) error { return iterates(h, h.e.Pending(h.short())) }},
	"Engine.Parked(yield)":  {holds: true, silent: true, trigger: func(h *hooking) error { return iterates(h, h.e.Parked(h.short())) }},

	"Engine.UnparkWhere(match)": {holds: true, silent: true, trigger: func(h *hooking) error { return matches(h, h.e.UnparkWhere) }},
	"Engine.DropWhere(match)":   {holds: true, silent: true, trigger: func(h *hooking) error { return matches(h, h.e.DropWhere) }},
}

// intercepts adds an interceptor whose functions fail for the hooked kind.
func intercepts(h *hooking, c *perdure.Config) {
	i := perdure.Interceptor{
		Command: func(ctx context.Context, c *perdure.CommandCall, next func(context.Context) error) error {
			if c.Key.Kind == "hooked" && h.Reached("Interceptor.Command") {
				return nil
			}
			return next(ctx)
		},
		Query: func(ctx context.Context, q *perdure.QueryCall, next func(context.Context) error) error {
			if q.Key.Kind == "hooked" && h.Reached("Interceptor.Query") {
				return nil
			}
			return next(ctx)
		},
		Delivery: func(ctx context.Context, d *perdure.DeliveryCall, next func(context.Context) error) error {
			at := "Interceptor.Delivery"
			if !d.Target.IsZero() {
				at += ", of a command"
			}
			if d.Source.Kind == "hooked" && h.Reached(at) {
				return nil
			}
			return next(ctx)
		},
		Load: func(ctx context.Context, l *perdure.LoadCall, next func(context.Context) error) error {
			if l.Key.Kind == "hooked" && h.Reached("Interceptor.Load") {
				return nil
			}
			return next(ctx)
		},
		Commit: func(ctx context.Context, c *perdure.CommitCall, next func(context.Context) error) error {
			hooked := c.Batches[0].Key.Kind == "hooked"
			if hooked && h.Reached("Interceptor.Commit") {
				return nil
			}
			err := next(ctx)
			if hooked && h.Reached("Interceptor.Commit, after") {
				return nil
			}
			return err
		},
		Snapshot: func(ctx context.Context, s *perdure.SnapshotCall, next func(context.Context) error) error {
			if s.Key.Kind == "hooked" && h.Reached("Interceptor.Snapshot") {
				return nil
			}
			return next(ctx)
		},
	}
	c.Interceptors = []perdure.Interceptor{i}
}

// matches parks a message and makes the fault happen when the engine asks whether the message
// matches.
func matches(h *hooking, where func(context.Context, func(*store.Message) bool) (int, error)) error {
	_ = h.do(note("enqueue"))
	pass(time.Second)
	_, err := where(h.short(), func(*store.Message) bool { return !h.Do() })
	return err
}

func inContext(h *hooking) error {
	_, err := h.kind.Ref(h.e, "1").Do(h.context(h.short()), &testv1.Deposit{Amount: 1})
	return err
}

// iterates makes the fault happen at the first step of an iteration.
func iterates[T any](h *hooking, all iter.Seq2[T, error]) error {
	_ = h.do(&testv1.Deposit{Amount: 1})
	_ = h.do(note("enqueue"))
	pass(time.Second)
	_ = h.do(note("timer"))
	for _, err := range all {
		if err != nil || h.Do() {
			return err
		}
		return nil
	}
	return nil
}

func TestHooks(t *testing.T) {
	t.Parallel()
	for _, instant := range []bool{true, false} {
		t.Run(fmt.Sprintf("instant %v", instant), func(t *testing.T) {
			t.Parallel()
			hooktest.Each(t, hooks, func(t *testing.T, place hook, h *hooktest.Hook) { testHook(t, place, h, instant) })
		})
	}
}

// testHook makes user code fail. It requires that each caller gets an answer, that other
// entities and deliveries continue, and that Close observes its context.
func testHook(t *testing.T, place hook, fault *hooktest.Hook, instant bool) {
	if place.afar && instant {
		return
	}
	h := &hooking{Hook: fault, t: t, own: place.stalls, done: make(chan string, 100)}
	h.log = &hookStore{Log: memory.New(), h: h, instant: instant}
	blocks := fault.Fault == hooktest.Waits || fault.Fault == hooktest.Blocks
	if place.before != nil {
		place.before(h)
	}
	c := perdure.Config{
		Store: h.log, Kinds: h.hookedKinds(), Effects: h.hookedEffects(), Services: []perdure.Service{hookService{h}},
		Logger: slog.New(hookHandler{slog.NewTextHandler(h, nil), h}),
	}
	if place.config != nil {
		place.config(h, &c)
	}
	if place.opens {
		h.Arm()
	}
	err := h.limited("Open", blocks && place.holds, func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		h.e, err = perdure.Open(ctx, c)
		return err
	})
	if h.e == nil {
		h.notOpened(c, place, err)
		return
	}
	if !place.opens && !place.closes {
		h.Arm()
	}
	pass(time.Second)
	told := err
	var triggered chan error
	if place.trigger != nil {
		triggered = h.starts(func() error { return place.trigger(h) })
		for range 5000 { // no time passes in the bubble while a goroutine waits for a lock
			runtime.Gosched()
		}
		h.unlocked()
		pass(10 * time.Second)
	}
	h.others("while the code fails", blocks && place.stalls, blocks && place.delays)
	held := place.holds || (place.stalls || place.spot) && instant
	if triggered != nil && !(blocks && held) {
		told = h.wait("the trigger", triggered)
	}
	if fault.Fault == hooktest.Waits {
		h.Release()
		pass(5 * time.Minute)
		h.others("after the code has returned", false, false)
	}
	if place.closes {
		h.Arm()
	}
	took := time.Now()
	err = h.limited("Close", blocks && place.holds, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if place.closes && strings.HasPrefix(h.At, "context.") {
			ctx = h.context(ctx)
		}
		return h.e.Close(ctx)
	})
	if place.closes && err != nil && strings.Contains(err.Error(), "the caller") {
		err = h.e.Close(h.short()) // the context of the caller has failed before Close began
	}
	if d := time.Since(took); d > time.Minute && !(blocks && place.holds) {
		t.Errorf("Close took %v, want the minute of its context", d)
	}
	if fault.Fault != hooktest.Blocks && err != nil && !place.closes {
		t.Errorf("Close: %v", err)
	}
	if !h.Hit() {
		t.Error("the code was not called")
	}
	h.Release()
	if triggered != nil && blocks && held {
		_ = h.wait("the trigger", triggered)
	}
	pass(time.Minute)
	if !place.keeps {
		h.free()
	}
	if failed := fault.Fault != hooktest.Nothing && !blocks; failed && !place.silent {
		text := h.logged() + fmt.Sprint(told, err)
		want := map[hooktest.Fault]string{hooktest.Panics: hooktest.Text, hooktest.PanicsWithNil: "panic", hooktest.Exits: "Goexit"}[fault.Fault]
		if !strings.Contains(text, want) {
			t.Errorf("neither the log nor an error names the fault (%q):\n%s", want, text)
		}
	}
}

// free fails the test unless the store was released.
func (h *hooking) free() {
	release, err := h.log.Log.Acquire()
	if err != nil {
		h.t.Errorf("the store is not given up: %v", err)
		return
	}
	release()
}

// notOpened ends a test whose fault kept the engine from opening.
func (h *hooking) notOpened(c perdure.Config, place hook, err error) {
	if err == nil {
		err = errors.New("Open has not returned")
	}
	h.t.Logf("Open: %.300v", err)
	if !h.Hit() {
		h.t.Error("the code was not called")
	}
	h.Release()
	pass(time.Minute)
	h.free()
	if h.e != nil { // the engine was opened after all
		_ = h.e.Close(h.short())
		return
	}
	e, err := perdure.Open(h.short(), c)
	if err != nil {
		h.t.Errorf("Open once more: %v", err)
		return
	}
	if err := e.Close(h.short()); err != nil {
		h.t.Errorf("Close: %v", err)
	}
}

// starts runs a call that may panic or end its goroutine because of the fault.
func (h *hooking) starts(call func() error) chan error {
	ended := make(chan error, 1)
	go func() {
		err := errors.New("Goexit has ended the goroutine of the caller")
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("panic in the caller: %v", v)
			}
			ended <- err
		}()
		err = call()
	}()
	return ended
}

func (h *hooking) wait(what string, ended chan error) error {
	select {
	case err := <-ended:
		return err
	case <-time.After(10 * time.Minute):
		h.t.Errorf("%s has no answer", what)
		return nil
	}
}

// limited runs a call with a context of a minute.
func (h *hooking) limited(what string, held bool, call func() error) error {
	ended := h.starts(call)
	if held {
		pass(2 * time.Minute)
		h.Release()
	}
	return h.wait(what, ended)
}

// unlocked fails the test if a lock is held. Time stands still in the bubble while a goroutine
// waits for a lock, so it counts attempts instead.
func (h *hooking) unlocked() {
	var done atomic.Bool
	go func() {
		_, _ = h.e.Stats(), h.e.Services()
		h.e.Config().Logger.Debug("no lock is held")
		done.Store(true)
	}()
	for n := 0; !done.Load(); n++ {
		if runtime.Gosched(); n == 5_000_000 {
			h.t.Error("a lock is held while code of the user runs")
			h.Release()
		}
	}
}

// others uses entities, readers and effects that the fault must not touch.
func (h *hooking) others(when string, stalled, delayed bool) {
	h.unlocked()
	if stalled && h.log.instant {
		return // the callers themselves call the store and the clock
	}
	do := func(id string, command proto.Message) {
		hit := h.Hit()
		call := func() error {
			_, err := h.good.Ref(h.e, id).Do(h.short(), command)
			return err
		}
		err := h.wait("another entity", h.starts(call))
		if err != nil && h.log.instant && h.own && !hit && h.Hit() {
			err = h.wait("another entity", h.starts(call)) // the fault has hit this caller, and no other
		}
		if err != nil && !(stalled && errors.Is(err, context.DeadlineExceeded)) {
			h.t.Errorf("%s: another entity: %v", when, err)
		}
	}
	for i := range 3 {
		do(fmt.Sprint(i), &testv1.Deposit{Amount: 1})
	}
	do("source", &testv1.Touch{})
	if stalled || delayed {
		return
	}
	select {
	case <-h.done:
	case <-time.After(2 * time.Minute):
		h.t.Errorf("%s: another effect is not performed", when)
	}
	for _, id := range []string{"source", "target"} { // by a timer, and by a message
		for range 120 {
			s, err := h.good.Ref(h.e, id).State(h.short())
			if err != nil {
				h.t.Errorf("%s: state of another entity: %v", when, err)
			}
			if s.GetBalance() > 0 {
				break
			}
			pass(time.Second)
		}
		if s, _ := h.good.Ref(h.e, id).State(h.short()); s.GetBalance() == 0 {
			h.t.Errorf("%s: what is to be delivered to %s is not", when, id)
		}
	}
}

// TestBadContext makes a caller whose context panics wait between two others.
func TestBadContext(t *testing.T) {
	t.Parallel()
	for _, fault := range []hooktest.Fault{hooktest.Panics, hooktest.Exits} {
		t.Run(fault.String()+" and fails its own call only", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				v := newValve()
				h := &hooking{Hook: &hooktest.Hook{At: "context.Context.Err", Fault: fault}, t: t}
				h.e = open(t, newLog(t), v.kind)
				ref := v.kind.Ref(h.e, "1")
				calls := []chan error{h.starts(func() error { _, err := ref.Do(h.short(), &testv1.Touch{}); return err })}
				<-v.begun
				for i := range 3 {
					ctx := h.short()
					if i == 1 {
						ctx = h.context(ctx)
					}
					calls = append(calls, h.starts(func() error { _, err := ref.Do(ctx, &testv1.Deposit{Amount: 1}); return err }))
					synctest.Wait()
				}
				h.Arm()
				close(v.open)
				for i, ended := range calls {
					err := h.wait("a call", ended)
					if bad := i == 2; bad != errors.Is(err, perdure.ErrPanicked) || !bad && err != nil {
						t.Errorf("call %d: got %v", i, err)
					}
				}
			})
		})
	}
}
