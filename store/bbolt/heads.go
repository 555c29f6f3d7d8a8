package bbolt

import "github.com/perdure/perdure/store"

// A head is where an entity is.
type head struct {
	version store.Version
	saved   bool // by a saved state, not by events
}

// headsMax bounds each of the two generations of a headCache.
const headsMax = 32_768

// A headCache remembers the heads of the entities that were written last, so
// that an append to one of them searches no tree for its version. That is legal
// since the file is locked to one process and every commit passes here.
//
// It has two generations: what is written goes to the young one, and when that
// is full it becomes the old one and the old one is dropped. That is nearly as
// good as least recently used, without a list.
type headCache struct {
	young, old map[store.Key]head
}

func (c *headCache) get(key store.Key) (head, bool) {
	if h, ok := c.young[key]; ok {
		return h, true
	}
	h, ok := c.old[key]
	return h, ok
}

func (c *headCache) put(key store.Key, h head) {
	if _, ok := c.young[key]; !ok {
		if c.young == nil || len(c.young) >= headsMax {
			c.old, c.young = c.young, make(map[store.Key]head)
		}
		key = ownKey(key)
	}
	c.young[key] = h
}

// ownKey returns a copy of a key to keep: the caller's strings may be pieces of
// something big.
func ownKey(key store.Key) store.Key {
	s, n := key.Kind+key.ID, len(key.Kind)
	return store.Key{Kind: s[:n], ID: s[n:]}
}
