package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// An export reads the rows of a read view page by page. The statement for each page
// starts after the last row of the page before.
type export struct{ *readView }

// Export implements [store.Exporter]. The export is a transaction on a connection of its
// own, so commits continue while it is open. But until it is closed the server keeps, in
// all its databases, the rows that commits delete or replace. The export holds one page of
// records in memory for each iteration of Records.
func (l *Log) Export(ctx context.Context) (store.Export, error) {
	m, err := l.readView(ctx)
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	return &export{m}, nil
}

func (x *export) Origin() store.Origin { return x.origin }
func (x *export) Stats() store.Stats   { return x.stats }

// A rowKey is the key of a row: its text columns first, then its number.
type rowKey struct {
	texts  [3]string
	number int64
}

// A tableScan describes a table that is read in the order of its key.
type tableScan struct {
	table  string
	texts  []string // text columns of the key
	number string   // last column of the key, if it is a number
	value  string   // column or expression to read
	bytes  string   // length of the value, in SQL
}

// tableScans describes the tables of each sort of records that is not read by partition.
// States are in two tables.
var tableScans = map[store.RecordKind][]tableScan{
	store.KindState: {
		{"snapshots", []string{"kind", "id"}, "version", "record", "octet_length(record)"},
		{"states", []string{"kind", "id"}, "version", "record", "octet_length(record)"},
	},
	store.KindMessage:    {{"messages", nil, "sequence", "record", "octet_length(record)"}},
	store.KindReceipt:    {{"receipts", []string{"kind", "id", "name"}, "", "record", "octet_length(record)"}},
	store.KindClaim:      {{"claims", []string{"space", "value"}, "", "record", "octet_length(record)"}},
	store.KindCheckpoint: {{"bookmarks", []string{"name"}, "partition", "record", "octet_length(record)"}},
	store.KindVersion:    {{"events", []string{"kind", "id"}, "version", "position", "8"}},
}

// sqlTableScan returns the statement that reads one page of tables which have the same
// key columns, merged in the order of the key.
func sqlTableScan(all []tableScan) string {
	one := all[0]
	key := one.texts
	var after []string
	for i := range one.texts {
		after = append(after, fmt.Sprintf("$%d::text", i+1))
	}
	if one.number != "" {
		key = append(slices.Clip(key), one.number)
		after = append(after, fmt.Sprintf("$%d::bigint", len(key)))
	}
	columns, limit := strings.Join(key, ", "), len(key)+1
	var tables []string
	for _, l := range all {
		tables = append(tables, fmt.Sprintf("(SELECT %s, %s FROM S.%s WHERE (%s) > (%s) ORDER BY %s LIMIT $%d)",
			columns, l.value, l.table, columns, strings.Join(after, ", "), columns, limit))
	}
	return fmt.Sprintf(`SELECT %[1]s, %[2]s FROM (
			SELECT %[1]s, %[2]s, sum(%[3]s) OVER (ORDER BY %[1]s ROWS UNBOUNDED PRECEDING) - %[3]s AS before
			FROM (%[4]s) p ORDER BY %[1]s LIMIT $%[5]d
		) q WHERE before < $%[6]d ORDER BY %[1]s`,
		columns, one.value, one.bytes, strings.Join(tables, " UNION ALL "), limit, limit+1)
}

// Records implements [store.Export].
func (x *export) Records(ctx context.Context, s store.RecordKind) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		p := newPage()
		defer p.release()
		// hand yields a record or an error, and adds the sort to the error.
		hand := func(r store.Record, err error) bool {
			if ctx.Err() != nil {
				yield(nil, fmt.Errorf("export %vs: %w", s, ctx.Err()))
				return false
			}
			if err != nil {
				return yield(nil, fmt.Errorf("export %vs: %w", s, err))
			}
			return yield(r, nil)
		}
		var err error
		if all := tableScans[s]; all != nil {
			err = x.list(ctx, p, s, all, hand)
		} else if s == store.KindEvent {
			err = x.events(ctx, p, hand)
		}
		if err != nil {
			yield(nil, fmt.Errorf("export %vs: %w", s, err))
		}
	}
}

// fill reads a page, and calls add for each row.
func (x *export) fill(ctx context.Context, sql string, args []any, add func(values [][]byte) error) error {
	err := ctx.Err()
	if err == nil && x.log.closed.Load() {
		err = store.ErrClosed
	}
	if err == nil {
		a := x.log.watchdog(x.conn)
		err = a.end(query(ctx, x.conn, sql, args, add))
	}
	return err
}

