package pgxtarget

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/perdure/perdure/projection"
	"github.com/perdure/perdure/projection/internal/notetable"
	"github.com/perdure/perdure/store"
)

// errUnfit says that rules have left a transaction that cannot go on.
var errUnfit = errors.New("the transaction cannot go on")

// errEnds says that do has called Commit or Rollback.
var errEnds = errors.New("the transaction ends after its rules, and not by their Commit or Rollback")

// A Tx is the transaction of an update or a view: a [pgx.Tx], and [Tx.Queue] for statements whose
// result the rule does not need. A rule that only queues costs no round trip to the server, so it
// is several times as fast as one that calls Exec.
//
// Commit and Rollback return an error and only note the call, so that nothing is stored without
// the note of the position. Nested transactions, made by Begin, do commit and roll back.
//
// A statement can also end the transaction and begin another one (ROLLBACK AND CHAIN). The
// session is then in a transaction as before, and the note of the position would be stored
// without the rows of the events. So before a statement that may do that, the Tx asks the server
// for the number of the transaction, and compares it afterwards. Other statements cost nothing.
//
// The queue keeps these rules:
//
//  1. The server runs all statements in the order of the calls: every method that talks to the
//     server first sends the queue and waits for its results.
//  2. sent are the statements that the server has got and whose results are not read. As long as
//     there are any, the connection is busy.
//  3. Each queued statement knows how many checks came before it. That tells its event, so its
//     error names that event, whenever the error comes.
//  4. The first error of a queued statement stays in failed, and every later call returns it. A
//     transaction with such an error is never committed, even if a rule ignores the error.
type Tx struct {
	pgx.Tx // the transaction of pgx, without the queue

	writing bool // it is the transaction of an update
	ended   bool
	ending  bool  // a statement since the last check may have ended the transaction
	loose   bool  // statements may bypass the Tx
	number  int64 // transaction number from the server, 0 until it is asked

	checks  int // calls of Check
	queued  *pgx.Batch
	marks   []int // for each queued statement, the number of checks before it
	bytes   int   // size of the arguments of the queued statements
	sent    pgx.BatchResults
	waiting []int // the marks of the sent statements
	failed  error // the first error of a queued statement
}

// Bounds of the queue of a transaction.
const (
	// sendCount and sendBytes are the size of a queue that is sent after the current event. The
	// server works on these statements while rules queue the next ones.
	sendCount = 256
	sendBytes = 1 << 20
	// queueCountMax and queueBytesMax bound the queue. A rule that queues so much for one event
	// waits for the server.
	queueCountMax = 4096
	queueBytesMax = 16 << 20
)

// Queue adds a statement to the queue of the transaction. The server gets it together with the
// queued statements of other events, but always before the next statement that is not queued, and
// before the transaction ends. So later queries see what it has written. If the statement fails,
// the event fails whose rule has queued it, although that rule has returned already.
//
// Queue returns an error if an earlier queued statement has failed. It keeps args until the
// statement is sent, so the values that they point to must not change. The rules of a batch
// together may queue any number of statements; Queue waits for the server when the queue is full.
func (t *Tx) Queue(ctx context.Context, sql string, args ...any) error {
	if t.failed != nil {
		return t.failed
	}
	if t.loose || !t.writing || notetable.MayEnd(sql) {
		_, err := t.Exec(ctx, sql, args...)
		return err
	}
	size := len(sql)
	for _, a := range args {
		size += sizeOf(a)
	}
	if len(t.marks) >= queueCountMax || len(t.marks) > 0 && t.bytes+size > queueBytesMax {
		if err := t.send(ctx); err != nil {
			return err
		}
	}
	if t.queued == nil {
		t.queued = &pgx.Batch{}
	}
	t.queued.Queue(sql, args...)
	t.marks = append(t.marks, t.checks)
	t.bytes += size
	return nil
}

// sizeOf returns about the size of an argument, in bytes.
func sizeOf(a any) int {
	switch a := a.(type) {
	case string:
		return 16 + len(a)
	case []byte:
		return 24 + len(a)
	}
	return 16
}

