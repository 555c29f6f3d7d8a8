package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// Bounds of one statement's result: a page ends before the record that exceeds a bound, but
// has at least one record.
const (
	pageRowsMax  = 1000
	pageBytesMax = 1 << 20
	// keptBytesMax bounds the buffer of a page that is kept for reuse. A buffer is larger
	// if the last record of its page was large.
	keptBytesMax = 2 * pageBytesMax
)

// The statements that read events. A statement for a page sums the lengths of the records
// before each record, without reading the records, and ends the page by that sum.
const (
	sqlLoad = `WITH s AS MATERIALIZED (
			SELECT version, record FROM S.snapshots WHERE kind = $1 AND id = $2
			UNION ALL SELECT version, record FROM S.states WHERE kind = $1 AND id = $2
		), p AS MATERIALIZED (
			SELECT version, position, record FROM S.events
			WHERE kind = $1 AND id = $2 AND version > CASE WHEN $3 THEN coalesce((SELECT max(version) FROM s), 0) ELSE 0 END
			ORDER BY version LIMIT $4
		)
		SELECT 0::bigint, version, 0::bigint, record FROM s WHERE $3
		UNION ALL SELECT 1, version, 0, NULL FROM (SELECT version FROM S.events WHERE kind = $1 AND id = $2 ORDER BY version DESC LIMIT 1) l
		UNION ALL SELECT 2, version, position, record FROM (
			SELECT version, position, record, sum(octet_length(record)) OVER (ORDER BY version ROWS UNBOUNDED PRECEDING) - octet_length(record) AS before
			FROM p) q WHERE before < $5`

	sqlStream = `SELECT version, position, record FROM (
			SELECT version, position, record, sum(octet_length(record)) OVER (ORDER BY version ROWS UNBOUNDED PRECEDING) - octet_length(record) AS before
			FROM (SELECT version, position, record FROM S.events
				WHERE kind = $1 AND id = $2 AND version >= $3 AND version <= $4 ORDER BY version LIMIT $5) p
		) q WHERE before < $6 ORDER BY version`

	sqlFirst = `SELECT version FROM S.events WHERE kind = $1 AND id = $2 ORDER BY version LIMIT 1`
)

// A page holds the rows that one statement has read, and the buffers to decode them into.
// Pages are reused.
type page struct {
	buf     []byte
	rows    []row
	states  []row // states of the entity, latest first
	decoder store.Decoder
	event   store.Event
	state   store.State
}

// A row is a record in the buffer of a page, with the row's version and position.
type row struct {
	version  store.Version
	position store.Position
	from, to int
}

var pages = sync.Pool{New: func() any { return new(page) }}

func newPage() *page { return pages.Get().(*page) }

func (p *page) release() {
	p.event, p.state = store.Event{}, store.State{} // the next reader must not see old values
	if cap(p.buf) <= keptBytesMax {
		pages.Put(p)
	}
}

func (p *page) reset() { p.buf, p.rows, p.states = p.buf[:0], p.rows[:0], p.states[:0] }

func (p *page) keep(version, position uint64, record []byte) row {
	from := len(p.buf)
	p.buf = append(p.buf, record...)
	return row{store.Version(version), store.Position(position), from, len(p.buf)}
}

func (p *page) record(r row) []byte { return p.buf[r.from:r.to] }

// full reports whether the bounds may have ended the page, so that more rows may follow.
func (p *page) full() bool {
	n := len(p.rows)
	return n == pageRowsMax || (n > 0 && p.rows[n-1].to-p.rows[0].from >= pageBytesMax)
}

// query runs a statement and calls add with the columns of each row. The columns are in the
// binary form of the protocol, and valid only during the call.
func query(ctx context.Context, conn querier, sql string, args []any, add func(values [][]byte) error) error {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := add(rows.RawValues()); err != nil {
			return err
		}
	}
	return rows.Err()
}

func number(value []byte) uint64 {
	if len(value) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(value)
}

// An entityReader reads the events of one entity page by page.
type entityReader struct {
	log  *Log
	key  store.Key
	next store.Version // version of the first event of the next page
	last store.Version // version of the entity when the first page was read
	// dense is true if the event of version next must exist if any later one exists. If
	// it is false, deleted events may be missing before the first one.
	dense bool
	done  bool // the current page is the last one
}

