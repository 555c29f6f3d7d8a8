package postgres

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/store"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// schemaToken is the placeholder for the schema in the text of statements.
const schemaToken = "S."

// A Migration is a numbered step from one version of the schema to the next.
type Migration struct {
	// Number counts the migrations from 1.
	Number int
	// Name describes the migration in one word, such as "outbox".
	Name string
	// Checksum is the SHA-256 of its two scripts, in hexadecimal digits.
	Checksum string
	// Applied is the time when the migration was applied to the database. It is zero if
	// the migration has not been applied.
	Applied time.Time
	// MinReader and MinWriter say which programs can read and write a schema that has
	// this migration: programs that know the migrations up to that number. Both equal
	// Number if no older program can. With smaller numbers, a program can be rolled back
	// after a newer one has applied this migration. Example: MinWriter of migration 4 is 3
	// if programs that know only three migrations can still write.
	MinReader, MinWriter int

	up, down string
}

// migrations returns the migrations that this package knows, in order.
func migrations() []Migration {
	files, err := fs.Glob(migrationFiles, "migrations/*.up.sql")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	slices.Sort(files)
	all := make([]Migration, len(files))
	for i, file := range files {
		base := strings.TrimSuffix(file, ".up.sql")
		up, err1 := migrationFiles.ReadFile(file)
		down, err2 := migrationFiles.ReadFile(base + ".down.sql")
		digits, name, _ := strings.Cut(strings.TrimPrefix(base, "migrations/"), "_")
		n, err3 := strconv.Atoi(digits)
		if err := errors.Join(err1, err2, err3); err != nil || n != i+1 {
			panic(fmt.Sprintf("postgres: embedded migration %s: %v", file, err))
		}
		sum := sha256.Sum256(slices.Concat(up, []byte{0}, down))
		all[i] = Migration{Number: n, Name: name, Checksum: hex.EncodeToString(sum[:]), MinReader: n, MinWriter: n, up: string(up), down: string(down)}
		_, _ = fmt.Sscanf(string(up), windowFormat, &all[i].MinReader, &all[i].MinWriter) // most have no such line
	}
	return all
}

// windowFormat is the first line of a migration with which older programs can work.
const windowFormat = "-- min_reader: %d, min_writer: %d"

// MigrateUp applies the migrations that the schema at url lacks, each in its own
// transaction, and creates the schema if necessary. If the schema is complete, MigrateUp
// does nothing. If several processes migrate at the same time, one works and the others
// wait. The error matches [store.ErrFormat] if the schema is newer than this package, or if
// an applied migration differs from the one with that number in this package.
func MigrateUp(ctx context.Context, url string, opts ...Option) error {
	return migrate(ctx, url, opts, func(m *migrator) error { return m.up(ctx) })
}

// MigrateDown reverts the latest migrations until the schema is at the given number, each
// in its own transaction. At 0 only the list of migrations remains. Reverting a migration
// deletes its tables with all their rows.
func MigrateDown(ctx context.Context, url string, number int, opts ...Option) error {
	return migrate(ctx, url, opts, func(m *migrator) error { return m.downTo(ctx, number) })
}

// Migrations lists the migrations that this package knows, with the times when they were
// applied to the schema at url, followed by those that only the schema knows. It changes
// nothing.
func Migrations(ctx context.Context, url string, opts ...Option) (all []Migration, err error) {
	err = migrate(ctx, url, opts, func(m *migrator) error {
		all, err = m.list(ctx)
		return err
	})
	return all, err
}

// ValidateMigrations returns an error matching [store.ErrFormat] unless the list of
// migrations of the schema at url is exactly the one that this package needs. It changes
// nothing.
func ValidateMigrations(ctx context.Context, url string, opts ...Option) error {
	return migrate(ctx, url, opts, func(m *migrator) error { return m.validate(ctx, asOwner) })
}

// A migrator migrates the schema of one database.
type migrator struct {
	*config
	conn  *pgx.Conn
	knows []Migration // migrations of this package
}

func newMigrator(conn *pgx.Conn, c *config) *migrator {
	return &migrator{c, conn, append(migrations(), c.testHooks.migrations...)}
}

