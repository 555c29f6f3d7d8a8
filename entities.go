package perdure

import (
	"hash/maphash"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/internal/entity"
	"github.com/perdure/perdure/store"
)

// shardCount is a power of two; entities of a kind are spread over so many maps
// so that callers seldom wait for each other.
const shardCount = 64

// A kindRuntime holds the entities of one kind that are in memory.
type kindRuntime struct {
	engine         *Engine
	options        entity.Options
	passivateAfter time.Duration
	keepOrder      bool
	retain         uint64
	prune          bool
	notices        snapshotNotices
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
		engine: e, passivateAfter: c.passivateAfter, keepOrder: c.keepOrder, retain: c.retain, prune: c.prune, seed: maphash.MakeSeed(),
		options: entity.Options{Rules: &c.rules, Refusal: encodeRefusal, Performs: e.performs, StoreTime: e.storeTime, Elapsed: e.elapsed, Limits: entity.Limits{
			Calls: e.config.EntityCallsMax, InFlight: e.config.InFlightMax,
			Conflicts: e.config.ConflictsMax, LoadRetries: loadRetriesMax, Doubts: doubtsMax,
		}},
	}
	k.options.Notice = k.unsnapped
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
	k.engine.takePlace()
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cells[id]; c != nil {
		k.engine.entities.count.Add(-1)
		return c, nil
	}
	c = &cell{kind: k}
	c.used.Store(k.engine.entities.now.Load())
	c.core.Init(&k.options, id, c)
	c.weight.Store(1)
	k.engine.entities.weigh(1)
	ref, err := actor.Spawn(k.engine.system, "", c)
	if err != nil {
		k.engine.entities.count.Add(-1)
		k.engine.entities.weigh(-1)
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
		k.engine.entities.count.Add(-1)
		k.engine.entities.weigh(-int64(c.weight.Load()))
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
	every := e.sweepEvery()
	if every == 0 || e.closing.Load() {
		return
	}
	stop := e.config.Clock.AfterFunc(every, func() {
		if e.closing.Load() {
			return
		}
		e.sweep(every)
		e.scheduleSweep()
	})
	e.mu.Lock()
	late := e.closing.Load()
	e.stop = stop
	e.mu.Unlock()
	if late { // Close has stopped the one before
		stop()
	}
}

// sweep passivates entities that have been idle for long enough. The time is
// counted in sweeps, so that a turn need not read the clock. The last turn was some
// time before the sweep behind it, so one sweep more must pass.
func (e *Engine) sweep(every time.Duration) {
	now := sweepOf(e.entities.now.Add(1 << roundBits))
	for _, k := range e.kinds {
		if k.passivateAfter == 0 {
			continue
		}
		idle := uint64((k.passivateAfter + every - 1) / every)
		k.passivate(func(c *cell) bool {
			used := c.used.Load()
			return now-sweepOf(used) > idle || used == neverUsed
		})
	}
}

// passivate stops the entities that fn selects and that have nothing to do.
func (k *kindRuntime) passivate(fn func(*cell) bool) {
	var old []*cell
	for i := range k.shards {
		s := &k.shards[i]
		old = old[:0]
		s.mu.RLock()
		for _, c := range s.cells {
			if fn(c) {
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

// residents bound the entities in memory, by their number and by about how many bytes
// they take.
//
// now tells the time of turns, in sweeps and in rounds: a round is over when a share
// of Config.EntitiesMax entities, or of Config.EntitiesBytesMax, has come into memory. A
// turn notes the time of its entity, which costs a load and a store. When a bound is met,
// the entities whose last turn was longest ago are passivated, a share of all at once, so
// that finding them costs a few steps for each that comes.
type residents struct {
	now    atomic.Uint64 // sweep<<roundBits | round
	count  atomic.Int64  // of the entities in memory, and of those that come
	weight atomic.Int64  // what they take, in steps of weightStep
	grown  atomic.Int64  // what has come to it since the round began
	most   int64         // the bound of weight
	again  atomic.Int64  // the weight at which to look again

	mu     sync.Mutex
	coming int   // since the round began
	next   int64 // the count at which to look again
}

const (
	roundBits     = 32
	roundMask     = 1<<roundBits - 1
	roundsPerMax  = 64 // rounds in which EntitiesMax entities come
	passivateOnce = 8  // one of so many is passivated at once
	neverUsed     = 0  // of entities without a history, which are the first to go
	weightStep    = 1024
)

func sweepOf(t uint64) uint64 { return t >> roundBits }

// weigh notes that entities take more memory, or less, in steps. It reports whether they
// take too much.
func (r *residents) weigh(more int64) (full bool) {
	weight := r.weight.Add(more)
	if more > 0 && r.grown.Add(more) > r.most/roundsPerMax {
		r.grown.Store(0)
		r.now.Add(1)
	}
	return weight > max(r.most, r.again.Load())
}

// takePlace counts an entity before it comes into memory. If there are too many, it
// first passivates those that have been idle for longest. Entities that are at work stay, and
// may be more than the bound: the calls in progress bound them.
func (e *Engine) takePlace() {
	r := &e.entities
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.count.Add(1)
	if r.coming++; r.coming > e.config.EntitiesMax/roundsPerMax {
		r.coming = 0
		r.now.Add(1)
	}
	e.passivateExcess()
}

// makeRoom passivates entities if those in memory take too much, unless another
// goroutine does.
func (e *Engine) makeRoom() {
	if r := &e.entities; r.mu.TryLock() {
		defer r.mu.Unlock()
		e.passivateExcess()
	}
}

// passivateExcess passivates the entities that have been idle for longest, if a bound is met.
// The caller holds the lock.
func (e *Engine) passivateExcess() {
	r, most := &e.entities, int64(e.config.EntitiesMax)
	var excess, weight int64
	if n := r.count.Load(); n >= max(most, r.next) {
		excess = n - most + max(most/passivateOnce, 1)
	}
	if n := r.weight.Load(); n > max(r.most, r.again.Load()) {
		weight = n - r.most + max(r.most/passivateOnce, 1)
	}
	if excess == 0 && weight == 0 {
		return
	}
	before := e.oldest(excess, weight)
	for _, k := range e.kinds {
		k.passivate(func(c *cell) bool {
			if excess <= 0 && weight <= 0 || c.used.Load()&roundMask > before {
				return false
			}
			excess--
			weight -= int64(c.weight.Load())
			return true
		})
	}
	r.next = 0
	if n := r.count.Load(); n >= most {
		r.next = n + max(most/passivateOnce, 1) // they are at work
	}
	again := int64(0)
	if n := r.weight.Load(); n > r.most {
		again = n + max(r.most/passivateOnce, 1) // the same
	}
	r.again.Store(again)
}

// oldest returns the round up to which the last turns of at least n entities were, which
// take at least so much memory.
func (e *Engine) oldest(n, weight int64) uint64 {
	type sum struct{ entities, weight int64 }
	rounds := map[uint64]sum{}
	for _, k := range e.kinds {
		for i := range k.shards {
			s := &k.shards[i]
			s.mu.RLock()
			for _, c := range s.cells {
				round := c.used.Load() & roundMask
				of := rounds[round]
				rounds[round] = sum{of.entities + 1, of.weight + int64(c.weight.Load())}
			}
			s.mu.RUnlock()
		}
	}
	for _, round := range slices.Sorted(maps.Keys(rounds)) {
		n -= rounds[round].entities
		if weight -= rounds[round].weight; n <= 0 && weight <= 0 {
			return round
		}
	}
	return roundMask
}
