package perdure

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"log/slog"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/uuid/v5"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/internal/entity"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
)

// Defaults of [Config].
const (
	EntityCallsMaxDefault = 1024
	CallsMaxDefault       = 16_384
	InFlightMaxDefault    = 512
	ConflictsMaxDefault   = 32
	DeliveriesMaxDefault  = 256
	PollDefault           = 50 * time.Millisecond
)

// loadRetriesMax bounds how often a load is tried again while the outcome of a
// command depends on it; with the pauses between them that is about six seconds.
const loadRetriesMax = 11

// A Config says what an engine runs, and within which bounds. Store and Kinds
// are needed; the zero value of everything else is a good default.
type Config struct {
	// Store keeps everything. The engine does not close it.
	Store store.Log
	// Kinds are the kinds that the engine runs. Their names differ.
	Kinds []AnyKind

	// Effects say what to do with messages that commands send or enqueue without
	// an entity as their target.
	Effects []EffectRule

	// Logger takes what the engine has to say. Nil discards it.
	Logger *slog.Logger
	// Clock tells the time. Nil is the clock of the system.
	Clock Clock

	// CallsMax bounds the calls in the engine that have not been answered.
	// Above it a call fails with [ErrOverloaded]. Zero is [CallsMaxDefault].
	CallsMax int
	// EntityCallsMax is the same for one entity. Zero is [EntityCallsMaxDefault].
	EntityCallsMax int
	// InFlightMax bounds how many commands an entity decides ahead of the
	// store. Zero is [InFlightMaxDefault].
	InFlightMax int
	// ConflictsMax bounds how often a command is decided anew because another
	// engine was faster. Zero is [ConflictsMaxDefault].
	ConflictsMax int
	// DeliveriesMax bounds the effects that are performed, and the messages that
	// are on their way to entities, at a time. Zero is [DeliveriesMaxDefault].
	DeliveriesMax int
	// Poll is how often the readers of [Engine.Events] look for commits of
	// other engines, on a store that several engines share. Zero is [PollDefault].
	Poll time.Duration
}

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

	effects     map[reflect.Type]*effectRule
	effectTypes map[string]*effectRule // by full protobuf name
	dispatcher  *dispatcher            // nil if the log has no outbox

	pool    sync.Pool // of *call
	stripes [stripeCount]stripe
	striped atomic.Uint32 // the last stripe that was given to a call
	sweeps  atomic.Uint32

	mu      sync.Mutex
	closing atomic.Bool
	drained chan struct{} // closed once closing and no call is left
	stop    func() bool   // of the sweep's timer
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
	e := &Engine{config: c, log: c.Store, unlock: func() {}, drained: make(chan struct{})}
	for i := range e.stripes {
		e.stripes[i].ids = uuid.NewGen()
	}
	if err := e.addKinds(); err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	if err := e.addEffects(); err != nil {
		return nil, fmt.Errorf("open engine: %w", err)
	}
	shared := true
	if x, ok := c.Store.(store.Exclusive); ok {
		release, err := x.Acquire()
		switch {
		case err == nil:
			shared = false
			e.unlock = release
		case !errors.Is(err, errors.ErrUnsupported):
			return nil, fmt.Errorf("open engine: %w", err)
		}
	}
	for _, k := range e.kinds {
		k.options.Shared = shared
	}
	if x, ok := c.Store.(store.Instant); ok {
		e.instant = x.Instant()
	}
	var poll time.Duration
	if shared {
		poll = c.Poll
	}
	hub, err := stream.NewHub(ctx, stream.Config{Log: c.Store, Poll: poll})
	if err != nil {
		e.unlock()
		return nil, fmt.Errorf("open engine: %w", err)
	}
	e.hub = hub
	if e.prunes() {
		e.pruner = newPruner(c.Store, hub, c.Logger)
	}
	e.system = actor.NewSystem(actor.Config{Logger: c.Logger, MailboxMax: c.EntityCallsMax})
	if !e.instant {
		e.committer = newCommitter(e)
	}
	if box, ok := c.Store.(store.Outbox); ok {
		e.dispatcher = newDispatcher(e, box)
		e.dispatcher.start()
	}
	e.scheduleSweep()
	return e, nil
}

