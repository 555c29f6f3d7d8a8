// Package postgres keeps a log in a schema of a PostgreSQL database. Many processes on many
// machines can use the log at the same time. The log is shared, so [Log.Acquire] returns an error
// matching [errors.ErrUnsupported]. It works with PostgreSQL 14 and later.
//
//	log, err := postgres.Open(ctx, "postgres://app@db.example.com/shop")
//	…
//	engine, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: kinds})
//
// # Commits
//
// Commits are grouped: one transaction with one sync stores the batches of all callers that
// wait in this process. It takes one round trip while only this process writes, and two
// otherwise. The transactions of all processes run one after the other, under an advisory
// lock of the log. Positions therefore have no gap and become visible in their order;
// docs/design/0010-postgres-order.md says why, and what this costs. The log decides each
// batch within the transaction, on the rows that are stored at that time.
//
// # Errors
//
// An error of [Log.Commit] matches [store.ErrNotStored] if the log has proof that nothing
// was stored: no connection could be opened, the server refused a statement or rolled back,
// or the log looked for the transaction and it can no longer be stored. The log replaces a
// lost connection. It tries a transaction that is not stored again, up to five times, also
// after a deadlock or a serialization failure. No error matches [store.ErrBroken]: the log
// works again as soon as the server does.
//
// If the connection is lost before the answer to a commit, or the server reports that it
// did not wait for a replica, the log looks for the outcome. It ends the lost session, takes
// the lock of the log, and looks for a row that only this transaction wrote. If there is
// none, it moves the clock of the log, so that a message which arrives later is refused.
// Then it commits a row of its own, for which the server waits for a synchronous replica.
// Commit waits for this up to 45 seconds. After that the outcome is unknown to the caller,
// and the log continues to look. Until the log has found the outcome, reads and commits of
// this Log wait, up to 45 seconds each or until their context ends. After that they return
// an error that says nothing about the stored data. Open does the same once, for commits
// that another Log may have left.
//
// A process that hangs within a transaction blocks the writers of the log, but no reader.
// If the process hangs between two statements, the server ends its session after 20
// seconds. If it hangs within a message, which the server does not bound, another process
// that waits for the lock ends the session once it has seen that no bytes arrive. A slow
// process that makes progress keeps its session. A commit that has waited 30 seconds for
// the lock is not stored, and its error names the session that holds the lock.
//
// # Waits
//
// Every wait for the server has a bound, even a read whose context has no deadline. The
// kernels of both sides watch the connections (TCP keepalive, and TCP_USER_TIMEOUT on
// Linux). If no bytes pass for two seconds, the log asks the server, on another connection,
// what the session does. A session that works may take as long as it needs. A connection
// that a firewall has dropped is replaced within some seconds. A statement waits up to 30
// seconds for a lock of a table.
//
// # Sessions and servers
//
// Every session sets all settings that change the meaning of a statement, and asserts them:
// the encoding, how literals, arrays and times are read, isolation, timeouts, search_path
// (only pg_catalog, so a trigger on a table of the log must qualify the names that it uses),
// and others, each with its reason in settings.go. The defaults of the server, the database,
// the role and the URL then do not matter. If the role may not change a setting that has a
// wrong value, the error names the setting.
//
// A session also has a mark, which every transaction that writes compares. If a pooler has
// reset the session, or has moved the transaction to another session, the transaction
// stores nothing, and the error says so.
//
// Every new connection must lead to a primary of the system that the log was opened on. Its
// timeline must not be lower than one that the log has seen. It must have the same log in
// the schema, and the last commit that it has acknowledged to this process, which the
// commit's row proves. After a failover, neither a replica that is behind nor the old
// primary can therefore answer a check or a read with old data. If the URL names several
// hosts, the log tries the next one. No connection can prove that there is no second
// primary: a process that is cut off together with the old primary continues on it. The
// operator must therefore fence the old primary before promoting another. A log that has
// moved to another system, by a logical replication or an upgrade, must be opened again.
//
// [Open] refuses a log whose sequences are behind their rows, as they are after a logical
// replication or a restore of single tables. The error says how to set them.
//
// # The server's log
//
// Commits that run into another process, and batches that the log refuses, cause no errors
// in the server. If a transaction fails as a whole, the server's log has its statements but
// no payload: payloads are sent as parameters and by COPY, and the server does not log
// parameters on an error. With log_statement on, its log also contains ids.
//
// # Durability
//
// The log sets synchronous_commit to on in its sessions, whatever the URL, the role and the
// server say, unless it is remote_apply. It warns through [WithLogger] if the server runs
// with fsync or full_page_writes off. If a replica takes over, only commits that the
// replica has survive: set synchronous_standby_names. A commit then waits until the replica
// has it. While the replica is down, the log acknowledges no commit, even if an operator
// cancels the server's wait. The outcome of the commit is unknown until the replica is back,
// or until synchronous_standby_names no longer names it.
//
// Sessions have settings and prepared statements of their own. A pooler between the log and
// the server must therefore keep one session for each connection, as PgBouncer does in its
// session mode. If a pooler has lost the server and answers a commit with an error of
// SQLSTATE class 08, the log treats it as a lost connection and looks for the outcome.
//
// # Schema
//
// The tables are made by numbered migrations. [Open] applies them. [MigrateUp],
// [MigrateDown], [Migrations] and [ValidateMigrations] apply, revert, list and check them.
// [Grants] returns a script for a role that can do everything except change the schema and
// change or delete events. A migration waits half a second at a time for a table that is in
// use, so that readers can pass. Its entry in the list says which older programs can still
// read and write the schema, so that a program can be rolled back.
//
// [ReadOnly] opens a log without writing to it, for a role that has only SELECT (USAGE on
// the schema, SELECT on its tables and sequences) and on replicas.
//
// A record is stored in the encoding of package store, with its CRC, which every read
// checks. The other columns of the row are only for finding the record. The server filters
// the kinds, types and tags of a [store.Query], and skips the events that do not match. They
// have no index: an index would cost every append a write at a random place, and a reader
// that follows a log needs none.
//
// [Log.Heads] searches an index once for each partition, so a log that is polled should not
// have hundreds of partitions. [Log.Changed] avoids most of the polling.
//
// # Whole logs
//
// Verify and Copy of package admin work on the log; see [Log.Export], [Log.Import] and
// [Log.VerifyFiles]. Backups are those of the database: pg_basebackup with an archive of the
// write-ahead log keeps everything that was acknowledged, and pg_dump keeps one consistent
// state of the schema.
//
// # Other databases
//
// CockroachDB and YugabyteDB use the same protocol. But many versions of them have no
// advisory locks, or accept the calls and do nothing, which would break the order of
// commits. Their sequences and system views differ too. The log was tested with neither of
// them and may not work there.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// A Log is a [store.Log] in a PostgreSQL database. Many goroutines may call its methods at
// the same time. Many Logs, in many processes, may be open on the same schema.
//
// Invariants:
//
//  1. Every transaction that writes holds the log's advisory lock from its first statement
//     to its end. It is decided on rows that it read after it took the lock, or on cached
//     values that it then proves to be current. An import takes the lock to mark the log and
//     to finish. In between it adds rows without the lock, to a log whose mark stops all
//     other writers.
//  2. Positions, versions and message sequences are assigned under that lock, so they
//     become visible in their order.
//  3. COMMIT is the last statement of a transaction, in one message with the proof of the
//     transaction. Until that message is sent nothing is stored. After it only the server's
//     answer or the proof shows the outcome.
//  4. User code never runs while a connection or a transaction is held: reads copy a page
//     of records and release the connection.
//  5. The cache that a committer keeps between transactions is valid at one time of the
//     clock. Every program that changes cached rows in the database moves the clock forward
//     under the lock.
type Log struct {
	*config
	name       string // names of database and schema, for errors
	lock       int64  // key of the advisory lock
	info       store.LogInfo
	record     []byte          // info in its stored form
	connConfig *pgx.ConnConfig // configuration of all connections
	pool       *pgxpool.Pool
	statements statements
	closed     atomic.Bool
	unfinished atomic.Bool // an import of this Log is not finished; the database has the mark of others
	queue      storecore.Queue
	watch      watch
	probes     probes
	holders    lockHolderWatch

	acknowledged acknowledged

	writing   sync.Mutex
	committer committer

	doubt    atomic.Pointer[doubt] // only the owner of the committer stores it
	resolver sync.WaitGroup
	giveUp   context.CancelFunc // stops the last resolver; nil before the first one
	closing  chan struct{}      // closed by Close
}