// A purpose is the use that a program wants to make of a schema, which may be a newer one.
type purpose int

const (
	asReader purpose = iota
	asWriter
	asOwner // the program must know all migrations
)

// Limits of the wait for sessions that use the tables.
const (
	// tableMax bounds one wait of a migration for a table. Later sessions, readers too,
	// wait behind the migration. So it gives up soon, lets them pass, and tries again.
	tableMax = 500 * time.Millisecond
	// migrateMax bounds all tries together, and migrateWaitMax the pause between two.
	migrateMax     = 10 * time.Minute
	migrateWaitMax = 2 * time.Second
)

// migrate runs fn with a migrator on a new connection.
func migrate(ctx context.Context, url string, opts []Option, fn func(*migrator) error) error {
	c, err := newConfig(opts)
	var pc *pgxpool.Config
	if err == nil {
		pc, err = poolConfig(url, c)
	}
	if err == nil {
		var conn *pgx.Conn
		if conn, err = pgx.ConnectConfig(ctx, pc.ConnConfig); err == nil {
			err = fn(newMigrator(conn, c))
			_ = conn.Close(context.WithoutCancel(ctx)) // fn has already committed or failed
		}
	}
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// lockKey returns the key of an advisory lock. If another program in the same database uses
// the same key, both only wait for each other.
func lockKey(schema, purpose string) int64 {
	h := fnv.New64a()
	h.Write([]byte("perdure\x00" + schema + "\x00" + purpose))
	return int64(h.Sum64())
}

// in replaces the schema placeholder in the text of a statement.
func in(schema, sql string) string {
	return strings.ReplaceAll(sql, schemaToken, pgx.Identifier{schema}.Sanitize()+".")
}

func (m *migrator) up(ctx context.Context) error {
	if m.validate(ctx, asWriter) == nil {
		return nil // the usual case: complete, and no lock is needed
	}
	for more := true; more; {
		err := m.transact(ctx, func(tx pgx.Tx) error {
			if err := m.create(ctx, tx); err != nil {
				return err
			}
			all, err := m.read(ctx, tx, asWriter)
			if err != nil {
				return err
			}
			next := slices.IndexFunc(all, func(a Migration) bool { return a.Applied.IsZero() })
			if more = next >= 0; !more {
				return nil
			}
			step := all[next]
			if _, err := tx.Exec(ctx, in(m.schema, step.up)); err != nil {
				return fmt.Errorf("apply %d_%s: %w", step.Number, step.Name, err)
			}
			return m.enter(ctx, tx, step)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// enter adds a migration to the list of applied ones. The first three migrations, which
// every program knows, do not have the columns min_reader and min_writer.
func (m *migrator) enter(ctx context.Context, tx pgx.Tx, step Migration) error {
	const firstWithWindow = 4
	if step.Number < firstWithWindow {
		_, err := tx.Exec(ctx, in(m.schema, "INSERT INTO S.migrations (number, name, checksum) VALUES ($1, $2, $3)"), step.Number, step.Name, step.Checksum)
		return err
	}
	_, err := tx.Exec(ctx, in(m.schema, "ALTER TABLE S.migrations ADD COLUMN IF NOT EXISTS min_reader integer, ADD COLUMN IF NOT EXISTS min_writer integer"))
	if err == nil {
		_, err = tx.Exec(ctx, in(m.schema, "INSERT INTO S.migrations (number, name, checksum, min_reader, min_writer) VALUES ($1, $2, $3, $4, $5)"),
			step.Number, step.Name, step.Checksum, step.MinReader, step.MinWriter)
	}
	return err
}

// create creates the schema and its list of migrations if they do not exist. It checks
// first, because a role that may not create schemas may use an existing one.
func (m *migrator) create(ctx context.Context, tx pgx.Tx) error {
	var there bool
	err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", m.schema).Scan(&there)
	if err == nil && !there {
		_, err = tx.Exec(ctx, "CREATE SCHEMA "+pgx.Identifier{m.schema}.Sanitize())
	}
	if err == nil {
		there, err = m.listed(ctx, tx)
	}
	if err == nil && !there {
		_, err = tx.Exec(ctx, in(m.schema, `CREATE TABLE S.migrations (
			number   integer PRIMARY KEY,
			name     text NOT NULL,
			checksum text NOT NULL,
			applied  timestamptz NOT NULL DEFAULT now()
		)`))
	}
	return err
}

func (m *migrator) downTo(ctx context.Context, number int) error {
	if number < 0 || number > len(m.knows) {
		return fmt.Errorf("%w: there is no migration %d", store.ErrInvalid, number)
	}
	for more := true; more; {
		err := m.transact(ctx, func(tx pgx.Tx) error {
			there, err := m.listed(ctx, tx)
			if more = there; !there || err != nil {
				return err
			}
			all, err := m.read(ctx, tx, asOwner)
			if err != nil {
				return err
			}
			last := len(all)
			for last > 0 && all[last-1].Applied.IsZero() {
				last--
			}
			if more = last > number; !more {
				return nil
			}
			step := all[last-1]
			if _, err := tx.Exec(ctx, in(m.schema, step.down)); err != nil {
				return fmt.Errorf("take back %d_%s: %w", step.Number, step.Name, err)
			}
			_, err = tx.Exec(ctx, in(m.schema, "DELETE FROM S.migrations WHERE number = $1"), step.Number)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// validate returns an error unless the schema is fit for the purpose.
func (m *migrator) validate(ctx context.Context, p purpose) error {
	all, err := m.known(ctx, p)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.Applied.IsZero() {
			return fmt.Errorf("%w: schema %q lacks migration %d_%s", store.ErrFormat, m.schema, a.Number, a.Name)
		}
	}
	return nil
}

// known returns the migrations of this package with the times when they were applied. It
// refuses a schema with newer migrations that do not allow the purpose.
func (m *migrator) known(ctx context.Context, p purpose) ([]Migration, error) {
	there, err := m.listed(ctx, m.conn)
	if err != nil {
		return nil, err
	}
	if !there {
		return slices.Clone(m.knows), nil
	}
	return m.read(ctx, m.conn, p)
}

// list is like known, but accepts every schema.
func (m *migrator) list(ctx context.Context) ([]Migration, error) {
	all := slices.Clone(m.knows)
	there, err := m.listed(ctx, m.conn)
	if !there || err != nil {
		return all, err
	}
	applied, err := m.applied(ctx, m.conn)
	if err != nil {
		return nil, err
	}
	for i, a := range applied {
		if i < len(all) && all[i].Number == a.Number {
			all[i].Applied = a.Applied
		} else {
			all = append(all, a)
		}
	}
	return all, nil
}

// A querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// listed reports whether the schema has a list of migrations.
func (m *migrator) listed(ctx context.Context, q querier) (there bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = 'migrations')`, m.schema).Scan(&there)
	return there, err
}

func (m *migrator) applied(ctx context.Context, q querier) ([]Migration, error) {
	// The columns min_reader and min_writer may not exist.
	rows, err := q.Query(ctx, in(m.schema, `SELECT number, name, checksum, applied, coalesce((to_jsonb(m) ->> 'min_reader')::int, number),
		coalesce((to_jsonb(m) ->> 'min_writer')::int, number) FROM S.migrations m ORDER BY number`))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (a Migration, err error) {
		err = row.Scan(&a.Number, &a.Name, &a.Checksum, &a.Applied, &a.MinReader, &a.MinWriter)
		return a, err
	})
}

// read returns the migrations of this package with the times when they were applied. It
// refuses a schema with newer migrations, unless their min_reader or min_writer allows a
// program of this version the purpose.
func (m *migrator) read(ctx context.Context, q querier, p purpose) ([]Migration, error) {
	all := slices.Clone(m.knows)
	applied, err := m.applied(ctx, q)
	if err != nil {
		return nil, err
	}
	for i, a := range applied {
		switch {
		case a.Number > len(all) && a.Number == i+1 && (p == asReader && a.MinReader <= len(all) || p == asWriter && a.MinWriter <= len(all)):
			continue
		case a.Number > len(all):
			return nil, fmt.Errorf("%w: schema %q has migration %d_%s, and this version of the program knows %d only, where %d are needed to read it and %d to write; use a newer one",
				store.ErrFormat, m.schema, a.Number, a.Name, len(all), a.MinReader, a.MinWriter)
		case a.Number != i+1:
			return nil, fmt.Errorf("%w: schema %q has migration %d but lacks %d", store.ErrFormat, m.schema, a.Number, i+1)
		case a.Checksum != all[i].Checksum:
			return nil, fmt.Errorf("%w: migration %d_%s of schema %q is not the one that this program has as %d_%s",
				store.ErrFormat, a.Number, a.Name, m.schema, all[i].Number, all[i].Name)
		}
		all[i].Applied = a.Applied
	}
	return all, nil
}

// transact runs fn in a transaction. No other migration of the schema runs at the same time.
// It tries again while other sessions use the tables.
func (m *migrator) transact(ctx context.Context, fn func(pgx.Tx) error) error {
	wait := 50 * time.Millisecond
	for end := time.Now().Add(migrateMax); ; wait = min(2*wait, migrateWaitMax) {
		err := pgx.BeginTxFunc(ctx, m.conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", lockKey(m.schema, "migrate")); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "SELECT set_config('lock_timeout', $1, true)", fmt.Sprint(tableMax.Milliseconds())); err != nil {
				return err
			}
			return fn(tx)
		})
		e := serverError(err)
		if e == nil || e.Code != codeLockTimeout && e.Code != codeSerialize && e.Code != codeDeadlock || m.conn.IsClosed() {
			return err
		}
		users := m.users(ctx)
		if time.Now().After(end) {
			return fmt.Errorf("the tables of schema %q are in use by %s; end that, and migrate again: %w", m.schema, users, err)
		}
		m.logger.WarnContext(ctx, "a migration waits until tables are not in use", "schema", m.schema, "by", users)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: the tables of schema %q are in use by %s", ctx.Err(), m.schema, users)
		case <-time.After(wait):
		}
	}
}

// users describes the sessions that use tables of the schema, for an error text.
func (m *migrator) users(ctx context.Context) string {
	var users string
	err := m.conn.QueryRow(ctx, `SELECT coalesce(string_agg(DISTINCT concat_ws(' ', 'process', a.pid, '(' || concat_ws(', ', a.usename, nullif(a.application_name, '')) || ')',
			'since', a.xact_start), '; '), 'sessions that are gone')
		FROM pg_locks k JOIN pg_class c ON c.oid = k.relation JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_stat_activity a ON a.pid = k.pid
		WHERE n.nspname = $1 AND k.granted AND k.pid <> pg_backend_pid()`, m.schema).Scan(&users)
	if err != nil {
		return "others"
	}
	return users
}

// Grants returns a script that lets an existing role use the log in a schema with
// [NoMigration], but not change or delete events. The role gets no UPDATE, DELETE or
// TRUNCATE on the events, and only SELECT on the list of migrations. [Log.DeleteEvents] then
// returns an error matching [errors.ErrUnsupported]. The owner of the schema must run the
// script after each migration.
func Grants(role string, opts ...Option) (string, error) {
	c, err := newConfig(opts)
	if err != nil {
		return "", err
	}
	if role == "" || strings.ContainsRune(role, 0) {
		return "", fmt.Errorf("%w: role %q", store.ErrInvalid, role)
	}
	script := `GRANT USAGE ON SCHEMA @ TO R;
GRANT SELECT ON S.migrations TO R;
GRANT SELECT, INSERT ON S.log, S.events TO R;
GRANT SELECT, INSERT, UPDATE, DELETE ON S.snapshots, S.states, S.commits, S.messages, S.receipts, S.claims, S.bookmarks TO R;
GRANT SELECT, USAGE, UPDATE ON SEQUENCE S.clock, S.message_sequence TO R;
`
	return strings.NewReplacer(
		"@", pgx.Identifier{c.schema}.Sanitize(),
		schemaToken, pgx.Identifier{c.schema}.Sanitize()+".",
		"TO R;", "TO "+pgx.Identifier{role}.Sanitize()+";",
	).Replace(script), nil
}
