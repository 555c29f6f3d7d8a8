package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/store"
)

// A doubt is a transaction whose outcome is not known, while a resolver looks for it.
//
// A transaction can still commit after its client is gone: its message waits in a proxy
// or in the memory of a stopped server, or its session waits for a replica. A lookup alone
// therefore does not give an outcome that lasts. The resolver makes the outcome final, in
// one transaction on a new connection:
//
//  1. It ends the earlier sessions of this writer, whether they hold the lock or not. It
//     does not end a session that waits for a replica: that would make changes visible
//     which the replica may not have.
//  2. It takes the lock. The transaction that held the lock has then ended.
//  3. It looks for the proof. If there is none, it moves the clock of the log forward,
//     so that a message which was decided from the cache and arrives later fails in its
//     guard. A message that was decided on a read cannot arrive later: its session holds
//     the lock until it ends.
//  4. It changes the first row of this writer, and commits. This commit waits for a
//     synchronous replica, which then has everything that was committed before.
//
// Until the resolver has succeeded once, the log reads and commits nothing: see Log.ready.
type doubt struct {
	serial int64         // serial of the proof to look for
	done   chan struct{} // closed when the fields below are set

	outcome outcome // unknown if the proof was deleted and its absence proves nothing
	writer  writer  // writer that owns the session of conn
	conn    *pgx.Conn
}

// A writer is the owner of proofs: one Log, as long as it is open. Its first row exists
// from before its first proof until all of its rows are deleted together. If the first row
// exists and a proof does not, that proof was never committed.
type writer struct {
	id    store.ID
	first int64 // serial of the first row; all proofs have greater ones
}

// isZero reports whether the writer has no rows yet.
func (w *writer) isZero() bool { return w.id == store.ID{} }

// writersKept is the number of writers without a session whose last proof is kept. Such a
// writer may belong to an open log that has lost its connection.
const writersKept = 1024

// Each session that commits holds a shared advisory lock with the id of its writer. Other
// processes can tell whether a writer has a session, and a writer can find its own.
const (
	sqlPresence = `SELECT pg_advisory_lock_shared(hashtextextended('perdure ' || $1::text, 0))`

	sqlHeld = `SELECT l.pid, (l.classid::bigint << 32) | l.objid::bigint AS key FROM pg_locks l
		WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ShareLock' AND l.granted
			AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`

	sqlEndSessions = `SELECT pg_terminate_backend(a.pid) FROM (` + sqlHeld + `) h JOIN pg_stat_activity a ON a.pid = h.pid
		WHERE h.key = hashtextextended('perdure ' || $1::text, 0) AND a.pid <> pg_backend_pid()
			AND a.wait_event IS DISTINCT FROM 'SyncRep'`
)

// The statements of a resolver and of a registration. They are sent as scripts, with their
// arguments (ids and numbers) as literals.
const (
	sqlLook = `SELECT p.there, CASE WHEN p.there THEN 0 ELSE nextval('S.clock') END
		FROM (SELECT EXISTS (SELECT FROM S.commits WHERE writer = $writer AND serial = $serial) AS there) p`
	// sqlConfirm keeps the time of the first row. An older program deletes proofs by their
	// age, and then deletes the first row no later than the rows after it. A missing first
	// row therefore still means what [Log.requireCommits] takes it for.
	sqlConfirm = `UPDATE S.commits SET at = at WHERE writer = $writer AND serial = $first`

	sqlRegister = `INSERT INTO S.commits (writer, serial) VALUES ($writer, nextval('S.clock')) RETURNING serial`
	// sqlSweep keeps the first and the last row of a writer without a session, until more
	// than $kept other such writers have come after it.
	sqlSweep = `WITH held AS MATERIALIZED (` + sqlHeld + `),
		gone AS (SELECT w.*, row_number() OVER (ORDER BY w.last DESC) AS place
			FROM (SELECT writer, min(serial) AS first, max(serial) AS last FROM S.commits GROUP BY writer) w
			WHERE NOT EXISTS (SELECT FROM held WHERE held.key = hashtextextended('perdure ' || w.writer::text, 0)))
		DELETE FROM S.commits c USING gone g
			WHERE c.writer = g.writer AND (g.place > $kept OR c.serial NOT IN (g.first, g.last))`
)

// errInDoubt says that the outcome of an earlier commit is still unknown.
var errInDoubt = errors.New("the outcome of an earlier commit is not known yet")

// errUnconfirmed says that the server committed without waiting for a replica.
var errUnconfirmed = errors.New("the commit is not confirmed")

// inDoubt returns the doubt that is not resolved yet, or nil.
func (l *Log) inDoubt() *doubt {
	d := l.doubt.Load()
	if d == nil {
		return nil
	}
	select {
	case <-d.done:
		return nil
	default:
		return d
	}
}

