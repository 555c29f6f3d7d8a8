package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/gofrs/uuid/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/store"
)

// formatVersion is the record format that this package writes, and the highest that it
// reads. The migrations determine the form of the tables.
const formatVersion = 1

// Open opens the log in a schema of the database at url. The url is a URL or a keyword
// string as libpq and pgx accept it. Open creates or migrates the schema if necessary. The
// size of the pool is set by [WithPoolSize], not by the URL.
//
// The error matches [store.ErrFormat] if the schema is newer than this package, if it is
// older and [NoMigration] is given, or if the server is too old or does not use UTF-8.
// It matches [store.ErrInvalid] if the url or the options are wrong or do not fit the log,
// [store.ErrUnfinished] if an import to the log runs or was aborted, and [store.ErrCorrupt]
// if the log's description is damaged. Errors of the connection match those of package
// pgconn.
func Open(ctx context.Context, url string, opts ...Option) (*Log, error) {
	c, err := newConfig(opts)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	pc, err := poolConfig(url, c)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	l := &Log{
		config:     c,
		name:       pc.ConnConfig.Database + "." + c.schema,
		lock:       lockKey(c.schema, "commit"),
		statements: newStatements(c.schema),
		closing:    make(chan struct{}),
	}
	l.committer.cache.soloCommitsMin = c.testHooks.soloCommitsMin
	l.committer.cache.forget()
	if err := l.open(ctx, pc); err != nil {
		return nil, fmt.Errorf("open %s: %w", l.name, err)
	}
	return l, nil
}

func (l *Log) open(ctx context.Context, pc *pgxpool.Config) error {
	l.connConfig = pc.ConnConfig
	conn, err := l.dial(ctx)
	if errors.Is(err, errReplica) {
		err = fmt.Errorf("%w: %w", store.ErrFormat, err)
	}
	if err != nil {
		return err
	}
	l.probes.open()
	a := l.watchdog(conn)
	err = l.start(ctx, conn, pc)
	if err == nil && !l.readOnly {
		err = l.enter(ctx, conn)
	}
	if err = a.end(err); err != nil {
		closeNow(conn)
		l.probes.close()
		if l.pool != nil {
			l.pool.Close()
		}
		return err
	}
	if l.readOnly {
		l.closeConn(conn)
	}
	l.watch.open(l)
	return nil
}

func (l *Log) start(ctx context.Context, conn *pgx.Conn, pc *pgxpool.Config) error {
	err := l.examine(ctx, conn)
	if err != nil {
		return err
	}
	m := newMigrator(conn, l.config)
	switch {
	case l.readOnly:
		err = m.validate(ctx, asReader)
	case l.fixed:
		err = m.validate(ctx, asWriter)
	default:
		err = m.up(ctx)
	}
	if err != nil {
		return err
	}
	if err := l.describe(ctx, conn); err != nil {
		return err
	}
	pc.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return l.requireCommits(ctx, conn) }
	// The pool must outlive the context of Open.
	l.pool, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), pc)
	return err
}

