package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A lockHolder describes the session that holds the lock of the log.
type lockHolder struct {
	pid          int64
	name, state  string
	event, stamp string
	seconds      float64 // time since its state last changed
}

// String describes the holder for an error text.
func (h *lockHolder) String() string {
	return fmt.Sprintf("process %d of the server (%s), %s %s for %.0f s", h.pid, h.name, h.state, h.event, h.seconds)
}

// A lockHolderWatch keeps the time since when a holder of the lock has made no progress.
type lockHolderWatch struct {
	mu    sync.Mutex
	stamp string
	since time.Time
}

// sqlHolderStamp changes with each message that the holder begins, and with each part of a COPY
// that arrives.
const (
	sqlHolds = ` k.locktype = 'advisory' AND k.granted AND k.objsubid = 1
		AND k.classid = ($1::bigint >> 32 & 4294967295)::oid AND k.objid = ($1::bigint & 4294967295)::oid
		AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())`

	sqlHolderStamp = `concat_ws(' ', a.pid, a.backend_start, a.xact_start, a.state, a.state_change, a.query_start, c.bytes_processed)`

	sqlHolder = `SELECT a.pid::bigint, concat_ws(', ', a.usename, nullif(a.application_name, '')), coalesce(a.state, 'not visible to this role'),
		coalesce(a.wait_event, 'running'), ` + sqlHolderStamp + `, coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::float8
		FROM pg_locks k JOIN pg_stat_activity a ON a.pid = k.pid LEFT JOIN pg_stat_progress_copy c ON c.pid = a.pid WHERE` + sqlHolds

	// sqlEndHolder ends the holder's session unless its stamp has changed.
	sqlEndHolder = `SELECT pg_terminate_backend(a.pid) FROM pg_locks k JOIN pg_stat_activity a ON a.pid = k.pid
		LEFT JOIN pg_stat_progress_copy c ON c.pid = a.pid
		WHERE` + sqlHolds + ` AND a.pid = $2::bigint AND ` + sqlHolderStamp + ` = $3 AND a.wait_event IN ('ClientRead', 'ClientWrite')`
)

// inspect returns the session that holds the lock of the log, or nil if there is none. It ends
// the session if its client is dead: the server has waited for the client for stuckMax, within a
// transaction or a message, and has received nothing. The server's own timeout for idle sessions
// does not apply within a message. Its keepalive does not notice a process that is stopped, or a
// proxy that answers for a client.
//
// inspect never ends a session that makes progress, however slow it is: it notices each statement
// of a transaction and each part of a COPY. The server rolls back the transaction of an ended
// session, unless it was committing. If the owner of the session comes back, it looks for the
// outcome.
func (l *Log) inspect(ctx context.Context, conn *pgx.Conn) (*lockHolder, error) {
	h := &lockHolder{}
	err := conn.QueryRow(ctx, sqlHolder, l.lock).Scan(&h.pid, &h.name, &h.state, &h.event, &h.stamp, &h.seconds)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // there is no holder
	}
	if err != nil {
		return nil, err
	}
	w := &l.holders
	w.mu.Lock()
	if w.stamp != h.stamp {
		w.stamp, w.since = h.stamp, time.Now()
	}
	stuck := h.event == "ClientRead" || h.event == "ClientWrite"
	stuck = stuck && h.seconds >= l.testHooks.stuckMax.Seconds() && time.Since(w.since) >= l.testHooks.stuckMax/2
	w.mu.Unlock()
	if !stuck {
		return h, nil
	}
	var ended bool
	err = conn.QueryRow(ctx, sqlEndHolder, l.lock, h.pid, h.stamp).Scan(&ended)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return h, nil // the holder has made progress, or released the lock
	case err != nil:
		return h, err
	}
	l.logger.WarnContext(ctx, "a session that held the lock and had stopped was ended", "log", l.name, "session", h.String(), "ended", ended)
	return h, nil
}

// blocked adds the session that holds the lock to the error of a lock timeout.
func (l *Log) blocked(ctx context.Context, err error) error {
	if e := serverError(err); e == nil || e.Code != codeLockTimeout {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeMax)
	defer cancel()
	conn, failed := l.dial(ctx)
	if failed != nil {
		return err
	}
	defer closeNow(conn)
	if h, failed := l.inspect(ctx, conn); failed == nil && h != nil {
		return fmt.Errorf("the lock of the log is held by %v: %w", h, err)
	}
	return err
}
