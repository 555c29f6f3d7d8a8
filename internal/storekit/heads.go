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

// headsMax bounds each of the two generations of a HeadCache that has no bound of
// its own.
const headsMax = 32_768

// A HeadCache remembers the heads of the entities that were written last, so
// that an append to one of them searches nothing for its version. That is legal
// where the store is locked to one process and every commit passes the cache.
//
// It has two generations: what is written goes to the young one, and when that
// is full it becomes the old one and the old one is dropped. That is nearly as
// good as least recently used, without a list. The zero HeadCache is ready; it
// is for one goroutine at a time.
type HeadCache struct {
	// Max bounds each of the two generations; zero means headsMax, 32,768.
	Max        int
	young, old map[store.Key]Head
}

// Get returns the head of an entity, if it is remembered.
func (c *HeadCache) Get(key store.Key) (Head, bool) {
	if h, ok := c.young[key]; ok {
		return h, true
	}
	h, ok := c.old[key]
	return h, ok
}

// Put remembers the head of an entity.
func (c *HeadCache) Put(key store.Key, h Head) {
	if _, ok := c.young[key]; !ok {
		if c.young == nil || len(c.young) >= cmp.Or(c.Max, headsMax) {
			c.old, c.young = c.young, make(map[store.Key]Head)
		}
		key = OwnKey(key)
	}
	c.young[key] = h
}

// OwnKey returns a copy of a key to keep: the caller's strings may be pieces of
// something big.
func OwnKey(key store.Key) store.Key {
	s, n := key.Kind+key.ID, len(key.Kind)
	return store.Key{Kind: s[:n], ID: s[n:]}
}
