package perdure

import (
	"context"
	"errors"
	"fmt"
	"iter"
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

// An Engine runs entities on a store. Its methods may be called by many
// goroutines at once.
type Engine struct {
	config  Config
	log     store.Log
	instant bool // the log commits on the spot
	kinds   map[string]*kindRuntime
	unlock  func() // gives the store up

	system    *actor.System
	committer *committer // nil if the log commits on the spot
	hub       *stream.Hub
	pruner    *pruner
	receipts  *receiptSweeper // nil if the store keeps none, or lists no entities

	effects     map[reflect.Type]*effectRule
	effectTypes map[string]*effectRule // by full protobuf name
	dispatcher  *dispatcher            // nil if the log has no outbox
	services    services
	reporter    *reporter // nil if nothing is logged
	detach      func()    // from the clock; nil if it does not wait
	failures    failureCounts

	pool       sync.Pool // of *call
	stripes    [stripeCount]stripe
	striped    atomic.Uint32 // the last stripe that was given to a call
	storeClock storeclock.Clock
	elapsed    func() time.Duration // never steps
	entities   residents

	mu      sync.Mutex
	closing atomic.Bool
	drained chan struct{} // closed once closing and no call is left
	closed  chan struct{} // closed once nothing that is queued is stored any more
	stop    func() bool   // of the sweep's timer
	seal    seal
}

// Open starts an engine. It returns an error that names what is wrong with the
// configuration or a kind, or what the store says. The context bounds the
// opening only.
//
// An engine takes its store for itself where the store can be held (see
// [store.Exclusive]); then reads are answered from memory. On a store that is
// opened to be shared, every read is checked against the store.
func Open(ctx context.Context, c Config) (*Engine, error) {
	if c.Store == nil {
		return nil, fmt.Errorf("open engine: %w: Config.Store is nil", store.ErrInvalid)
	}
	if err := c.defaults(); err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	e := &Engine{
		config: c, log: c.Store,
		unlock: func() {}, drained: make(chan struct{}), closed: make(chan struct{}),
	}
	e.entities.now.Store(1<<roundBits | 1) // later than neverUsed
	for i := range e.stripes {
		e.stripes[i].ids = uuid.NewGen()
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
	if _, ok := c.Clock.(systemClock); !ok {
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
	e.system = actor.NewSystem(actor.Config{Logger: c.Logger, MailboxMax: c.EntityCallsMax})
	if !e.instant {
		e.committer = newCommitter(e)
	}
	if box, ok := c.Store.(store.Outbox); ok {
		e.dispatcher = newDispatcher(e, box, shared)
		e.dispatcher.start()
	}
	e.receipts = newReceiptSweeper(e)
	opened = true
	e.startServices()
	if err := e.attach(ctx); err != nil {
		_ = e.Close(ctx)
		return nil, fmt.Errorf("open engine: %w", err)
	}
	return e, nil
}

// acquire takes the store for the engine alone, or reports that it is shared. It
// waits no longer than the context: what the store grants later is given up at once.
func (e *Engine) acquire(ctx context.Context) (shared bool, err error) {
	var mu sync.Mutex
	left, held := false, func() {}
	take := func() (bool, error) {
		if x, ok := e.log.(store.Instant); ok {
			e.instant = x.Instant()
		}
		x, ok := e.log.(store.Exclusive)
		if !ok {
			return true, nil
		}
		release, err := x.Acquire()
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

// attach begins what the clock has to do with: sweeps, and clocks that wait for the
// engine. The clock is user code, so attach waits no longer than the context.
func (e *Engine) attach(ctx context.Context) error {
	detach, err := guard.Apart(ctx, "the clock", func() (func(), error) {
		e.scheduleSweep()
		if e.receipts != nil {
			e.receipts.arm(e.receipts.pause())
		}
		c, ok := e.config.Clock.(*guard.Clock)
		if !ok || e.dispatcher == nil {
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

// undoOpen gives up what an engine has that could not be opened.
func (e *Engine) undoOpen() {
	go func() {
		defer func() { _ = recover() }() // it is code of the store
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
	e.kinds = make(map[string]*kindRuntime, len(e.config.Kinds))
	var errs []error
	for _, k := range e.config.Kinds {
		c := k.compile()
		if err := c.err(); err != nil {
			errs = append(errs, err)
			continue
		}
		if e.kinds[k.Name()] != nil {
			errs = append(errs, fmt.Errorf("two kinds are named %q", k.Name()))
			continue
		}
		e.kinds[k.Name()] = newKindRuntime(e, c)
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

// Close refuses new calls, ends the services and waits for them, waits until all
// calls in progress are answered and all effects that run are performed, and stops the
// engine. Effects have half of the time until the deadline of ctx, or two seconds where
// it has none; then their contexts end, and Close goes on to wait for them.
//
// If the context ends first, what has not been answered is answered with an error and
// Close returns the context's error, whatever hangs: a rule, an effect or the store is
// not waited for any longer. What such a rule decides is not stored. The store is given
// up for other engines as soon as nothing of this engine can be written to it any more,
// so not before a commit that hangs has ended. With the context of a handler, Close does
// not wait for that handler. Close does not close the store. Later calls of Close do
// nothing.
func (e *Engine) Close(ctx context.Context) error {
	self := DeliveryFrom(ctx)
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
		if e.receipts != nil {
			e.receipts.stop()
		}
		if e.detach != nil {
			e.detach()
		}
		return struct{}{}, nil
	})
	err = errors.Join(err, e.services.stop(ctx))
	if err != nil {
		err = fmt.Errorf("close engine: %w", err)
	}
	if e.receipts != nil {
		if err2 := e.receipts.close(ctx); err == nil && err2 != nil {
			err = fmt.Errorf("close engine: removal of receipts: %w", err2)
		}
	}
	e.drain()
	select {
	case <-e.drained:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("close engine: %w", ctx.Err()))
	}
	if e.dispatcher != nil {
		if err2 := e.closeEffects(ctx, self); err == nil && err2 != nil {
			err = fmt.Errorf("close engine: effects: %w", err2)
		}
	}
	e.seal.enter() // the store is given up at the end of Close, or later
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

// releaseWait is how long Close waits for the store to be given up, if its context has
// ended before.
const releaseWait = 100 * time.Millisecond

// waitForRelease waits until the store is given up, or cannot be before the context ends.
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

// giveUp gives the store up. It runs on a goroutine of its own, because it is code of
// the store.
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

// effectsGrace is how long effects may go on while the engine is closed, if nothing
// says how long it may take.
const effectsGrace = 2 * time.Second

// closeEffects waits for the effects that run. After a grace it ends their contexts: a
// handler may wait for that, such as one whose server does not answer.
func (e *Engine) closeEffects(ctx context.Context, self *Delivery) error {
	grace := effectsGrace
	if deadline, ok := ctx.Deadline(); ok {
		grace = time.Until(deadline) / 2
	}
	defer time.AfterFunc(grace, e.dispatcher.cancel).Stop()
	return e.dispatcher.close(ctx, self)
}

// closeContext asks a context once for what Close needs, before Close begins: the
// context is user code, and Close must come to its end. That of a handler ends because
// of Close, which is no reason to give up; only its deadline counts.
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

// A closingContext is what Close knows of the context of its caller.
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

// Events yields the events of the log above after, in its partition, and then
// new ones as they are committed, without a gap, a duplicate or an inversion.
// It ends when the context ends, the caller breaks, or the engine is closed;
// in the first and last case it yields the error as its last. It does not end when
// the store cannot be read for a while: it tries again, with growing pauses, see
// [Stats]. It ends with an error if that cannot help, because the store is closed
// or broken or a record is damaged, and if after is above the head of the log: then
// the position is not of this log, and the error matches [ErrReplaced].
//
// A reader cannot slow down a writer. One that was up to date and has fallen
// far behind gets an error matching [ErrLagged]; that is a notice, the iteration
// goes on from where it was if the caller wants it to.
//
// While a reader lives, no engine deletes events that it has not passed, see
// [RetainEvents]: on a store that others share it is registered there before it
// gets its first event. An engine that stands still for longer than
// [stream.LiveSilenceMax] is taken for dead by the others. If events have been
// deleted before the reader came to them, then or because it begins at a position
// that nothing held, it gets an error matching [ErrDeleted]; that is a notice too. One
// that begins with 0 begins with what is kept.
//
// The events are valid until the next step and must not be changed; see
// [store.Event.Clone].
func (e *Engine) Events(ctx context.Context, after store.Position) iter.Seq2[*store.Event, error] {
	return e.Follow(ctx, store.Query{After: after})
}

// Subscribe opens a subscription to the log of the engine: a consumer with a name
// that gets commits at least once, acknowledges them, and goes on where it was
// after a crash; see [stream.Subscription]. Its position is kept in the store of
// the engine unless the configuration says otherwise. The caller closes it, before
// or after the engine: the end of the engine ends it with [stream.ErrClosed].
func (e *Engine) Subscribe(ctx context.Context, c stream.SubscriptionConfig) (*stream.Subscription, error) {
	if c.Checkpoints == nil {
		c.Checkpoints = stream.LogCheckpoints(e.log)
	}
	return e.hub.Subscribe(ctx, c)
}

// ErrLagged is a notice to a reader of [Engine.Events]. The error is a [*LaggedError].
var ErrLagged = stream.ErrLagged

// A LaggedError tells a reader of [Engine.Events] how far behind it is. It
// matches [ErrLagged].
type LaggedError = stream.LaggedError

// ErrDeleted is a notice to a reader of [Engine.Events] that it misses events. The
// error is a [*DeletedError].
var ErrDeleted = stream.ErrDeleted

// A DeletedError tells a reader of [Engine.Events] which events it misses. It
// matches [ErrDeleted].
type DeletedError = stream.DeletedError

// ErrReplaced tells a reader that a position is not of this log: the log has been
// restored from a backup that is older, or replaced. The error is a
// [*stream.ReplacedError].
var ErrReplaced = stream.ErrReplaced

func streamError(err error) error {
	switch {
	case err == nil || errors.Is(err, ErrLagged) || errors.Is(err, ErrDeleted):
		return err
	case errors.Is(err, stream.ErrClosed):
		return ErrClosed
	}
	return fmt.Errorf("events: %w", err)
}

// storeTime is what is known of the time of the store.
func (e *Engine) storeTime() time.Time { return e.storeClock.Now(e.elapsed) }

// Store returns the log that the engine runs on.
func (e *Engine) Store() store.Log { return e.log }

// Stats are figures about an engine.
type Stats struct {
	// Calls is how many calls are in progress.
	Calls int
	// Entities is how many entities are in memory.
	Entities int
	// Deliveries is how many outbox messages and effects are in memory, and
	// Delivering how many of them are being delivered. What else is pending
	// waits in the store.
	Deliveries, Delivering int
	// ReadErr is why a reader of [Engine.Events] or a subscription cannot read the
	// store at this moment, nil if all can. They try again.
	ReadErr error
	// Waiting is how many messages the engine knows of without having them in
	// memory: those that wait for another attempt, for another engine, or for an
	// engine that has the rule for them.
	Waiting int
	// Delivered counts the messages, timers and effects that were delivered since
	// the engine was opened, DeliveriesFailed the attempts that failed, and Parked
	// the messages that this engine has parked.
	Delivered, DeliveriesFailed, Parked uint64
	// TellsFailed counts the commands of [Ref.Tell] that have failed, refusals
	// included, and ServicesFailed the services that have ended with an error.
	TellsFailed, ServicesFailed uint64
	// LogsLost counts the log records that were left out because the handler of
	// Config.Logger was too slow.
	LogsLost uint64
}

// failureCounts are figures since the engine was opened.
type failureCounts struct{ tells, services atomic.Uint64 }

// Stats returns figures about the engine at this moment.
func (e *Engine) Stats() Stats {
	s := Stats{Calls: e.callCount(), ReadErr: e.hub.ReadErr()}
	for _, k := range e.kinds {
		s.Entities += k.count()
	}
	if d := e.dispatcher; d != nil {
		d.mu.Lock()
		s.Deliveries, s.Delivering = d.queue.Load()
		s.Waiting = d.queue.Waiting()
		d.mu.Unlock()
		s.Delivered, s.DeliveriesFailed, s.Parked = d.counts.delivered.Load(), d.counts.failed.Load(), d.counts.parked.Load()
	}
	s.TellsFailed, s.ServicesFailed = e.failures.tells.Load(), e.failures.services.Load()
	if e.reporter != nil {
		s.LogsLost = e.reporter.lost.Load()
	}
	return s
}
