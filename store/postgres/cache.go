package postgres

import (
	"slices"

	"github.com/perdure/perdure/internal/storecore"
)

const (
	// soloCommitsMin is the number of transactions in a row that must find no other
	// process's commit before them. Only then is a transaction decided from the cache.
	soloCommitsMin = 4
	// cachedEntitiesMax bounds the cached entities. The cache keeps at least half of them.
	cachedEntitiesMax = 16 << 10
)

// A cache is a committer's cache of the log's state after its last transaction. With it the
// next transaction is decided before it is sent, and takes one round trip instead of two.
//
// The transaction validates the cache: its first statements under the lock stop all of its
// writes unless the last transaction of the log is the cached one, and the
// entities that are not cached have the versions that their batches expect. If the validation
// fails, the calls are decided again from a read. A group is also decided from
// a read if the cache would make it refuse a batch: a refusal is always based on a read.
//
// Every commit, and every other change of a cached value, moves the clock of the log forward
// under the lock. The validation compares the clock. It also looks for the proof of the cached
// transaction, because a replica that was behind and then took over may lack it.
type cache struct {
	known    bool
	clock    int64 // commit time of the last transaction
	serial   int64 // serial of the last transaction's proof
	heads    map[int]uint64
	drawn    bool // sequence is known
	sequence uint64
	entities storecore.Recent[entityHead]
	// putValues and putKeys describe the writes of the last transaction until merge adds
	// them to the fields above.
	putValues *readValues
	putKeys   *readSet
	// soloCommits is the number of transactions in a row, up to soloCommitsMin, that found no other
	// process's commit before them.
	soloCommits    int
	soloCommitsMin int // value of soloCommits from which transactions are decided from the cache
}

// forget empties the cache, but keeps the number of transactions in a row without another.
func (c *cache) forget() {
	*c = cache{soloCommits: c.soloCommits, soloCommitsMin: c.soloCommitsMin, entities: storecore.Recent[entityHead]{Max: cachedEntitiesMax}}
}

// compare compares the values that a transaction has read with the cache, and empties the
// cache if another process has committed.
func (c *cache) compare(f *readValues) {
	if c.known && f.clock == c.clock {
		c.soloCommits = min(c.soloCommits+1, c.soloCommitsMin)
		return
	}
	if c.known {
		c.soloCommits = 0
	}
	c.forget()
}

// put stores the writes of a committed transaction. Merging them into the cache waits for
// merge, so that callers get their answers first.
func (c *cache) put(p *writeSet, n *readSet, serial int64) {
	c.known, c.clock, c.serial = true, p.now.UnixNano(), serial
	c.putValues, c.putKeys = p.readValues, n
	clear(n.firstBatch) // the batches belong to their callers again
}

// merge adds the writes of the last transaction to the cache. It must run before the
// read set of the next transaction is collected, because it reuses the buffers.
func (c *cache) merge() {
	f, n := c.putValues, c.putKeys
	if f == nil {
		return
	}
	c.putValues, c.putKeys = nil, nil
	if c.heads == nil {
		c.heads = make(map[int]uint64)
	}
	for _, partition := range n.heads.all {
		c.heads[partition] = f.heads[partition]
	}
	if n.sequences > 0 {
		c.drawn, c.sequence = true, f.sequence
	}
	for i, k := range n.entities.all {
		c.entities.Put(k, f.entities[i])
	}
}

// exclusive reports whether only this process has written for some time: the last soloCommitsMin
// transactions found no other process's commit before them.
func (c *cache) exclusive() bool { return c.known && c.soloCommits >= c.soloCommitsMin }

// values returns the cached values that the batches need, and assumptions for entities that are not
// cached. It reports whether these are enough to decide the batches.
func (c *cache) values(n *readSet) (f *readValues, g assumptions, enough bool) {
	if !c.exclusive() || n.mustRead || n.sequences > 0 && !c.drawn {
		return nil, g, false
	}
	f = newReadValues(n)
	f.clock, f.sequence = c.clock, c.sequence
	for _, partition := range n.heads.all {
		head, ok := c.heads[partition]
		if !ok {
			return nil, g, false
		}
		f.heads[partition] = head
	}
	for i, k := range n.entities.all {
		e, ok := c.entities.Get(k)
		if !ok {
			if e, ok = g.add(n.firstBatch[i]); !ok {
				return nil, g, false
			}
		}
		if n.snapshots[k] && !e.listed {
			return nil, g, false
		}
		e.snapshots = slices.Clip(e.snapshots) // the write set must not append to the cached slice
		f.entities[i] = e
	}
	return f, g, true
}
