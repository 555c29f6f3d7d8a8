package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

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
	// readableRunsMax bounds the number of readable runs of pages in a table. The pages
	// behind the last of these runs count as damaged.
	readableRunsMax = 1000
	// lostProbesMax bounds how many numbers in a row are probed one by one. If there
	// are more, as with a damaged index, one error names them all.
	lostProbesMax = 1 << 12
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

// reasonOf returns the reason in an error about damage.
func reasonOf(err error) string {
	if c, ok := errors.AsType[*store.CorruptError](err); ok {
		return c.Reason
	}
	return err.Error()
}

// back rolls the transaction back to its savepoint, so that it can continue after damage.
func (m *readView) back(ctx context.Context) error { return m.do(ctx, sqlBack) }

// do runs statements without parameters.
func (m *readView) do(ctx context.Context, sql string) error {
	a := m.log.watchdog(m.conn)
	_, err := m.conn.PgConn().Exec(ctx, sql).ReadAll()
	return a.end(err)
}

// try runs fn, and rolls back to the savepoint if the server reports damage.
func (m *readView) try(ctx context.Context, fn func() error) (damage, failure error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a := m.log.watchdog(m.conn)
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

// readablePages returns the runs of a table's pages that can be read, and one error for
// each run that cannot.
func (m *readView) readablePages(ctx context.Context, table string) (whole []run, faults []error, err error) {
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
		if len(whole) < readableRunsMax {
			damage, err = m.try(ctx, func() error {
				_, err := m.conn.PgConn().Exec(ctx, sqlByPlace+fmt.Sprintf("; SELECT count(*) FROM %s WHERE %s", full, r.where())).ReadAll()
				return err
			})
		} else {
			damage = &store.CorruptError{Reason: fmt.Sprintf("the table has more than %d damaged places", readableRunsMax)}
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
		case r.end-r.first > 1 && len(whole) < readableRunsMax:
			half := (r.first + r.end) / 2
			todo = append(todo, run{half, r.end}, run{r.first, half})
		case damaged.end == r.first && damaged.end > damaged.first:
			damaged.end = r.end
		default:
			note()
			damaged, reason = r, reasonOf(damage)
		}
	}
	note()
	return whole, faults, nil
}

// A rowPlace is the location of a row and its key.
type rowPlace struct {
	rowKey
	table int    // index of the row's table in the list of tables
	at    string // ctid of the row, as text
	bytes int
}

// A damagedScan lists the rows on readable pages in the order of their keys.
type damagedScan struct {
	m      *readView
	all    []tableScan
	cursor string
	texts  int
	number bool
	done   bool
	// damaged is true if the tables have damaged pages, and false if only an index has.
	damaged bool
}

// scanDamaged begins to list the rows of the tables that satisfy the condition where, which
// may be empty. It also returns one error for each run of pages that the list leaves out.
func (m *readView) scanDamaged(ctx context.Context, all []tableScan, where string) (b *damagedScan, faults []error, err error) {
	one := all[0]
	b = &damagedScan{m: m, all: all, texts: len(one.texts), number: one.number != ""}
	columns := slices.Clone(one.texts)
	if b.number {
		columns = append(columns, one.number)
	}
	key := strings.Join(columns, ", ")
	var parts []string
	for i, l := range all {
		whole, damaged, err := m.readablePages(ctx, l.table)
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
func (b *damagedScan) close(ctx context.Context) error {
	if b.cursor == "" {
		return nil
	}
	return b.m.do(ctx, "CLOSE "+b.cursor)
}

// next returns the next rows of the list, or none at its end.
func (b *damagedScan) next(ctx context.Context) (places []rowPlace, err error) {
	if b.done {
		return nil, nil
	}
	a := b.m.log.watchdog(b.m.conn)
	err = a.end(func() error {
		rows, err := b.m.conn.Query(ctx, fmt.Sprintf("FETCH %d FROM %s", pageRowsMax, b.cursor), pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var p rowPlace
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
func (b *damagedScan) records(ctx context.Context, places []rowPlace, hand func(rowPlace, []byte, error) bool) error {
	for len(places) > 0 {
		n, bytes := 0, 0
		for n < len(places) && places[n].table == places[0].table && (n == 0 || bytes < pageBytesMax) {
			bytes += places[n].bytes
			n++
		}
		for todo := [][]rowPlace{places[:n]}; len(todo) > 0; {
			some := todo[0]
			todo = todo[1:]
			found := make(map[string][]byte, len(some))
			damage, err := b.read(ctx, some, found)
			switch {
			case err != nil:
				return err
			case damage != nil && len(some) > 1:
				half := len(some) / 2
				todo = append([][]rowPlace{some[:half], some[half:]}, todo...)
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

func (b *damagedScan) read(ctx context.Context, places []rowPlace, found map[string][]byte) (damage, failure error) {
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
func (m *readView) lost(ctx context.Context, l tableScan, first, last int64, hand func(number, through int64, reason string) bool) error {
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
		case probes == lostProbesMax:
			hand(r[0], last, reasonOf(damage))
			return nil
		case r[0] == r[1]:
			probes++
			if !hand(r[0], r[0], reasonOf(damage)) {
				return nil
			}
		default:
			half := r[0] + (r[1]-r[0])/2
			todo = append(todo, [2]int64{half + 1, r[1]}, [2]int64{r[0], half})
		}
	}
	return nil
}

// ---- scans
