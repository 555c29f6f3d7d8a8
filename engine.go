package perdure

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/uuid/v5"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/internal/guard"
	"github.com/perdure/perdure/internal/storeclock"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// An Engine runs entities on a store. Any number of goroutines may call its methods at
// the same time.
type Engine struct {
	config  Config
	log     store.Log
	instant bool // the log commits synchronously
	kinds   map[string]*registry
	hooks   hooks  // interceptors
	unlock  func() // releases the store

	system    *actor.System
	committer *committer // nil if the log commits synchronously
	hub       *stream.Hub
	pruner    *pruner
	receipts  *receiptSweeper // nil if the store keeps no receipts, or cannot list its entities

	effects     map[reflect.Type]*effectRule
	effectTypes map[string]*effectRule // by full protobuf name
	dispatcher  *dispatcher            // nil if the log has no outbox
	services    services
	reporter    *reporter // nil if there is no logger
	detach      func()    // detaches from the clock; nil if the clock does not wait for the engine
	failures    failureCounts

	pool       sync.Pool // pool of *call
	callShards [callShardCount]callShard
	nextShard  atomic.Uint32 // the last shard that a call was given
	delivering atomic.Int64  // number of calls in progress that deliver messages
	storeClock storeclock.Clock
	elapsed    func() time.Duration // time since a fixed start, by a clock that never steps
	entities   residents

	mu      sync.Mutex
	closing atomic.Bool
	drained chan struct{} // closed when the engine is closing and no call is left
	closed  chan struct{} // closed when no waiting batch will be stored any more
	stop    func() bool   // stops the timer of the sweep
	seal    seal
}

// Open starts an engine. Its error names the mistake in the configuration or in a kind,
// or is an error of the store. The context bounds the opening only.
//
// If the store can be held by one engine (see [store.Exclusive]), the engine takes it
// for itself and answers reads from memory. On a store that was opened to be shared, the
// engine checks every read against the store.
func Open(ctx context.Context, c Config) (*Engine, error) {
	if c.Store == nil {
		return nil, fmt.Errorf("open engine: %w: Config.Store is nil (use memory.New or one of the other stores)", store.ErrInvalid)
	}
	if err := c.defaults(); err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	hooks, err := newHooks(c.Interceptors)
	if err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	e := &Engine{
		config: c, log: c.Store, hooks: hooks,
		unlock: func() {}, drained: make(chan struct{}), closed: make(chan struct{}),
	}
	e.entities.now.Store(1<<roundBits | 1) // later than neverUsed
	e.entities.most = int64(e.config.EntitiesBytesMax / weightStep)
	for i := range e.callShards {
		e.callShards[i].ids = uuid.NewGen()
	}
	if c.logs {
		e.reporter, c.Logger = newReporter(c.Logger)
		e.config.Logger = c.Logger
	}
	opened := false
	defer func() {
		if !opened {
			e.undoOpen()
		}
	}()
	if _, ok := c.Clock.(guard.SystemClock); !ok {
		c.Clock = guard.NewClock(c.Clock, c.Logger)
		e.config.Clock = c.Clock
	}
	e.elapsed = elapsedOf(c.Clock)
	if err := e.addKinds(); err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	if err := e.addEffects(); err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	if err := e.checkStore(ctx); err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	shared, err := e.acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	for _, k := range e.kinds {
		k.options.Shared = shared
	}
	var poll time.Duration
	if shared {
		poll = c.Poll
	}
	e.hub, err = guard.Apart(ctx, "the store", func() (*stream.Hub, error) {
		return stream.NewHub(ctx, stream.Config{Log: c.Store, Poll: poll, Register: shared, Logger: c.Logger})
	})
	if err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	if e.prunes() {
		e.pruner = newPruner(c.Store, &e.seal, e.hub, c.Logger, !shared)
	}
	e.system = actor.NewSystem(actor.Config{MailboxMax: c.EntityCallsMax}) // the callbacks of the actors report failures
	if !e.instant {
		e.committer = newCommitter(e)
	}
	e.dispatcher = newDispatcher(e, shared)
	e.dispatcher.start()
	e.receipts = newReceiptSweeper(e)
	opened = true
	e.startServices()
	if err := e.attach(ctx); err != nil {
		_ = e.Close(ctx)
		return nil, fmt.Errorf("open engine: %w", err)
	}
	return e, nil
}

