package postgres

import (
	"context"
	"errors"
	"slices"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

const (
	// aloneMin is the number of transactions in a row that must find no other
	// process's commit before them. Only then is a transaction decided from the cache.
	aloneMin = 4
	// rememberedMax bounds the cached entities. The cache keeps at least half of them.
	rememberedMax = 16 << 10
)

// A recall is a committer's cache of the log's state after its last transaction. With it the
// next transaction is decided before it is sent, and takes one round trip instead of two.
//
// The transaction validates the cache. Under the lock it begins with a guard. The guard stops
// all of its writes unless the last transaction of the log is the cached one, and the
// entities that are not cached have the versions that their batches expect. If the guard has
// stopped a transaction, the calls are decided again from a read. A group is also decided from
// a read if the cache would make it refuse a batch: a refusal is always based on a read.
//
// Every commit, and every other change of a cached value, moves the clock of the log forward
// under the lock. The guard compares the clock. It also looks for the proof of the cached
// transaction, because a replica that was behind and then took over may lack it.
type recall struct {
	known    bool
	clock    int64 // commit time of the last transaction
	serial   int64 // serial of the last transaction's proof
	heads    map[int]uint64
	drawn    bool // sequence is known
	sequence uint64
	entities storecore.Recent[entity]
	// left and needs describe the writes of the last transaction until takeIn merges them
	// into the fields above.
	left  *facts
	needs *needs
	// alone is the number of transactions in a row, up to min, that found no other
	// process's commit before them.
	alone int
	min   int // value of alone from which transactions are decided from the cache
}

// forget empties the cache, but keeps the number of transactions in a row without another.
func (r *recall) forget() {
	*r = recall{alone: r.alone, min: r.min, entities: storecore.Recent[entity]{Max: rememberedMax}}
}

// meet compares the facts that a transaction has read with the cache.
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

// remember stores the writes of a committed transaction. Merging them into the cache waits for
// takeIn, so that callers get their answers first.
func (r *recall) remember(p *plan, n *needs, serial int64) {
	r.known, r.clock, r.serial = true, p.now.UnixNano(), serial
	r.left, r.needs = p.facts, n
	clear(n.first) // the batches belong to their callers again
}

// takeIn merges the writes of the last transaction into the cache. It must run before the
// needs of the next transaction are collected, because they reuse the buffers.
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

// steady reports whether the next transaction may be decided from the cache: the last min
// transactions found no other process's commit between them.
func (r *recall) steady() bool { return r.known && r.alone >= r.min }

// guesses are the versions assumed for entities that are not cached. An entity has either
// events or a saved state; the other version must be 0.
type guesses struct {
	kinds, ids    []string
	events, saved []int64
}

// facts returns the cached values that the batches need, and guesses for entities that are not
// cached. It reports whether these are enough to decide the batches.
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
		e.snapshots = slices.Clip(e.snapshots) // the plan must not append to the cached slice
		f.entities[i] = e
	}
	return f, g, true
}

// add assumes that an entity has the version that its first batch expects. It returns false if
// the batch does not show whether the entity has events or a saved state.
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

// The statements of the guard. Each turns the setting of [sqlIfHeld] off if the cache or a
// guess is wrong. The transaction is then empty, and the server commits it without a sync. A
// commit by another process is therefore no error, and leaves no line in the server's log.
const (
	sqlGuard = `SELECT set_config('perdure.held', CASE WHEN EXISTS (SELECT FROM S.clock c, S.commits p
		WHERE c.last_value = $1 AND p.writer = $2::uuid AND p.serial = $3) THEN current_setting('perdure.held') ELSE 'off' END, true)`

	sqlGuardEntities = `SELECT set_config('perdure.held', CASE WHEN NOT EXISTS (
		SELECT FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS k (kind, id, events, saved)
		LEFT JOIN LATERAL (SELECT version FROM S.events v WHERE v.kind = k.kind AND v.id = k.id
			ORDER BY v.version DESC LIMIT 1) e ON true
		LEFT JOIN LATERAL (SELECT version FROM S.states t WHERE t.kind = k.kind AND t.id = k.id LIMIT 1) s ON true
		WHERE coalesce(e.version, 0) <> k.events OR coalesce(s.version, 0) <> k.saved
	) THEN current_setting('perdure.held') ELSE 'off' END, true)`

	sqlGuardReceipts = `SELECT set_config('perdure.held', CASE WHEN NOT EXISTS (
		SELECT FROM unnest($1::text[], $2::text[], $3::text[]) AS k (kind, id, name)
		JOIN S.receipts r ON r.kind = k.kind AND r.id = k.id AND r.name = k.name
	) THEN current_setting('perdure.held') ELSE 'off' END, true)`

	sqlDrawn = `SELECT CASE WHEN ` + sqlIfHeld + ` THEN setval('S.message_sequence', $1) END`
)

// A forecast is the plan of a group of calls decided from the cache instead of from a read. Its
// transaction validates the cache before it writes.
type forecast struct {
	guesses guesses
	plan    *plan
}

// foresee decides calls from the cache. It returns false if the cache does not hold enough, or
// if the plan would refuse a batch: a refusal must be based on a read.
func (l *Log) foresee(calls []*storecore.Call, n *needs) (*forecast, bool) {
	r := &l.committer.recall
	f, g, enough := r.facts(n)
	if !enough || l.tamper.draw != nil {
		return nil, false
	}
	p, refused := l.decide(f, calls, n, l.clock(r.clock), true)
	if refused {
		p.forget()
		return nil, false
	}
	return &forecast{g, p}, true
}

// guard adds the statements that stop the transaction's writes if the log has changed since it
// was cached, if an entity does not have its guessed version, or if a receipt to add exists.
func (l *Log) guard(m *message, x *forecast) {
	if l.tamper.unguarded {
		return
	}
	r := &l.committer.recall
	m.add(l.statements.guard, r.clock, l.committer.id.String(), r.serial)
	if g := &x.guesses; len(g.kinds) > 0 {
		m.add(l.statements.guardEntities, g.kinds, g.ids, g.events, g.saved)
	}
	var added columns
	for k, r := range x.plan.writes.receipts {
		if r != nil && !x.plan.forgotten[k] {
			added.add(nil, k.kind, k.id, k.name)
		}
	}
	added.queue(m, l.statements.guardReceipts, false)
}

// ahead runs a transaction that is decided from the cache. It returns done as false if the cache
// was not enough or was stale; the caller must then decide the calls from a read.
func (l *Log) ahead(ctx context.Context, calls []*storecore.Call, n *needs) (stored outcome, done bool, err error) {
	x, ok := l.foresee(calls, n)
	if !ok || x.plan.empty() {
		return no, false, nil
	}
	m := &message{before: l.begin()}
	l.guard(m, x)
	if n.sequences > 0 {
		m.add(l.statements.drawn, int64(x.plan.sequence))
	}
	stored, err = l.store(ctx, m, x.plan, n)
	e := refusal(err)
	held := stored != no || !errors.Is(err, errMoved) && (e == nil || e.Code != codeUnique)
	if l.tamper.ahead != nil {
		l.tamper.ahead(held)
	}
	return stored, held, err
}
