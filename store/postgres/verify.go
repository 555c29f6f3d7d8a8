package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// An index names an index of a table, and the order in which only this index can list the rows.
type index struct{ table, name, where, order string }

var indexes = []index{
	{"events", "events_position", "", "position"},
	{"events", "events_version", "", "kind, id, version"},
	{"snapshots", "snapshots_pkey", "", "kind, id, version"},
	{"states", "states_pkey", "", "kind, id"},
	{"messages", "messages_pkey", "", "sequence"},
	{"messages", "messages_due", "WHERE NOT parked", "due, sequence"},
	{"messages", "messages_parked", "WHERE parked", "sequence"},
	{"messages", "messages_halted", "WHERE halted", "due, sequence"},
	{"messages", "messages_timer", "WHERE timer IS NOT NULL", "kind, id, timer"},
	{"receipts", "receipts_pkey", "", "kind, id, name"},
	{"claims", "claims_pkey", "", "space, value"},
	{"bookmarks", "bookmarks_pkey", "", "name, partition"},
}

const (
	sqlByTable = `SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off`
	sqlByIndex = `SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = on; SET LOCAL enable_sort = off; SET LOCAL enable_incremental_sort = off`
	// sqlRows sums up the rows by their places in the table, which differ for all rows.
	sqlRows = `SELECT count(*), coalesce(bit_xor(hashtextextended(place, 0)), 0) FROM (SELECT ctid::text AS place FROM S.%s %s %s) q`

	sqlAllEvents   = `SELECT position, version, kind, id, type, coalesce(tags, '{}'), record FROM S.events`
	sqlAllMessages = `SELECT sequence, due, parked, halted, kind, id, coalesce(timer, ''), record FROM S.messages`
)

// VerifyFiles implements [store.Verifier]. It checks the data by which the server finds rows:
// the columns of events and messages must match their records, and every index must list exactly
// the rows of its table. It reads each table once more for each index. It does not check the
// pages of tables and indexes; use PostgreSQL's programs pg_checksums and pg_amcheck for them.
func (l *Log) VerifyFiles(ctx context.Context, fault func(error)) error {
	m, err := l.readView(ctx)
	if err != nil {
		return fmt.Errorf("verify %s: %w", l.name, err)
	}
	// Damage does not end the check, because later tables may have faults too.
	for _, table := range []struct {
		name  string
		check func(context.Context, func(error)) error
	}{{"events", m.verifyEvents}, {"messages", m.verifyMessages}} {
		if err == nil {
			var damage error
			if damage, err = m.try(ctx, func() error { return table.check(ctx, fault) }); damage != nil {
				fault(unread("table "+table.name, damage))
			}
		}
	}
	if err == nil {
		err = m.verifyIndexes(ctx, fault)
	}
	_ = m.Close() // the transaction has only read
	if err != nil {
		return fmt.Errorf("verify %s: %w", l.name, err)
	}
	return nil
}

func (m *readView) verifyEvents(ctx context.Context, fault func(error)) error {
	if _, err := m.conn.Exec(ctx, sqlByTable); err != nil {
		return err
	}
	rows, err := m.conn.Query(ctx, in(m.log.schema, sqlAllEvents))
	if err != nil {
		return err
	}
	var position, version int64
	var kind, id, typ string
	var tags []string
	var record pgtype.DriverBytes
	var d store.Decoder
	var e store.Event
	_, err = pgx.ForEachRow(rows, []any{&position, &version, &kind, &id, &typ, &tags, &record}, func() error {
		if err := d.Event(record, &e); err != nil {
			return nil //nolint:nilerr // an export reports it
		}
		if int64(e.Position) != position || int64(e.Version) != version || e.Key != (store.Key{Kind: kind, ID: id}) || e.Type != typ || !slices.Equal(e.Tags, tags) {
			fault(&store.CorruptError{
				What: "event", Where: fmt.Sprintf("table events, position %d", position), Key: e.Key, Version: e.Version, Position: e.Position,
				Reason: fmt.Sprintf("the columns of the row say version %d of %s/%s, type %s, tags %q", version, kind, id, typ, tags),
			})
		}
		return nil
	})
	return err
}

func (m *readView) verifyMessages(ctx context.Context, fault func(error)) error {
	if _, err := m.conn.Exec(ctx, sqlByTable); err != nil {
		return err
	}
	rows, err := m.conn.Query(ctx, in(m.log.schema, sqlAllMessages))
	if err != nil {
		return err
	}
	var sequence, due int64
	var parked, halted bool
	var kind, id, timer string
	var record pgtype.DriverBytes
	_, err = pgx.ForEachRow(rows, []any{&sequence, &due, &parked, &halted, &kind, &id, &timer, &record}, func() error {
		r, err := store.DecodeMessage(record)
		if err != nil {
			return nil //nolint:nilerr // an export reports it
		}
		// For the first nanosecond of 1970, an older version has written 0.
		dueWrong := storecore.DueKey(r.Due) != storecore.DueKey(time.Unix(0, due))
		notHalted := r.Halted && !halted // a program that does not know the column may leave it true
		if int64(r.Sequence) != sequence || dueWrong || r.Parked != parked || notHalted || r.Source != (store.Key{Kind: kind, ID: id}) || r.Timer != timer {
			fault(&store.CorruptError{
				What: "message", Where: fmt.Sprintf("table messages, sequence %d", sequence), Key: r.Source,
				Reason: fmt.Sprintf("the columns of the row say due %d, parked %t, halted %t, timer %q of %s/%s", due, parked, halted, timer, kind, id),
			})
		}
		return nil
	})
	return err
}

// verifyIndexes compares the rows that each index lists with the rows of its table. It skips
// tables that cannot be read.
func (m *readView) verifyIndexes(ctx context.Context, fault func(error)) error {
	damaged := make(map[string]bool)
	for _, x := range indexes {
		var count, sum [2]int64
		for i, how := range []struct{ settings, order, file string }{{sqlByTable, "", "table " + x.table}, {sqlByIndex, "ORDER BY " + x.order, "index " + x.name}} {
			if damaged[x.table] {
				break
			}
			damage, err := m.try(ctx, func() error {
				if _, err := m.conn.Exec(ctx, how.settings); err != nil {
					return err
				}
				row := m.conn.QueryRow(ctx, in(m.log.schema, fmt.Sprintf(sqlRows, x.table, x.where, how.order)))
				return row.Scan(&count[i], &sum[i])
			})
			if err != nil {
				return err
			}
			if damage != nil {
				fault(unread(how.file, damage))
				damaged[x.table] = i == 0
				count[1], sum[1] = count[0], sum[0] // do not report a difference as well
			}
		}
		if count[0] != count[1] || sum[0] != sum[1] {
			fault(&store.CorruptError{
				What: "index", Where: "index " + x.name,
				Reason: fmt.Sprintf("it lists %d rows, and table %s has %d, not the same ones; REINDEX rebuilds it", count[1], x.table, count[0]),
			})
		}
	}
	return nil
}

// unread returns the error for a table or an index that the server cannot read completely.
func unread(file string, damage error) error {
	return &store.CorruptError{What: "file", Where: file, Reason: "the server cannot read all of it: " + reasonOf(damage)}
}
