package storecore

import (
	"cmp"

	"github.com/perdure/perdure/store"
)

// A Head is the version of an entity and how it is stored.
type Head struct {
	Version store.Version
	Saved   bool // the entity has a saved state, not events
}

// A HeadCache remembers the heads of the entities written last, so that an append to one of
// them need not search for its version. This is allowed if the store is locked to one
// process and every commit goes through the cache.
type HeadCache = Recent[Head]

// recentMax bounds each of the two generations of a Recent whose Max is zero.
const recentMax = 32_768

// A Recent remembers a value for each of the entities that were written last.
//
// It has two generations. New entries go to the young one. When that is full, it becomes
// the old one and the old one is dropped. That is nearly as good as least recently used,
// without a list. The zero Recent is ready to use; it is for one goroutine at a time.
type Recent[V any] struct {
	// Max bounds each of the two generations; zero means recentMax, 32,768.
	Max        int
	young, old map[store.Key]V
}

// Get returns the value for an entity, if it is remembered.
func (c *Recent[V]) Get(key store.Key) (V, bool) {
	if v, ok := c.young[key]; ok {
		return v, true
	}
	v, ok := c.old[key]
	return v, ok
}

// Put remembers a value for an entity.
func (c *Recent[V]) Put(key store.Key, v V) {
	if _, ok := c.young[key]; !ok {
		if c.young == nil || len(c.young) >= cmp.Or(c.Max, recentMax) {
			c.old, c.young = c.young, make(map[store.Key]V)
		}
		key = OwnKey(key)
	}
	c.young[key] = v
}

// OwnKey returns a copy of a key that is safe to keep: the caller's strings may be parts of
// a large buffer.
func OwnKey(key store.Key) store.Key {
	s, n := key.Kind+key.ID, len(key.Kind)
	return store.Key{Kind: s[:n], ID: s[n:]}
}