// checkStore returns an error if a rule or an option of a kind needs a method that the store lacks
// (see [store.Unsupported]).
func (e *Engine) checkStore(ctx context.Context) error {
	need, read := "", e.log.Messages
	for name, r := range e.effectTypes {
		if need = "Perform rule for " + name; r.policy.KeepOrder {
			need, read = "KeepOrder of the "+need, e.log.Undelivered
			break
		}
	}
	for name, k := range e.kinds {
		if k.keepOrder {
			need, read = fmt.Sprintf("KeepOrder of kind %q", name), e.log.Undelivered
		}
	}
	if need == "" {
		return nil
	}
	_, err := guard.Apart(ctx, "the store", func() (struct{}, error) {
		none := store.MessageQuery{AfterDue: time.Unix(0, math.MaxInt64), After: math.MaxInt64}
		for _, err := range read(ctx, none) {
			return struct{}{}, err
		}
		return struct{}{}, nil
	})
	switch {
	case errors.Is(err, errors.ErrUnsupported), ctx.Err() != nil:
		return fmt.Errorf("%s needs the outbox of the store: %w", need, err)
	case err != nil: // the dispatcher will read again
		e.config.Logger.Error("outbox could not be read when the engine was opened", "error", err)
	}
	return nil
}

// acquire locks the store for this engine alone, or reports that the store is shared. It does
// not wait longer than the context: a lock that the store grants later is released at once.
func (e *Engine) acquire(ctx context.Context) (shared bool, err error) {
	var mu sync.Mutex
	left, held := false, func() {}
	take := func() (bool, error) {
		if x, ok := e.log.(store.Synchronous); ok {
			e.instant = x.Synchronous()
		}
		release, err := e.log.Acquire()
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			return true, nil
		case err != nil:
			return false, err
		case release == nil:
			return false, errors.New("method Acquire of the store has returned no function to release it")
		}
		mu.Lock()
		late := left
		held = release
		mu.Unlock()
		if late {
			release()
		}
		return false, nil
	}
	shared, err = guard.Apart(ctx, "the store", take)
	mu.Lock()
	defer mu.Unlock()
	left = err != nil
	e.unlock = held
	return shared, err
}

// attach starts the engine's use of the clock: sweeps, and clocks that wait for the engine. The
// clock is user code, so attach does not wait longer than the context.
func (e *Engine) attach(ctx context.Context) error {
	detach, err := guard.Apart(ctx, "the clock", func() (func(), error) {
		e.scheduleSweep()
		e.receipts.arm(e.receipts.pause())
		c, ok := e.config.Clock.(*guard.Clock)
		if !ok {
			return nil, nil
		}
		p, ok := c.Inner.(patientClock)
		if !ok {
			return nil, nil
		}
		detach := p.Attach(e.dispatcher.settle)
		if detach == nil {
			return nil, errors.New("method Attach of the clock has returned no function to detach")
		}
		if e.closing.Load() {
			detach()
		}
		return detach, nil
	})
	e.detach = detach
	return err
}

// undoOpen releases the resources of an engine that could not be opened.
func (e *Engine) undoOpen() {
	go func() {
		defer func() { _ = recover() }() // the store is user code
		e.unlock()
	}()
	if e.reporter != nil {
		e.reporter.close(context.Background())
	}
}