// defaults fills in what is zero and checks the rest.
func (c *Config) defaults() error {
	for _, f := range []struct {
		name     string
		value    *int
		standard int
	}{
		{"CallsMax", &c.CallsMax, CallsMaxDefault},
		{"EntityCallsMax", &c.EntityCallsMax, EntityCallsMaxDefault},
		{"InFlightMax", &c.InFlightMax, InFlightMaxDefault},
		{"ConflictsMax", &c.ConflictsMax, ConflictsMaxDefault},
		{"DeliveriesMax", &c.DeliveriesMax, DeliveriesMaxDefault},
	} {
		if *f.value < 0 {
			return fmt.Errorf("%w: Config.%s is negative: %d", store.ErrInvalid, f.name, *f.value)
		}
		if *f.value == 0 {
			*f.value = f.standard
		}
	}
	if c.Poll < 0 {
		return fmt.Errorf("%w: Config.Poll is negative: %v", store.ErrInvalid, c.Poll)
	}
	if c.Poll == 0 {
		c.Poll = PollDefault
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = systemClock{}
	}
	return nil
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
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	return nil
}

// Close refuses new calls, waits until all calls in progress are answered, and
// stops the engine. If the context ends first, what has not been answered is
// answered with an error and Close returns the context's error; a rule that runs
// at that moment is not waited for. It does not close the store. Later calls of
// Close do nothing.
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	if e.closing.Swap(true) {
		e.mu.Unlock()
		return nil
	}
	stop := e.stop
	e.mu.Unlock()
	stop()
	e.drain()
	var err error
	select {
	case <-e.drained:
	case <-ctx.Done():
		err = fmt.Errorf("close engine: %w", ctx.Err())
	}
	if e.dispatcher != nil {
		if err2 := e.dispatcher.close(ctx); err == nil && err2 != nil {
			err = fmt.Errorf("close engine: effects: %w", err2)
		}
	}
	if e.committer != nil {
		e.committer.close()
	}
	if err2 := e.system.Shutdown(ctx); err == nil && err2 != nil {
		err = fmt.Errorf("close engine: %w", err2)
	}
	if e.pruner != nil {
		e.pruner.close()
	}
	e.hub.Close()
	e.unlock()
	return err
}

// stripeCount is how many counters and sources of ids the calls share. One of
// each would be a place where all processors meet on every call.
const stripeCount = 16

// A stripe is what some of the calls share. A call keeps its stripe for life,
// and calls are pooled by processor.
type stripe struct {
	calls atomic.Int64 // in progress
	ids   uuid.Generator
	_     [40]byte // apart from its neighbour in the processor's cache
}

// enter admits a call.
func (e *Engine) enter(s *stripe) error {
	n := int(s.calls.Add(1))
	switch {
	case e.closing.Load():
		e.leave(s)
		return ErrClosed
	case n > e.config.CallsMax/stripeCount && e.callCount() > e.config.CallsMax:
		e.leave(s)
		return &OverloadedError{CallsMax: e.config.CallsMax}
	}
	return nil
}

// leave ends a call that was admitted.
func (e *Engine) leave(s *stripe) {
	s.calls.Add(-1)
	if e.closing.Load() {
		e.drain()
	}
}

// callCount returns how many calls are in progress. If none of the stripes is
// above its share, neither is the sum.
func (e *Engine) callCount() int {
	n := 0
	for i := range e.stripes {
		n += int(e.stripes[i].calls.Load())
	}
	return n
}

// drain tells Close if no call is left. Whoever leaves last while the engine is
// closing sees that.
func (e *Engine) drain() {
	if e.callCount() != 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.drained:
	default:
		close(e.drained)
	}
}

// Events yields the events of the log above after, in its partition, and then
// new ones as they are committed, without a gap, a duplicate or an inversion.
// It ends when the context ends, the caller breaks, or the engine is closed;
// in the first and last case it yields the error as its last.
//
// A reader cannot slow down a writer. One that was up to date and has fallen
// far behind gets an error matching [ErrLagged]; that is a notice, the iteration
// goes on from where it was if the caller wants it to.
//
// The events are valid until the next step and must not be changed; see
// [store.Event.Clone].
func (e *Engine) Events(ctx context.Context, after store.Position) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		for event, err := range e.hub.Follow(ctx, store.Query{After: after}) {
			if !yield(event, streamError(err)) {
				return
			}
		}
	}
}

// ErrLagged is a notice to a reader of [Engine.Events]. The error is a [*LaggedError].
var ErrLagged = stream.ErrLagged

// A LaggedError tells a reader of [Engine.Events] how far behind it is. It
// matches [ErrLagged].
type LaggedError = stream.LaggedError

func streamError(err error) error {
	switch {
	case err == nil || errors.Is(err, ErrLagged):
		return err
	case errors.Is(err, stream.ErrClosed):
		return ErrClosed
	}
	return fmt.Errorf("events: %w", err)
}

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
}

// Stats returns figures about the engine at this moment.
func (e *Engine) Stats() Stats {
	s := Stats{Calls: e.callCount()}
	for _, k := range e.kinds {
		s.Entities += k.count()
	}
	if d := e.dispatcher; d != nil {
		d.mu.Lock()
		s.Deliveries, s.Delivering = d.queue.Load()
		d.mu.Unlock()
	}
	return s
}

