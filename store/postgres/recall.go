package postgres

import (
	"context"
	"errors"
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
// with a guard that has it write nothing unless the last transaction of the log is
// the one that is remembered, and the entities that are not remembered are where their
// batches expect them. A transaction that has written nothing is decided anew on what is
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

// The statements of the guard. Each turns off what the transaction writes by, see
// sqlIfHeld, if what is remembered or guessed does not hold. The transaction is then an
// empty one, which the server commits without a sync: that another process has committed
// is no error, and leaves no line in the server's log.
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

// A forecast is what calls come to if the log is as it is remembered.
type forecast struct {
	guesses guesses
	plan    *plan
}

// foresee decides calls on what is remembered. It reports false if that is not
// enough, or refuses a batch: a refusal is decided on what is read.
func (l *Log) foresee(calls []*storekit.Call, n *needs) (*forecast, bool) {
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

// guard adds to a message what has it write nothing unless the log is as it is
// remembered, the entities that are guessed are where they are guessed to be, and the
// receipts that it adds are not there.
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

// ahead runs a transaction that is decided on what is remembered. It is not done
// if that is not enough to decide on, or does not hold.
func (l *Log) ahead(ctx context.Context, calls []*storekit.Call, n *needs) (stored outcome, done bool, err error) {
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
