package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

// trimEvery is after how many transactions a committer deletes the proofs of
// those before; it needs that of the last one only.
const trimEvery = 1024

// patience is how long a leader waits at most for each call that it expects. A
// transaction costs most of a millisecond however small it is, so that it is worth
// a tenth to have all of 64 callers in it.
const patience = 4 * time.Microsecond

// A committer is the one connection of a log that writes. Whoever holds
// Log.writing owns it.
//
// A transaction is two round trips:
//
//	begin; take the lock; read what the batches need
//	write; leave a proof; commit
//
// or, while no other process commits, one, see recall:
//
//	begin; take the lock; guard; write; leave a proof; commit
//
// The lock is an advisory one of the log, which every transaction that writes
// takes first and gives back by its end, after it has become visible. So they
// come one after the other, each sees all before it, and a reader sees events in
// the order of their positions; see docs/design/0010-postgres-order.md.
//
// The proof is a row that no other writer writes. If the connection is lost before
// the answer to the commit, or the server says that it has not waited for a replica,
// a resolver finds out what has become of the transaction, see doubt.
type committer struct {
	session
	writer
	serial int64 // of the last proof
	proofs int   // since those before were deleted
	recall recall
	needs  needs // of the transaction
}

// Commit implements [store.Log]. It waits for one transaction, and for the one
// before it if there is one; groups of callers that wait at the same time are
// stored by the same transaction. See the package about errors.
func (l *Log) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if l.readOnly {
		return nil, fmt.Errorf("commit to %s: %w: %w", l.name, store.ErrNotStored, errReadOnly)
	}
	if d := l.inDoubt(); d != nil { // a caller that waits for it can still leave
		if err := l.ready(ctx); err != nil {
			if ctx.Err() != nil || !errors.Is(err, errInDoubt) {
				err = storekit.NotStored(err)
			}
			return nil, fmt.Errorf("commit to %s: %w", l.name, err)
		}
	}
	results, err := l.queue.Commit(ctx, group, l.commit)
	if err != nil {
		return nil, fmt.Errorf("commit to %s: %w", l.name, err)
	}
	return results, nil
}

// commit commits the calls in one transaction, and sets their results.
func (l *Log) commit(calls []*storekit.Call) {
	l.writing.Lock()
	defer l.writing.Unlock()
	calls = live(calls)
	if len(calls) == 0 {
		return
	}
	// The transaction is everybody's: no caller's context ends it.
	ctx := context.WithoutCancel(calls[0].Ctx)
	returned := false
	defer func() {
		if !returned && l.committer.conn != nil && l.inDoubt() == nil { // but panicked
			l.dispute(ctx, errPanicked)
		}
	}()
	err := l.transact(ctx, calls)
	returned = true
	for _, c := range calls {
		c.Err = err
	}
}

// live returns the calls whose callers still wait.
func live(calls []*storekit.Call) []*storekit.Call {
	all := make([]*storekit.Call, 0, len(calls))
	for _, c := range calls {
		if err := c.Ctx.Err(); err != nil {
			c.Err = storekit.NotStored(err)
		} else {
			all = append(all, c)
		}
	}
	return all
}

// transact decides and stores the calls, and sets their results. Its error matches
// [store.ErrNotStored], or else the outcome is unknown.
func (l *Log) transact(ctx context.Context, calls []*storekit.Call) error {
	n := l.needs(calls)
	if !l.takeIn() {
		return errInDoubt
	}
	for try := 1; ; try++ {
		if err := l.usable(); err != nil {
			return storekit.NotStored(err)
		}
		stored, err := l.attempt(ctx, calls, n)
		switch {
		case err == nil:
			return nil
		case stored != no:
			return err
		}
		err = l.explained(l.blocked(ctx, err))
		switch {
		case try == triesMax || !passing(err):
			return storekit.NotStored(err)
		}
		l.logger.WarnContext(ctx, "transaction is tried again", "log", l.name, "try", try, "error", err)
	}
}

// An outcome is what is known about a transaction that has failed.
type outcome int

const (
	unknown outcome = iota
	no
	yes
)

