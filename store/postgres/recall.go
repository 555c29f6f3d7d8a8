package postgres

import (
	"slices"

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

const (
	// aloneMin is how many transactions in a row must have found that nobody else
	// had committed in between, before one is sent that takes it for granted.
	aloneMin = 4
	// rememberedMax is how many entities are remembered at least, and half of how
	// many at most.
	rememberedMax = 16 << 10
)

// A recall is what a committer remembers of the log as its last transaction has
// left it. With it the next one is decided before it is sent, and is one round
// trip in place of two.
//
// What is remembered is never trusted: the transaction begins, under the lock,
// with a guard that fails it unless the last transaction of the log is the one
// that is remembered, and the entities that are not remembered are where their
// batches expect them. A transaction that fails so is decided anew on what is
// read. So is a group with a batch that would be refused: a refusal is always
// about what has been read.
//
// Every commit, and whatever else changes what is remembered here, moves the
// clock of the log forward under the lock; the guard compares it, and looks for
// the proof of the transaction, which a replica that has fallen behind and then
// taken over may not have.
type recall struct {
	known    bool
	clock    int64 // of the last transaction
	serial   int64 // of its proof
	heads    map[int]uint64
	drawn    bool // sequence is known
	sequence uint64
	entities storekit.Recent[entity]
	// What the last transaction has left, until it is in the fields above.
	left  *facts
	needs *needs
	// alone counts the transactions, up to min, that have found nobody else's
	// since the one before.
	alone int
	min   int // of alone, to decide ahead
}

// forget forgets all but that this process used to be alone.
func (r *recall) forget() {
	*r = recall{alone: r.alone, min: r.min, entities: storekit.Recent[entity]{Max: rememberedMax}}
}

// meet compares what a transaction has read with what is remembered.
func (r *recall) meet(f *facts) {
	if r.known && f.clock == r.clock {
		r.alone = min(r.alone+1, r.min)
		return
	}
	if r.known {
		r.alone = 0
	}
	r.forget()
}

// remember takes in what a transaction, which has been committed, has left. All but
// what the next one begins with waits for takeIn: callers have their answers first.
func (r *recall) remember(p *plan, n *needs, serial int64) {
	r.known, r.clock, r.serial = true, p.now.UnixNano(), serial
	r.left, r.needs = p.facts, n
	clear(n.first) // the batches are their callers' again
}

// takeIn takes in where the last transaction has left what it has written. It comes
// before the needs of another.
func (r *recall) takeIn() {
	f, n := r.left, r.needs
	if f == nil {
		return
	}
	r.left, r.needs = nil, nil
	if r.heads == nil {
		r.heads = make(map[int]uint64)
	}
	for _, partition := range n.heads.all {
		r.heads[partition] = f.heads[partition]
	}
	if n.sequences > 0 {
		r.drawn, r.sequence = true, f.sequence
	}
	for i, k := range n.entities.all {
		r.entities.Put(k, f.entities[i])
	}
}

// steady reports whether the next transaction may be decided ahead: the last ones
// have found nobody else's between them.
func (r *recall) steady() bool { return r.known && r.alone >= r.min }

// Guesses are where entities must be that are not remembered: each at a version by
// its events or at one by a saved state, and at 0 by the other.
type guesses struct {
	kinds, ids    []string
	events, saved []int64
}

// facts returns what the batches need, as far as it is remembered, and what the
// guard has to look at for the rest. It reports whether that is enough.
func (r *recall) facts(n *needs) (f *facts, g guesses, enough bool) {
	if !r.steady() || n.reading || n.sequences > 0 && !r.drawn {
		return nil, g, false
	}
	f = newFacts(n)
	f.clock, f.sequence = r.clock, r.sequence
	for _, partition := range n.heads.all {
		head, ok := r.heads[partition]
		if !ok {
			return nil, g, false
		}
		f.heads[partition] = head
	}
	for i, k := range n.entities.all {
		e, ok := r.entities.Get(k)
		if !ok {
			if e, ok = g.add(n.first[i]); !ok {
				return nil, g, false
			}
		}
		if n.snapshots[k] && !e.listed {
			return nil, g, false
		}
		e.snapshots = slices.Clip(e.snapshots) // what is appended belongs to the plan
		f.entities[i] = e
	}
	return f, g, true
}

// add takes for granted that an entity is where its first batch expects it. It
// reports false if the batch does not say what kind of entity it is.
func (g *guesses) add(b *store.Batch) (entity, bool) {
	e := entity{version: b.Expected, saved: b.Save != nil && b.Expected > 0, listed: b.Expected == 0}
	events, saved := int64(b.Expected), int64(0)
	switch {
	case b.Save != nil:
		events, saved = saved, events
	case len(b.Events) == 0:
		return e, false
	}
	g.kinds, g.ids = append(g.kinds, b.Key.Kind), append(g.ids, b.Key.ID)
	g.events, g.saved = append(g.events, events), append(g.saved, saved)
	return e, true
}

// The statements of the guard. Each divides by zero, which fails the
// transaction, if what is remembered or guessed does not hold.
const (
	sqlGuard = `SELECT 1 / (SELECT count(*) FROM S.clock c, S.commits p
		WHERE c.last_value = $1 AND p.writer = $2::uuid AND p.serial = $3)`

	sqlGuardEntities = `SELECT 1 / (count(*) = 0)::int
		FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS k (kind, id, events, saved)
		LEFT JOIN LATERAL (SELECT version FROM S.events v WHERE v.kind = k.kind AND v.id = k.id
			ORDER BY v.version DESC LIMIT 1) e ON true
		LEFT JOIN LATERAL (SELECT version FROM S.states t WHERE t.kind = k.kind AND t.id = k.id LIMIT 1) s ON true
		WHERE coalesce(e.version, 0) <> k.events OR coalesce(s.version, 0) <> k.saved`

	// sqlInside fails what is not inside of a transaction that has written.
	sqlInside = `SELECT $1::int / (pg_current_xact_id_if_assigned() IS NOT NULL)::int`

	sqlDrawn = `SELECT setval('S.message_sequence', $1)`
)