var (
	_ store.Log     = (*Log)(nil)
	_ store.Watcher = (*Log)(nil)
)

// Heads implements [store.Log]. It searches an index once for each partition.
func (l *Log) Heads(ctx context.Context) ([]store.Position, error) {
	partitions := make([]int, l.info.Partitions)
	for i := range partitions {
		partitions[i] = i
	}
	heads, err := l.readHeads(ctx, partitions)
	if err != nil {
		return nil, fmt.Errorf("heads: %w", err)
	}
	return heads, nil
}

// Acquire implements [store.Exclusive]. It returns an error matching
// [errors.ErrUnsupported], because many engines may use the log.
func (l *Log) Acquire() (release func(), err error) {
	err = fmt.Errorf("%w: the log is shared", errors.ErrUnsupported)
	if l.closed.Load() {
		err = store.ErrClosed
	}
	return nil, fmt.Errorf("acquire %s: %w", l.name, err)
}

const sqlStats = `SELECT (SELECT pruned FROM S.log),
	(SELECT count(*) FROM S.messages WHERE NOT parked), (SELECT count(*) FROM S.messages WHERE parked),
	(SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'S'))`

// Stats implements [store.StatsReader]. It reads all entries of the outbox's indexes. It does
// not count entities, states and free space.
func (l *Log) Stats(ctx context.Context) (store.Stats, error) {
	var s store.Stats
	heads, err := l.Heads(ctx)
	if err == nil {
		err = l.read(ctx, func(conn *pgxpool.Conn) (err error) {
			s, err = l.figures(ctx, conn, heads)
			return err
		})
	}
	if err != nil {
		return store.Stats{}, fmt.Errorf("stats: %w", err)
	}
	return s, nil
}

