package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/store"
)

// Reading a table that has damaged pages.
//
// The server ends a statement at the first damaged page that it reads (SQLSTATE XX001
// or XX002), and with the statement the transaction. A read view therefore has a
// savepoint to go back to, and then reads the table in another way:
//
//  1. The view finds the pages that cannot be read, by halving the table.
//  2. A cursor lists the keys and the places (ctid) of all rows of the other pages, in
//     order. The server sorts them. No index is used, because it may be damaged too.
//  3. The view reads the records by their places. A record that cannot be read although
//     its row can, because a part of it is stored out of line (TOAST), is a damaged record
//     with a known key.
//  4. Events and messages have numbers as keys. A number that the index lists, and whose
//     row was not found, is lost. The view searches between two rows that were found: it
//     halves the range until a single number fails.
//
// Step 1 must come before step 2, because a cursor fails for good at a damaged page.

const (
	// besideRunsMax bounds the number of readable runs of pages in a table. The pages
	// behind the last of these runs count as damaged.
	besideRunsMax = 1000
	// besideProbesMax bounds how many numbers in a row are probed one by one. If there
	// are more, as with a damaged index, one error names them all.
	besideProbesMax = 1 << 12
	// extentMax bounds the number of positions that the error of a scan names.
	extentMax = 1 << 8
)

// Settings that make the server find rows only by their places, or only by an index.
// force_custom_plan keeps the server from using a plan made under other settings.
const (
	sqlByPlace = `SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;
		SET LOCAL enable_tidscan = on; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off`
	sqlByNumber = `SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;
		SET LOCAL enable_tidscan = off; SET LOCAL enable_indexscan = on; SET LOCAL enable_indexonlyscan = on`

	// sqlByScan makes the server find rows by reading the whole table.
	sqlByScan = `SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = off;
		SET LOCAL enable_tidscan = off; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off`

	sqlSave = `SAVEPOINT perdure`
	sqlBack = `ROLLBACK TO SAVEPOINT perdure`
)

// isDamage reports whether an error is about damaged files of the server.
func isDamage(err error) bool { return errors.Is(err, store.ErrCorrupt) }

// said returns the reason in an error about damage.
func said(err error) string {
	if c, ok := errors.AsType[*store.CorruptError](err); ok {
		return c.Reason
	}
	return err.Error()
}

// back rolls the transaction back to its savepoint, so that it can continue after damage.
func (m *moment) back(ctx context.Context) error { return m.do(ctx, sqlBack) }

// do runs statements without parameters.
func (m *moment) do(ctx context.Context, sql string) error {
	a := m.log.attend(m.conn)
	_, err := m.conn.PgConn().Exec(ctx, sql).ReadAll()
	return a.end(err)
}

// try runs fn, and rolls back to the savepoint if the server reports damage.
func (m *moment) try(ctx context.Context, fn func() error) (damage, failure error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a := m.log.attend(m.conn)
	err := a.end(fn())
	if !isDamage(err) {
		return nil, err
	}
	return err, m.back(ctx)
}

// A run is a range of pages: first is included, end is not.
type run struct{ first, end int64 }

// where returns the SQL condition that selects the rows of the run.
func (r run) where() string {
	return fmt.Sprintf("ctid >= '(%d,0)'::tid AND ctid < '(%d,0)'::tid", r.first, r.end)
}

// wholePages returns the runs of a table's pages that can be read, and one error for
// each run that cannot.
func (m *moment) wholePages(ctx context.Context, table string) (whole []run, faults []error, err error) {
	full := in(m.log.schema, "S."+table)
	var pages int64
	damage, err := m.try(ctx, func() error {
		return m.conn.QueryRow(ctx, `SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint`, full).Scan(&pages)
	})
	if err = errors.Join(damage, err); err != nil {
		return nil, nil, err
	}
	var damaged run
	var reason string
	note := func() {
		if damaged.end > damaged.first {
			faults = append(faults, &store.CorruptError{
				What: "file", Where: fmt.Sprintf("table %s, pages %d to %d", table, damaged.first, damaged.end-1), Reason: reason,
			})
		}
	}
	for todo := []run{{0, pages}}; len(todo) > 0; {
		r := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if r.end <= r.first {
			continue
		}
		var damage error
		if len(whole) < besideRunsMax {
			damage, err = m.try(ctx, func() error {
				_, err := m.conn.PgConn().Exec(ctx, sqlByPlace+fmt.Sprintf("; SELECT count(*) FROM %s WHERE %s", full, r.where())).ReadAll()
				return err
			})
		} else {
			damage = &store.CorruptError{Reason: fmt.Sprintf("the table has more than %d damaged places", besideRunsMax)}
			damaged.end, r = max(damaged.end, r.first), run{r.first, pages}
			todo = nil
		}
		switch {
		case err != nil:
			return nil, nil, err
		case damage == nil && len(whole) > 0 && whole[len(whole)-1].end == r.first:
			whole[len(whole)-1].end = r.end
		case damage == nil:
			whole = append(whole, r)
		case r.end-r.first > 1 && len(whole) < besideRunsMax:
			half := (r.first + r.end) / 2
			todo = append(todo, run{half, r.end}, run{r.first, half})
		case damaged.end == r.first && damaged.end > damaged.first:
			damaged.end = r.end
		default:
			note()
			damaged, reason = r, said(damage)
		}
	}
	note()
	return whole, faults, nil
}