func (e *Engine) addKinds() error {
	if len(e.config.Kinds) == 0 {
		return fmt.Errorf("%w: Config.Kinds is empty", store.ErrInvalid)
	}
	e.kinds = make(map[string]*registry, len(e.config.Kinds))
	var errs []error
	for i, k := range e.config.Kinds {
		if v := reflect.ValueOf(k); !v.IsValid() || v.IsNil() {
			errs = append(errs, fmt.Errorf("Config.Kinds[%d] is nil", i))
			continue
		}
		c := k.compile()
		if err := c.err(); err != nil {
			errs = append(errs, err)
			continue
		}
		if e.kinds[k.Name()] != nil {
			errs = append(errs, fmt.Errorf("two kinds are named %q", k.Name()))
			continue
		}
		e.kinds[k.Name()] = newRegistry(e, c)
		if len(c.stuck) > 0 {
			e.config.Logger.Warn("rules have not returned for samples and still run: let them return for every event, "+
				"also for negative numbers and missing fields; snapshots do not notice whether such a rule changes",
				"kind", k.Name(), "types", c.stuck)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	return nil
}

// Close stops the engine. It refuses new calls, ends the services and waits for them,
// and waits until all calls in progress are answered and all running effects have
// returned. Effects get half of the time until the deadline of ctx, or two seconds if it
// has none; then Close ends their contexts and continues to wait for them.
//
// If the context ends first, Close answers the remaining calls with an error and returns
// the context's error. It does not wait any longer for a rule, an effect or the store;
// the decision of a rule that returns later is not stored. The store is released for
// other engines as soon as this engine can no longer write to it, so not before a
// hanging commit has ended.
//
// If ctx is the context of a handler, Close does not wait for that handler. Close does
// not close the store. Later calls of Close do nothing.
func (e *Engine) Close(ctx context.Context) error {
	self := EffectInfoFrom(ctx)
	if self != nil && self.engine != e {
		self = nil
	}
	ctx, cancel := closeContext(ctx, self != nil)
	defer cancel()
	e.mu.Lock()
	if e.closing.Swap(true) {
		e.mu.Unlock()
		return nil
	}
	stop := e.stop
	e.mu.Unlock()
	_, err := guard.Apart(ctx, "the clock", func() (struct{}, error) {
		if stop != nil {
			stop()
		}
		e.receipts.stop()
		if e.detach != nil {
			e.detach()
		}
		return struct{}{}, nil
	})
	err = errors.Join(err, e.services.stop(ctx))
	if err != nil {
		err = fmt.Errorf("close engine: %w", err)
	}
	if err2 := e.receipts.close(ctx); err == nil && err2 != nil {
		err = fmt.Errorf("close engine: removal of receipts: %w", err2)
	}
	e.drain()
	select {
	case <-e.drained:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("close engine: %w", ctx.Err()))
	}
	if err2 := e.closeEffects(ctx, self); err == nil && err2 != nil {
		err = fmt.Errorf("close engine: effects: %w", err2)
	}
	e.seal.enter() // the store is released at the end of Close, or later
	released := make(chan error, 1)
	var releasing atomic.Bool
	e.seal.close(func() {
		releasing.Store(true)
		go e.giveUp(released)
	})
	if e.committer != nil {
		if err2 := e.committer.close(ctx); err == nil && err2 != nil {
			err = fmt.Errorf("close engine: store: %w", err2)
		}
	}
	close(e.closed)
	if err2 := e.system.Shutdown(ctx); err == nil && err2 != nil {
		err = fmt.Errorf("close engine: %w", err2)
	}
	if e.pruner != nil {
		if err2 := e.pruner.close(ctx); err == nil && err2 != nil {
			err = fmt.Errorf("close engine: deletion of events: %w", err2)
		}
	}
	for _, k := range e.kinds {
		k.summarize()
	}
	if err2 := e.hub.Shutdown(ctx); err == nil && err2 != nil {
		err = fmt.Errorf("close engine: readers of events: %w", err2)
	}
	e.seal.leave()
	if err2 := waitForRelease(ctx, released, releasing.Load()); err == nil {
		err = err2
	}
	if e.reporter != nil {
		e.reporter.close(ctx)
	}
	return err
}

// releaseWait is the time for which Close waits for the release of the store after its context
// has ended.
const releaseWait = 100 * time.Millisecond

// waitForRelease waits until the store is released. It stops waiting when the context ends.
func waitForRelease(ctx context.Context, released chan error, begun bool) error {
	least := make(<-chan time.Time)
	if begun {
		t := time.NewTimer(releaseWait)
		defer t.Stop()
		least = t.C
	}
	select {
	case err := <-released:
		return err
	case <-ctx.Done():
	}
	if begun {
		select {
		case err := <-released:
			return err
		case <-least:
		}
	}
	return fmt.Errorf("close engine: the store is not given up: %w", ctx.Err())
}

// giveUp releases the store. It runs on a separate goroutine, because the store is user code.
func (e *Engine) giveUp(done chan error) {
	_, err := guard.Apart(context.Background(), "the store", func() (struct{}, error) {
		e.unlock()
		return struct{}{}, nil
	})
	if err != nil {
		err = fmt.Errorf("close engine: give the store up: %w", err)
	}
	done <- err
}

// effectsGrace is the time for which effects may continue while the engine closes, if Close has
// no deadline.
const effectsGrace = 2 * time.Second

// closeEffects waits for the effects in progress. After a grace period it ends their contexts,
// because a handler may wait for that, for example one whose server does not answer.
func (e *Engine) closeEffects(ctx context.Context, self *EffectInfo) error {
	grace := effectsGrace
	if deadline, ok := ctx.Deadline(); ok {
		grace = time.Until(deadline) / 2
	}
	defer time.AfterFunc(grace, e.dispatcher.cancel).Stop()
	return e.dispatcher.close(ctx, self)
}

// closeContext reads from a context, once and before Close begins, the values that Close needs:
// the context is user code, and Close must not depend on it later. The context of a handler
// ends because of Close itself, so only its deadline counts.
func closeContext(ctx context.Context, ofHandler bool) (context.Context, context.CancelFunc) {
	deadline, bounded := ctx.Deadline()
	if !ofHandler {
		return &closingContext{Context: context.Background(), deadline: deadline, bounded: bounded, done: ctx.Done()}, func() {}
	}
	if bounded {
		return context.WithDeadline(context.Background(), deadline)
	}
	return context.Background(), func() {}
}

// A closingContext is a copy of the values that Close needs from its caller's context.
type closingContext struct {
	context.Context

	deadline time.Time
	bounded  bool
	done     <-chan struct{}
}

func (c *closingContext) Deadline() (time.Time, bool) { return c.deadline, c.bounded }
func (c *closingContext) Done() <-chan struct{}       { return c.done }

func (c *closingContext) Err() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	if c.bounded && !time.Now().Before(c.deadline) {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

// Events yields the events of the log that q selects, and then new events as they are committed,
// without a gap, a duplicate or an inversion. The zero query selects all events of the first
// partition; [store.Query.After] is the position at which to begin, and its partition. The events
// are valid until the next step and must not be changed; see [store.Event.Clone] and
// [Kind.Decode]. The iteration ends at [store.Query.Through], if that is set.
//
// The iteration ends when the context ends, the caller breaks, or the engine is closed.
// If the context ends or the engine is closed, it yields that error as its last element.
// If the store cannot be read, the reader retries with growing pauses; see [Stats]. It
// ends with an error if a retry cannot help: the store is closed or broken, or a record
// is damaged. It also ends if After is above the head of the log: then the position is
// from another log, and the error matches [stream.ErrReplaced].
//
// A reader never slows down a writer. A reader that was up to date and has fallen far
// behind gets an error matching [stream.ErrLagged]. This is a notice: to go on from the
// same place, continue the iteration.
//
// As long as a reader is running, no engine deletes events that it has not passed; see
// [RetainEvents]. On a store that several engines share, the reader is registered in the
// store before it gets its first event. If an engine is suspended for longer than
// [stream.LiveSilenceMax], the other engines treat it as dead. If events that the reader
// has not passed are deleted, then or before it began, it gets an error matching
// [stream.ErrDeleted], which is a notice too. A reader that begins with 0 begins with the
// oldest event that is kept.
func (e *Engine) Events(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		for event, err := range e.hub.Follow(ctx, q) {
			if !yield(event, streamError(err)) {
				return
			}
		}
	}
}

// Subscribe opens a subscription: a named consumer of the log that gets each commit at
// least once, acknowledges it, and resumes after a restart where it was; see
// [stream.Subscription]. Its position is stored in the store of the engine, unless the
// configuration names another place. The caller closes the subscription. When the engine
// is closed, the subscription ends with [stream.ErrClosed].
func (e *Engine) Subscribe(ctx context.Context, c stream.SubscriptionConfig) (*stream.Subscription, error) {
	if c.Checkpoints == nil {
		c.Checkpoints = stream.LogCheckpoints(e.log)
	}
	return e.hub.Subscribe(ctx, c)
}

func streamError(err error) error {
	switch {
	case err == nil || errors.Is(err, stream.ErrLagged) || errors.Is(err, stream.ErrDeleted):
		return err
	case errors.Is(err, stream.ErrClosed):
		return ErrClosed
	}
	return fmt.Errorf("events: %w", err)
}

// storeTime returns the time of the store's clock, as far as it is known.
func (e *Engine) storeTime() time.Time { return e.storeClock.Now(e.elapsed) }

// Store returns the log of the engine.
func (e *Engine) Store() store.Log { return e.log }

// Stats are statistics of an engine.
type Stats struct {
	// Calls is the number of calls in progress.
	Calls int
	// Entities is the number of entities in memory, and EntitiesBytes about the number of
	// bytes that they take; see [Config.EntitiesBytesMax].
	Entities, EntitiesBytes int
	// Deliveries is the number of outbox messages and effects in memory, and Delivering the
	// number of those that are being delivered. All other pending messages wait in the
	// store.
	Deliveries, Delivering int
	// ReadErr is the error of a reader of [Engine.Events], or of a subscription, that
	// cannot read the store at the moment and retries. It is nil if all can read.
	ReadErr error
	// Waiting is the number of messages that the engine knows of and does not have in
	// memory: they wait for a retry, for another engine, or for an engine that has the rule
	// for them.
	Waiting int
	// Halted is the number of halted messages that the engine knows of, see [KeepOrder].
	Halted int
	// Delivered counts the messages, timers and effects delivered since the engine was
	// opened, DeliveriesFailed the failed attempts, and Parked the messages that this
	// engine has parked or halted.
	Delivered, DeliveriesFailed, Parked uint64
	// TellsFailed counts the commands of [Ref.Tell] that failed or were refused, and
	// ServicesFailed how often a service ended before the engine was closed; see [Service].
	TellsFailed, ServicesFailed uint64
	// LogsLost counts the log records that were dropped because the handler of
	// Config.Logger was too slow.
	LogsLost uint64
}

// failureCounts are counters since the engine was opened.
type failureCounts struct{ tells, services atomic.Uint64 }

// Stats returns the current statistics of the engine.
func (e *Engine) Stats() Stats {
	s := Stats{Calls: e.callCount(), ReadErr: e.hub.ReadErr(), EntitiesBytes: int(e.entities.weight.Load()) * weightStep}
	for _, k := range e.kinds {
		s.Entities += k.count()
	}
	d := e.dispatcher
	d.mu.Lock()
	s.Deliveries, s.Delivering = d.queue.Load()
	s.Halted, _ = d.queue.Halted()
	s.Waiting = d.queue.Waiting() - s.Halted
	d.mu.Unlock()
	s.Delivered, s.DeliveriesFailed, s.Parked = d.counts.delivered.Load(), d.counts.failed.Load(), d.counts.parked.Load()
	s.TellsFailed, s.ServicesFailed = e.failures.tells.Load(), e.failures.services.Load()
	if e.reporter != nil {
		s.LogsLost = e.reporter.lost.Load()
	}
	return s
}
