// Package postgres keeps a log in a schema of a PostgreSQL database, for many
// processes on many machines at once. It has every optional ability of package
// store but [store.Instant] and [store.Backuper], and is shared: [Log.Acquire]
// returns an error matching [errors.ErrUnsupported]. It works with PostgreSQL 14
// and later.
//
//	log, err := postgres.Open(ctx, "postgres://app@db.example.com/shop")
//	…
//	engine, err := perdure.Open(ctx, perdure.Config{Store: log, Kinds: kinds})
//
// # Commits
//
// Commits are grouped: all batches of all callers that wait in this process are
// one transaction of one sync, and of one round trip while this process is alone
// in writing, else two. The transactions of all processes come one after the
// other, under an advisory lock of the log, so positions have no gap and become visible in their order;
// docs/design/0010-postgres-order.md says why, and what it costs. Each batch is
// decided within the transaction, on what is stored at that time.
//
// # Errors
//
// An error of [Log.Commit] matches [store.ErrNotStored] where that is proved: no
// connection could be opened, the server has refused a statement or rolled back,
// or the transaction was looked for and can no longer be stored. A connection that
// is lost is replaced, and a transaction that is not stored is tried again, up to
// five times, also after a deadlock or a serialization failure. No error matches
// [store.ErrBroken]: the log goes on when the server does.
//
// If the connection is lost before the answer to a commit, or the server says that it
// has not waited for a replica, the log looks for the outcome. It ends the session that
// it has lost, takes the lock of the log, looks for a row that only this transaction
// has written, and if there is none moves the clock of the log, so that a message which
// arrives later is refused. Then it commits a row of its own, for which the server waits
// for a synchronous replica. Commit waits for that for up to 45 seconds, then the outcome
// is unknown; the log goes on looking. Until it has found out, reads and commits of this
// Log wait, for up to 45 seconds each, or until their context ends; after that they
// return an error that says nothing of what is stored. A Log that is opened does the
// same once for what another one may have left.
//
// A process that hangs within a transaction holds up the writers of the log, but
// no reader. After 20 seconds the server ends its session if it is between two
// statements; if it is within a message, which the server does not bound, another
// process that waits for its turn ends the session, once it has seen that nothing
// comes. A process that goes on, however slowly, is left alone. A commit that has
// waited 30 seconds for its turn is not stored, and its error says who has it.
//
// # Waits
//
// Every wait for the server has a bound, also a read whose context has none. The
// kernels of both sides watch the connections (TCP keepalive, and TCP_USER_TIMEOUT on
// Linux). Where nothing passes for two seconds the log asks the server, on another
// connection, what the session does: a server that works is waited for as long as it
// takes, a connection that a firewall has forgotten is replaced within some seconds.
// A statement waits 30 seconds for a lock of a table.
//
// # Sessions and servers
//
// Every session, of whatever purpose, sets all settings that change what a statement
// means, and asserts them: the encoding, how literals, arrays and times are read,
// isolation, timeouts, search_path (pg_catalog alone, so a trigger on a table of the log
// must qualify the names that it uses), and others, each with its reason in settings.go.
// It does not matter then what server, database, role and URL say. One that the role may
// not set, and that is not as it must be, is an error that names it.
//
// A session has a mark as well, which every transaction that writes compares. A session
// that a pooler has reset, or a transaction that it has given to another session, stores
// nothing, and the error says so.
//
// Every new connection must lead to a primary, of the system that the log was opened
// on, not on a lower timeline than one that was seen, with the same log in the schema,
// and with the last commit that it has acknowledged to this process, which the row that
// the commit has left proves. So after a failover neither a check nor a read is
// answered from the past by a replica that is behind or by the old primary; of several
// hosts in a URL the next one is tried. What no connection can prove is that there is no
// second primary: a process that is cut off together with the old one goes on there. So
// the old primary must be fenced before another is promoted. A log that has moved to
// another system, by a logical replication or an upgrade, is to be opened again.
//
// [Open] refuses a log whose sequences are behind their rows, as a logical replication or
// a restore of single tables leaves them, and says how to set them.
//
// # The server's log
//
// Commits that meet another process, and batches that are refused, are no errors of the
// server. Where a transaction fails as a whole the server's log has its statements, but
// no payload: payloads are sent as parameters and by COPY, and parameters are not logged
// on an error. An administrator who has statements logged (log_statement) sees ids.
//
// # Durability
//
// The log sets synchronous_commit to on in its sessions, whatever URL, role and
// server say, unless it is remote_apply. It warns through [WithLogger] if the
// server runs with fsync or full_page_writes off. With a replica that takes over,
// what is durable is what that replica has: set synchronous_standby_names. A commit then
// waits until the replica has it. While the replica is down no commit is acknowledged,
// however long it waits and whoever cancels the wait: its outcome is unknown until the
// replica is back, or synchronous_standby_names does not name it any more.
//
// Sessions have settings and prepared statements of their own, so a pooler in
// between must keep a session for a connection, as PgBouncer does in its session mode.
// An error of a pooler that has lost the server (SQLSTATE class 08) in answer to a commit
// is a lost connection, and its outcome is looked for.
//
// # Schema
//
// The tables are made by numbered migrations, which [Open] applies, and which
// [MigrateUp], [MigrateDown], [Migrations] and [ValidateMigrations] apply, take
// back, list and check. [Grants] is a script for a role that can do all but
// change the schema and change or delete events. A migration waits half a second at a
// time for a table that is in use, so that readers pass; and it says in the list which
// older programs can still read and write, so that a program can be rolled back.
//
// [ReadOnly] opens a log without writing anything, for a role that may only SELECT
// (USAGE on the schema, SELECT on its tables and sequences) and on replicas.
//
// A record is kept as package store encodes it, with its CRC, which is checked at
// every read; the columns beside it are for finding it. Kinds, types and tags of
// a [store.Query] are looked for by the server, which passes over the events that
// do not match: an index of each would cost every append a write at a random
// place, and a reader that follows a log needs none.
//
// [Log.Heads] searches once for each partition, so a log that is polled should
// not have hundreds of them; [Log.Changed] saves most of the polling.
//
// # Whole logs
//
// [store.Verify] and [store.Copy] work on it; see [Log.Export], [Log.Import] and
// [Log.VerifyFiles]. Backups are the database's own: pg_basebackup with an
// archive of its write-ahead log keeps all that was acknowledged, and pg_dump
// keeps one moment of the schema.
//
// # Other databases
//
// CockroachDB and YugabyteDB speak the same protocol, but many versions of them
// have no advisory locks, or accept the calls and do nothing, which takes away the
// order of commits; and their sequences and system views differ. Neither has been
// tried, and no log is promised to work there.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