// A place is the location of a row and its key.
type place struct {
	rowKey
	table int    // index of the row's table in the listings
	at    string // ctid of the row, as text
	bytes int
}

// A besides lists the rows on readable pages in the order of their keys.
type besides struct {
	m      *moment
	all    []listing
	cursor string
	texts  int
	number bool
	done   bool
	// damaged is true if the tables have damaged pages, and false if only an index has.
	damaged bool
}

// besides begins to list the rows of the listings that satisfy the condition where, which
// may be empty. It also returns one error for each run of pages that the list leaves out.
func (m *moment) besides(ctx context.Context, all []listing, where string) (b *besides, faults []error, err error) {
	one := all[0]
	b = &besides{m: m, all: all, texts: len(one.texts), number: one.number != ""}
	columns := slices.Clone(one.texts)
	if b.number {
		columns = append(columns, one.number)
	}
	key := strings.Join(columns, ", ")
	var parts []string
	for i, l := range all {
		whole, damaged, err := m.wholePages(ctx, l.table)
		if err != nil {
			return nil, nil, err
		}
		faults = append(faults, damaged...)
		for _, r := range whole {
			part := fmt.Sprintf("SELECT %s, %d AS source, ctid AS place, %s AS bytes FROM S.%s WHERE %s", key, i, l.bytes, l.table, r.where())
			if where != "" {
				part += " AND " + where
			}
			parts = append(parts, part)
		}
	}
	b.damaged = len(faults) > 0
	if len(parts) == 0 {
		b.done = true
		return b, faults, nil
	}
	m.cursors++
	b.cursor = fmt.Sprintf("perdure_%d", m.cursors)
	// The cursor is older than the savepoint, so a rollback to the savepoint keeps it open.
	sql := in(m.log.schema, fmt.Sprintf("%s; DECLARE %s NO SCROLL CURSOR FOR SELECT * FROM (%s) q ORDER BY %s; %s",
		sqlByPlace, b.cursor, strings.Join(parts, " UNION ALL "), key, sqlSave))
	return b, faults, m.do(ctx, sql)
}

// close closes the cursor of the list.
func (b *besides) close(ctx context.Context) error {
	if b.cursor == "" {
		return nil
	}
	return b.m.do(ctx, "CLOSE "+b.cursor)
}

// next returns the next rows of the list, or none at its end.
func (b *besides) next(ctx context.Context) (places []place, err error) {
	if b.done {
		return nil, nil
	}
	a := b.m.log.attend(b.m.conn)
	err = a.end(func() error {
		rows, err := b.m.conn.Query(ctx, fmt.Sprintf("FETCH %d FROM %s", pageRowsMax, b.cursor), pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var p place
			v := rows.RawValues()
			for i := range b.texts {
				p.texts[i] = string(v[i])
			}
			v = v[b.texts:]
			if b.number {
				if p.number, err = strconv.ParseInt(string(v[0]), 10, 64); err != nil {
					return err
				}
				v = v[1:]
			}
			p.table, _ = strconv.Atoi(string(v[0]))
			p.at = string(v[1])
			p.bytes, _ = strconv.Atoi(string(v[2]))
			places = append(places, p)
		}
		return rows.Err()
	}())
	b.done = len(places) < pageRowsMax
	return places, err
}

// records reads the records of rows by their places, and calls hand for each row in
// order, with the record or with the damage. It stops when hand returns false.
func (b *besides) records(ctx context.Context, places []place, hand func(place, []byte, error) bool) error {
	for len(places) > 0 {
		n, bytes := 0, 0
		for n < len(places) && places[n].table == places[0].table && (n == 0 || bytes < pageBytesMax) {
			bytes += places[n].bytes
			n++
		}
		for todo := [][]place{places[:n]}; len(todo) > 0; {
			some := todo[0]
			todo = todo[1:]
			found := make(map[string][]byte, len(some))
			damage, err := b.read(ctx, some, found)
			switch {
			case err != nil:
				return err
			case damage != nil && len(some) > 1:
				half := len(some) / 2
				todo = append([][]place{some[:half], some[half:]}, todo...)
				continue
			}
			for _, p := range some {
				if !hand(p, found[p.at], damage) {
					return nil
				}
			}
		}
		places = places[n:]
	}
	return nil
}

