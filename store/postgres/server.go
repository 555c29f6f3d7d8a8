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

// A peer is what a new session has said about itself and its server.
type peer struct {
	line    *line // nil if the connection has none
	pid     int64 // of the server's process, also behind a pooler
	started string
	mark    string // of the session
	replica bool
	// system is the number that initdb gave to the server and its physical replicas,
	// timeline counts its promotions. They are 0 where the role may not ask, and
	// the timeline of a replica is.
	system   int64
	timeline uint32
}

// peerKey is under which a connection keeps its peer.
const peerKey = "perdure"

// peerOf returns the peer of a connection that a log has opened, or nil.
func peerOf(conn *pgconn.PgConn) *peer {
	p, _ := conn.CustomData()[peerKey].(*peer)
	return p
}

// Servers remembers which servers the connections of one log have led to.
//
// Each new connection must lead to a primary, of the system that the first one has
// led to, on a timeline that is not below one that has been seen: so after a
// failover neither a check nor a read is answered by a replica that is behind, nor
// by the old primary once a connection has seen the new one.
//
// This cannot be proved of an old primary as long as no connection has seen the new
// one: a process that is cut off together with the old primary goes on with it. The
// old one has to be fenced before the new one is promoted, as every tool that
// promotes replicas does.
type servers struct {
	mu       sync.Mutex
	system   int64
	timeline uint32
}

// errReplica says that a server is a replica.
var errReplica = errors.New("the server is a replica, a log needs the primary")

// meet refuses a server that a log must not use, and remembers it.
func (s *servers) meet(p *peer, readOnly bool) error {
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

// validate returns the function that makes a new connection fit for a log, or
// refuses it; of several hosts the next one is tried then.
func (c *config) validate(s *servers, before pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		p, err := c.pin(ctx, conn)
		if err == nil {
			err = s.meet(p, c.readOnly)
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

// An acknowledged commit is the last one that this process has been told to be stored.
type acknowledged struct {
	mu       sync.Mutex
	clock    int64 // its time, 0 if there is none yet
	writer   writer
	serial   int64  // of its proof
	timeline uint32 // of the server that has stored it, 0 if it is not known
}

// acknowledge remembers that the last transaction of the committer is stored. Its
// caller owns the committer.
func (l *Log) acknowledge(clock int64) {
	w, a := &l.committer, &l.acknowledged
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clock, a.writer, a.serial, a.timeline = clock, w.writer, w.serial, 0
	if p := peerOf(w.conn.PgConn()); p != nil {
		a.timeline = p.timeline
	}
}

// The proof of an acknowledged commit is deleted only after a later one of its writer
// is there.
const sqlPast = `SELECT c.last_value, l.info,
		EXISTS (SELECT FROM S.commits WHERE writer = $1::uuid AND serial >= $2),
		EXISTS (SELECT FROM S.commits WHERE writer = $1::uuid AND serial = $3)
	FROM S.clock c LEFT JOIN S.log l ON true`

// present refuses a server that has another log in the schema, or that lacks a commit
// which this log has acknowledged: an old primary, a replica that was promoted without
// it, or a backup. That the clock of the log has passed the commit is no proof of it,
// since other processes may have gone on where the commit is missing; the row that the
// commit has left is one.
func (l *Log) present(ctx context.Context, conn *pgx.Conn) (err error) {
	at := l.attend(conn)
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
	if err := l.same(info); err != nil {
		return err
	}
	if acked == 0 || proved {
		return nil
	}
	// Where all rows of the writer are gone they may have been swept: then only a server
	// that has been promoted since, or restored, is told by that.
	p := peerOf(conn.PgConn())
	another := p != nil && p.timeline != timeline && p.timeline != 0 && timeline != 0
	if clock < acked || known || another {
		return fmt.Errorf("%w: the server lacks the last commit that it has acknowledged to this process, of %v: it is an old primary, or a replica or backup without that commit; open the log again to go on without it",
			errSession, time.Unix(0, acked).UTC())
	}
	return nil
}

// same returns an error if what a schema says of its log is not what the log was opened on.
func (l *Log) same(record []byte) error {
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

// errStrayed says that a statement has not run in the session that the log has set up: a
// pooler in between has given it to another one, or has reset the session, so that
// the settings of the log do not hold. Each session has a mark, a setting of its own,
// that every transaction which writes compares under the lock.
var errStrayed = fmt.Errorf("%w: the session is not as the log has set it up: a pooler in between resets it, or gives transactions to others; a log needs a session for each connection, as PgBouncer gives it with pool_mode=session", errLost)

// markOf returns the mark of a session.
func markOf(conn *pgx.Conn) string {
	if p := peerOf(conn.PgConn()); p != nil {
		return p.mark
	}
	return ""
}

// lockTx takes the lock of the log in a transaction that is none of the committer's.
func (l *Log) lockTx(ctx context.Context, tx pgx.Tx) error {
	mark := ""
	if err := tx.QueryRow(ctx, sqlLock, l.lock).Scan(nil, &mark); err != nil {
		return err
	}
	if mark != markOf(tx.Conn()) {
		hangUp(tx.Conn())
		return errStrayed
	}
	return nil
}
