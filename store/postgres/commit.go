package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/store"
)

// trimEvery is after how many transactions a committer deletes the proofs of
// those before; it needs that of the last one only.
const trimEvery = 1024

// A committer is the one connection of a log that writes. Whoever holds
// Log.writing owns it.
//
// A transaction is two round trips:
//
//	begin; take the lock; read what the batches need
//	write; leave a proof; commit
//
// The lock is an advisory one of the log, which every transaction that writes
// takes first and gives back by its end, after it has become visible. So they
// come one after the other, each sees all before it, and a reader sees events in
// the order of their positions; see docs/design/0010-postgres-order.md.
//
// The proof is a row that nobody else writes. If the connection is lost before
// the answer to the commit, the committer takes the lock on a new connection,
// and so waits until the old transaction has ended, and looks for the row.
type committer struct {
	conn   *pgx.Conn
	id     store.ID
	serial int64 // of the last proof
}

// commit commits the calls in one transaction and sets their results.
func (l *Log) commit(calls []*call) {
	l.writing.Lock()
	defer l.writing.Unlock()
	var live []*call
	for _, c := range calls {
		if err := c.ctx.Err(); err != nil {
			c.err = notStored(err)
		} else {
			live = append(live, c)
		}
	}
	if len(live) == 0 {
		return
	}
	// From here on no caller's context matters: the transaction is everybody's.
	ctx := context.WithoutCancel(live[0].ctx)
	err := l.transact(ctx, live)
	for _, c := range live {
		if c.err = err; err != nil {
			c.results = nil
		}
	}
}