func (b *besides) read(ctx context.Context, places []place, found map[string][]byte) (damage, failure error) {
	l := b.all[places[0].table]
	at := make([]string, len(places))
	for i, p := range places {
		at[i] = p.at
	}
	if err := b.m.do(ctx, sqlByPlace); err != nil {
		return nil, err
	}
	return b.m.try(ctx, func() error {
		sql := in(b.m.log.schema, fmt.Sprintf("SELECT ctid::text, %s FROM S.%s WHERE ctid = ANY ($1::text[]::tid[])", l.value, l.table))
		return query(ctx, b.m.conn, sql, []any{at}, func(v [][]byte) error {
			found[string(v[0])] = slices.Clone(v[1])
			return nil
		})
	})
}

// lost calls hand for each number from first to last that the index of a table lists. The
// caller has found no row for these numbers, so all of them are lost. The argument through
// equals number, unless too many numbers fail in a row to probe them one by one: then one
// call reports all numbers from number to through.
func (m *moment) lost(ctx context.Context, l listing, first, last int64, hand func(number, through int64, reason string) bool) error {
	if first > last {
		return nil
	}
	if err := m.do(ctx, sqlByNumber); err != nil {
		return err
	}
	sql := in(m.log.schema, fmt.Sprintf("SELECT %[1]s FROM S.%[2]s WHERE %[1]s >= $1 AND %[1]s <= $2 ORDER BY %[1]s LIMIT $3", l.number, l.table))
	probes := 0
	for todo := [][2]int64{{first, last}}; len(todo) > 0; {
		r := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		var listed []int64
		damage, err := m.try(ctx, func() error {
			return query(ctx, m.conn, sql, []any{r[0], r[1], pageRowsMax}, func(v [][]byte) error {
				listed = append(listed, signed(v[0]))
				return nil
			})
		})
		if err == nil && damage != nil {
			err = m.do(ctx, sqlByNumber)
		}
		if err != nil {
			return err
		}
		switch {
		case damage == nil:
			probes = 0
			for _, n := range listed {
				if !hand(n, n, "its page cannot be read") {
					return nil
				}
			}
			if len(listed) == pageRowsMax && listed[len(listed)-1] < r[1] {
				todo = append(todo, [2]int64{listed[len(listed)-1] + 1, r[1]})
			}
		case probes == besideProbesMax:
			hand(r[0], last, said(damage))
			return nil
		case r[0] == r[1]:
			probes++
			if !hand(r[0], r[0], said(damage)) {
				return nil
			}
		default:
			half := r[0] + (r[1]-r[0])/2
			todo = append(todo, [2]int64{half + 1, r[1]}, [2]int64{r[0], half})
		}
	}
	return nil
}

var eventListing = listing{table: "events", number: "position", value: "record", bytes: "octet_length(record)"}

// headsBeside finds the heads of a log whose table of events is damaged.
func (m *moment) headsBeside(ctx context.Context, f *facts) error {
	for p := range m.log.info.Partitions {
		zero, last := int64(store.NewPosition(p, 0)), int64(store.LastPosition(p))
		b, _, err := m.besides(ctx, []listing{eventListing}, withoutIndex.Replace(fmt.Sprintf("position > %d AND position <= %d", zero, last)))
		if err != nil {
			return err
		}
		head := zero
		for more := true; more; {
			places, err := b.next(ctx)
			if err != nil {
				return err
			}
			if more = len(places) > 0; more {
				head = places[len(places)-1].number
			}
		}
		if b.damaged {
			err = m.lost(ctx, eventListing, head+1, last, func(n, through int64, _ string) bool {
				if n == through {
					head = n
				}
				return n == through
			})
		}
		if err = errors.Join(err, b.close(ctx)); err != nil {
			return err
		}
		f.heads[p] = store.Position(head).Sequence()
	}
	return nil
}

// eventsBeside yields the events from position next to head, the last position of the
// partition, and an error for each event that is lost.
func (x *export) eventsBeside(ctx context.Context, p *page, next, head store.Position, hand func(store.Record, error) bool) (more bool, err error) {
	b, _, err := x.besides(ctx, []listing{eventListing}, withoutIndex.Replace(fmt.Sprintf("position >= %d AND position <= %d", int64(next), int64(head))))
	if err != nil {
		return false, err
	}
	more = true
	lost := func(until store.Position) error {
		if !b.damaged {
			return nil
		}
		return x.lost(ctx, eventListing, int64(next), int64(until), func(n, through int64, reason string) bool {
			more = hand(nil, lostEvents(store.Position(n), store.Position(through), reason))
			return more
		})
	}
	for more {
		places, err := b.next(ctx)
		if err != nil {
			return false, err
		}
		if len(places) == 0 {
			break
		}
		var failed error
		err = b.records(ctx, places, func(at place, record []byte, damage error) bool {
			position := store.Position(at.number)
			if failed = lost(position - 1); failed != nil || !more {
				return false
			}
			next = position + 1
			if damage != nil {
				more = hand(nil, lostEvents(position, position, said(damage)))
				return more
			}
			p.reset()
			err := p.decodeAt(p.keep(0, uint64(position), record))
			more = hand(&p.event, err)
			return more
		})
		if err = errors.Join(err, failed); err != nil {
			return false, err
		}
	}
	if more {
		err = lost(head)
	}
	return more, errors.Join(err, b.close(ctx))
}

