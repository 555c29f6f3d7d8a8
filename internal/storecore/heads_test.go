package storecore_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// A headCache is the cache, or a mutant of it, as the checks below use it.
type headCache interface {
	Get(key store.Key) (storecore.Head, bool)
	Put(key store.Key, h storecore.Head)
}

func bookKey(i int) store.Key { return store.Key{Kind: "book", ID: fmt.Sprint(i)} }

// checkHeads writes entities at random and returns the first error of the cache. It may
// forget entities, but a remembered head is the last one written, and the entities written
// last are remembered.
func checkHeads(c headCache) error {
	if h, ok := c.Get(bookKey(0)); ok {
		return fmt.Errorf("an empty cache says %+v", h)
	}
	random := rand.New(rand.NewPCG(1, 0))
	const entities, writes = 2 * storecore.RecentMax, 3 * storecore.RecentMax
	truth := make(map[store.Key]storecore.Head)
	hits := 0
	for i := range writes {
		key := bookKey(random.IntN(entities))
		if got, ok := c.Get(key); ok {
			hits++
			if got != truth[key] {
				return fmt.Errorf("write %d: head of %v is %+v, want %+v", i, key, got, truth[key])
			}
		}
		h := storecore.Head{Version: store.Version(i + 1), Saved: i%2 == 0}
		c.Put(key, h)
		truth[key] = h
	}
	if hits == 0 {
		return fmt.Errorf("nothing of %d writes was remembered", writes)
	}
	for i := range storecore.RecentMax {
		c.Put(bookKey(-i), storecore.Head{Version: 7})
	}
	for i := range storecore.RecentMax {
		if h, ok := c.Get(bookKey(-i)); !ok || h.Version != 7 {
			return fmt.Errorf("head of %v, one of the last %d, is %+v, %t", bookKey(-i), storecore.RecentMax, h, ok)
		}
	}
	remembered := 0
	for key := range truth {
		if _, ok := c.Get(key); ok {
			remembered++
		}
	}
	if remembered > storecore.RecentMax+1 { // the young generation holds only other entities
		return fmt.Errorf("%d earlier entities are remembered, want at most %d", remembered, storecore.RecentMax)
	}
	return nil
}

// Mutants of the cache.
type (
	// boundless never forgets.
	boundless map[store.Key]storecore.Head
	// stale looks into the old generation first.
	stale struct{ young, old map[store.Key]storecore.Head }
	// hasty has one generation and forgets it all at once.
	hasty map[store.Key]storecore.Head
)

func (c boundless) Get(key store.Key) (storecore.Head, bool) { h, ok := c[key]; return h, ok }
func (c boundless) Put(key store.Key, h storecore.Head)      { c[key] = h }

func (c *stale) Get(key store.Key) (storecore.Head, bool) {
	if h, ok := c.old[key]; ok {
		return h, ok
	}
	h, ok := c.young[key]
	return h, ok
}

func (c *stale) Put(key store.Key, h storecore.Head) {
	if c.young == nil || len(c.young) >= storecore.RecentMax {
		c.old, c.young = c.young, make(map[store.Key]storecore.Head)
	}
	c.young[key] = h
}

func (c hasty) Get(key store.Key) (storecore.Head, bool) { h, ok := c[key]; return h, ok }

func (c hasty) Put(key store.Key, h storecore.Head) {
	if len(c) >= storecore.RecentMax {
		clear(c)
	}
	c[key] = h
}

func TestHeadCacheForgetsAndNeverLies(t *testing.T) {
	t.Parallel()
	if err := checkHeads(new(storecore.HeadCache)); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		cache headCache
		want  string
	}{
		"never forgets":                     {boundless{}, "are remembered, want at most"},
		"looks into the old heads first":    {new(stale), "want {Version"},
		"forgets all heads when it is full": {hasty{}, "one of the last"},
	} {
		if err := checkHeads(c.cache); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("a cache that %s: %v; want an error with %q", name, err, c.want)
		}
	}
}

func TestOwnKeySharesNothingWithTheCaller(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("book/emma", 1000)
	key := store.Key{Kind: big[:4], ID: big[5:9]}
	own := storecore.OwnKey(key)
	if own != key {
		t.Errorf("own key is %v, want %v", own, key)
	}
	for _, s := range []string{own.Kind, own.ID} {
		at, from := uintptr(unsafe.Pointer(unsafe.StringData(s))), uintptr(unsafe.Pointer(unsafe.StringData(big)))
		if at >= from && at < from+uintptr(len(big)) {
			t.Errorf("%q is a piece of the caller's string", s)
		}
	}
}