// Load implements [store.Log]. It sees the entity as it was when the iteration began: one
// statement reads the entity's states and the first page of its events. Load does not offer
// a snapshot if events after it are deleted, because such a snapshot cannot be brought up to
// date. If events that the iteration has not read yet are deleted, it ends with an error. A
// new Load then finds a newer snapshot.
func (l *Log) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		p := newPage()
		defer p.release()
		s := &entityReader{log: l, key: key}
		err := key.Validate()
		if err == nil {
			err = s.load(ctx, p, accept != nil)
		}
		if err == nil && len(p.states) > 0 {
			err = s.restore(ctx, p, accept)
		}
		if err == nil {
			err = s.yield(ctx, p, yield)
		}
		if err != nil {
			yield(nil, fmt.Errorf("load %v: %w", key, ofEntity(err, key)))
		}
	}
}

// load reads the states, and the events after the latest state.
func (s *entityReader) load(ctx context.Context, p *page, states bool) error {
	return s.log.read(ctx, func(conn *pgxpool.Conn) error {
		p.reset()
		s.last = 0
		args := []any{s.key.Kind, s.key.ID, states, pageRowsMax, pageBytesMax}
		err := query(ctx, conn, s.log.statements.load, args, func(v [][]byte) error {
			switch number(v[0]) {
			case 0:
				p.states = append(p.states, p.keep(number(v[1]), 0, v[3]))
			case 1:
				s.last = store.Version(number(v[1]))
			case 2:
				p.rows = append(p.rows, p.keep(number(v[1]), number(v[2]), v[3]))
			}
			return nil
		})
		if err != nil {
			return err
		}
		if n := len(p.states); n > 1 && p.states[0].version < p.states[n-1].version {
			for i := range n / 2 {
				p.states[i], p.states[n-1-i] = p.states[n-1-i], p.states[i]
			}
		}
		s.next, s.dense = 1, false
		if len(p.states) > 0 {
			s.next, s.dense = p.states[0].version+1, true
		}
		return s.settle(p)
	})
}

// restore offers the states of the entity to accept, latest first. If accept takes an older
// state, restore reads the events after that state.
func (s *entityReader) restore(ctx context.Context, p *page, accept func(*store.State) bool) error {
	first := store.Version(0)
	for i, r := range p.states {
		if i == 1 { // rare: the program has refused the latest state
			if err := s.first(ctx, &first); err != nil {
				return err
			}
		}
		if i > 0 && r.version+1 < first {
			break // events after this state are deleted, and after all older ones too
		}
		if err := p.decoder.State(p.record(r), &p.state); err != nil {
			return s.corrupt(err, r.version, 0)
		}
		if p.state.Key != s.key || p.state.Version != r.version {
			return s.corrupt(&store.CorruptError{
				What: "state", Reason: fmt.Sprintf("found version %d of %v in its place", p.state.Version, p.state.Key),
			}, r.version, 0)
		}
		if !accept(&p.state) {
			continue
		}
		if i == 0 {
			return nil
		}
		s.next, s.dense = r.version+1, true
		return s.fill(ctx, p)
	}
	s.next, s.dense = 1, false
	return s.fill(ctx, p)
}

func (s *entityReader) first(ctx context.Context, version *store.Version) error {
	return s.log.read(ctx, func(conn *pgxpool.Conn) error {
		return query(ctx, conn, s.log.statements.first, []any{s.key.Kind, s.key.ID}, func(v [][]byte) error {
			*version = store.Version(number(v[0]))
			return nil
		})
	})
}

// Read implements [store.Log]. It ends at the version that the entity had when the iteration
// began, or later. It leaves out events that are deleted before it reaches them.
func (l *Log) Read(ctx context.Context, key store.Key, after store.Version) iter.Seq2[*store.Event, error] {
	return func(yield func(*store.Event, error) bool) {
		if after >= math.MaxInt64 {
			return
		}
		p := newPage()
		defer p.release()
		s := &entityReader{log: l, key: key, next: after + 1, last: math.MaxInt64}
		err := key.Validate()
		if err == nil {
			err = s.fill(ctx, p)
		}
		if err == nil {
			err = s.yield(ctx, p, yield)
		}
		if err != nil {
			yield(nil, fmt.Errorf("read %v: %w", key, ofEntity(err, key)))
		}
	}
}