// lostEvents returns the error for events that the server cannot read.
func lostEvents(first, last store.Position, reason string) error {
	c := &store.CorruptError{What: "event", Where: "table events", Position: first, Reason: "the server cannot read it: " + reason}
	if last > first {
		c.Reason = fmt.Sprintf("the server cannot read the events at the positions %v to %v: %s", first, last, reason)
	}
	return c
}

// listBeside yields the records of the listings after the key last, and an error for each
// known damage.
func (x *export) listBeside(ctx context.Context, p *page, s store.RecordKind, all []listing, last rowKey, begun bool, hand func(store.Record, error) bool) (failure error) {
	b, faults, err := x.besides(ctx, all, "")
	if err != nil {
		return err
	}
	defer func() { failure = errors.Join(failure, b.close(ctx)) }()
	if s != store.KindMessage { // lost messages get an error each, below
		for _, err := range faults {
			if !hand(nil, err) {
				return nil
			}
		}
	}
	more := true
	lost := func(until int64) error {
		if s != store.KindMessage || !b.damaged {
			return nil
		}
		first := int64(1)
		if begun {
			first = last.number + 1
		}
		return x.lost(ctx, all[0], first, until, func(n, _ int64, reason string) bool {
			more = hand(nil, &store.CorruptError{
				What: "message", Where: fmt.Sprint("table messages, sequence ", n), Record: &store.Message{Sequence: uint64(n)},
				Reason: "the server cannot read it: " + reason,
			})
			return more
		})
	}
	for more {
		places, err := b.next(ctx)
		if err != nil {
			return err
		}
		if len(places) == 0 {
			return lost(int64(x.origin.Sequence))
		}
		if begun {
			places = slices.DeleteFunc(places, func(at place) bool { return at.compare(last) <= 0 })
		}
		var failed error
		err = b.records(ctx, places, func(at place, record []byte, damage error) bool {
			if failed = lost(at.number - 1); failed != nil || !more {
				return false
			}
			if s == store.KindVersion && begun && at.texts == last.texts {
				for v := last.number + 1; v < at.number && more; v++ {
					key := store.Key{Kind: at.texts[0], ID: at.texts[1]}
					more = hand(nil, &store.CorruptError{
						What: "event", Where: "table events", Key: key, Version: store.Version(v), Reason: "it is missing, and pages of the table cannot be read",
					})
				}
			}
			last, begun = at.rowKey, true
			if !more {
				return false
			}
			var r store.Record
			if damage != nil {
				damage = &store.CorruptError{What: s.String(), Where: "table " + all[at.table].table, Reason: "the server cannot read it: " + said(damage)}
			} else {
				r, damage = p.decode(s, at.rowKey, record)
			}
			if c, ok := errors.AsType[*store.CorruptError](damage); ok {
				c.Record = placeOf(s, at.rowKey)
			}
			more = hand(r, damage)
			return more
		})
		if err = errors.Join(err, failed); err != nil {
			return err
		}
	}
	return nil
}

// ---- scans

// A way is the access path by which a scan finds the events of a page.
type way int

const (
	anyWay way = iota
	// byIndex reads only the pages that hold the wanted events.
	byIndex
	// byTable needs no index, but reads the whole table for each page of the scan.
	byTable
)

// withoutIndex rewrites comparisons with a position so that the server does not relate them to
// an index. Its planner reads the ends of an index to estimate how many rows a comparison
// selects, whatever the settings say, and a damaged page would end the statement.
var withoutIndex = strings.NewReplacer("position >", "position + 0 >", "position <", "position + 0 <")

// by runs fn with settings that force the server to use one access path.
func (l *Log) by(ctx context.Context, w way, fn func(conn *pgxpool.Conn) error) error {
	settings := map[way]string{byIndex: sqlByNumber, byTable: sqlByScan}[w]
	if w == anyWay {
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
	err := l.by(ctx, byIndex, func(conn *pgxpool.Conn) error {
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
	return lost, lostEvents(lost, end, said(damage)), nil
}