func (x *export) events(ctx context.Context, p *page, hand func(store.Record, error) bool) error {
	for _, head := range x.origin.Heads {
		next := store.NewPosition(head.Partition(), 1)
		for more := head >= next; more; more = p.full() {
			p.reset()
			args := []any{int64(next), int64(head), pageRowsMax, pageBytesMax}
			err := x.fill(ctx, x.log.statements.scan, args, func(v [][]byte) error {
				p.rows = append(p.rows, p.keep(0, number(v[0]), v[1]))
				return nil
			})
			if isDamage(err) {
				if err = x.back(ctx); err != nil {
					return err
				}
				goOn, err := x.eventsOfDamaged(ctx, p, next, head, hand)
				if err != nil || !goOn {
					return err
				}
				break
			}
			if err != nil {
				return err
			}
			for _, r := range p.rows {
				next = r.position + 1
				err := p.decodeAt(r)
				if !hand(&p.event, err) {
					return nil
				}
			}
		}
	}
	return nil
}

// list reads the rows of tables.
func (x *export) list(ctx context.Context, p *page, s store.RecordKind, all []tableScan, hand func(store.Record, error) bool) error {
	one := all[0]
	sql := in(x.log.schema, sqlTableScan(all))
	last, begun := rowKey{number: math.MinInt64}, false
	var keys []rowKey
	for more := true; more; more = p.full() {
		p.reset()
		keys = keys[:0]
		var args []any
		for i := range one.texts {
			args = append(args, last.texts[i])
		}
		if one.number != "" {
			args = append(args, last.number)
		}
		err := x.fill(ctx, sql, append(args, pageRowsMax, pageBytesMax), func(v [][]byte) error {
			var k rowKey
			for i := range one.texts {
				k.texts[i] = string(v[i])
			}
			if one.number != "" {
				k.number = signed(v[len(one.texts)])
			}
			keys = append(keys, k)
			p.rows = append(p.rows, p.keep(0, 0, v[len(v)-1]))
			return nil
		})
		if isDamage(err) {
			if err = x.back(ctx); err != nil {
				return err
			}
			return x.listDamaged(ctx, p, s, all, last, begun, hand)
		}
		if err != nil {
			return err
		}
		for i, k := range keys {
			last, begun = k, true
			r, err := p.decode(s, k, p.record(p.rows[i]))
			if c, ok := errors.AsType[*store.CorruptError](err); ok {
				c.Record = placeOf(s, k)
			}
			if !hand(r, err) {
				return nil
			}
		}
	}
	return nil
}

// placeOf returns a record with the fields that the key of a damaged row tells.
func placeOf(s store.RecordKind, k rowKey) store.Record {
	switch s {
	case store.KindState:
		return &store.State{Key: store.Key{Kind: k.texts[0], ID: k.texts[1]}, Version: store.Version(k.number)}
	case store.KindMessage:
		return &store.Message{Sequence: uint64(k.number)}
	case store.KindReceipt:
		return &store.Receipt{Entity: store.Key{Kind: k.texts[0], ID: k.texts[1]}, Name: k.texts[2]}
	case store.KindClaim:
		return &store.Claimed{Claim: store.Claim{Space: k.texts[0], Value: k.texts[1]}}
	case store.KindCheckpoint:
		return storecore.CheckpointAt(k.texts[0], uint16(k.number))
	}
	return nil
}

// signed returns the signed integer in four or eight bytes.
func signed(value []byte) int64 {
	if len(value) == 4 {
		return int64(int32(binary.BigEndian.Uint32(value)))
	}
	return int64(number(value))
}

// decode decodes the record of a row, and checks it against the key of the row.
func (p *page) decode(s store.RecordKind, k rowKey, record []byte) (store.Record, error) {
	switch s {
	case store.KindVersion:
		key := store.Key{Kind: k.texts[0], ID: k.texts[1]}
		return &store.Event{Key: key, Version: store.Version(k.number), Position: store.Position(number(record))}, nil
	case store.KindState:
		key := store.Key{Kind: k.texts[0], ID: k.texts[1]}
		err := p.decoder.State(record, &p.state)
		if err == nil && (p.state.Key != key || p.state.Version != store.Version(k.number)) {
			err = &store.CorruptError{What: "state", Reason: fmt.Sprintf("found version %d of %v in its place", p.state.Version, p.state.Key)}
		}
		return &p.state, located(err, "snapshots or states", fmt.Sprintf("version %d of %v", k.number, key))
	case store.KindMessage:
		return decodeMessage(k.number, record)
	case store.KindReceipt:
		return decodeReceipt(store.Key{Kind: k.texts[0], ID: k.texts[1]}, k.texts[2], record)
	case store.KindClaim:
		return decodeClaim(store.Claim{Space: k.texts[0], Value: k.texts[1]}, record)
	default:
		b, err := store.DecodeCheckpoint(record)
		if err == nil && (b.Name != k.texts[0] || int64(b.Position.Partition()) != k.number) {
			err = &store.CorruptError{What: "checkpoint", Reason: fmt.Sprintf("found %q at %v in its place", b.Name, b.Position)}
		}
		return b, located(err, "bookmarks", fmt.Sprintf("name %q, partition %d", k.texts[0], k.number))
	}
}
