package perdure

import (
	"hash/maphash"
	"runtime"
	"sync"
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
		engine: e, passivateAfter: c.passivateAfter, retain: c.retain, prune: c.prune, seed: maphash.MakeSeed(),
		options: entity.Options{Rules: &c.rules, Refusal: encodeRefusal, Performs: e.performs, Limits: entity.Limits{
			Calls: e.config.EntityCallsMax, InFlight: e.config.InFlightMax,
			Conflicts: e.config.ConflictsMax, LoadRetries: loadRetriesMax,
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