// A Log is a [store.Log] in a PostgreSQL database. All its methods may be called
// by many goroutines at once, and many Logs, in many processes, may be open on
// the same schema.
//
// Invariants:
//
//  1. Every transaction that writes holds the log's advisory lock from its first
//     statement to its end, and is decided on what it has read after it took it,
//     or on what it then proves to be so still. An import takes the lock to mark the log and to finish; in between it adds
//     rows without it, to a log whose mark lets no one else write.
//  2. Positions, versions and message sequences are drawn under that lock, so
//     they become visible in their order.
//  3. The commit of a transaction is the last statement of it, in one message
//     with the proof that it has been done. Until that message is sent nothing is
//     stored; after it only the server's answer or the proof tells.
//  4. A consumer's code never runs while a connection or a transaction is held:
//     reads copy a page of records out and give the connection back.
//  5. What is remembered from one transaction to the next is keyed by the time of
//     the first, and whoever changes it in the database moves the clock on, under
//     the lock.
type Log struct {
	*config
	name       string // of database and schema, for errors
	lock       int64  // key of the advisory lock
	info       store.LogInfo
	record     []byte          // info as it is stored
	connConfig *pgx.ConnConfig // of all connections
	pool       *pgxpool.Pool
	statements statements
	closed     atomic.Bool
	unfinished atomic.Bool // by an import of this Log; that of another shows in the database
	queue      storekit.Queue
	watch      watch
	probes     probes
	holders    holderWatch

	acknowledged acknowledged

	writing   sync.Mutex
	committer committer

	doubt    atomic.Pointer[doubt] // written by the owner of the committer
	resolver sync.WaitGroup
	giveUp   context.CancelFunc // of the last resolver; nil if there was none
	closing  chan struct{}      // closed by Close
}

var (
	_ store.Log          = (*Log)(nil)
	_ store.Catalog      = (*Log)(nil)
	_ store.Pruner       = (*Log)(nil)
	_ store.Outbox       = (*Log)(nil)
	_ store.Receipts     = (*Log)(nil)
	_ store.ReceiptHeads = (*Log)(nil)
	_ store.Claims       = (*Log)(nil)
	_ store.Bookmarks    = (*Log)(nil)
	_ store.Deletions    = (*Log)(nil)
	_ store.Statistics   = (*Log)(nil)
	_ store.Exclusive    = (*Log)(nil)
	_ store.Watcher      = (*Log)(nil)
	_ store.Exporter     = (*Log)(nil)
	_ store.Importer     = (*Log)(nil)
	_ store.Verifier     = (*Log)(nil)
)

// Heads implements [store.Log]. It costs one search of an index for each partition.
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
// [errors.ErrUnsupported]: the log is for many engines.
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

// Stats implements [store.Statistics]. It reads all entries of the outbox's
// indexes; entities, states and free space are not counted.
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

// figures reads the figures of a log whose heads are known.
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

// usable returns why the log answers nothing, or nil.
func (l *Log) usable() error {
	switch {
	case l.closed.Load():
		return store.ErrClosed
	case l.unfinished.Load():
		return store.ErrUnfinished
	}
	return nil
}

// Close implements [store.Log]. It waits for the transaction that runs, and for
// reads that have a connection; an iterator that has begun ends with an error
// matching [store.ErrClosed] unless its last page is read.
func (l *Log) Close() error {
	if !l.closed.CompareAndSwap(false, true) {
		return fmt.Errorf("close %s: %w", l.name, store.ErrClosed)
	}
	close(l.closing) // reads do not wait for an outcome any more
	l.writing.Lock()
	defer l.writing.Unlock()
	l.watch.close()
	if d := l.inDoubt(); d != nil {
		l.await(d, min(connectMax, l.tamper.resolveMax))
		l.giveUp()
	}
	l.resolver.Wait()
	known := l.takeIn()
	if !known {
		l.logger.Warn("closed while an outcome is not known", "log", l.name)
	}
	if w := &l.committer; w.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), connectMax)
		defer cancel()
		if known && !w.isZero() && !w.conn.IsClosed() {
			// Proofs that stay are deleted when the log has been opened many times.
			a := l.attend(w.conn)
			_, err := w.conn.Exec(ctx, l.statements.depart, w.id.String())
			_ = a.end(err)
		}
		_ = w.conn.Close(ctx)
	}
	l.probes.close()
	l.pool.Close()
	return nil
}
