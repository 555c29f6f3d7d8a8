package perdure

import (
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// sweepsPerIdle is the number of sweeps during the shortest idle time of a kind.
const sweepsPerIdle = 4

// sweepEvery returns the time between two sweeps, or 0 if no kind passivates its entities.
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

// scheduleSweep sets the timer of the next sweep.
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
	if late { // Close has stopped the previous timer
		stop()
	}
}

// sweep passivates entities that have been idle for long enough. It counts the idle time in
// sweeps, so a turn need not read the clock. The last turn was some time before the sweep after
// it, so one more sweep must pass.
func (e *Engine) sweep(every time.Duration) {
	now := sweepOf(e.entities.now.Add(1 << roundBits))
	for _, k := range e.kinds {
		if k.passivateAfter == 0 {
			continue
		}
		idle := uint64((k.passivateAfter + every - 1) / every)
		k.passivate(func(c *activation) bool {
			used := c.used.Load()
			return now-sweepOf(used) > idle || used == neverUsed
		})
	}
}

// passivate stops the entities that fn selects and that are idle.
func (k *registry) passivate(fn func(*activation) bool) {
	var old []*activation
	for i := range k.shards {
		s := &k.shards[i]
		old = old[:0]
		s.mu.RLock()
		for _, c := range s.activations {
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

// residents bound the entities in memory, by their number and by an estimate of their bytes.
//
// now is the time of turns, counted in sweeps and rounds. A round is over when a share of
// Config.EntitiesMax entities, or of Config.EntitiesBytesMax, has come into memory. A turn
// records this time for its entity, which costs a load and a store. When a bound is reached,
// the engine passivates the entities whose last turn was longest ago. It passivates a share of
// all at once, so the search costs only a few steps for each new entity.
type residents struct {
	now    atomic.Uint64 // sweep<<roundBits | round
	count  atomic.Int64  // number of entities in memory, including those about to come
	weight atomic.Int64  // memory of these entities, in steps of weightStep
	grown  atomic.Int64  // growth of weight since the round began
	most   int64         // bound of weight
	again  atomic.Int64  // weight from which to passivate again

	mu     sync.Mutex
	coming int   // number of entities that came since the round began
	next   int64 // count from which to passivate again
}

const (
	roundBits     = 32
	roundMask     = 1<<roundBits - 1
	roundsPerMax  = 64 // number of rounds in which EntitiesMax entities come
	passivateOnce = 8  // one of this many entities is passivated at once
	neverUsed     = 0  // time of entities without a history, which are passivated first
	weightStep    = 1024
)

func sweepOf(t uint64) uint64 { return t >> roundBits }

// weigh adds to the memory of all entities, in steps; more may be negative. It reports whether
// the memory is above the bound.
func (r *residents) weigh(more int64) (full bool) {
	weight := r.weight.Add(more)
	if more > 0 && r.grown.Add(more) > r.most/roundsPerMax {
		r.grown.Store(0)
		r.now.Add(1)
	}
	return weight > max(r.most, r.again.Load())
}

// takePlace counts an entity before it comes into memory. If there are too many, it first
// passivates those that have been idle longest. Busy entities stay, and their number may exceed
// the bound: the calls in progress limit them.
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

// makeRoom passivates entities if their memory is above the bound, unless another goroutine
// does.
func (e *Engine) makeRoom() {
	if r := &e.entities; r.mu.TryLock() {
		defer r.mu.Unlock()
		e.passivateExcess()
	}
}

// passivateExcess passivates the entities that have been idle longest, if a bound is reached.
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
		k.passivate(func(c *activation) bool {
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
		r.next = n + max(most/passivateOnce, 1) // the others are busy
	}
	again := int64(0)
	if n := r.weight.Load(); n > r.most {
		again = n + max(r.most/passivateOnce, 1) // the others are busy
	}
	r.again.Store(again)
}

// oldest returns the lowest round such that at least n entities, with at least the given
// memory, had their last turn in it or before.
func (e *Engine) oldest(n, weight int64) uint64 {
	type sum struct{ entities, weight int64 }
	rounds := map[uint64]sum{}
	for _, k := range e.kinds {
		for i := range k.shards {
			s := &k.shards[i]
			s.mu.RLock()
			for _, c := range s.activations {
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
