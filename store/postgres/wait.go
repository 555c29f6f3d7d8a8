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

// Bounds of waiting for a server that is silent.
const (
	// silentMax is for how long nothing may pass on a connection, at most, before
	// another one asks what the server's process does. It is looked for twice as often.
	silentMax = 2 * time.Second
	// confirmAfter is how much later it asks again, before it believes that the
	// server's process waits for bytes that this one has sent.
	confirmAfter = 500 * time.Millisecond
	// probeMax bounds one such question.
	probeMax = 4 * time.Second
	// unreachableMax is for how long a connection may be silent of which nothing can
	// be found out because the server cannot be reached, and untoldMax because it
	// answers with an error, such as that it has too many connections.
	unreachableMax = 8 * time.Second
	untoldMax      = 2 * time.Minute
	// stuckMax is for how long a session may hold the lock of the log while the
	// server waits for its client and nothing comes.
	stuckMax = 20 * time.Second
)

// An attendance watches over a wait for the server on one connection.
//
// Nothing but a question on another connection tells a server that works from a
// connection that is gone without a word: a firewall, a NAT or a load balancer has
// forgotten it, or the other host has lost its power. So after silentMax without a
// byte it asks what the server's process does, again and again:
//
//   - it works, or waits for a lock: the wait goes on. If that is the lock of the
//     log, a holder that is dead is ended, see [Log.holder];
//   - it is gone, or it waits for its client, twice: the connection is lost;
//   - nothing can be found out: the connection is lost after unreachableMax.
//
// A connection that is lost is closed, which ends the wait.
type attendance struct {
	log  *Log
	peer *peer

	mu     sync.Mutex
	timer  *time.Timer
	done   bool
	lost   error
	moved  int64
	silent time.Time // since when nothing has been found out
	stamp  string    // of the process when it last waited for its client
}

// attend watches over a wait for the server until its caller calls end. It costs a timer.
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

// end ends the attendance. It returns err, or why the attendance has ended the wait.
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

// tick looks after the connection once it has been silent for a while.
func (a *attendance) tick() {
	if a.log.probes.enter() {
		defer a.log.probes.leave()
		if a.quiet() {
			a.judge(a.log.probe(a.peer))
		}
	}
}

// quiet reports whether nothing has passed since the last look. If something has, it waits again.
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

// judge takes in what has been found out about the process.
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

// cut gives the connection up.
func (a *attendance) cut(why error) {
	a.lost = why
	a.peer.line.giveUp()
}

// Probes are the goroutines of attendances that ask.
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

// A sighting is what the server says of a process of its own.
type sighting struct {
	there bool
	waits bool   // for its client to send or to take bytes
	stamp string // changes with each message that it begins
	locks bool   // it waits for an advisory lock
}

// A process waits for its client if it reads, or if the client does not take what it writes.
const sqlSighting = `SELECT coalesce(wait_event_type = 'Client' AND wait_event IN ('ClientRead', 'ClientWrite'), false),
		concat_ws(' ', state, state_change, query_start), coalesce(wait_event_type = 'Lock' AND wait_event = 'advisory', false)
	FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2`

// probe asks on a connection of its own what a process does. If it waits for the lock
// of the log, the probe looks at who has it.
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
		_, _ = l.inspect(ctx, conn) // what it cannot do now is tried at the next look
	}
	return s, err
}

// A holder is the session that has the lock of the log, as it was seen.
type holder struct {
	pid          int64
	name, state  string
	event, stamp string
	seconds      float64 // since its last message began
}

// String describes the holder for people.
func (h *holder) String() string {
	return fmt.Sprintf("process %d of the server (%s), %s %s for %.0f s", h.pid, h.name, h.state, h.event, h.seconds)
}

// A holderWatch remembers since when a holder of the lock has not moved.
type holderWatch struct {
	mu    sync.Mutex
	stamp string
	since time.Time
}

// The stamp changes with each message that the holder begins, and with each part of
// a COPY that arrives.
const (
	sqlHolds = ` k.locktype = 'advisory' AND k.granted AND k.objsubid = 1
		AND k.classid = ($1::bigint >> 32 & 4294967295)::oid AND k.objid = ($1::bigint & 4294967295)::oid
		AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())`

	sqlHolderStamp = `concat_ws(' ', a.pid, a.backend_start, a.xact_start, a.state, a.state_change, a.query_start, c.bytes_processed)`

	sqlHolder = `SELECT a.pid::bigint, concat_ws(', ', a.usename, nullif(a.application_name, '')), coalesce(a.state, 'not visible to this role'),
		coalesce(a.wait_event, 'running'), ` + sqlHolderStamp + `, coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::float8
		FROM pg_locks k JOIN pg_stat_activity a ON a.pid = k.pid LEFT JOIN pg_stat_progress_copy c ON c.pid = a.pid WHERE` + sqlHolds

	// sqlEndHolder ends the holder unless it has moved since it was seen.
	sqlEndHolder = `SELECT pg_terminate_backend(a.pid) FROM pg_locks k JOIN pg_stat_activity a ON a.pid = k.pid
		LEFT JOIN pg_stat_progress_copy c ON c.pid = a.pid
		WHERE` + sqlHolds + ` AND a.pid = $2::bigint AND ` + sqlHolderStamp + ` = $3 AND a.wait_event IN ('ClientRead', 'ClientWrite')`
)

// inspect looks at the session that holds the lock of the log, nil if there is none,
// and ends it if it is dead: the server has waited for its client for stuckMax, in
// the middle of a transaction or of a message, and nothing has come. The server's own
// bound for sessions that do nothing does not count within a message, and its keepalive
// does not notice a process that is stopped, or a proxy that answers for a client.
//
// A holder that moves is never ended, however long it takes: each statement of a
// transaction and each part of a COPY is seen. What the dead one had begun is rolled
// back, unless it was committing; its owner, if it comes back, looks for the outcome.
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
		return h, nil // it has moved
	case err != nil:
		return h, err
	}
	l.logger.WarnContext(ctx, "a session that held the lock and had stopped was ended", "log", l.name, "session", h.String(), "ended", ended)
	return h, nil
}

// blocked adds to an error of waiting too long for the lock who has it.
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
