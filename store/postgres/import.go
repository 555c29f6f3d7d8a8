package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// An importer is a running import: a log that is being filled.
//
// The import commits a mark first. All records are then one transaction, which removes
// the mark at its end. No reader of the log ever sees a part of the records. If the import
// is aborted, by a crash for example, the server drops the records, and an empty log with
// a mark remains.
type importer struct {
	log    *Log
	conn   *pgx.Conn
	tx     pgx.Tx // transaction of conn
	origin store.Origin
	failed error
	done   bool

	sort   store.RecordKind // sort of the last record
	last   rowKey           // key of the last record
	heads  []uint64
	events int64
	latest time.Time // latest time of the added records
}

const (
	// A refused commit may have used message sequences, so sqlEmpty ignores them.
	sqlEmpty = `SELECT unfinished, pruned > 0 OR EXISTS (SELECT FROM S.events) OR EXISTS (SELECT FROM S.snapshots) OR EXISTS (SELECT FROM S.states)
			OR EXISTS (SELECT FROM S.messages) OR EXISTS (SELECT FROM S.receipts) OR EXISTS (SELECT FROM S.claims)
			OR EXISTS (SELECT FROM S.bookmarks) FROM S.log`
	sqlMark   = `UPDATE S.log SET unfinished = true`
	sqlUnmark = `UPDATE S.log SET unfinished = false, pruned = $1`
	sqlFinish = `SELECT setval('S.message_sequence', greatest($1::bigint, 1), $1::bigint > 0),
		CASE WHEN $2::bigint > last_value THEN setval('S.clock', $2::bigint) ELSE 0 END FROM S.clock`
)

// Import implements [store.Importer]. All records are one transaction. Until it ends, other
// processes that have the log open read an empty log, and their commits return an error
// matching [store.ErrUnfinished]. After an aborted import the log is empty too, and has
// only the mark. The role must own the tables, or be granted UPDATE on the table log;
// otherwise the error matches [errors.ErrUnsupported].
func (l *Log) Import(ctx context.Context, from store.Origin) (store.Import, error) {
	err := ctx.Err()
	if err == nil && l.readOnly {
		err = storecore.ErrReadOnly
	}
	if err == nil {
		err = l.ready(ctx)
	}
	if err == nil {
		err = from.Validate(l.info.Partitions)
	}
	var conn *pgx.Conn
	if err == nil {
		conn, err = l.connect(ctx)
	}
	var tx pgx.Tx
	if err == nil {
		a := l.watchdog(conn)
		tx, err = l.mark(ctx, conn)
		if err = a.end(err); err != nil {
			l.closeConn(conn)
		}
	}
	if e := serverError(err); e != nil && e.Code == codePrivilege {
		err = fmt.Errorf("%w: the role of the connection may not fill a log: %w", errors.ErrUnsupported, err)
	}
	if err != nil {
		return nil, fmt.Errorf("import to %s: %w", l.name, err)
	}
	l.unfinished.Store(true)
	from.Heads = slices.Clone(from.Heads)
	return &importer{log: l, conn: conn, tx: tx, origin: from, heads: make([]uint64, l.info.Partitions)}, nil
}

// mark durably marks an empty log, and begins the transaction that fills it.
func (l *Log) mark(ctx context.Context, conn *pgx.Conn) (tx pgx.Tx, err error) {
	// If the commit is lost, the resolver can end this session as one of the writer's.
	l.writing.Lock()
	id := l.committer.id
	l.writing.Unlock()
	if err := attach(ctx, conn, id); err != nil {
		return nil, err
	}
	// The caller may take any time between two steps of the import.
	if _, err := conn.Exec(ctx, "SET idle_in_transaction_session_timeout = 0"); err != nil {
		return nil, err
	}
	var unfinished, used bool
	look := func(q querier) error {
		err := q.QueryRow(ctx, in(l.schema, sqlEmpty)).Scan(&unfinished, &used)
		switch {
		case err != nil:
			return err
		case unfinished:
			return store.ErrUnfinished
		case used:
			return fmt.Errorf("%w: the log is not empty", store.ErrInvalid)
		}
		return nil
	}
	err = l.transaction(ctx, conn, func(tx pgx.Tx) error {
		if err := l.lockTx(ctx, tx); err != nil {
			return err
		}
		if err := look(tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, in(l.schema, sqlMark)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, in(l.schema, sqlMoveClock))
		return err
	})
	if err == nil {
		tx, err = conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	}
	return tx, err
}