// fill reads the next page.
func (s *entityReader) fill(ctx context.Context, p *page) error {
	from := *s
	return s.log.read(ctx, func(conn *pgxpool.Conn) error {
		*s = from // an earlier run of this function may have changed s
		p.reset()
		args := []any{s.key.Kind, s.key.ID, int64(s.next), int64(s.last), pageRowsMax, pageBytesMax}
		err := query(ctx, conn, s.log.statements.stream, args, func(v [][]byte) error {
			p.rows = append(p.rows, p.keep(number(v[0]), number(v[1]), v[2]))
			return nil
		})
		if err != nil {
			return err
		}
		if err = s.settle(p); err == nil {
			return nil
		}
		pruned, failed := s.pruned(ctx, conn)
		switch {
		case failed != nil:
			return failed
		case pruned && s.last == math.MaxInt64:
			s.dense = false // Read leaves deleted events out
			return s.settle(p)
		case pruned:
			return storecore.ErrDeleted
		}
		return err
	})
}

// pruned reports whether the next event, and all events before the first one that is kept,
// have been deleted since the page before.
func (s *entityReader) pruned(ctx context.Context, conn querier) (bool, error) {
	first := store.Version(0)
	err := query(ctx, conn, s.log.statements.first, []any{s.key.Kind, s.key.ID}, func(v [][]byte) error {
		first = store.Version(number(v[0]))
		return nil
	})
	return first > s.next, err
}

// settle checks that the versions of a page have no gap, and moves next behind the page.
func (s *entityReader) settle(p *page) error {
	next := s.next
	if len(p.rows) > 0 && !s.dense {
		next = p.rows[0].version
	}
	for _, r := range p.rows {
		if r.version != next {
			return s.corrupt(gap(next, r.version), next, 0)
		}
		next++
	}
	s.done = !p.full()
	if s.done && s.dense && s.last != math.MaxInt64 && s.last > 0 && next != s.last+1 {
		return s.corrupt(gap(min(next, s.last+1), max(next, s.last+1)), next, 0)
	}
	s.next, s.dense = next, s.dense || len(p.rows) > 0
	return nil
}

// yield yields the events of the page and of all pages after it.
func (s *entityReader) yield(ctx context.Context, p *page, yield func(*store.Event, error) bool) error {
	for {
		for _, r := range p.rows {
			err := p.decoder.Event(p.record(r), &p.event)
			if err == nil && (p.event.Key != s.key || p.event.Version != r.version || p.event.Position != r.position) {
				err = misplaced(&p.event)
			}
			if err != nil {
				return s.corrupt(err, r.version, r.position)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if !yield(&p.event, nil) {
				return nil
			}
		}
		if s.done || s.next > s.last {
			return nil
		}
		if err := s.fill(ctx, p); err != nil {
			return err
		}
	}
}

// corrupt adds the wanted entity, version and position to an error about a corrupt record.
func (s *entityReader) corrupt(err error, version store.Version, position store.Position) error {
	if c, ok := errors.AsType[*store.CorruptError](err); ok {
		c.Key, c.Version, c.Position = s.key, version, position
		if c.What == "state" {
			return located(err, "snapshots or states", fmt.Sprint("version ", version))
		}
	}
	return located(err, "events", fmt.Sprint("version ", version))
}

// ofEntity adds the entity that was read to an error about damaged pages.
func ofEntity(err error, key store.Key) error {
	if c, ok := errors.AsType[*store.CorruptError](err); ok && c.Key.IsZero() {
		c.Key = key
	}
	return err
}

func gap(from, to store.Version) error {
	return &store.CorruptError{What: "event", Reason: fmt.Sprintf("the versions from %d to %d are missing", from, to-1)}
}

// misplaced returns the error for an event that is intact but not the wanted one.
func misplaced(e *store.Event) error {
	return &store.CorruptError{
		What:   "event",
		Reason: fmt.Sprintf("found version %d of %v, position %v, in its place", e.Version, e.Key, e.Position),
	}
}
