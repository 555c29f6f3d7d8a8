package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A peer is what a new session has said about itself and its server.
type peer struct {
	line    *line // nil if the connection has none
	pid     int64 // of the server's process, also behind a pooler
	started string
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

const sqlPast = `SELECT last_value FROM S.clock`

// present refuses a server that lacks a commit which this log has acknowledged: an
// old primary, a replica that was promoted without it, or a backup.
func (l *Log) present(ctx context.Context, q querier) error {
	acknowledged := l.acknowledged.Load()
	if acknowledged == 0 {
		return nil
	}
	var clock int64
	if err := q.QueryRow(ctx, in(l.schema, sqlPast)).Scan(&clock); err != nil {
		return err
	}
	if clock < acknowledged {
		return fmt.Errorf("%w: the server lacks the last commit that it has acknowledged to this process, of %v: it is an old primary, or a replica or backup without that commit; open the log again to go on without it",
			errSession, time.Unix(0, acknowledged).UTC())
	}
	return nil
}
