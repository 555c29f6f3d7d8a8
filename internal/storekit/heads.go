package storekit

import (
	"cmp"

	"github.com/perdure/perdure/store"
)

// A Head is where an entity is.
type Head struct {
	Version store.Version
	Saved   bool // by a saved state, not by events
}

// A HeadCache remembers the heads of the entities that were written last, so
// that an append to one of them searches nothing for its version. That is legal
// where the store is locked to one process and every commit passes the cache.
type HeadCache = Recent[Head]

// recentMax bounds each of the two generations of a Recent that has no bound of
// its own.
const recentMax = 32_768

// A Recent remembers something of the entities that were written last.
//
// It has two generations: what is written goes to the young one, and when that
// is full it becomes the old one and the old one is dropped. That is nearly as
// good as least recently used, without a list. The zero Recent is ready; it is
// for one goroutine at a time.
type Recent[V any] struct {
	// Max bounds each of the two generations; zero means recentMax, 32,768.
	Max        int
	young, old map[store.Key]V
}

// Get returns what is remembered of an entity, if there is something.
func (c *Recent[V]) Get(key store.Key) (V, bool) {
	if v, ok := c.young[key]; ok {
		return v, true
	}
	v, ok := c.old[key]
	return v, ok
}

// Put remembers something of an entity.
func (c *Recent[V]) Put(key store.Key, v V) {
	if _, ok := c.young[key]; !ok {
		if c.young == nil || len(c.young) >= cmp.Or(c.Max, recentMax) {
			c.old, c.young = c.young, make(map[store.Key]V)
		}
		key = OwnKey(key)
	}
	c.young[key] = v
}

// OwnKey returns a copy of a key to keep: the caller's strings may be pieces of
// something big.
func OwnKey(key store.Key) store.Key {
	s, n := key.Kind+key.ID, len(key.Kind)
	return store.Key{Kind: s[:n], ID: s[n:]}
}