// ready returns nil if the log can be used, or the reason why not. While a resolver looks
// for the outcome of a commit, a read could see rows that are not final. So ready waits
// until the outcome is known, the context ends, or [readyMax] has passed.
func (l *Log) ready(ctx context.Context) error {
	err := l.usable()
	if err == nil && l.inDoubt() != nil {
		if err = l.awaitResolved(ctx); err == nil {
			err = l.usable()
		}
	}
	return err
}

// awaitResolved waits until no commit is in doubt.
func (l *Log) awaitResolved(ctx context.Context) error {
	d := l.inDoubt()
	if d == nil {
		return nil
	}
	timer := time.NewTimer(l.testHooks.readyMax)
	defer timer.Stop()
	select {
	case <-d.done:
		return nil
	case <-l.closing:
		return store.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errInDoubt, ctx.Err())
	case <-timer.C:
		return errInDoubt
	}
}

// startResolver starts a resolver for the last transaction, whose outcome is unknown. The
// caller must own the committer.
func (l *Log) startResolver(ctx context.Context, why error) *doubt {
	w := &l.committer
	if w.conn != nil {
		closeNow(w.conn)
	}
	w.cache.forget()
	l.logger.WarnContext(ctx, "a commit is in doubt, looking for its outcome", "log", l.name, "error", why)
	d := &doubt{serial: w.serial, writer: w.writer, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.doubt.Store(d)
	l.giveUp = cancel
	l.resolver.Go(func() {
		defer cancel()
		l.resolve(ctx, d)
	})
	return d
}

// awaitOutcome waits up to most for the outcome of a doubt. If the outcome is known in time, the
// committer continues with the session of the resolver. The caller must own the committer.
func (l *Log) awaitOutcome(d *doubt, most time.Duration) outcome {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-d.done:
		l.adoptResolver()
		return d.outcome
	case <-timer.C:
		return unknown
	}
}

// commitTx commits a transaction that does not run on the committer. If it returns nil,
// the changes are durable. If it returns an error, the transaction will not commit later,
// unless the error matches [errInDoubt]: then the log is in doubt.
func (l *Log) commitTx(ctx context.Context, tx pgx.Tx) error {
	takeWarning(tx.Conn())
	err := tx.Commit(ctx)
	warning := takeWarning(tx.Conn())
	switch {
	case err == nil && warning == nil:
		return nil
	case serverError(err) != nil, errors.Is(err, pgx.ErrTxCommitRollback):
		return err
	case err == nil: // committed, and durable once a later commit is durable
		return l.awaitEnd(ctx, fmt.Errorf("%w: %s (%s)", errUnconfirmed, warning.Message, warning.Code))
	}
	return errors.Join(lost(err), l.awaitEnd(ctx, err))
}

// awaitEnd makes sure that a transaction whose commit was lost has ended, committed or not,
// and that all earlier commits are durable.
func (l *Log) awaitEnd(ctx context.Context, why error) error {
	for own := false; !own; {
		l.writing.Lock()
		if l.committer.isZero() { // the role may not write
			l.writing.Unlock()
			return nil
		}
		if own = l.adoptResolver(); own {
			l.startResolver(ctx, why)
		}
		l.writing.Unlock()
		if err := l.awaitResolved(ctx); err != nil {
			return err
		}
	}
	return nil
}

// adoptResolver gives the committer the session of a resolver that has finished. It reports
// whether no commit is in doubt any more. The caller must own the committer.
func (l *Log) adoptResolver() bool {
	d := l.doubt.Load()
	if d == nil {
		return true
	}
	if l.inDoubt() != nil {
		return false
	}
	w := &l.committer
	w.writer, w.serial = d.writer, max(w.serial, d.writer.first)
	w.use(d.conn)
	l.doubt.Store(nil)
	return true
}

