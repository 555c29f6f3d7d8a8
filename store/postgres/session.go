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
// itself, it sends scripts without waiting for the answers to those before.
type session struct {
	conn  *pgx.Conn
	names map[string]string // of the statements that scripts execute, by their text
	ready bool              // for transactions that begin early
	room  []byte            // for scripts
}

// roomMax is how much room a session keeps.
const roomMax = 1 << 20

// use makes the session one of a new connection.
func (x *session) use(conn *pgx.Conn) {
	x.conn, x.names, x.ready = conn, make(map[string]string), false
}

// send sends a message, with nothing on its way before it, and waits for its end.
// It returns what the last of its statements has answered.
func (x *session) send(ctx context.Context, m *message, s *statements) (last pgconn.CommandTag, err error) {
	if m.large() {
		if err := x.prepare(ctx, m.executed()); err != nil {
			return last, err
		}
		if w, ok := m.append(x.room[:0], s, x.names); ok {
			if err := x.write(ctx, w); err != nil {
				return last, err
			}
			_, last, err = x.answers(1)
			return last, err
		}
	}
	b := m.pipeline(s)
	if n := len(b.QueuedQueries); n > 0 {
		b.QueuedQueries[n-1].Exec(func(tag pgconn.CommandTag) error {
			last = tag
			return nil
		})
	}
	return last, x.conn.SendBatch(ctx, b).Close()
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

// write sends scripts, which are in the room of the session or a larger one, and
// does not wait for their answers. The deadline of the context holds until there
// is another.
//
// While an answer has not been read the server may wait for the room to write
// more of it, and does not read; but the answers to a script are a few hundred
// bytes, which always have room.
func (x *session) write(ctx context.Context, w []byte) error {
	if cap(w) <= roomMax {
		x.room = w
	}
	deadline, _ := ctx.Deadline()
	conn := x.conn.PgConn().Conn()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	_, err := conn.Write(w)
	return err
}

// answers waits for the ends of so many scripts. It returns how many of them have
// been done before the first that has failed, what the last statement of all has
// answered, and the first error.
func (x *session) answers(scripts int) (done int, last pgconn.CommandTag, err error) {
	conn := x.conn.PgConn()
	for range scripts {
		for ready := false; !ready; {
			// The deadline is that of the connection.
			m, lost := conn.ReceiveMessage(context.Background())
			if lost != nil {
				return done, last, lost
			}
			switch m := m.(type) {
			case *pgproto3.CommandComplete:
				last = pgconn.NewCommandTag(string(m.CommandTag))
			case *pgproto3.ErrorResponse:
				if err == nil {
					err = pgconn.ErrorResponseToPgError(m)
				}
			case *pgproto3.ReadyForQuery:
				ready = true
			}
		}
		if err == nil {
			done++
		}
	}
	if conn.Conn().SetDeadline(time.Time{}) != nil {
		hangUp(x.conn) // what has been answered holds
	}
	return done, last, err
}