// send reads the results of the statements under way, and then sends the queue.
func (t *Tx) send(ctx context.Context) error {
	if err := t.receive(); err != nil || len(t.marks) == 0 {
		return err
	}
	t.sent = t.Tx.SendBatch(ctx, t.queued)
	t.waiting, t.marks = t.marks, t.waiting[:0]
	t.queued, t.bytes = nil, 0
	return nil
}

// receive reads the results of the statements that were sent.
func (t *Tx) receive() error {
	if t.sent == nil {
		return t.failed
	}
	for i, mark := range t.waiting {
		if _, err := t.sent.Exec(); err != nil {
			if i == 0 && len(t.waiting) > 1 {
				mark = -1 // pgx returns here too that it could not prepare or encode any of them
			}
			t.failed = projection.FailedAt(mark, fmt.Errorf("queued statement: %w", err))
			break
		}
	}
	err := t.sent.Close()
	if t.sent = nil; err != nil && t.failed == nil {
		t.failed = projection.FailedAt(-1, fmt.Errorf("queued statements: %w", err))
	}
	return t.failed
}

// flush sends the queue and reads all results.
func (t *Tx) flush(ctx context.Context) error {
	if t.sent == nil && len(t.marks) == 0 {
		return t.failed
	}
	if err := t.send(ctx); err != nil {
		return err
	}
	return t.receive()
}

// drop forgets the queue of a transaction that is rolled back, and frees its connection.
func (t *Tx) drop() {
	t.queued, t.marks = nil, nil
	if t.sent != nil {
		_ = t.sent.Close() // the transaction is rolled back whatever has become of it
		t.sent = nil
	}
}

const sqlNumber = "SELECT txid_current()"

// suspect notes that the next statement may end the transaction.
func (t *Tx) suspect(ctx context.Context) {
	t.ending = true
	if t.number == 0 {
		_ = t.Tx.QueryRow(ctx, sqlNumber).Scan(&t.number) // if this fails, the check fails too
	}
}

// same returns an error if the transaction at the server is no longer the same one.
func (t *Tx) same(ctx context.Context) error {
	var number *int64
	if err := t.Tx.QueryRow(ctx, "SELECT txid_current_if_assigned()").Scan(&number); err != nil {
		return fmt.Errorf("%w: %w", errUnfit, err)
	}
	if number == nil || *number != t.number {
		return fmt.Errorf("%w: a statement has ended it, and begun another one", errUnfit)
	}
	t.ending = t.loose
	return nil
}

// ready empties the queue before a statement of the given text.
func (t *Tx) ready(ctx context.Context, sql string) error {
	if err := t.flush(ctx); err != nil {
		return err
	}
	if t.writing && notetable.MayEnd(sql) {
		t.suspect(ctx)
	}
	return nil
}

// Exec implements [pgx.Tx].
func (t *Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := t.ready(ctx, sql); err != nil {
		return pgconn.CommandTag{}, err
	}
	return t.Tx.Exec(ctx, sql, args...)
}

// Query implements [pgx.Tx].
func (t *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := t.ready(ctx, sql); err != nil {
		return errorRows{err}, err
	}
	return t.Tx.Query(ctx, sql, args...)
}

// QueryRow implements [pgx.Tx].
func (t *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if err := t.ready(ctx, sql); err != nil {
		return errorRows{err}
	}
	return t.Tx.QueryRow(ctx, sql, args...)
}

// SendBatch implements [pgx.Tx].
func (t *Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := t.flush(ctx); err != nil {
		return errorResults{err}
	}
	for _, q := range b.QueuedQueries {
		if t.writing && notetable.MayEnd(q.SQL) {
			t.suspect(ctx)
			break
		}
	}
	return t.Tx.SendBatch(ctx, b)
}

// CopyFrom implements [pgx.Tx].
func (t *Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	if err := t.flush(ctx); err != nil {
		return 0, err
	}
	return t.Tx.CopyFrom(ctx, table, columns, rows)
}

// Prepare implements [pgx.Tx].
func (t *Tx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if err := t.flush(ctx); err != nil {
		return nil, err
	}
	return t.Tx.Prepare(ctx, name, sql)
}