// transact decides and stores the calls. Its error matches [store.ErrNotStored],
// or else the outcome is unknown.
func (l *Log) transact(ctx context.Context, calls []*call) error {
	var n needs
	check := true
	for _, c := range calls {
		for i, b := range c.group {
			if c.invalid == nil || c.invalid[i] == nil {
				n.batch(b, l.info.Partitions)
				check = check && b.IsCheck()
			}
		}
	}
	for try := 1; ; try++ {
		if err := l.usable(); err != nil {
			return notStored(err)
		}
		stored, err := l.attempt(ctx, calls, &n, check)
		switch {
		case err == nil:
			return nil
		case stored != no:
			return err
		case try == triesMax || !passing(err):
			return notStored(err)
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

// attempt runs one transaction. If it returns an error, the outcome is no or unknown.
func (l *Log) attempt(ctx context.Context, calls []*call, n *needs, check bool) (outcome, error) {
	w := &l.committer
	ctx, cancel := context.WithTimeout(ctx, attemptMax)
	defer cancel()
	if w.conn == nil || w.conn.IsClosed() {
		conn, err := l.connect(ctx)
		if err != nil {
			return no, fmt.Errorf("connect: %w", err)
		}
		w.conn = conn
	}
	f := newFacts()
	if err := l.readFacts(ctx, w.conn, n, f, check); err != nil {
		return no, w.abandon(ctx, err)
	}
	if l.tamper.draw != nil {
		for _, p := range n.heads.all {
			f.heads[p] = l.tamper.draw(n.events)
		}
	}
	p := newPlan(f, l.info.Partitions, l.clock(f.clock))
	p.unchecked = l.tamper.relaxed
	for _, c := range calls {
		c.results = p.group(c.group, c.invalid)
	}
	if p.empty() {
		if check {
			return yes, nil
		}
		_ = w.abandon(ctx, nil) // it has stored nothing whatever becomes of it
		return yes, nil
	}
	err := l.write(ctx, p)
	if err == nil {
		l.announce(p)
		return yes, nil
	}
	stored := no
	if refusal(err) == nil && !errors.Is(err, errUnsent) {
		stored, err = l.resolve(context.WithoutCancel(ctx), err), lost(err)
	} else {
		err = w.abandon(ctx, err)
	}
	switch stored {
	case yes:
		l.announce(p)
		return yes, nil
	case no:
		p.forget()
		return no, err
	}
	return unknown, fmt.Errorf("outcome unknown: %w", err)
}

// readFacts begins the transaction, takes the lock, and reads what the batches
// need. Batches that only check versions need no transaction: one statement sees
// all that is committed.
func (l *Log) readFacts(ctx context.Context, conn *pgx.Conn, n *needs, f *facts, check bool) error {
	b := &pgx.Batch{}
	if check {
		if len(n.entities.all) == 0 {
			return nil
		}
		n.queueEntities(b, &l.statements, f)
		return conn.SendBatch(ctx, b).Close()
	}
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
	if !l.tamper.unlocked {
		b.Queue(sqlLock, l.lock)
	}
	n.queue(b, &l.statements, f)
	return conn.SendBatch(ctx, b).Close()
}

// errUnsent says that the commit has not been sent.
var errUnsent = errors.New("not sent")

// write writes the plan and commits.
func (l *Log) write(ctx context.Context, p *plan) error {
	w := &l.committer
	w.serial++
	b := &pgx.Batch{}
	p.queue(b, &l.statements)
	b.Queue(l.statements.proof, w.id.String(), w.serial, p.now.UnixNano())
	if w.serial%trimEvery == 0 {
		b.Queue(l.statements.trim, w.id.String(), w.serial)
	}
	if l.tamper.written != nil {
		if err := w.conn.SendBatch(ctx, b).Close(); err != nil {
			return fmt.Errorf("%w: %w", errUnsent, err)
		}
		l.tamper.written()
		b = &pgx.Batch{}
	}
	committed := false
	b.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		committed = tag.String() == "COMMIT"
		return nil
	})
	err := w.conn.SendBatch(ctx, b).Close()
	if err == nil && !committed {
		// The server says ROLLBACK where a statement before has failed.
		return fmt.Errorf("%w: the server has rolled back", errUnsent)
	}
	return err
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

// resolve finds out whether the transaction with the last proof is stored, after
// its connection has been lost: it waits until that transaction has ended, and
// looks for its proof. It gives up after [resolveMax].
func (l *Log) resolve(ctx context.Context, why error) outcome {
	w := &l.committer
	pid := w.conn.PgConn().PID()
	hangUp(w.conn)
	if l.tamper.guess {
		return no
	}
	l.logger.WarnContext(ctx, "connection lost in a commit, looking for its outcome", "log", l.name, "error", why)
	ctx, cancel := context.WithTimeout(ctx, l.tamper.resolveMax)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		stored, err := l.prove(ctx, pid)
		if err == nil {
			if stored {
				return yes
			}
			return no
		}
		l.logger.WarnContext(ctx, "outcome is not known yet", "log", l.name, "error", err)
		select {
		case <-ctx.Done():
			return unknown
		case <-time.After(wait):
		}
	}
}

// sqlEndSession ends the session that a committer has lost, if the server still has it:
// without that a server whose network is cut would wait for its next statement.
// The session must be this log's, so that no other that has got its number is ended.
const sqlEndSession = `SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
	WHERE a.pid = $1 AND l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
		AND l.classid = ($2::bigint >> 32 & 4294967295)::oid AND l.objid = ($2::bigint & 4294967295)::oid
		AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// prove looks for the last proof, on a new connection, which becomes the committer's.
func (l *Log) prove(ctx context.Context, pid uint32) (stored bool, err error) {
	w := &l.committer
	conn, err := l.connect(ctx)
	if err != nil {
		return false, err
	}
	if _, err := conn.Exec(ctx, sqlEndSession, int64(pid), l.lock); err != nil && refusal(err) == nil {
		hangUp(conn)
		return false, err
	}
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
	b.Queue(sqlLock, l.lock)
	b.Queue(l.statements.proved, w.id.String(), w.serial).QueryRow(func(row pgx.Row) error { return row.Scan(&stored) })
	b.Queue("ROLLBACK")
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		hangUp(conn)
		return false, err
	}
	w.conn = conn
	return stored, nil
}

// clock returns the time of a commit: now, or that of the last commit if that is later.
func (l *Log) clock(last int64) time.Time {
	return time.Unix(0, max(l.now().UnixNano(), last)).UTC()
}
