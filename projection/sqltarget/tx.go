package sqltarget

import (
	"context"
	"database/sql"
	"strings"

	"github.com/perdure/perdure/projection/internal/notetable"
)

// A Tx is the transaction of an update or a view. Rules write to it by the methods that [sql.Tx]
// has too, so generated code that takes an interface of these methods takes a Tx. The target
// begins and ends the transaction; a Tx has no Commit and no Rollback.
//
// A Tx makes rules fast in two ways. It keeps a prepared statement for each text that rules run
// more than once, if the database gains by it (SQLite does). And it knows whether a statement can
// have ended or spoilt the transaction, so that most rules need no statement more to find out:
// after an ExecContext without an error, the transaction is as before, unless the text of the
// statement may end it, as COMMIT does.
//
// It is for one goroutine at a time.
type Tx struct {
	tx      *sql.Tx
	dialect Dialect
	writing bool  // it is the transaction of an update
	number  int64 // number of the transaction in PostgreSQL, 0 until it is known

	// doubtful says that statements since the last check may have ended or spoilt the transaction.
	doubtful bool
	// loose says that statements may bypass the Tx, so that it is doubtful until its end.
	loose bool
	texts map[string]*text
}

// A text is the text of a statement that rules have run in this transaction.
type text struct {
	ends     bool // it may end the transaction
	script   bool // it may consist of several statements
	prepared *sql.Stmt
}

// textsMax bounds the number of texts that a transaction keeps, and so its prepared statements. A
// rule that writes values into its texts has no use for more.
const textsMax = 64

func newTx(tx *sql.Tx, d Dialect, writing bool) *Tx {
	return &Tx{tx: tx, dialect: d, writing: writing}
}

// SQL returns the transaction of database/sql, for code that needs this type. From then on the
// target asks the database after each event whether the transaction goes on, because it does not
// see the statements. Do not commit it or roll it back: the rule has failed then.
func (t *Tx) SQL() *sql.Tx {
	t.loose, t.doubtful = true, true
	return t.tx
}

// ExecContext runs a statement, see [sql.Tx.ExecContext].
func (t *Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	result, err := t.run(ctx, query, args...)
	t.doubtful = t.doubtful || err != nil
	return result, err
}

// QueryContext runs a query, see [sql.Tx.QueryContext]. Close the rows before the rule returns.
func (t *Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	stmt, err := t.statement(ctx, query)
	t.doubtful = true // an error may come with any of the rows, which the Tx does not see
	switch {
	case err != nil:
		return nil, err
	case stmt != nil:
		return stmt.QueryContext(ctx, args...)
	}
	return t.tx.QueryContext(ctx, query, args...)
}

// QueryRowContext runs a query for one row, see [sql.Tx.QueryRowContext].
func (t *Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	stmt, err := t.statement(ctx, query)
	t.doubtful = true // the error comes with the Scan, which the Tx does not see
	if err != nil || stmt == nil {
		return t.tx.QueryRowContext(ctx, query, args...)
	}
	return stmt.QueryRowContext(ctx, args...)
}

// PrepareContext prepares a statement, see [sql.Tx.PrepareContext]. Rules need it rarely, because
// a Tx prepares what runs often. Like SQL, it makes the target ask the database after each event.
func (t *Tx) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	t.loose, t.doubtful = true, true
	return t.tx.PrepareContext(ctx, query)
}

// run runs a statement, prepared if it has run before.
func (t *Tx) run(ctx context.Context, query string, args ...any) (sql.Result, error) {
	stmt, err := t.statement(ctx, query)
	switch {
	case err != nil:
		return nil, err
	case stmt != nil:
		return stmt.ExecContext(ctx, args...)
	}
	return t.tx.ExecContext(ctx, query, args...)
}

// statement returns the prepared statement for a text, or nil if the text is to run as it is: the
// first time, as a script, and in a database that does not gain by prepared statements.
func (t *Tx) statement(ctx context.Context, query string) (*sql.Stmt, error) {
	known := t.texts[query]
	if known == nil {
		known = &text{ends: notetable.MayEnd(query), script: strings.Contains(query, ";")}
		t.doubtful = t.doubtful || known.ends
		if len(t.texts) < textsMax {
			if t.texts == nil {
				t.texts = make(map[string]*text)
			}
			t.texts[query] = known
		}
		return nil, nil
	}
	if t.doubtful = t.doubtful || known.ends; known.ends || known.script || !t.dialect.prepares() {
		return nil, nil
	}
	if known.prepared == nil {
		s, err := t.tx.PrepareContext(ctx, query) // the end of the transaction closes it
		if err != nil {
			t.doubtful = true
			return nil, err
		}
		known.prepared = s
	}
	return known.prepared, nil
}

// begun stores the number of the transaction when it is read for the first time.
func (t *Tx) begun(number int64) {
	if t.number == 0 {
		t.number = number
	}
}

// check returns an error if rules have ended the transaction, or left it so that it cannot be
// committed.
func (t *Tx) check(ctx context.Context) error {
	if !t.doubtful {
		return nil
	}
	if err := t.dialect.check(ctx, t); err != nil {
		return err
	}
	t.doubtful = t.loose
	return nil
}