// Add implements [store.Import]. It sends up to pageRowsMax records at a time.
func (f *importer) Add(ctx context.Context, records ...store.Record) error {
	return f.step(ctx, func() error {
		for len(records) > 0 {
			n := 1
			for n < min(len(records), pageRowsMax) && store.RecordKindOf(records[n]) == store.RecordKindOf(records[0]) {
				n++
			}
			if err := f.add(ctx, records[:n]); err != nil {
				return err
			}
			records = records[n:]
		}
		return nil
	})
}

// step runs fn unless the import has failed. If fn fails, step aborts the import.
func (f *importer) step(ctx context.Context, fn func() error) error {
	if f.failed == nil {
		switch {
		case f.done || f.log.closed.Load():
			f.failed = store.ErrClosed
		case ctx.Err() != nil:
			f.failed = ctx.Err()
		default:
			a := f.log.watchdog(f.conn)
			f.failed = a.end(fn())
		}
		if e := serverError(f.failed); e != nil && e.Code == codeUnique {
			f.failed = fmt.Errorf("%w: %w", store.ErrInvalid, f.failed)
		}
		if f.failed != nil {
			f.end()
		}
	}
	if f.failed != nil {
		return fmt.Errorf("import to %s: %w", f.log.name, f.failed)
	}
	return nil
}

// end closes the session. The server then rolls back an open transaction.
func (f *importer) end() {
	if f.conn != nil {
		f.log.closeConn(f.conn)
		f.conn = nil
	}
}

// A copyBatch is a set of rows to COPY into one table.
type copyBatch struct {
	table   string
	columns []string
	rows    int
	values  func(i int) []any
}

// add adds records that all have the same sort.
func (f *importer) add(ctx context.Context, records []store.Record) error {
	for _, r := range records {
		if err := f.inOrder(r); err != nil {
			return err
		}
	}
	var tables []copyBatch
	var err error
	switch records[0].(type) {
	case *store.Event:
		tables, err = f.addEvents(ctx, records)
	case *store.State:
		tables, err = f.addStates(ctx, records)
	case *store.Message:
		tables, err = f.addMessages(records)
	default:
		tables = []copyBatch{byName(records)}
	}
	for _, c := range tables {
		if err != nil {
			return err
		}
		if c.rows > 0 {
			_, err = f.conn.CopyFrom(ctx, pgx.Identifier{f.log.schema, c.table}, c.columns,
				pgx.CopyFromSlice(c.rows, func(i int) ([]any, error) { return c.values(i), nil }))
		}
	}
	return err
}

// inOrder checks that a record is valid, and that it comes after the one before.
func (f *importer) inOrder(r store.Record) error {
	s := store.RecordKindOf(r)
	if err := storecore.CheckOrder(s, f.sort); err != nil {
		return err
	}
	if err := store.ValidateRecord(r); err != nil {
		return err
	}
	first := s > f.sort || f.last == rowKey{}
	before := f.last
	var at time.Time
	f.last, at = keyOf(r)
	f.sort = s
	if at.After(f.latest) {
		f.latest = at
	}
	if !first && f.last.compare(before) <= 0 {
		return fmt.Errorf("%w: a %v comes after one that it should be before, or that has its name: %v after %v", store.ErrInvalid, s, f.last, before)
	}
	return nil
}

