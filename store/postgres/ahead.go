package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/internal/storekit"
)

// earlyCalls is from how many calls on that are expected a transaction begins
// before they are there. It is one more message for the server.
const earlyCalls = scriptEventsMin

// wholeMax is for how many transactions none begins early, after one could not be
// decided ahead.
const wholeMax = 64

// A forecast is what calls come to if the log is as it is remembered.
type forecast struct {
	needs   *needs
	guesses guesses
	plan    *plan
}

// foresee decides calls on what is remembered. It reports false if that is not
// enough, or refuses a batch: a refusal is decided on what is read.
func (l *Log) foresee(calls []*storekit.Call, n *needs, now time.Time) (*forecast, bool) {
	f, g, enough := l.committer.recall.facts(n)
	if !enough || l.tamper.draw != nil {
		return nil, false
	}
	p, refused := l.decide(f, calls, n, now, true)
	if refused {
		p.forget()
		return nil, false
	}
	return &forecast{n, g, p}, true
}

// guard adds to a message what fails it unless the log is as it is remembered.
func (l *Log) guard(m *message) {
	if r := &l.committer.recall; !l.tamper.unguarded {
		m.add(l.statements.guard, r.clock, l.committer.id.String(), r.serial)
	}
}

// preface adds to a message what comes before the rows of a forecast.
func (x *forecast) preface(m *message, l *Log) {
	if g := &x.guesses; len(g.kinds) > 0 && !l.tamper.unguarded {
		m.add(l.statements.guardEntities, g.kinds, g.ids, g.events, g.saved)
	}
	if x.needs.sequences > 0 {
		m.add(l.statements.drawn, int64(x.plan.sequence))
	}
}

// ahead runs a transaction that is decided on what is remembered. It is not done
// if that is not enough to decide on, or does not hold.
func (l *Log) ahead(ctx context.Context, calls []*storekit.Call, n *needs) (stored outcome, done bool, err error) {
	x, ok := l.foresee(calls, n, l.clock(l.committer.recall.clock))
	if !ok || x.plan.empty() {
		return no, false, nil
	}
	m := &message{before: l.begin()}
	l.guard(m)
	x.preface(m, l)
	stored, err = l.store(ctx, m, x.plan, n)
	return stored, l.held(stored, err), err
}

// held reports whether what a transaction was decided on still held, so that its
// outcome is that of its calls.
func (l *Log) held(stored outcome, err error) bool {
	e := refusal(err)
	held := stored != no || e == nil || e.Code != codeDivision && e.Code != codeUnique
	if l.tamper.ahead != nil {
		l.tamper.ahead(held)
	}
	return held
}

// early runs a transaction that is decided ahead, and begins before its calls are
// there: the server does what does not depend on them while they come and are
// decided on. It is two scripts, of which the second is sent before the first is
// answered:
//
//	begin; take the lock; guard; leave a proof
//	see that this is inside of that transaction; write; commit
//
// It returns the calls that are still to be committed, with those that the queue
// has had beside them.
func (l *Log) early(calls []*storekit.Call) (rest []*storekit.Call) {
	w := &l.committer
	if w.whole > 0 {
		w.whole--
		return calls
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(calls[0].Ctx), attemptMax)
	defer cancel()
	now := l.clock(w.recall.clock)
	if !l.embark(ctx, now) {
		return calls
	}
	answered := false
	defer func() {
		if !answered { // but panicked
			hangUp(w.conn)
		}
	}()
	if l.tamper.begun != nil {
		l.tamper.begun()
	}
	calls = live(slices.Concat(calls, l.queue.More()))
	x, script := l.closing(calls, now)
	if script == nil {
		w.whole = wholeMax
		done, _, err := w.answers(1)
		answered = true
		l.turnBack(ctx, done, now, err)
		return calls
	}
	err := w.write(ctx, script)
	done := 0
	if err == nil {
		var last pgconn.CommandTag
		done, last, err = w.answers(2)
		err = committed(last, err)
	}
	answered = true
	stored, err := l.end(ctx, err)
	l.held(stored, err)
	switch stored {
	case yes:
		w.recall.remember(x.plan, x.needs, w.serial)
		l.announce(x.plan)
		settle(calls, nil)
		return nil
	case no:
		x.plan.forget()
		w.moved(done, now)
		return calls
	}
	w.recall.forget()
	settle(calls, err)
	return nil
}

// embark sends the first script of a transaction, and reports false if it cannot.
func (l *Log) embark(ctx context.Context, now time.Time) bool {
	w, s := &l.committer, &l.statements
	if !w.recall.steady() || w.conn == nil || w.conn.IsClosed() || l.usable() != nil || l.tamper.written != nil {
		return false
	}
	if !w.ready {
		if w.prepare(ctx, s.early()) != nil {
			return false
		}
		w.ready = true
	}
	m := &message{before: l.begin()}
	if l.tamper.lame {
		m.before = slices.Insert(m.before, 0, statement{sql: "SELECT 1 / 0"})
	}
	l.guard(m)
	w.serial++
	w.prove(m, s, now)
	script, ok := m.append(w.room[:0], s, w.names)
	if ok && w.write(ctx, script) != nil {
		hangUp(w.conn) // what has arrived is rolled back
		ok = false
	}
	return ok
}

// closing decides calls ahead and returns the second script of their transaction,
// or nil if it cannot be.
func (l *Log) closing(calls []*storekit.Call, now time.Time) (x *forecast, script []byte) {
	w := &l.committer
	x, ok := l.foresee(calls, l.needs(calls), now)
	if !ok {
		return nil, nil
	}
	m := &message{}
	if !l.tamper.unchained {
		m.add(l.statements.inside, int64(1))
	}
	x.preface(m, l)
	x.plan.queue(m, &l.statements)
	m.add("COMMIT")
	if !x.plan.empty() && m.bytes <= scriptBytesMax {
		if script, ok := m.append(w.room[:0], &l.statements, w.names); ok {
			return x, script
		}
	}
	x.plan.forget()
	return nil, nil
}

// turnBack ends a transaction of which only the first script has been sent.
func (l *Log) turnBack(ctx context.Context, done int, now time.Time, err error) {
	w := &l.committer
	if err != nil && refusal(err) == nil {
		hangUp(w.conn)
		return
	}
	_ = w.abandon(ctx, err)
	w.moved(done, now)
}

// moved takes in that the first script of a transaction, if it was done, has moved
// the clock, which nothing takes back. All else is as it was.
func (w *committer) moved(done int, now time.Time) {
	if done > 0 {
		w.recall.clock = now.UnixNano()
	}
}