// newID returns an id for a command.
func (s *stripe) newID() store.ID {
	id, err := s.ids.NewV7()
	if err != nil {
		panic(fmt.Sprintf("perdure: no randomness: %v", err)) // crypto/rand does not fail
	}
	return store.ID(id)
}

// shardCount is a power of two; entities of a kind are spread over so many maps
// so that callers seldom wait for each other.
const shardCount = 64

// A kindRuntime holds the entities of one kind that are in memory.
type kindRuntime struct {
	engine         *Engine
	options        entity.Options
	passivateAfter time.Duration
	retain         uint64
	prune          bool
	seed           maphash.Seed
	shards         [shardCount]shard
}

type shard struct {
	mu    sync.RWMutex
	cells map[string]*cell
	_     [32]byte // apart from its neighbour in the processor's cache
}

func newKindRuntime(e *Engine, c *compiler) *kindRuntime {
	k := &kindRuntime{
		engine: e, passivateAfter: c.passivateAfter, retain: c.retain, prune: c.prune, seed: maphash.MakeSeed(),
		options: entity.Options{Rules: &c.rules, Refusal: encodeRefusal, Performs: e.performs, Limits: entity.Limits{
			Calls: e.config.EntityCallsMax, InFlight: e.config.InFlightMax,
			Conflicts: e.config.ConflictsMax, LoadRetries: loadRetriesMax,
		}},
	}
	for i := range k.shards {
		k.shards[i].cells = make(map[string]*cell)
	}
	return k
}

func (k *kindRuntime) shard(id string) *shard {
	return &k.shards[maphash.String(k.seed, id)%shardCount]
}

// find returns the cell of an entity, bringing it into memory without its state
// if need be.
func (k *kindRuntime) find(id string) (*cell, error) {
	s := k.shard(id)
	s.mu.RLock()
	c := s.cells[id]
	s.mu.RUnlock()
	if c != nil {
		return c, nil
	}
	if err := (store.Key{Kind: k.options.Rules.Kind, ID: id}).Validate(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cells[id]; c != nil {
		return c, nil
	}
	c = &cell{kind: k}
	c.used.Store(k.engine.sweeps.Load())
	c.core.Init(&k.options, id, c)
	ref, err := actor.Spawn(k.engine.system, "", c)
	if err != nil {
		return nil, ErrClosed
	}
	c.ref = ref
	s.cells[id] = c
	return c, nil
}

// forget drops a cell whose actor has stopped.
func (k *kindRuntime) forget(c *cell) {
	id := c.core.Key().ID
	s := k.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cells[id] == c {
		delete(s.cells, id)
	}
}

func (k *kindRuntime) count() int {
	n := 0
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.RLock()
		n += len(s.cells)
		s.mu.RUnlock()
	}
	return n
}

// sweepsPerIdle is how many sweeps pass in the shortest idle time of a kind.
const sweepsPerIdle = 4

// sweepEvery returns the time between two sweeps; 0 if nothing is passivated.
func (e *Engine) sweepEvery() time.Duration {
	var shortest time.Duration
	for _, k := range e.kinds {
		if k.passivateAfter > 0 && (shortest == 0 || k.passivateAfter < shortest) {
			shortest = k.passivateAfter
		}
	}
	if shortest == 0 {
		return 0
	}
	return max(shortest/sweepsPerIdle, time.Millisecond)
}

// scheduleSweep arms the timer of the next sweep.
func (e *Engine) scheduleSweep() {
	e.mu.Lock()
	defer e.mu.Unlock()
	every := e.sweepEvery()
	if e.closing.Load() || every == 0 {
		e.stop = func() bool { return false }
		return
	}
	e.stop = e.config.Clock.AfterFunc(every, func() {
		e.sweep(every)
		e.scheduleSweep()
	})
}

// sweep passivates entities that have been idle for long enough. The time is
// counted in sweeps, so that a turn need not read the clock.
func (e *Engine) sweep(every time.Duration) {
	now := e.sweeps.Add(1)
	for _, k := range e.kinds {
		if k.passivateAfter == 0 {
			continue
		}
		idle := uint32((k.passivateAfter + every - 1) / every)
		var old []*cell
		for i := range k.shards {
			s := &k.shards[i]
			old = old[:0]
			s.mu.RLock()
			for _, c := range s.cells {
				if now-c.used.Load() >= idle {
					old = append(old, c)
				}
			}
			s.mu.RUnlock()
			for _, c := range old {
				c.ref.StopIfIdle()
			}
			runtime.Gosched()
		}
	}
}