// figures reads the statistics of a log whose heads are known.
func (l *Log) figures(ctx context.Context, q querier, heads []store.Position) (store.Stats, error) {
	s := store.Stats{Info: l.info, Entities: -1, Snapshots: -1, FreeBytes: -1}
	var pruned int64
	row := q.QueryRow(ctx, in(l.schema, sqlStats), l.schema)
	if err := row.Scan(&pruned, &s.Pending, &s.Parked, &s.FileBytes); err != nil {
		return s, err
	}
	for _, h := range heads {
		s.Events += int64(h.Sequence())
	}
	s.Events = max(s.Events-pruned, 0) // events deleted since the heads were read
	return s, nil
}

// usable returns an error if the log is closed or an import of this Log is unfinished.
func (l *Log) usable() error {
	switch {
	case l.closed.Load():
		return store.ErrClosed
	case l.unfinished.Load():
		return store.ErrUnfinished
	}
	return nil
}

// Close implements [store.Log]. It waits for the running transaction, and for reads that
// have a connection. A started iteration ends with an error matching [store.ErrClosed],
// unless it has read its last page.
func (l *Log) Close() error {
	if !l.closed.CompareAndSwap(false, true) {
		return fmt.Errorf("close %s: %w", l.name, store.ErrClosed)
	}
	close(l.closing) // reads no longer wait for an outcome
	l.writing.Lock()
	defer l.writing.Unlock()
	l.watch.close()
	if d := l.inDoubt(); d != nil {
		l.awaitOutcome(d, min(connectMax, l.testHooks.resolveMax))
		l.giveUp()
	}
	l.resolver.Wait()
	known := l.adoptResolver()
	if !known {
		l.logger.Warn("closed while an outcome is not known", "log", l.name)
	}
	if w := &l.committer; w.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), connectMax)
		defer cancel()
		if known && !w.isZero() && !w.conn.IsClosed() {
			// If this fails, a later sweep deletes the proofs that remain.
			a := l.watchdog(w.conn)
			_, err := w.conn.Exec(ctx, l.statements.depart, w.id.String())
			_ = a.end(err)
		}
		_ = w.conn.Close(ctx)
	}
	l.probes.close()
	l.pool.Close()
	return nil
}
