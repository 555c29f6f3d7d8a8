package perdure

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/perdure/perdure/actor"
	"github.com/perdure/perdure/internal/core/entity"
	"github.com/perdure/perdure/store"
)

// shardCount is the number of maps that hold the entities of a kind, a power of two. With
// several maps, callers seldom wait for each other.
const shardCount = 64

// A registry holds the entities of one kind that are in memory.
type registry struct {
	engine         *Engine
	options        entity.Options
	passivateAfter time.Duration
	keepOrder      bool
	retain         uint64
	prune          bool
	notices        snapshotNotices
	seed           maphash.Seed
	shards         [shardCount]registryShard
}

type registryShard struct {
	mu          sync.RWMutex
	activations map[string]*activation
	_           [32]byte // keeps neighbouring shards in different cache lines
}

func newRegistry(e *Engine, c *compiler) *registry {
	k := &registry{
		engine: e, passivateAfter: c.passivateAfter, keepOrder: c.keepOrder, retain: c.retain, prune: c.prune, seed: maphash.MakeSeed(),
		options: entity.Options{Rules: &c.rules, Refusal: encodeRefusal, Performs: e.performs, StoreTime: e.storeTime, Elapsed: e.elapsed, Limits: entity.Limits{
			Calls: e.config.EntityCallsMax, InFlight: e.config.InFlightMax,
			Conflicts: e.config.ConflictsMax, LoadRetries: loadRetriesMax, Unknowns: unknownsMax,
		}},
	}
	k.options.Notice, k.options.Snapshot = k.unsnapped, e.snapshotHook()
	for i := range k.shards {
		k.shards[i].activations = make(map[string]*activation)
	}
	return k
}

func (k *registry) shard(id string) *registryShard {
	return &k.shards[maphash.String(k.seed, id)%shardCount]
}

// find returns the activation of an entity. If there is none, find makes one without its state.
func (k *registry) find(id string) (*activation, error) {
	s := k.shard(id)
	s.mu.RLock()
	c := s.activations[id]
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
	if c := s.activations[id]; c != nil {
		k.engine.entities.count.Add(-1)
		return c, nil
	}
	c = &activation{kind: k}
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
	s.activations[id] = c
	return c, nil
}

// forget removes an activation whose actor has stopped.
func (k *registry) forget(c *activation) {
	id := c.core.Key().ID
	s := k.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.activations[id] == c {
		delete(s.activations, id)
		k.engine.entities.count.Add(-1)
		k.engine.entities.weigh(-int64(c.weight.Load()))
	}
}

func (k *registry) count() int {
	n := 0
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.RLock()
		n += len(s.activations)
		s.mu.RUnlock()
	}
	return n
}
