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

// A watchdog watches one wait for the server on one connection.
//
// A connection can die silently: a firewall, a NAT or a load balancer drops it, or the other host
// loses its power. Only a question on another connection can tell such a connection from a server
// that is still working. So after silentMax without a byte, the watchdog asks repeatedly what
// the server's process does:
//
//   - If the process works, or waits for a lock, the wait continues. If it waits for the lock of
//     the log, and the holder of that lock is dead, the holder's session is ended, see
//     [Log.inspect].
//   - If the process is gone, or waits for its client twice in a row, the connection is lost.
//   - If the server cannot be asked, the connection is lost after unreachableMax.
//
// The watchdog closes a lost connection, which ends the wait.
type watchdog struct {
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

// watchdog watches a wait for the server until the caller calls end. It costs one timer.
func (l *Log) watchdog(conn *pgx.Conn) *watchdog {
	a := &watchdog{log: l, peer: peerOf(conn.PgConn())}
	if a.peer == nil || a.peer.conn == nil {
		return a
	}
	a.moved = a.peer.conn.moved.Load()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = time.AfterFunc(l.testHooks.silentMax/2, a.tick)
	return a
}

// end stops the watchdog. If the watchdog has ended the wait, the error says why. Otherwise it
// is err.
func (a *watchdog) end(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done = true
	if a.timer != nil {
		a.timer.Stop()
	}
	if err != nil && a.lost != nil && serverError(err) == nil {
		return fmt.Errorf("%w: %w", a.lost, err)
	}
	return damaged(err)
}

// tick asks the server about the connection if it has been silent.
func (a *watchdog) tick() {
	if a.log.probes.enter() {
		defer a.log.probes.leave()
		if a.isSilent() {
			a.decide(a.log.probe(a.peer))
		}
	}
}

// isSilent reports whether no byte has passed since the last check. Otherwise it restarts the
// timer.
func (a *watchdog) isSilent() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return false
	}
	if moved := a.peer.conn.moved.Load(); moved != a.moved {
		a.moved, a.silent, a.stamp = moved, time.Time{}, ""
		a.timer.Reset(a.log.testHooks.silentMax / 2)
		return false
	}
	if a.silent.IsZero() {
		a.silent = time.Now()
	}
	return true
}

// decide decides from the state of the server's process whether the connection is lost.
func (a *watchdog) decide(s processState, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return
	}
	again := a.log.testHooks.silentMax
	switch {
	case a.peer.conn.moved.Load() != a.moved:
	case err != nil:
		limit := unreachableMax
		if _, answered := errors.AsType[*pgconn.PgError](err); answered {
			limit = untoldMax
		}
		if again = confirmAfter; time.Since(a.silent) > limit {
			a.closeConn(fmt.Errorf("%w: nothing has passed on it for %v, and the server cannot be asked why: %w", errLost, limit, err))
		}
	case !s.exists:
		a.closeConn(fmt.Errorf("%w: the server has no session of it", errLost))
	case s.waits && s.stamp == a.stamp:
		a.closeConn(fmt.Errorf("%w: the server waits for what this process has sent", errLost))
	case s.waits:
		a.stamp, again = s.stamp, confirmAfter
	default:
		a.silent, a.stamp = time.Now(), ""
	}
	if a.lost == nil {
		a.timer.Reset(again)
	}
}

// closeConn closes a lost connection.
func (a *watchdog) closeConn(why error) {
	a.lost = why
	a.peer.conn.abandon()
}

// probes are the goroutines of watchdogs that ask the server.
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

// A processState describes the state of one process of the server.
type processState struct {
	exists bool
	waits  bool   // the process waits for its client to send or to receive bytes
	stamp  string // changes with each message that the process begins
	locks  bool   // the process waits for an advisory lock
}

// sqlProcessState asks whether a process waits for its client: it reads, or the client does not
// read what the process writes.
const sqlProcessState = `SELECT coalesce(wait_event_type = 'Client' AND wait_event IN ('ClientRead', 'ClientWrite'), false),
		concat_ws(' ', state, state_change, query_start), coalesce(wait_event_type = 'Lock' AND wait_event = 'advisory', false)
	FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2`

// probe asks, on a new connection, what a process of the server does. If the process waits for
// the lock of the log, probe also inspects the holder of the lock.
func (l *Log) probe(p *peer) (s processState, err error) {
	ctx, cancel := context.WithTimeout(l.probes.ctx, probeMax)
	defer cancel()
	conn, err := l.dial(ctx)
	if err != nil {
		return s, err
	}
	defer closeNow(conn)
	err = conn.QueryRow(ctx, sqlProcessState, p.pid, p.started).Scan(&s.waits, &s.stamp, &s.locks)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, nil
	}
	if s.exists = err == nil; s.exists && s.locks {
		_, _ = l.inspect(ctx, conn) // if this fails, the next probe tries again
	}
	return s, err
}
