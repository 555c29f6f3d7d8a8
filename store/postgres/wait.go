package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Limits of the wait for a silent server.
const (
	// silentMax bounds how long a connection may be silent before the log asks, on another
	// connection, what the server's process does. The log checks twice in this time.
	silentMax = 2 * time.Second
	// confirmAfter is the pause before the log asks a second time. Only then does it believe
	// that the server's process waits for bytes that this process has already sent.
	confirmAfter = 500 * time.Millisecond
	// probeMax bounds one such question.
	probeMax = 4 * time.Second
	// unreachableMax bounds the silence of a connection if the server cannot be reached and
	// therefore cannot be asked. untoldMax bounds it if the server answers with an error, such
	// as too many connections.
	unreachableMax = 8 * time.Second
	untoldMax      = 2 * time.Minute
	// stuckMax bounds how long a session may hold the lock of the log while the server waits
	// for its client and receives nothing.
	stuckMax = 20 * time.Second
)

// An attendance watches one wait for the server on one connection.
//
// A connection can die silently: a firewall, a NAT or a load balancer drops it, or the other host
// loses its power. Only a question on another connection can tell such a connection from a server
// that is still working. So after silentMax without a byte, the attendance asks repeatedly what
// the server's process does:
//
//   - If the process works, or waits for a lock, the wait continues. If it waits for the lock of
//     the log, and the holder of that lock is dead, the holder's session is ended, see
//     [Log.inspect].
//   - If the process is gone, or waits for its client twice in a row, the connection is lost.
//   - If the server cannot be asked, the connection is lost after unreachableMax.
//
// The attendance closes a lost connection, which ends the wait.
type attendance struct {
	log  *Log
	peer *peer

	mu     sync.Mutex
	timer  *time.Timer
	done   bool
	lost   error
	moved  int64
	silent time.Time // start of the time in which the log could find out nothing
	stamp  string    // stamp of the process when it last waited for its client
}

// attend watches a wait for the server until the caller calls end. It costs one timer.
func (l *Log) attend(conn *pgx.Conn) *attendance {
	a := &attendance{log: l, peer: peerOf(conn.PgConn())}
	if a.peer == nil || a.peer.line == nil {
		return a
	}
	a.moved = a.peer.line.moved.Load()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = time.AfterFunc(l.tamper.silentMax/2, a.tick)
	return a
}

// end ends the attendance. If the attendance has ended the wait, the error says why. Otherwise it
// is err.
func (a *attendance) end(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done = true
	if a.timer != nil {
		a.timer.Stop()
	}
	if err != nil && a.lost != nil && refusal(err) == nil {
		return fmt.Errorf("%w: %w", a.lost, err)
	}
	return damaged(err)
}

// tick asks the server about the connection if it has been silent.
func (a *attendance) tick() {
	if a.log.probes.enter() {
		defer a.log.probes.leave()
		if a.quiet() {
			a.judge(a.log.probe(a.peer))
		}
	}
}

// quiet reports whether no byte has passed since the last check. Otherwise it restarts the timer.
func (a *attendance) quiet() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return false
	}
	if moved := a.peer.line.moved.Load(); moved != a.moved {
		a.moved, a.silent, a.stamp = moved, time.Time{}, ""
		a.timer.Reset(a.log.tamper.silentMax / 2)
		return false
	}
	if a.silent.IsZero() {
		a.silent = time.Now()
	}
	return true
}

// judge decides from the state of the server's process whether the connection is lost.
func (a *attendance) judge(s sighting, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return
	}
	again := a.log.tamper.silentMax
	switch {
	case a.peer.line.moved.Load() != a.moved:
	case err != nil:
		limit := unreachableMax
		if _, answered := errors.AsType[*pgconn.PgError](err); answered {
			limit = untoldMax
		}
		if again = confirmAfter; time.Since(a.silent) > limit {
			a.cut(fmt.Errorf("%w: nothing has passed on it for %v, and the server cannot be asked why: %w", errLost, limit, err))
		}
	case !s.there:
		a.cut(fmt.Errorf("%w: the server has no session of it", errLost))
	case s.waits && s.stamp == a.stamp:
		a.cut(fmt.Errorf("%w: the server waits for what this process has sent", errLost))
	case s.waits:
		a.stamp, again = s.stamp, confirmAfter
	default:
		a.silent, a.stamp = time.Now(), ""
	}
	if a.lost == nil {
		a.timer.Reset(again)
	}
}

// cut closes a lost connection.
func (a *attendance) cut(why error) {
	a.lost = why
	a.peer.line.giveUp()
}

// probes are the goroutines of attendances that ask the server.
type probes struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
	ctx    context.Context //nolint:containedctx // the life of its goroutines
	stop   context.CancelFunc
}

func (p *probes) open() { p.ctx, p.stop = context.WithCancel(context.Background()) }

func (p *probes) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.wg.Add(1)
	}
	return !p.closed
}

func (p *probes) leave() { p.wg.Done() }

func (p *probes) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.wg.Wait()
}

// A sighting describes the state of one process of the server.
type sighting struct {
	there bool
	waits bool   // the process waits for its client to send or to receive bytes
	stamp string // changes with each message that the process begins
	locks bool   // the process waits for an advisory lock
}

// sqlSighting asks whether a process waits for its client: it reads, or the client does not read
// what the process writes.
const sqlSighting = `SELECT coalesce(wait_event_type = 'Client' AND wait_event IN ('ClientRead', 'ClientWrite'), false),
		concat_ws(' ', state, state_change, query_start), coalesce(wait_event_type = 'Lock' AND wait_event = 'advisory', false)
	FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2`

// probe asks, on a new connection, what a process of the server does. If the process waits for
// the lock of the log, probe also inspects the holder of the lock.
func (l *Log) probe(p *peer) (s sighting, err error) {
	ctx, cancel := context.WithTimeout(l.probes.ctx, probeMax)
	defer cancel()
	conn, err := l.dial(ctx)
	if err != nil {
		return s, err
	}
	defer hangUp(conn)
	err = conn.QueryRow(ctx, sqlSighting, p.pid, p.started).Scan(&s.waits, &s.stamp, &s.locks)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, nil
	}
	if s.there = err == nil; s.there && s.locks {
		_, _ = l.inspect(ctx, conn) // if this fails, the next probe tries again
	}
	return s, err
}

// A holder describes the session that holds the lock of the log.
type holder struct {
	pid          int64
	name, state  string
	event, stamp string
	seconds      float64 // time since its state last changed
}

// String describes the holder for an error text.
func (h *holder) String() string {
	return fmt.Sprintf("process %d of the server (%s), %s %s for %.0f s", h.pid, h.name, h.state, h.event, h.seconds)
}

// A holderWatch keeps the time since when a holder of the lock has made no progress.
type holderWatch struct {
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
func (l *Log) inspect(ctx context.Context, conn *pgx.Conn) (*holder, error) {
	h := &holder{}
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
	stuck = stuck && h.seconds >= l.tamper.stuckMax.Seconds() && time.Since(w.since) >= l.tamper.stuckMax/2
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
	if e := refusal(err); e == nil || e.Code != codeLockTimeout {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeMax)
	defer cancel()
	conn, failed := l.dial(ctx)
	if failed != nil {
		return err
	}
	defer hangUp(conn)
	if h, failed := l.inspect(ctx, conn); failed == nil && h != nil {
		return fmt.Errorf("the lock of the log is held by %v: %w", h, err)
	}
	return err
}
