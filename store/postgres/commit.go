package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// trimEvery is the number of transactions after which a committer deletes its old proofs.
// It needs only the proof of its last transaction.
const trimEvery = 1024

// A committer is the one connection of a log that writes. The goroutine that holds
// Log.writing owns it.
//
// A transaction is two round trips:
//
//	begin; take the lock; read what the batches need
//	write; leave a proof; commit
//
// While no other process commits, a transaction is one round trip, see [cache]:
//
//	begin; take the lock; validate the cache; write; leave a proof; commit
//
// The lock is an advisory lock of the log. Every transaction that writes takes it first.
// The server releases it at the end of the transaction, after the changes have become
// visible. The transactions of a log therefore run one after the other, each sees all
// earlier ones, and a reader sees events in the order of their positions; see
// docs/design/0010-postgres-order.md.
//
// The proof is a row that belongs to one writer only. If the connection is lost before
// the answer to the commit, or the server reports that it did not wait for a replica, a
// resolver finds out whether the transaction was committed, see [doubt].
type committer struct {
	session
	writer
	serial  int64 // serial of the last proof
	proofs  int   // number of proofs written since the last trim
	cache   cache
	readSet readSet // keys that the current transaction reads
}

// Commit implements [store.Log]. It waits for one transaction, and first for the running
// one if there is one. One transaction stores the groups of all callers that wait at the
// same time. The package comment describes the errors.
func (l *Log) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if l.readOnly {
		return nil, fmt.Errorf("commit to %s: %w: %w", l.name, store.ErrNotStored, storecore.ErrReadOnly)
	}
	if d := l.inDoubt(); d != nil { // before the queue, so that the caller's context can end the wait
		if err := l.ready(ctx); err != nil {
			if ctx.Err() != nil || !errors.Is(err, errInDoubt) {
				err = storecore.NotStored(err)
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
func (l *Log) commit(calls []*storecore.Call) {
	l.writing.Lock()
	defer l.writing.Unlock()
	calls = live(calls)
	if len(calls) == 0 {
		return
	}
	// The transaction serves all calls, so the context of one caller must not end it.
	ctx := context.WithoutCancel(calls[0].Ctx)
	returned := false
	defer func() {
		if !returned && l.committer.conn != nil && l.inDoubt() == nil { // transact panicked
			l.startResolver(ctx, errPanicked)
		}
	}()
	err := l.transact(ctx, calls)
	returned = true
	for _, c := range calls {
		c.Err = err
	}
}

// live returns the calls whose callers still wait.
func live(calls []*storecore.Call) []*storecore.Call {
	all := make([]*storecore.Call, 0, len(calls))
	for _, c := range calls {
		if err := c.Ctx.Err(); err != nil {
			c.Err = storecore.NotStored(err)
		} else {
			all = append(all, c)
		}
	}
	return all
}

// transact decides and stores the calls, and sets their results. If its error does not
// match [store.ErrNotStored], the outcome is unknown.
func (l *Log) transact(ctx context.Context, calls []*storecore.Call) error {
	n := l.readSet(calls)
	if !l.adoptResolver() {
		return errInDoubt
	}
	for try := 1; ; try++ {
		if err := l.usable(); err != nil {
			return storecore.NotStored(err)
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
		case try == triesMax || !retryable(err):
			return storecore.NotStored(err)
		}
		l.logger.WarnContext(ctx, "transaction is tried again", "log", l.name, "try", try, "error", err)
	}
}

// An outcome says whether a transaction was committed: no, yes, or unknown.
type outcome int

const (
	unknown outcome = iota
	no
	yes
)

// attempt runs one transaction. If it decided the calls from the cache and the cache was
// stale, it runs a second one. If it returns an error, the outcome is no or unknown.
func (l *Log) attempt(ctx context.Context, calls []*storecore.Call, n *readSet) (outcome, error) {
	w := &l.committer
	ctx, cancel := context.WithTimeout(ctx, l.testHooks.attemptMax)
	defer cancel()
	if w.conn == nil || w.conn.IsClosed() {
		conn, err := l.join(ctx, w.writer)
		if err != nil {
			return no, fmt.Errorf("connect: %w", err)
		}
		w.use(conn)
	}
	if w.isZero() && !n.checksOnly {
		a := l.watchdog(w.conn)
		writer, err := l.register(ctx, w.conn)
		if err = a.end(err); err != nil {
			closeNow(w.conn) // if the server stores the registration later, it does no harm
			return no, lost(err)
		}
		w.join(writer)
	}
	if !n.checksOnly {
		stored, done, err := l.commitSpeculation(ctx, calls, n)
		if done {
			return stored, err
		}
	}
	f := newReadValues(n)
	a := l.watchdog(w.conn)
	if err := a.end(l.readRows(ctx, w.conn, n, f)); err != nil {
		if errors.Is(err, errSessionMoved) {
			closeNow(w.conn) // the next attempt opens a new session
			return no, err
		}
		return no, w.abandon(ctx, err)
	}
	if l.testHooks.draw != nil {
		for _, p := range n.heads.all {
			f.heads[p] = l.testHooks.draw(n.events)
		}
	}
	p, _ := l.decide(f, calls, n, l.clock(f.clock), false)
	switch {
	case n.checksOnly:
		return yes, nil
	case p.empty():
		_ = w.abandon(ctx, nil) // the transaction has changed nothing, so a failed rollback is harmless
		return yes, nil
	}
	w.cache.compare(f)
	return l.store(ctx, &request{}, p, n)
}

// readSet returns the read set of the calls. It is valid until the next call of readSet.
func (l *Log) readSet(calls []*storecore.Call) *readSet {
	l.committer.cache.merge()
	n := &l.committer.readSet
	n.reset()
	for _, c := range calls {
		for i, b := range c.Group {
			if c.Refused(i) == nil {
				n.add(b, l.info.Partitions)
			}
		}
	}
	return n
}

// decide decides the calls on the values and sets their results. It reports whether the
// values made it refuse a batch.
func (l *Log) decide(f *readValues, calls []*storecore.Call, n *readSet, now time.Time, speculative bool) (p *writeSet, refused bool) {
	p = newWriteSet(f, l.info.Partitions, n.events, now)
	p.speculative = speculative
	for _, c := range calls {
		c.Reset()
		some, _ := storecore.Decide(p, c.Group, c.Results) // Apply of a write set has no error
		refused = refused || some
	}
	return p, refused
}

// begin returns the statements that a transaction begins with.
func (l *Log) begin() []statement {
	if l.testHooks.unlocked {
		return []statement{{sql: sqlBegin}, {sql: sqlHold}}
	}
	return []statement{{sql: sqlBegin}, {sql: sqlLockHeld, args: []any{l.lock, markOf(l.committer.conn)}}}
}

// store appends the statements of the write set to the request, sends it, and commits. If it
// returns an error, the outcome is no or unknown.
func (l *Log) store(ctx context.Context, m *request, p *writeSet, n *readSet) (outcome, error) {
	w := &l.committer
	stored, err := l.end(ctx, l.write(ctx, m, p))
	switch stored {
	case yes:
		l.acknowledge(p.now.UnixNano())
		w.cache.put(p, n, w.serial)
		l.announce(p)
	case no:
		p.undo()
	}
	return stored, err
}

// end returns the outcome of a transaction. The argument err is the answer to its last
// message, or nil. If end returns an error, the outcome is no or unknown.
func (l *Log) end(ctx context.Context, err error) (outcome, error) {
	w := &l.committer
	if err == nil {
		return yes, nil
	}
	if serverError(err) != nil || errors.Is(err, errUnsent) {
		err = w.abandon(ctx, err)
		if e := serverError(err); e != nil && e.Code == codeMissingState {
			closeNow(w.conn) // the next session prepares its statements again
		}
		return no, err
	}
	if l.testHooks.guessOutcome {
		closeNow(w.conn)
		return no, lost(err)
	}
	switch l.awaitOutcome(l.startResolver(ctx, err), l.testHooks.resolveMax) {
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

// readRows begins the transaction, takes the lock, and reads the values that the batches
// need. Batches that only check versions need no transaction, because one statement sees
// everything that is committed.
func (l *Log) readRows(ctx context.Context, conn *pgx.Conn, n *readSet, f *readValues) error {
	if n.checksOnly {
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
		if l.testHooks.unlocked {
			return row.Scan(&held)
		}
		if err := row.Scan(nil, &held); err != nil {
			return err
		}
		if held != "on" {
			return errSessionMoved
		}
		return nil
	})
	n.queue(b, l, f)
	return conn.SendBatch(ctx, b).Close()
}

// sqlBegin begins each transaction of a committer. It sets the modes explicitly, because
// the session may have other defaults.
const sqlBegin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"

// errUnsent says that the COMMIT was not sent, or that the server rolled back instead.
var errUnsent = errors.New("not sent")

// errPanicked says that a commit panicked instead of returning.
var errPanicked = errors.New("the commit has panicked")

// write appends the statements of the write set to the request, sends it, and commits.
func (l *Log) write(ctx context.Context, m *request, p *writeSet) error {
	w := &l.committer
	w.serial = max(w.serial+1, p.now.UnixNano()) // the serials of all writers follow the time
	p.queue(m, &l.statements)
	w.prove(m, &l.statements, p.now, l.testHooks.trimEvery)
	if l.testHooks.written != nil {
		if _, err := w.send(ctx, m, &l.statements); err != nil {
			return fmt.Errorf("%w: %w", errUnsent, err)
		}
		l.testHooks.written()
		m = &request{}
	}
	m.add("COMMIT")
	a := l.watchdog(w.conn)
	last, err := w.send(ctx, m, &l.statements)
	err = committed(last, w.warning, a.end(err))
	if err == nil && w.before.RowsAffected() == 0 { // no proof, so none of the other writes either
		err = errMoved
	}
	return err
}

// errMoved says that a transaction wrote nothing, because the log has changed since it was
// cached.
var errMoved = fmt.Errorf("%w: the log has moved on", errUnsent)

// prove adds the proof of a transaction to a request.
func (w *committer) prove(m *request, s *statements, now time.Time, trimEvery int) {
	if w.proofs++; w.proofs >= trimEvery {
		w.proofs = 0
		m.add(s.trim, w.id.String(), w.first, w.serial)
	}
	m.add(s.proof, w.id.String(), w.serial, now.UnixNano()) // must be the last statement before COMMIT
}

// committed returns the error of a message that ends with COMMIT, or nil. The server
// answers ROLLBACK if an earlier statement failed. It sends a warning if it committed
// without waiting for a replica, or if no transaction was open.
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

// abandon rolls back a transaction that must not be stored. It returns err, and marks it
// with [errLost] if the connection is gone.
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
		closeNow(w.conn) // the server rolls back when the session ends
	}
	return err
}

// clock returns the time of a commit: now, or a nanosecond after the last commit if that
// is later. No two commits have the same time.
func (l *Log) clock(last int64) time.Time {
	return time.Unix(0, max(l.now().UnixNano(), last+1)).UTC()
}
