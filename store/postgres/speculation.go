package postgres

import (
	"context"
	"errors"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// assumptions are the versions assumed for entities that are not cached. An entity has either
// events or a saved state; the other version must be 0.
type assumptions struct {
	kinds, ids    []string
	events, saved []int64
}

// add assumes that an entity has the version that its first batch expects. It returns false if
// the batch does not show whether the entity has events or a saved state.
func (g *assumptions) add(b *store.Batch) (entityHead, bool) {
	e := entityHead{version: b.Expected, saved: b.Save != nil && b.Expected > 0, listed: b.Expected == 0}
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

// The statements of the validation. Each turns the setting of [sqlIfHeld] off if the cache or an
// assumption is wrong. The transaction is then empty, and the server commits it without a sync. A
// commit by another process is therefore no error, and leaves no line in the server's log.
const (
	sqlValidate = `SELECT set_config('perdure.held', CASE WHEN EXISTS (SELECT FROM S.clock c, S.commits p
		WHERE c.last_value = $1 AND p.writer = $2::uuid AND p.serial = $3) THEN current_setting('perdure.held') ELSE 'off' END, true)`

	sqlValidateEntities = `SELECT set_config('perdure.held', CASE WHEN NOT EXISTS (
		SELECT FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS k (kind, id, events, saved)
		LEFT JOIN LATERAL (SELECT version FROM S.events v WHERE v.kind = k.kind AND v.id = k.id
			ORDER BY v.version DESC LIMIT 1) e ON true
		LEFT JOIN LATERAL (SELECT version FROM S.states t WHERE t.kind = k.kind AND t.id = k.id LIMIT 1) s ON true
		WHERE coalesce(e.version, 0) <> k.events OR coalesce(s.version, 0) <> k.saved
	) THEN current_setting('perdure.held') ELSE 'off' END, true)`

	sqlValidateReceipts = `SELECT set_config('perdure.held', CASE WHEN NOT EXISTS (
		SELECT FROM unnest($1::text[], $2::text[], $3::text[]) AS k (kind, id, name)
		JOIN S.receipts r ON r.kind = k.kind AND r.id = k.id AND r.name = k.name
	) THEN current_setting('perdure.held') ELSE 'off' END, true)`

	sqlDrawn = `SELECT CASE WHEN ` + sqlIfHeld + ` THEN setval('S.message_sequence', $1) END`
)

// A speculation is the write set of a group of calls that is decided from the cache instead of
// from a read. Its transaction validates the cache before it writes.
type speculation struct {
	assumptions assumptions
	writes      *writeSet
}

// speculate decides calls from the cache. It returns false if the cache does not hold enough, or
// if the write set would refuse a batch: a refusal must be based on a read.
func (l *Log) speculate(calls []*storecore.Call, n *readSet) (*speculation, bool) {
	c := &l.committer.cache
	f, assumed, enough := c.values(n)
	if !enough || l.testHooks.draw != nil {
		return nil, false
	}
	p, refused := l.decide(f, calls, n, l.clock(c.clock), true)
	if refused {
		p.undo()
		return nil, false
	}
	return &speculation{assumed, p}, true
}

// validate adds the statements that stop the transaction's writes if the log has changed since it
// was cached, if an entity does not have its assumed version, or if a receipt to add exists.
func (l *Log) validate(m *request, x *speculation) {
	if l.testHooks.unvalidated {
		return
	}
	c := &l.committer.cache
	m.add(l.statements.validate, c.clock, l.committer.id.String(), c.serial)
	if g := &x.assumptions; len(g.kinds) > 0 {
		m.add(l.statements.validateEntities, g.kinds, g.ids, g.events, g.saved)
	}
	var added columns
	for k, r := range x.writes.changed.receipts {
		if r != nil && !x.writes.forgotten[k] {
			added.add(nil, k.kind, k.id, k.name)
		}
	}
	added.queue(m, l.statements.validateReceipts, false)
}

// commitSpeculation runs a transaction that is decided from the cache. It returns done as false if
// the cache was not enough or was stale; the caller must then decide the calls from a read.
func (l *Log) commitSpeculation(ctx context.Context, calls []*storecore.Call, n *readSet) (stored outcome, done bool, err error) {
	x, ok := l.speculate(calls, n)
	if !ok || x.writes.empty() {
		return no, false, nil
	}
	m := &request{before: l.begin()}
	l.validate(m, x)
	if n.sequences > 0 {
		m.add(l.statements.drawn, int64(x.writes.sequence))
	}
	stored, err = l.store(ctx, m, x.writes, n)
	e := serverError(err)
	held := stored != no || !errors.Is(err, errMoved) && (e == nil || e.Code != codeUnique)
	if l.testHooks.speculated != nil {
		l.testHooks.speculated(held)
	}
	return stored, held, err
}
