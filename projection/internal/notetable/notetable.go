// Package notetable has the SQL statements for the tables that hold notes.
package notetable

import (
	"fmt"
	"hash/fnv"
	"regexp"
	"strings"

	"github.com/perdure/perdure/store"
)

// Default is the name of the table, unless the user sets another one.
const Default = "perdure_notes"

// name matches the allowed names of a table, with or without its schema: names that need no
// quotes in any database, within PostgreSQL's bound for their length. They are quoted
// nevertheless, because a name may be a keyword of SQL.
var name = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$`)

// Quote checks and quotes the name of a table. The error matches [store.ErrInvalid].
func Quote(table string) (string, error) {
	if !name.MatchString(table) {
		return "", fmt.Errorf("%w: table name %q is not made of lower-case letters, digits and _, at most 63, with one dot behind a schema", store.ErrInvalid, table)
	}
	return `"` + strings.ReplaceAll(table, ".", `"."`) + `"`, nil
}

// Statements are the statements for one table, with placeholders in the syntax of the database.
type Statements struct {
	// Table creates the table if it does not exist. Create are the statements of a transaction
	// that does the same while other programs may do so too.
	Table  string
	Create []string
	// Check fails if the table does not exist or has other columns.
	Check string
	// Get selects the value of a name. Hold does the same and locks the row. HoldNumbered also
	// selects the number of the transaction, in PostgreSQL.
	Get, Hold, HoldNumbered string
	// Set stores a name and a value. Delete removes a name.
	Set, Delete string
	// First lists rows from a name on, Next lists rows after a name; both list a limited number
	// of rows.
	First, Next string
}

// SQLite returns the statements for SQLite, where a writer locks the whole file.
func SQLite(quoted string) *Statements {
	s := statements(quoted, "?", "?", "?")
	s.Table = "CREATE TABLE IF NOT EXISTS " + quoted + " (name TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID"
	s.Create = []string{s.Table}
	s.Hold = s.Get
	return s
}

// Postgres returns the statements for PostgreSQL. Names are compared by their bytes, whatever the
// collation of the database.
func Postgres(quoted string) *Statements {
	s := statements(quoted, "$1", "$2", "$2")
	s.Table = "CREATE TABLE IF NOT EXISTS " + quoted + ` (name text COLLATE "C" NOT NULL PRIMARY KEY, value bytea NOT NULL)`
	// Two concurrent statements may fail although each says IF NOT EXISTS.
	s.Create = []string{fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", LockID(quoted, "")), s.Table}
	s.Hold = s.Get + " FOR UPDATE"
	s.HoldNumbered = strings.Replace(s.Hold, "SELECT value", "SELECT value, txid_current()", 1)
	return s
}

func statements(quoted, first, second, limit string) *Statements {
	return &Statements{
		Check:  "SELECT name, value FROM " + quoted + " WHERE 1 = 0",
		Get:    "SELECT value FROM " + quoted + " WHERE name = " + first,
		Set:    "INSERT INTO " + quoted + " (name, value) VALUES (" + first + ", " + second + ") ON CONFLICT (name) DO UPDATE SET value = excluded.value",
		Delete: "DELETE FROM " + quoted + " WHERE name = " + first,
		First:  "SELECT name, value FROM " + quoted + " WHERE name >= " + first + " ORDER BY name LIMIT " + limit,
		Next:   "SELECT name, value FROM " + quoted + " WHERE name > " + first + " ORDER BY name LIMIT " + limit,
	}
}

// AdvisoryLock is the statement by which PostgreSQL locks a name that has no row, until the end
// of the transaction. Its parameter is a [LockID].
const AdvisoryLock = "SELECT pg_advisory_xact_lock($1)"

// AdvisoryLockNumbered also selects the number of the transaction.
const AdvisoryLockNumbered = "SELECT txid_current() FROM pg_advisory_xact_lock($1)"

// LockID returns the number for a name in a table. Two names with the same number wait for each
// other, which does no harm.
func LockID(table, name string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("perdure note\x00" + table + "\x00" + name)) // it cannot fail
	return int64(h.Sum64())
}

// PageNotes is the number of notes that are read at once, so that no rows are open while the
// caller uses the transaction.
const PageNotes = 128
