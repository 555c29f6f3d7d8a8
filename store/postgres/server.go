package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/store"
)

// A peer describes a new session and its server.
type peer struct {
	conn    *countingConn // nil if the connection has none
	pid     int64         // process id of the session in the server, also behind a pooler
	started string
	mark    string // mark of the session, see [errSessionMoved]
	replica bool
	// system is the number that initdb gave to the server and its physical replicas.
	// timeline increases with each promotion. Both are 0 if the role may not read them,
	// and timeline is 0 for a replica.
	system   int64
	timeline uint32
}

// peerKey is the key under which a connection keeps its peer.
const peerKey = "perdure"

// peerOf returns the peer of a connection that a log has opened, or nil.
func peerOf(conn *pgconn.PgConn) *peer {
	p, _ := conn.CustomData()[peerKey].(*peer)
	return p
}

// servers keeps the identity of the server that the connections of one log lead to.
//
// Each new connection must lead to a primary of the same system as the first connection, on a
// timeline that is not lower than one seen before. After a failover, a replica that is behind
// can therefore not answer a check or a read, and neither can the old primary once a connection
// has seen the new one.
//
// As long as no connection has seen the new primary, the log cannot recognize the old one: a
// process that is cut off together with the old primary continues to use it. The old primary
// must be fenced before the new one is promoted, as every tool that promotes replicas does.
type servers struct {
	mu       sync.Mutex
	system   int64
	timeline uint32
}

// errReplica says that a server is a replica.
var errReplica = errors.New("the server is a replica, a log needs the primary")

// check returns an error if a log must not use the server. Otherwise it keeps its identity.
func (s *servers) check(p *peer, readOnly bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case p.replica && !readOnly:
		return fmt.Errorf("%w: %w", errSession, errReplica)
	case s.system != 0 && p.system != 0 && p.system != s.system:
		return fmt.Errorf("%w: the server is another one, system %d where the log was opened on %d; open the log again if it has moved there",
			errSession, p.system, s.system)
	case p.timeline != 0 && p.timeline < s.timeline:
		return fmt.Errorf("%w: the server is an old primary, on timeline %d where the log has been on %d; stop it, and have the address lead to the new one",
			errSession, p.timeline, s.timeline)
	}
	if p.system != 0 {
		s.system = p.system
	}
	s.timeline = max(s.timeline, p.timeline)
	return nil
}

// validate returns the function that sets up a new connection for a log, or refuses it. If the
// URL names several hosts, package pgconn then tries the next one.
func (c *config) validate(s *servers, before pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		p, err := c.pin(ctx, conn)
		if err == nil {
			err = s.check(p, c.readOnly)
		}
		if err != nil {
			return err
		}
		conn.CustomData()[peerKey] = p
		if before != nil {
			return before(ctx, conn)
		}
		return nil
	}
}

// acknowledged describes the last commit that the log has acknowledged to its callers.
type acknowledged struct {
	mu       sync.Mutex
	clock    int64 // commit time, or 0 if there is no commit yet
	writer   writer
	serial   int64  // serial of the commit's proof
	timeline uint32 // timeline of the server that stored the commit, or 0 if unknown
}

// acknowledge records that the last transaction of the committer is stored. The caller must own
// the committer.
func (l *Log) acknowledge(clock int64) {
	w, a := &l.committer, &l.acknowledged
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clock, a.writer, a.serial, a.timeline = clock, w.writer, w.serial, 0
	if p := peerOf(w.conn.PgConn()); p != nil {
		a.timeline = p.timeline
	}
}

// sqlPast looks for the proof of the acknowledged commit or a later one of the same writer. A
// proof is deleted only after a later one exists.
const sqlPast = `SELECT c.last_value, l.info,
		EXISTS (SELECT FROM S.commits WHERE writer = $1::uuid AND serial >= $2),
		EXISTS (SELECT FROM S.commits WHERE writer = $1::uuid AND serial = $3)
	FROM S.clock c LEFT JOIN S.log l ON true`

// requireCommits refuses a server that has another log in the schema, or that lacks a commit which
// this log has acknowledged: an old primary, a replica that was promoted without the commit, or
// a backup. A clock that has passed the commit proves nothing, since other processes may have
// continued on a server without the commit. Only the row that the commit wrote is a proof.
func (l *Log) requireCommits(ctx context.Context, conn *pgx.Conn) (err error) {
	at := l.watchdog(conn)
	defer func() { err = at.end(err) }()
	a := &l.acknowledged
	a.mu.Lock()
	acked, w, serial, timeline := a.clock, a.writer, a.serial, a.timeline
	a.mu.Unlock()
	var clock int64
	var proved, known bool
	var info []byte
	row := conn.QueryRow(ctx, in(l.schema, sqlPast), w.id.String(), serial, w.first)
	if err := row.Scan(&clock, &info, &proved, &known); err != nil {
		return err
	}
	if err := l.requireSameLog(info); err != nil {
		return err
	}
	if acked == 0 || proved {
		return nil
	}
	// If all rows of the writer are missing, a sweep may have deleted them. The missing row then
	// counts only if the server was promoted or restored since the commit.
	p := peerOf(conn.PgConn())
	another := p != nil && p.timeline != timeline && p.timeline != 0 && timeline != 0
	if clock < acked || known || another {
		return fmt.Errorf("%w: the server lacks the last commit that it has acknowledged to this process, of %v: it is an old primary, or a replica or backup without that commit; open the log again to go on without it",
			errSession, time.Unix(0, acked).UTC())
	}
	return nil
}

// requireSameLog returns an error if the schema does not describe the log that was opened.
func (l *Log) requireSameLog(record []byte) error {
	if bytes.Equal(record, l.record) {
		return nil
	}
	info, err := store.DecodeLogInfo(record)
	switch {
	case err != nil:
		return located(err, "log", "its only one")
	case info.ID != l.info.ID || info.Partitions != l.info.Partitions:
		return fmt.Errorf("%w: schema %q holds another log, %v with %d partitions, where %v with %d was opened: it was dropped and made again, or restored; open the log again to go on with that one",
			errSession, l.schema, info.ID, info.Partitions, l.info.ID, l.info.Partitions)
	}
	return nil
}

// errSessionMoved says that a statement has not run in a session that the log has set up: a pooler
// has sent it to another session, or has reset the session. The settings of the log are then not
// in force. Each session has a mark, which is a setting of its own. Every transaction that
// writes compares the mark under the lock.
var errSessionMoved = fmt.Errorf("%w: the session is not as the log has set it up: a pooler in between resets it, or gives transactions to others; a log needs a session for each connection, as PgBouncer gives it with pool_mode=session", errLost)

// markOf returns the mark of a session.
func markOf(conn *pgx.Conn) string {
	if p := peerOf(conn.PgConn()); p != nil {
		return p.mark
	}
	return ""
}

// lockTx takes the lock of the log in a transaction outside of the committer.
func (l *Log) lockTx(ctx context.Context, tx pgx.Tx) error {
	mark := ""
	if err := tx.QueryRow(ctx, sqlLock, l.lock).Scan(nil, &mark); err != nil {
		return err
	}
	if mark != markOf(tx.Conn()) {
		closeNow(tx.Conn())
		return errSessionMoved
	}
	return nil
}
