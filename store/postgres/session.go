package postgres

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// A session is the connection of a committer. It can also send scripts.
type session struct {
	conn  *pgx.Conn
	names map[string]string // prepared names of the scripts' statements, by their text
	// warning is the server's warning about the last statement of a message, or nil.
	warning *pgconn.Notice
	before  pgconn.CommandTag // tag of the statement before the last
	last    pgconn.CommandTag
	room    []byte // buffer for scripts
}

// roomMax bounds the buffer that a session keeps.
const roomMax = 1 << 20

// use makes the session use a new connection.
func (x *session) use(conn *pgx.Conn) {
	x.conn, x.names = conn, make(map[string]string)
}

// send sends a request and waits for its end. No other request may be under way. It returns the
// command tag of the last statement.
func (x *session) send(ctx context.Context, m *request, s *statements) (last pgconn.CommandTag, err error) {
	if m.large() {
		if err := x.prepare(ctx, m.executed()); err != nil {
			return last, err
		}
		if w, ok := m.append(x.room[:0], s, x.names); ok {
			return x.script(ctx, w)
		}
	}
	b := m.pipeline(s)
	for _, q := range b.QueuedQueries[max(len(b.QueuedQueries)-2, 0):] {
		q.Exec(func(tag pgconn.CommandTag) error {
			last, x.warning = x.answered(tag), takeWarning(x.conn)
			return nil
		})
	}
	return last, x.conn.SendBatch(ctx, b).Close()
}

// answered records the command tag of a statement.
func (x *session) answered(tag pgconn.CommandTag) pgconn.CommandTag {
	x.before, x.last = x.last, tag
	return tag
}

// prepare prepares those of the statements that the session has not prepared yet.
func (x *session) prepare(ctx context.Context, statements iter.Seq[string]) error {
	for sql := range statements {
		if x.names[sql] != "" {
			continue
		}
		name := nameOf(sql)
		if _, err := x.conn.Prepare(ctx, name, sql); err != nil {
			return fmt.Errorf("%w: %w", errUnsent, err)
		}
		x.names[sql] = name
	}
	return nil
}

// script sends a script and waits for its end. It keeps the buffer of the script if that is not
// too large. It writes the whole script before it reads an answer. This cannot block both sides,
// because the answers to a script are a few hundred bytes, which fit into the socket buffers.
func (x *session) script(ctx context.Context, w []byte) (last pgconn.CommandTag, err error) {
	if cap(w) <= roomMax {
		x.room = w
	}
	deadline, _ := ctx.Deadline()
	conn := x.conn.PgConn()
	if err := conn.Conn().SetDeadline(deadline); err != nil {
		return last, err
	}
	if _, err := conn.Conn().Write(w); err != nil {
		return last, err
	}
	for {
		// The connection already has the deadline of ctx.
		m, lost := conn.ReceiveMessage(context.Background())
		if lost != nil {
			return last, lost
		}
		switch m := m.(type) {
		case *pgproto3.CommandComplete:
			last, x.warning = x.answered(pgconn.NewCommandTag(string(m.CommandTag))), takeWarning(x.conn)
		case *pgproto3.ErrorResponse:
			if err == nil {
				err = pgconn.ErrorResponseToPgError(m)
			}
		case *pgproto3.ReadyForQuery:
			if conn.Conn().SetDeadline(time.Time{}) != nil {
				closeNow(x.conn) // the answer is still valid
			}
			return last, err
		}
	}
}

// warningKey is the key under which a connection keeps the last warning of the server.
const warningKey = "perdure.warning"

// noteWarning keeps a warning of the server until takeWarning. The text of a warning may be in
// any language, but its unlocalized severity is always English.
func noteWarning(conn *pgconn.PgConn, n *pgconn.Notice) {
	if n.SeverityUnlocalized == "WARNING" {
		conn.CustomData()[warningKey] = n
	}
}

// takeWarning returns the last warning since the call before, or nil.
func takeWarning(conn *pgx.Conn) *pgconn.Notice {
	data := conn.PgConn().CustomData()
	n, _ := data[warningKey].(*pgconn.Notice)
	if n != nil {
		delete(data, warningKey)
	}
	return n
}
