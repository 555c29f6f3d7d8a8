package postgres

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/store"
)

// An accessPath is the access path by which a scan finds the events of a page.
type accessPath int

const (
	anyPath accessPath = iota
	// byIndex reads only the pages that hold the wanted events.
	byIndex
	// byTable needs no index, but reads the whole table for each page of the scan.
	byTable
)

// withoutIndex rewrites comparisons with a position so that the server does not relate them to
// an index. Its planner reads the ends of an index to estimate how many rows a comparison
// selects, whatever the settings say, and a damaged page would end the statement.
var withoutIndex = strings.NewReplacer("position >", "position + 0 >", "position <", "position + 0 <")

// withPath runs fn with settings that force the server to use one access path.
func (l *Log) withPath(ctx context.Context, w accessPath, fn func(conn *pgxpool.Conn) error) error {
	settings := map[accessPath]string{byIndex: sqlByNumber, byTable: sqlByScan}[w]
	if w == anyPath {
		return l.read(ctx, fn)
	}
	return l.read(ctx, func(conn *pgxpool.Conn) (failure error) {
		if _, err := conn.Conn().PgConn().Exec(ctx, "BEGIN READ ONLY; "+settings).ReadAll(); err != nil {
			return err
		}
		defer func() {
			if conn.Conn().IsClosed() {
				return
			}
			_, err := conn.Conn().PgConn().Exec(ctx, "ROLLBACK").ReadAll()
			failure = errors.Join(failure, err)
		}()
		return fn(conn)
	})
}

// sqlProbe reads all bytes of the records, including those stored out of line (TOAST).
const sqlProbe = `SELECT count(md5(record)) FROM S.events WHERE position >= $1 AND position <= $2`

// readable reads the events from first to last, and returns the damage if it finds any.
func (l *Log) readable(ctx context.Context, first, last store.Position) (damage, failure error) {
	err := l.withPath(ctx, byIndex, func(conn *pgxpool.Conn) error {
		return query(ctx, conn, in(l.schema, sqlProbe), []any{int64(first), int64(last)}, func([][]byte) error { return nil })
	})
	if isDamage(err) {
		return err, nil
	}
	return nil, err
}

// firstLost finds the first event from next to last that the server cannot read. It
// returns an error that names this event and the lost events directly after it. The
// argument damage is the error of the read of the whole range.
func (l *Log) firstLost(ctx context.Context, next, last store.Position, damage error) (at store.Position, named, failure error) {
	// The events from next to before whole can be read. One from whole to lost cannot.
	whole, lost := next, last
	for width := store.Position(1); whole+width-1 < lost; width *= 2 {
		d, err := l.readable(ctx, whole, whole+width-1)
		if err != nil {
			return 0, nil, err
		}
		if d != nil {
			lost, damage = whole+width-1, d
			break
		}
		whole += width
	}
	for whole < lost {
		half := whole + (lost-whole)/2
		d, err := l.readable(ctx, whole, half)
		switch {
		case err != nil:
			return 0, nil, err
		case d != nil:
			lost, damage = half, d
		default:
			whole = half + 1
		}
	}
	if d, err := l.readable(ctx, lost, lost); d == nil {
		// A second read of the same event found no damage.
		return 0, nil, cmp.Or(err, damage)
	}
	end := lost
	for end < last && end-lost < extentMax {
		d, err := l.readable(ctx, end+1, end+1)
		if err != nil {
			return 0, nil, err
		}
		if d == nil {
			break
		}
		end++
	}
	return lost, lostEvents(lost, end, reasonOf(damage)), nil
}