// examine refuses a server on which a log cannot work. It warns about a server that can lose
// or damage committed data in a crash.
func (l *Log) examine(ctx context.Context, conn *pgx.Conn) error {
	var version int
	var encoding, fsync, pages string
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
		current_setting('fsync'), current_setting('full_page_writes')`).Scan(&version, &encoding, &fsync, &pages)
	switch {
	case err != nil:
		return err
	case version < serverMin:
		return fmt.Errorf("%w: the server is PostgreSQL %d, a log needs %d or later", store.ErrFormat, version/10000, serverMin/10000)
	case encoding != "UTF8":
		return fmt.Errorf("%w: the database's encoding is %s, a log needs UTF8", store.ErrFormat, encoding)
	}
	if fsync != "on" {
		l.logger.WarnContext(ctx, "the server does not sync to disk: what is committed can be lost or damaged by a crash", "log", l.name, "fsync", fsync)
	}
	if pages != "on" {
		l.logger.WarnContext(ctx, "the server does not write full pages: a crash can damage what is stored", "log", l.name, "full_page_writes", pages)
	}
	return nil
}

const (
	sqlInfo    = `SELECT info, unfinished FROM S.log`
	sqlPutInfo = `INSERT INTO S.log (info) VALUES ($1) ON CONFLICT (one) DO NOTHING`
)

// describe reads the description of the log, and writes it first if the log is new. If
// several processes open a new log at the same time, the first one to write decides.
func (l *Log) describe(ctx context.Context, conn *pgx.Conn) error {
	var record []byte
	var unfinished bool
	err := conn.QueryRow(ctx, in(l.schema, sqlInfo)).Scan(&record, &unfinished)
	if errors.Is(err, pgx.ErrNoRows) && l.readOnly {
		return fmt.Errorf("%w: schema %q has no log in it yet, and is opened read-only", store.ErrFormat, l.schema)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		info := store.LogInfo{
			ID: store.ID(id), Format: formatVersion, Partitions: l.partitions,
			Created: time.Unix(0, l.now().UnixNano()).UTC(),
		}
		if _, err := conn.Exec(ctx, in(l.schema, sqlPutInfo), store.AppendLogInfo(nil, &info)); err != nil {
			return err
		}
		if err := conn.QueryRow(ctx, in(l.schema, sqlInfo)).Scan(&record, &unfinished); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	info, err := store.DecodeLogInfo(record)
	if err != nil {
		return located(err, "log", "its only one")
	}
	switch {
	case info.Format > formatVersion:
		return fmt.Errorf("%w: the log has format %d, and this version of the program knows %d; use a newer one",
			store.ErrFormat, info.Format, formatVersion)
	case l.partitionsSet && info.Partitions != l.partitions:
		return fmt.Errorf("%w: the log has %d partitions, not %d", store.ErrInvalid, info.Partitions, l.partitions)
	case unfinished:
		return store.ErrUnfinished
	}
	l.info, l.record = *info, record
	if l.readOnly {
		return nil
	}
	return l.checkSequences(ctx, conn)
}

// sqlSequences reads the values of the sequences and the highest message sequence in use.
// The sequences have their current values; the rows are those at the start of the statement.
const sqlSequences = `SELECT (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM S.message_sequence),
	coalesce((SELECT sequence FROM S.messages ORDER BY sequence DESC LIMIT 1), 0), (SELECT last_value FROM S.clock)`

// partitionsLooked is the number of partitions whose last event is compared with the clock
// of the log.
const partitionsLooked = 16

// checkSequences returns an error if a sequence is behind the rows that it numbers, as after
// a logical replication or a restore of tables, which do not copy sequences. Messages would
// then get numbers that are in use, and commits would get times before earlier ones.
func (l *Log) checkSequences(ctx context.Context, conn *pgx.Conn) error {
	latest := int64(math.MinInt64)
	for p := range min(l.info.Partitions, partitionsLooked) {
		var record []byte
		zero, end := store.NewPosition(p, 0), store.LastPosition(p)
		err := conn.QueryRow(ctx, in(l.schema, "SELECT record FROM S.events WHERE position > $1 AND position <= $2 ORDER BY position DESC LIMIT 1"),
			int64(zero), int64(end)).Scan(&record)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		var d store.Decoder
		var e store.Event
		if err == nil && d.Event(record, &e) == nil { // a damaged event is an error for its readers
			latest = max(latest, e.Time.UnixNano())
		}
	}
	var sequence, last, clock int64
	if err := conn.QueryRow(ctx, in(l.schema, sqlSequences)).Scan(&sequence, &last, &clock); err != nil {
		return err
	}
	switch {
	case sequence < last:
		return l.behind("message_sequence", sequence, last, "the outbox has message")
	case clock < latest:
		return l.behind("clock", clock, latest, "the last event was committed at")
	}
	return nil
}

// behind returns the error for a sequence that is behind its rows.
func (l *Log) behind(name string, at, last int64, what string) error {
	full := pgx.Identifier{l.schema, name}.Sanitize()
	return &store.CorruptError{
		What: "sequence", Where: "sequence " + full,
		Reason: fmt.Sprintf("it is at %d, and %s %d, as after a logical replication or a restore that has left sequences out; set it with SELECT setval('%s', %d)",
			at, what, last, full, last),
	}
}

func newStatements(schema string) statements {
	s := func(sql string) string { return in(schema, sql) }
	return statements{
		clock: s(sqlClock), entities: s(sqlEntities), snapshots: s(sqlSnapshots), heads: s(sqlHeads),
		messages: s(sqlMessages), timers: s(sqlTimers), receipts: s(sqlReceipts), claims: s(sqlClaims),
		validate: s(sqlValidate), validateEntities: s(sqlValidateEntities), validateReceipts: s(sqlValidateReceipts), drawn: s(sqlDrawn),

		insertEvents: s(sqlInsertEvents), copyEvents: s(sqlCopyEvents), copyMessages: s(sqlCopyMessages), copyReceipts: s(sqlCopyReceipts),
		deleteSnapshots: s(sqlDeleteSnapshots), putSnapshots: s(sqlPutSnapshots),
		putStates: s(sqlPutStates), deleteMessages: s(sqlDeleteMessages), addMessages: s(sqlAddMessages), changeMessages: s(sqlChangeMessages),
		deleteReceipts: s(sqlDeleteReceipts), addReceipts: s(sqlAddReceipts),
		deleteClaims: s(sqlDeleteClaims), addClaims: s(sqlAddClaims),
		deleteCheckpoints: s(sqlDeleteCheckpoints), putCheckpoints: s(sqlMoveCheckpoints),
		proof: s(sqlProof), trim: s(sqlTrim), depart: s(sqlDepart),

		load: s(sqlLoad), stream: s(sqlStream), scan: strings.Replace(s(sqlScan), "%s", "", 1),
		first: s(sqlFirst), pruned: s(sqlPruned), pending: s(sqlPending), undelivered: s(sqlUndelivered), parked: s(sqlParked),
		receipt: s(sqlReceipt), receiptsOf: s(sqlReceiptsOf), owner: s(sqlOwner), claimsOf: s(sqlClaimsOf),
		checkpoints: s(sqlCheckpoints), deletions: s(sqlDeletions),
	}
}