// keyOf returns the key of a record in the order of its sort, and the record's time.
func keyOf(r store.Record) (rowKey, time.Time) {
	switch r := r.(type) {
	case *store.Event:
		// The partition sorts as text, because a whole Position may not fit a signed number.
		return rowKey{texts: [3]string{fmt.Sprintf("%05d", r.Position.Partition())}, number: int64(r.Position.Sequence())}, r.Time
	case *store.State:
		return rowKey{texts: [3]string{r.Key.Kind, r.Key.ID}, number: int64(r.Version)}, r.Time
	case *store.Message:
		return rowKey{number: int64(r.Sequence)}, r.Time
	case *store.Receipt:
		return rowKey{texts: [3]string{r.Entity.Kind, r.Entity.ID, r.Name}}, r.Time
	case *store.Claimed:
		return rowKey{texts: [3]string{r.Claim.Space, r.Claim.Value}}, r.Time
	case *store.Checkpoint:
		return rowKey{texts: [3]string{r.Name}, number: int64(r.Position.Partition())}, r.Time
	}
	return rowKey{}, time.Time{}
}

func (k rowKey) compare(other rowKey) int {
	for i := range k.texts {
		if c := strings.Compare(k.texts[i], other.texts[i]); c != 0 {
			return c
		}
	}
	return int(min(1, max(-1, k.number-other.number))) // neither is negative
}

// String returns the parts of the key for an error text.
func (k rowKey) String() string {
	return fmt.Sprintf("%q %d", k.texts, k.number)
}

// readHeads reads the current versions of the entities of records.
func (f *importer) readHeads(ctx context.Context, records []store.Record, key func(store.Record) store.Key) (*readValues, error) {
	var n readSet
	for _, r := range records {
		n.entities.add(key(r))
	}
	found := newReadValues(&n)
	b := &pgx.Batch{}
	n.queueEntities(b, &f.log.statements, found)
	return found, f.conn.SendBatch(ctx, b).Close()
}

func (f *importer) addEvents(ctx context.Context, records []store.Record) ([]copyBatch, error) {
	facts, err := f.readHeads(ctx, records, func(r store.Record) store.Key { return r.(*store.Event).Key })
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		r := r.(*store.Event)
		p := store.PartitionOf(r.Key, len(f.heads))
		e := facts.head(r.Key)
		at := fmt.Sprintf("version %d of %v at %v", r.Version, r.Key, r.Position)
		switch {
		case r.Position.Partition() != p:
			return nil, fmt.Errorf("%w: %s belongs to partition %d", store.ErrInvalid, at, p)
		case r.Position > f.origin.Heads[p]:
			return nil, fmt.Errorf("%w: %s is above the head, %v", store.ErrInvalid, at, f.origin.Heads[p])
		case !f.origin.Follows(e.version, r.Version):
			return nil, fmt.Errorf("%w: %s comes after version %d", store.ErrInvalid, at, e.version)
		}
		e.version = r.Version
		f.heads[p] = r.Position.Sequence()
		f.events++
	}
	return []copyBatch{{
		table: "events", columns: []string{"position", "version", "kind", "id", "type", "tags", "record"}, rows: len(records),
		values: func(i int) []any {
			e := records[i].(*store.Event)
			var tags []string // NULL if there are none
			if len(e.Tags) > 0 {
				tags = e.Tags
			}
			record := store.AppendEvent(make([]byte, 0, store.SizeEvent(e)), e)
			return []any{int64(e.Position), int64(e.Version), e.Key.Kind, e.Key.ID, e.Type, tags, record}
		},
	}}, nil
}