// resolve looks for the outcome of a doubt until it has found it, or the context ends.
func (l *Log) resolve(ctx context.Context, d *doubt) {
	wait := 5 * time.Millisecond
	for try := 1; ; try++ {
		err := l.look(ctx, d)
		if err == nil {
			close(d.done)
			return
		}
		if ctx.Err() != nil {
			return
		}
		if try&(try-1) == 0 { // at tries 1, 2, 4, 8 and so on
			l.logger.WarnContext(ctx, "outcome is not known yet", "log", l.name, "try", try, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, resolveWaitMax)
	}
}

// look looks once for the outcome of a doubt, on a new connection.
func (l *Log) look(ctx context.Context, d *doubt) (err error) {
	ctx, cancel := context.WithTimeout(ctx, l.testHooks.attemptMax)
	defer cancel()
	conn, err := l.join(ctx, d.writer)
	if err != nil {
		return err
	}
	a := l.watchdog(conn)
	defer func() {
		if err = a.end(err); err != nil {
			closeNow(conn)
		}
	}()
	results, err := l.lockedScript(ctx, conn, l.fill(sqlLook, d.writer, d.serial), l.fill(sqlConfirm, d.writer, d.serial))
	if err != nil {
		return err
	}
	found := no
	if string(results[0].Rows[0][0]) == "t" {
		found = yes
	}
	if results[1].CommandTag.RowsAffected() == 0 { // all rows of the writer are gone
		if found == no {
			found = unknown
		}
		// The commit of the registration waits for a replica; the UPDATE changed nothing.
		if d.writer, err = l.register(ctx, conn); err != nil {
			return err
		}
	}
	d.outcome, d.conn = found, conn
	return nil
}

// fill puts the arguments into the text of a statement.
func (l *Log) fill(sql string, w writer, serial int64) string {
	return strings.NewReplacer("$writer", "'"+w.id.String()+"'::uuid", "$first", strconv.FormatInt(w.first, 10),
		"$serial", strconv.FormatInt(serial, 10), "$kept", strconv.Itoa(writersKept)).Replace(in(l.schema, sql))
}

// join opens a connection for a writer, and ends the writer's other sessions.
func (l *Log) join(ctx context.Context, w writer) (*pgx.Conn, error) {
	conn, err := l.connect(ctx)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == codeConnections {
		l.pool.Reset() // closes idle connections, which makes room for the next try
	}
	if err != nil || w.isZero() {
		return conn, err
	}
	a := l.watchdog(conn)
	err = attach(ctx, conn, w.id)
	if err == nil {
		_, err = conn.Exec(ctx, sqlEndSessions, pgx.QueryExecModeExec, w.id.String())
		if serverError(err) != nil {
			err = nil // a role that may not end its own sessions waits until they end
		}
	}
	if err = a.end(err); err != nil {
		closeNow(conn)
		return nil, err
	}
	return conn, nil
}

// attach marks a session as one of the writer's. From then on package pgx must not send a
// cancel request for it when it is lost: that would end a commit's wait for a replica, and
// make changes visible which the replica may not have.
func attach(ctx context.Context, conn *pgx.Conn, id store.ID) error {
	if p := peerOf(conn.PgConn()); p != nil && p.conn != nil {
		p.conn.abandoned.Store(true)
	}
	_, err := conn.Exec(ctx, sqlPresence, pgx.QueryExecModeExec, id.String())
	return err
}

// enter gives the connection to the committer of a log that is being opened, and
// registers the committer as a writer, unless the role may not write.
func (l *Log) enter(ctx context.Context, conn *pgx.Conn) error {
	l.committer.use(conn)
	w, err := l.register(ctx, conn)
	if e := serverError(err); e != nil && (e.Code == codePrivilege || e.Code == codeReadOnly) {
		_, err = conn.Exec(ctx, "ROLLBACK")
		return err
	}
	l.committer.join(w)
	return err
}

// join makes the committer use the rows of the writer as.
func (w *committer) join(as writer) { w.writer, w.serial = as, as.first }

// register makes a new writer for a session that has none, or whose rows are gone. Like a
// resolver it moves the clock under the lock. A message that another Log, closed or lost
// by now, has sent and that arrives later then fails its validation, and all earlier commits
// are durable. register also deletes proofs of writers that are gone.
func (l *Log) register(ctx context.Context, conn *pgx.Conn) (writer, error) {
	ctx, cancel := context.WithTimeout(ctx, l.testHooks.attemptMax)
	defer cancel()
	id, err := uuid.NewV7()
	if err != nil {
		return writer{}, err
	}
	w := writer{id: store.ID(id)}
	if err := attach(ctx, conn, w.id); err != nil {
		return writer{}, err
	}
	results, err := l.lockedScript(ctx, conn, l.fill(sqlRegister, w, 0), l.fill(sqlSweep, w, 0))
	if err != nil {
		return writer{}, fmt.Errorf("register as a writer: %w", err)
	}
	w.first, err = strconv.ParseInt(string(results[0].Rows[0][0]), 10, 64)
	return w, err
}

// lockedScript runs statements in one transaction under the lock of the log, sends them
// as one message, and returns their results. It returns an error unless the transaction
// is committed and the server confirms that it is durable.
func (l *Log) lockedScript(ctx context.Context, conn *pgx.Conn, statements ...string) ([]*pgconn.Result, error) {
	lock := strings.Replace(sqlLock, "$1", "'"+strconv.FormatInt(l.lock, 10)+"'", 1)
	all := slices.Concat([]string{sqlBegin, lock}, statements, []string{"COMMIT"})
	var results []*pgconn.Result
	reader := conn.PgConn().Exec(ctx, strings.Join(all, ";\n"))
	for reader.NextResult() {
		if len(results) < len(all)-1 {
			takeWarning(conn) // only a warning of COMMIT counts
		}
		results = append(results, reader.ResultReader().Read())
	}
	err := reader.Close()
	var last pgconn.CommandTag
	if n := len(results); n > 0 {
		last = results[n-1].CommandTag
	}
	if err = committed(last, takeWarning(conn), err); err != nil {
		return nil, err
	}
	if row := results[1].Rows; len(row) != 1 || string(row[0][1]) != markOf(conn) {
		return nil, errSessionMoved // in another session the commit may not be durable
	}
	return results[2 : len(all)-1], nil
}