// attempt runs one transaction, or two if the first was decided ahead and in
// vain. If it returns an error, the outcome is no or unknown.
func (l *Log) attempt(ctx context.Context, calls []*storekit.Call, n *needs) (outcome, error) {
	w := &l.committer
	ctx, cancel := context.WithTimeout(ctx, l.tamper.attemptMax)
	defer cancel()
	if w.conn == nil || w.conn.IsClosed() {
		conn, err := l.join(ctx, w.writer)
		if err != nil {
			return no, fmt.Errorf("connect: %w", err)
		}
		w.use(conn)
	}
	if w.isZero() && !n.check {
		a := l.attend(w.conn)
		writer, err := l.register(ctx, w.conn)
		if err = a.end(err); err != nil {
			hangUp(w.conn) // a registration that is stored later is no harm
			return no, lost(err)
		}
		w.join(writer)
	}
	if !n.check {
		stored, done, err := l.ahead(ctx, calls, n)
		if done {
			return stored, err
		}
	}
	f := newFacts(n)
	a := l.attend(w.conn)
	if err := a.end(l.readFacts(ctx, w.conn, n, f)); err != nil {
		if errors.Is(err, errStrayed) {
			hangUp(w.conn) // the next session is set up anew
			return no, err
		}
		return no, w.abandon(ctx, err)
	}
	if l.tamper.draw != nil {
		for _, p := range n.heads.all {
			f.heads[p] = l.tamper.draw(n.events)
		}
	}
	p, _ := l.decide(f, calls, n, l.clock(f.clock), false)
	switch {
	case n.check:
		return yes, nil
	case p.empty():
		_ = w.abandon(ctx, nil) // it has stored nothing whatever becomes of it
		return yes, nil
	}
	w.recall.meet(f)
	return l.store(ctx, &message{}, p, n)
}

// needs returns what the calls need to know, until the next calls.
func (l *Log) needs(calls []*storekit.Call) *needs {
	l.committer.recall.takeIn()
	n := &l.committer.needs
	n.reset()
	for _, c := range calls {
		for i, b := range c.Group {
			if c.Refused(i) == nil {
				n.batch(b, l.info.Partitions)
			}
		}
	}
	return n
}

// decide decides the calls on the facts, sets their results, and reports whether a
// batch is refused for what they are.
func (l *Log) decide(f *facts, calls []*storekit.Call, n *needs, now time.Time, ahead bool) (p *plan, refused bool) {
	p = newPlan(f, l.info.Partitions, n.events, now)
	p.unchecked, p.ahead = l.tamper.relaxed, ahead
	for _, c := range calls {
		refused = p.group(c) || refused
	}
	return p, refused
}

// begin returns the statements that a transaction begins with.
func (l *Log) begin() []statement {
	if l.tamper.unlocked {
		return []statement{{sql: sqlBegin}, {sql: sqlHold}}
	}
	return []statement{{sql: sqlBegin}, {sql: sqlLockHeld, args: []any{l.lock, markOf(l.committer.conn)}}}
}

// store writes the plan, behind what is in the message, and commits. If it returns
// an error, the outcome is no or unknown.
func (l *Log) store(ctx context.Context, m *message, p *plan, n *needs) (outcome, error) {
	w := &l.committer
	stored, err := l.end(ctx, l.write(ctx, m, p))
	switch stored {
	case yes:
		l.acknowledge(p.now.UnixNano())
		w.recall.remember(p, n, w.serial)
		l.announce(p)
	case no:
		p.forget()
	}
	return stored, err
}

// end returns the outcome of a transaction whose last message has been answered
// with the error, or nil. If it returns an error, the outcome is no or unknown.
func (l *Log) end(ctx context.Context, err error) (outcome, error) {
	w := &l.committer
	if err == nil {
		return yes, nil
	}
	if refusal(err) != nil || errors.Is(err, errUnsent) {
		err = w.abandon(ctx, err)
		if e := refusal(err); e != nil && e.Code == codeMissingState {
			hangUp(w.conn) // the next session prepares its statements anew
		}
		return no, err
	}
	if l.tamper.guess {
		hangUp(w.conn)
		return no, lost(err)
	}
	switch l.await(l.dispute(ctx, err), l.tamper.resolveMax) {
	case yes:
		return yes, nil
	case no:
		return no, lost(err)
	}
	if !errors.Is(err, errUnconfirmed) {
		err = lost(err)
	}
	return unknown, fmt.Errorf("outcome unknown: %w", err)
}

