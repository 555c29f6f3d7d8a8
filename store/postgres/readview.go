package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
)

// A readView is a consistent state of the log: a read-only transaction on its own connection that
// sees one snapshot of the database.
type readView struct {
	log    *Log
	conn   *pgx.Conn
	origin store.Origin
	stats  store.Stats
	// cursors is the number of cursors opened so far for tables with damaged pages.
	cursors int
}

// sqlOrigin reads the state of the log and its last message sequence. A sequence is not part
// of the snapshot: its value is the current one, so it is never behind the messages of the
// read view.
const sqlOrigin = `SELECT unfinished, (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM S.message_sequence) FROM S.log`

// readView begins a read view. Its caller must close it.
func (l *Log) readView(ctx context.Context) (*readView, error) {
	err := ctx.Err()
	if err == nil {
		err = l.ready(ctx)
	}
	if err != nil {
		return nil, err
	}
	conn, err := l.connect(ctx)
	if err != nil {
		return nil, err
	}
	m := &readView{log: l, conn: conn}
	a := l.watchdog(conn)
	if err := a.end(m.begin(ctx)); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *readView) begin(ctx context.Context) error {
	l := m.log
	all := make([]int, l.info.Partitions)
	for i := range all {
		all[i] = i
	}
	n := readSet{heads: orderedSet[int]{all: all}}
	f := newReadValues(&n)
	var unfinished bool
	var sequence int64
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	b.Queue("SET LOCAL idle_in_transaction_session_timeout = 0") // the reader may take any time between two pages
	b.Queue(in(l.schema, sqlOrigin)).QueryRow(func(row pgx.Row) error { return row.Scan(&unfinished, &sequence) })
	b.Queue(sqlSave)
	if err := m.conn.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	if unfinished {
		return store.ErrUnfinished
	}
	damage, err := m.try(ctx, func() error {
		b := &pgx.Batch{}
		n.queueHeads(b, &l.statements, f)
		return m.conn.SendBatch(ctx, b).Close()
	})
	if err == nil && damage != nil {
		err = m.headsOfDamaged(ctx, f)
	}
	if err != nil {
		return err
	}
	m.origin.Sequence = uint64(sequence)
	for p := range all {
		m.origin.Heads = append(m.origin.Heads, store.NewPosition(p, f.heads[p]))
	}
	damage, err = m.try(ctx, func() (err error) {
		m.stats, err = l.figures(ctx, m.conn, m.origin.Heads)
		return err
	})
	if damage != nil {
		m.stats.Pending, m.stats.Parked = -1, -1
		m.stats.Events, m.stats.FileBytes = -1, -1
	}
	return err
}

// Close ends the read view.
func (m *readView) Close() error {
	m.log.closeConn(m.conn)
	return nil
}

// closeConn closes a connection and waits for the server to end its session, which rolls back
// an open transaction.
func (l *Log) closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), connectMax)
	defer cancel()
	_ = conn.Close(ctx) // the session has nothing left to commit
}