func (f *importer) addStates(ctx context.Context, records []store.Record) ([]copyBatch, error) {
	facts, err := f.readHeads(ctx, records, func(r store.Record) store.Key { return r.(*store.State).Key })
	if err != nil {
		return nil, err
	}
	var kept [2][]*store.State
	for _, r := range records {
		s := r.(*store.State)
		e := facts.head(s.Key)
		at := fmt.Sprintf("state %d of %v", s.Version, s.Key)
		switch {
		case s.Position == 0 && e.version > 0:
			return nil, fmt.Errorf("%w: %s is a saved one beside events or another", store.ErrInvalid, at)
		case s.Position != 0 && (s.Version > e.version && !f.origin.Damaged || e.saved):
			return nil, fmt.Errorf("%w: %s of an entity at version %d", store.ErrInvalid, at, e.version)
		case s.Position == 0:
			e.version, e.saved = s.Version, true
			kept[1] = append(kept[1], s)
		default:
			kept[0] = append(kept[0], s)
		}
	}
	var tables []copyBatch
	for i, table := range []string{"snapshots", "states"} {
		tables = append(tables, copyBatch{table, []string{"kind", "id", "version", "record"}, len(kept[i]), func(n int) []any {
			s := kept[i][n]
			return []any{s.Key.Kind, s.Key.ID, int64(s.Version), store.AppendState(nil, s)}
		}})
	}
	return tables, nil
}

func (f *importer) addMessages(records []store.Record) ([]copyBatch, error) {
	for _, r := range records {
		if m := r.(*store.Message); m.Sequence > f.origin.Sequence {
			return nil, fmt.Errorf("%w: message %d, and the last is %d", store.ErrInvalid, m.Sequence, f.origin.Sequence)
		}
	}
	return []copyBatch{{
		"messages",
		[]string{"sequence", "due", "parked", "halted", "kind", "id", "timer", "record"},
		len(records),
		func(i int) []any {
			m := records[i].(*store.Message)
			var timer *string
			if m.Timer != "" {
				timer = &m.Timer
			}
			return []any{int64(m.Sequence), storecore.DueKey(m.Due), m.Parked, m.Halted, m.Source.Kind, m.Source.ID, timer, store.AppendMessage(nil, m)}
		},
	}}, nil
}

// byName returns the rows to COPY for receipts, claims and checkpoints: records that have a
// name as a key.
func byName(records []store.Record) copyBatch {
	c := copyBatch{rows: len(records)}
	switch records[0].(type) {
	case *store.Receipt:
		c.table, c.columns = "receipts", []string{"kind", "id", "name", "record"}
	case *store.Claimed:
		c.table, c.columns = "claims", []string{"space", "value", "record"}
	default:
		c.table, c.columns = "bookmarks", []string{"name", "partition", "record"}
	}
	c.values = func(i int) []any {
		record := store.AppendRecord(nil, records[i])
		switch r := records[i].(type) {
		case *store.Receipt:
			return []any{r.Entity.Kind, r.Entity.ID, r.Name, record}
		case *store.Claimed:
			return []any{r.Claim.Space, r.Claim.Value, record}
		default:
			b := r.(*store.Checkpoint)
			return []any{b.Name, int32(b.Position.Partition()), record}
		}
	}
	return c
}

// Finish implements [store.Import]. If the connection is lost in the last step, the error
// does not tell whether the log is complete. Open the log again to find out.
func (f *importer) Finish(ctx context.Context) error {
	err := f.step(ctx, func() error {
		total := int64(0)
		for p, h := range f.heads {
			if at := store.NewPosition(p, h); at != f.origin.Heads[p] {
				return fmt.Errorf("%w: the last event of partition %d is at %v, and should be at %v", store.ErrInvalid, p, at, f.origin.Heads[p])
			}
			total += int64(h)
		}
		clock := int64(0) // the clock of a new log
		if !f.latest.IsZero() {
			clock = f.latest.UnixNano()
		}
		l := f.log
		if err := l.lockTx(ctx, f.tx); err != nil {
			return err
		}
		b := &pgx.Batch{}
		b.Queue(in(l.schema, sqlFinish), int64(f.origin.Sequence), clock)
		b.Queue(in(l.schema, sqlUnmark), total-f.events)
		if err := f.conn.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		return l.commitTx(ctx, f.tx)
	})
	if err != nil {
		return err
	}
	f.done = true
	f.end()
	f.log.unfinished.Store(false)
	f.log.watch.announce()
	return nil
}

// Close implements [store.Import].
func (f *importer) Close() error {
	f.done = true
	f.end()
	return nil
}