// readFacts begins the transaction, takes the lock, and reads what the batches
// need. Batches that only check versions need no transaction: one statement sees
// all that is committed.
func (l *Log) readFacts(ctx context.Context, conn *pgx.Conn, n *needs, f *facts) error {
	if n.check {
		if len(n.entities.all) == 0 {
			return nil
		}
		b := &pgx.Batch{}
		n.queueEntities(b, &l.statements, f)
		return conn.SendBatch(ctx, b).Close()
	}
	b := &pgx.Batch{}
	begin := l.begin()
	for _, s := range begin[:len(begin)-1] {
		b.Queue(s.sql, s.args...)
	}
	last := begin[len(begin)-1]
	b.Queue(last.sql, last.args...).QueryRow(func(row pgx.Row) error {
		held := ""
		if l.tamper.unlocked {
			return row.Scan(&held)
		}
		if err := row.Scan(nil, &held); err != nil {
			return err
		}
		if held != "on" {
			return errStrayed
		}
		return nil
	})
	n.queue(b, l, f)
	return conn.SendBatch(ctx, b).Close()
}

// sqlBegin begins each transaction of a committer, whatever the defaults of the
// session are.
const sqlBegin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"

// errUnsent says that the commit has not been sent.
var errUnsent = errors.New("not sent")

// errPanicked says that a commit has not returned.
var errPanicked = errors.New("the commit has panicked")

// write writes the plan, behind what is in the message, and commits.
func (l *Log) write(ctx context.Context, m *message, p *plan) error {
	w := &l.committer
	w.serial = max(w.serial+1, p.now.UnixNano()) // so proofs have an order over all writers
	p.queue(m, &l.statements)
	w.prove(m, &l.statements, p.now, l.tamper.trimEvery)
	if l.tamper.written != nil {
		if _, err := w.send(ctx, m, &l.statements); err != nil {
			return fmt.Errorf("%w: %w", errUnsent, err)
		}
		l.tamper.written()
		m = &message{}
	}
	m.add("COMMIT")
	a := l.attend(w.conn)
	last, err := w.send(ctx, m, &l.statements)
	err = committed(last, w.warning, a.end(err))
	if err == nil && w.before.RowsAffected() == 0 { // the proof was not written, nor all else
		err = errMoved
	}
	return err
}

// errMoved says that a transaction has written nothing because the log is not as it is
// remembered.
var errMoved = fmt.Errorf("%w: the log has moved on", errUnsent)

// prove adds the proof of a transaction to a message.
func (w *committer) prove(m *message, s *statements, now time.Time, trimEvery int) {
	if w.proofs++; w.proofs >= trimEvery {
		w.proofs = 0
		m.add(s.trim, w.id.String(), w.first, w.serial)
	}
	m.add(s.proof, w.id.String(), w.serial, now.UnixNano()) // the last before the commit
}

// committed returns the error of a message that ends with a commit: the server says
// ROLLBACK where a statement before has failed, and warns if it has committed and has
// not waited for a replica, or was not in a transaction.
func committed(last pgconn.CommandTag, warning *pgconn.Notice, err error) error {
	switch {
	case err != nil:
		return err
	case last.String() != "COMMIT":
		return fmt.Errorf("%w: the server has rolled back", errUnsent)
	case warning != nil:
		return fmt.Errorf("%w: %s (%s)", errUnconfirmed, warning.Message, warning.Code)
	}
	return nil
}

// abandon ends a transaction that must not be stored, and returns its error,
// marked if the connection is lost.
func (w *committer) abandon(ctx context.Context, err error) error {
	if w.conn.IsClosed() {
		return lost(err)
	}
	if w.conn.PgConn().TxStatus() == 'I' {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectMax)
	defer cancel()
	if _, rollback := w.conn.Exec(ctx, "ROLLBACK"); rollback != nil {
		hangUp(w.conn) // the server rolls back as well
	}
	return err
}

// clock returns the time of a commit: now, or a nanosecond after the last commit
// if that is later. So it tells commits apart.
func (l *Log) clock(last int64) time.Time {
	return time.Unix(0, max(l.now().UnixNano(), last+1)).UTC()
}