// LargeObjects implements [pgx.Tx].
func (t *Tx) LargeObjects() pgx.LargeObjects {
	t.loosen()
	return t.Tx.LargeObjects()
}

// Begin implements [pgx.Tx].
func (t *Tx) Begin(ctx context.Context) (pgx.Tx, error) {
	if err := t.flush(ctx); err != nil {
		return nil, err
	}
	if t.writing {
		t.loose = true
		t.suspect(ctx)
	}
	return t.Tx.Begin(ctx)
}

// Conn implements [pgx.Tx].
func (t *Tx) Conn() *pgx.Conn {
	t.loosen()
	return t.Tx.Conn()
}

// loosen prepares for statements that bypass the Tx.
func (t *Tx) loosen() {
	if !t.writing {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), rollbackMax)
	defer cancel()
	_ = t.flush(ctx) // a failure stays in failed
	if conn := t.Tx.Conn(); !t.loose && !conn.IsClosed() && !conn.PgConn().IsBusy() {
		t.suspect(ctx)
	}
	t.loose, t.ending = true, true
}

// Commit only returns an error.
func (t *Tx) Commit(context.Context) error {
	t.ended = true
	return errEnds
}

// Rollback only returns an error.
func (t *Tx) Rollback(context.Context) error {
	t.ended = true
	return errEnds
}

// check returns an error if rules have ended the transaction, or left it so that it cannot be
// committed. It asks the server only if statements may have ended the transaction.
func (t *Tx) check(ctx context.Context) error {
	if t.failed != nil {
		return t.failed
	}
	if t.ended {
		return fmt.Errorf("%w: %w", errUnfit, errEnds)
	}
	conn := t.Tx.Conn().PgConn()
	switch {
	case conn.IsClosed():
		// A statement has lost the connection, and the rule has ignored its error.
		return fmt.Errorf("%w: the connection is closed", errUnfit)
	case t.sent != nil:
		return nil // the connection is busy with the queue; its results will tell
	case conn.IsBusy():
		return fmt.Errorf("%w: rows are still open", errUnfit)
	case conn.TxStatus() == 'E':
		return fmt.Errorf("%w: a statement in it has failed", errUnfit)
	case conn.TxStatus() != 'T':
		return fmt.Errorf("%w: a statement has ended it", errUnfit)
	case t.ending:
		return t.same(ctx)
	}
	return nil
}

// finish prepares the commit: it empties the queue, and checks the transaction if there was no
// check since a statement that may have ended it.
func (t *Tx) finish(ctx context.Context) error {
	err := t.flush(ctx)
	switch {
	case err != nil:
	case t.ended:
		err = errEnds
	case t.ending: // and there was no check since
		err = t.same(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrNotStored, because(ctx, err))
	}
	return nil
}

// rollback rolls a transaction back. If the connection is lost, the server rolls back by itself.
func (t *Tx) rollback(ctx context.Context) {
	t.drop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackMax)
	defer cancel()
	_ = t.Tx.Rollback(ctx)
}

// errorResults are the results of a batch that was not sent.
type errorResults struct{ err error }

func (r errorResults) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, r.err }
func (r errorResults) Query() (pgx.Rows, error)         { return errorRows(r), r.err }
func (r errorResults) QueryRow() pgx.Row                { return errorRows(r) }
func (r errorResults) Close() error                     { return r.err }
func (r errorResults) Tx() pgx.Tx                       { return nil }

// errorRows are the rows of a query that was not sent.
type errorRows struct{ err error }

func (r errorRows) Close()                                       {}
func (r errorRows) Err() error                                   { return r.err }
func (r errorRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (r errorRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (r errorRows) Next() bool                                   { return false }
func (r errorRows) Scan(...any) error                            { return r.err }
func (r errorRows) Values() ([]any, error)                       { return nil, r.err }
func (r errorRows) RawValues() [][]byte                          { return nil }
func (r errorRows) Conn() *pgx.Conn                              { return nil }
func (r errorRows) TypeMap() *pgtype.Map                         { return nil }
