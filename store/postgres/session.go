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

// A session is the connection of a committer. Beside what a connection can do by
// itself, it sends scripts.
type session struct {
	conn  *pgx.Conn
	names map[string]string // of the statements that scripts execute, by their text
	// warning is what the server has warned of in the last statement of a message.
	warning *pgconn.Notice
	before  pgconn.CommandTag // of the statement before the last
	last    pgconn.CommandTag
	room    []byte // for scripts
}

// roomMax is how much room a session keeps.
const roomMax = 1 << 20

// use makes the session one of a new connection.
func (x *session) use(conn *pgx.Conn) {
	x.conn, x.names = conn, make(map[string]string)
}

// send sends a message, with nothing on its way before it, and waits for its end.
// It returns what the last of its statements has answered.
func (x *session) send(ctx context.Context, m *message, s *statements) (last pgconn.CommandTag, err error) {
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

// answered takes in what a statement has answered.
func (x *session) answered(tag pgconn.CommandTag) pgconn.CommandTag {
	x.before, x.last = x.last, tag
	return tag
}

// prepare prepares statements for scripts where the session does not have them yet.
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

// script sends a script, which is in the room of the session or a larger one, and
// waits for its end. While an answer has not been read the server may wait for the
// room to write more of it, and does not read; but the answers to a script are a few
// hundred bytes, which always have room.
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
		// The deadline is that of the connection.
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
				hangUp(x.conn) // what has been answered holds
			}
			return last, err
		}
	}
}

// warningKey is where a connection keeps what the server has warned of.
const warningKey = "perdure.warning"

// noteWarning keeps a warning of the server until it is taken. The server says in any
// language what it is about, but not how severe it is.
func noteWarning(conn *pgconn.PgConn, n *pgconn.Notice) {
	if n.SeverityUnlocalized == "WARNING" {
		conn.CustomData()[warningKey] = n
	}
}

// takeWarning returns what the server has warned of since the last time, or nil.
func takeWarning(conn *pgx.Conn) *pgconn.Notice {
	data := conn.PgConn().CustomData()
	n, _ := data[warningKey].(*pgconn.Notice)
	if n != nil {
		delete(data, warningKey)
	}
	return n
}
