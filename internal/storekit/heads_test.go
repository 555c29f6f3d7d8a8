package storekit_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

// A headCache is the cache, or a mutant of it, as the checks below use it.
type headCache interface {
	Get(key store.Key) (storekit.Head, bool)
	Put(key store.Key, h storekit.Head)
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
	const entities, writes = 2 * storekit.RecentMax, 3 * storekit.RecentMax
	truth := make(map[store.Key]storekit.Head)
	hits := 0
	for i := range writes {
		key := bookKey(random.IntN(entities))
		if got, ok := c.Get(key); ok {
			hits++
			if got != truth[key] {
				return fmt.Errorf("write %d: head of %v is %+v, want %+v", i, key, got, truth[key])
			}
		}
		h := storekit.Head{Version: store.Version(i + 1), Saved: i%2 == 0}
		c.Put(key, h)
		truth[key] = h
	}
	if hits == 0 {
		return fmt.Errorf("nothing of %d writes was remembered", writes)
	}
	for i := range storekit.RecentMax {
		c.Put(bookKey(-i), storekit.Head{Version: 7})
	}
	for i := range storekit.RecentMax {
		if h, ok := c.Get(bookKey(-i)); !ok || h.Version != 7 {
			return fmt.Errorf("head of %v, one of the last %d, is %+v, %t", bookKey(-i), storekit.RecentMax, h, ok)
		}
	}
	remembered := 0
	for key := range truth {
		if _, ok := c.Get(key); ok {
			remembered++
		}
	}
	if remembered > storekit.RecentMax+1 { // the young generation holds only other entities
		return fmt.Errorf("%d earlier entities are remembered, want at most %d", remembered, storekit.RecentMax)
	}
	return nil
}

// Mutants of the cache.
type (
	// boundless never forgets.
	boundless map[store.Key]storekit.Head
	// stale looks into the old generation first.
	stale struct{ young, old map[store.Key]storekit.Head }
	// hasty has one generation and forgets it all at once.
	hasty map[store.Key]storekit.Head
)

func (c boundless) Get(key store.Key) (storekit.Head, bool) { h, ok := c[key]; return h, ok }
func (c boundless) Put(key store.Key, h storekit.Head)      { c[key] = h }

func (c *stale) Get(key store.Key) (storekit.Head, bool) {
	if h, ok := c.old[key]; ok {
		return h, ok
	}
	h, ok := c.young[key]
	return h, ok
}

func (c *stale) Put(key store.Key, h storekit.Head) {
	if c.young == nil || len(c.young) >= storekit.RecentMax {
		c.old, c.young = c.young, make(map[store.Key]storekit.Head)
	}
	c.young[key] = h
}

func (c hasty) Get(key store.Key) (storekit.Head, bool) { h, ok := c[key]; return h, ok }

func (c hasty) Put(key store.Key, h storekit.Head) {
	if len(c) >= storekit.RecentMax {
		clear(c)
	}
	c[key] = h
}

func TestACacheOfHeadsForgetsButNeverLies(t *testing.T) {
	t.Parallel()
	if err := checkHeads(new(storekit.HeadCache)); err != nil {
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

func TestAKeyToKeepSharesNothingWithTheCallers(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("book/emma", 1000)
	key := store.Key{Kind: big[:4], ID: big[5:9]}
	own := storekit.OwnKey(key)
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
