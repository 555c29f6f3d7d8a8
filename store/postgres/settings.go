package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/store"
)

// A setting is a session setting that changes the meaning or the effect of the log's statements.
// A session sets it to value, whatever the server, the database, the role or the URL say. Then
// the session asserts that the setting has one of the accepted values.
type setting struct {
	name  string
	value string
	// others are accepted as well as value. A session that has one of them keeps it.
	others []string
	// A soft setting is set if the role may set it, and is not asserted.
	soft bool
	why  string
}

// settings returns the settings of every session of a log. A test reads all settings of a server
// and checks that each is here or in the test's list of harmless settings.
func (c *config) settings() []setting {
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	all := []setting{
		{name: "client_encoding", value: "UTF8", why: "texts are sent as UTF-8: another encoding converts ids, so that two processes have two entities of one id, and in some a quote is part of a letter"},
		{name: "standard_conforming_strings", value: "on", why: "what a backslash means in a literal"},
		{name: "backslash_quote", value: "safe_encoding", others: []string{"off"}, why: "whether \\' ends a literal"},
		{name: "escape_string_warning", value: "off", why: "a warning for each literal with a backslash"},
		{name: "array_nulls", value: "on", why: "whether NULL in an array is none or a text"},
		{name: "transform_null_equals", value: "off", why: "what x = NULL means"},
		{name: "bytea_output", value: "hex", why: "how bytes are written as text"},
		{name: "DateStyle", value: "ISO, MDY", why: "how times are read and written as text"},
		{name: "IntervalStyle", value: "postgres", why: "how intervals are written as text"},
		{name: "TimeZone", value: "UTC", why: "how times are read and written as text"},
		{name: "extra_float_digits", value: "1", why: "whether numbers survive as text"},
		{name: "search_path", value: "pg_catalog, pg_temp", why: "functions and operators are the server's own, not ones of that name in another schema"},
		{name: "row_security", value: "off", why: "a policy that hides rows fails the statement: events that are hidden without a word are gaps"},
		{name: "session_replication_role", value: "origin", why: "whether triggers fire"},
		{name: "default_table_access_method", value: "heap", why: "migrations make tables with unique keys that ON CONFLICT and COPY work with"},
		{name: "default_transaction_isolation", value: "read committed", why: "what is read after a lock is what those before it have left"},
		{name: "default_transaction_read_only", value: onOff(c.readOnly), why: "whether a session may write"},
		{name: "default_transaction_deferrable", value: "off", why: "a transaction begins at once"},
		{name: "exit_on_error", value: "off", why: "a refused statement does not end the session"},
		{name: "synchronous_commit", value: "on", others: []string{"remote_apply"}, why: "a commit that is answered is on disk"},
		{name: "statement_timeout", value: "0", why: "exports and verifications take the time that they take"},
		{name: "transaction_timeout", value: "0", why: "so do their transactions; the log has bounds of its own"},
		{name: "idle_session_timeout", value: "0", why: "a session may wait for the next commit"},
		{name: "lock_timeout", value: ms(c.testHooks.lockMax), why: "a statement waits no longer for its turn"},
		{name: "idle_in_transaction_session_timeout", value: ms(c.testHooks.idleMax), why: "a process that hangs does not keep the lock"},
		{name: "client_min_messages", value: "warning", why: "a warning about a commit must arrive"},
		{name: "zero_damaged_pages", value: "off", why: "damage is an error, not missing rows"},
		{name: "ignore_checksum_failure", value: "off", why: "damage is an error"},

		{name: "plan_cache_mode", value: "force_generic_plan", why: "a statement is planned once"},
		{name: "enable_seqscan", value: "off", why: "statements search indexes, since the server cannot know how large a table is going to be"},
		{name: "enable_bitmapscan", value: "off", why: "as above"},
		{name: "enable_hashjoin", value: "off", why: "as above"},
		{name: "enable_mergejoin", value: "off", why: "as above"},
		{name: "enable_nestloop", value: "on", why: "as above"},
		{name: "enable_indexscan", value: "on", why: "as above"},
		{name: "enable_indexonlyscan", value: "on", why: "as above"},
		{name: "enable_sort", value: "on", why: "a page that is sorted is small"},
		{name: "jit", value: "off", why: "to compile takes longer than to run"},

		{name: "debug_print_parse", value: "off", why: "payloads stay out of the server's log"},
		{name: "debug_print_rewritten", value: "off", why: "as above"},
		{name: "debug_print_plan", value: "off", why: "as above"},
		{name: "log_parameter_max_length_on_error", value: "0", why: "as above"},
		{name: "log_parameter_max_length", value: "0", soft: true, why: "as above"},
		{name: "log_min_error_statement", value: "panic", soft: true, why: "as above"},

		// The server shows 0 for a session on a Unix socket.
		{name: "tcp_keepalives_idle", value: seconds(keepIdle), soft: true, why: "the server notices that the host of a process is gone"},
		{name: "tcp_keepalives_interval", value: seconds(keepInterval), soft: true, why: "as above"},
		{name: "tcp_keepalives_count", value: strconv.Itoa(keepCount), soft: true, why: "as above"},
		{name: "tcp_user_timeout", value: ms(unackedMax), soft: true, why: "as above, while it sends"},
	}
	return all
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// sqlSettings returns the statements that set and assert the settings, mark the session, see
// [errSessionMoved], and ask for the identity of the server. They are one message. It has only
// ASCII characters and no backslash, because the session may still have any encoding.
//
// A setting that only a superuser may change is set only if the role may do so. A role without
// the right therefore causes no error in the server's log.
func sqlSettings(all []setting, release int, identity bool, mark string) string {
	var rows []string
	for _, s := range all {
		accepted := []string{literal(s.value)}
		for _, o := range s.others {
			accepted = append(accepted, literal(o))
		}
		rows = append(rows, fmt.Sprintf("(%s, %s, ARRAY[%s], %t)", literal(s.name), literal(s.value), strings.Join(accepted, ", "), s.soft))
	}
	table := "(VALUES " + strings.Join(rows, ", ") + ") AS p (name, value, accepted, soft)"
	may := "s.context = 'user' OR pg_catalog.current_setting('is_superuser') = 'on'"
	if release >= releaseOfGrants {
		may += " OR pg_catalog.has_parameter_privilege(s.name, 'SET')"
	}
	server := "pg_catalog.pg_is_in_recovery(), pg_catalog.pg_backend_pid()," +
		" (SELECT a.backend_start FROM pg_catalog.pg_stat_activity a WHERE a.pid = pg_catalog.pg_backend_pid())::pg_catalog.text"
	if identity {
		server += ", (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c)," +
			" CASE WHEN pg_catalog.pg_is_in_recovery() THEN '' ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END"
	} else {
		server += ", 0, ''"
	}
	server += ", pg_catalog.set_config('perdure.session', " + literal(mark) + ", false)"
	return "SELECT pg_catalog.set_config(p.name, p.value, false) FROM pg_catalog.pg_settings s JOIN " + table +
		" ON s.name OPERATOR(pg_catalog.=) p.name WHERE s.setting OPERATOR(pg_catalog.<>) ALL (p.accepted) AND (" + may + ");\n" +
		"SELECT s.name, s.setting, s.source, p.value FROM pg_catalog.pg_settings s JOIN " + table +
		" ON s.name OPERATOR(pg_catalog.=) p.name WHERE s.setting OPERATOR(pg_catalog.<>) ALL (p.accepted) AND NOT p.soft;\n" +
		"SELECT " + server
}

// releaseOfGrants is the first PostgreSQL in which a role can be granted the right to set a
// setting.
const releaseOfGrants = 15

// literal quotes a text of this package that contains no quotes.
func literal(text string) string { return "'" + text + "'" }

// errSession says that a log cannot use a session or its server.
var errSession = errors.New("session is refused")

// pin sets and asserts the settings of a new session, and reads the identity of the server.
func (c *config) pin(ctx context.Context, conn *pgconn.PgConn) (*peer, error) {
	all, release := c.settings(), releaseOf(conn.ParameterStatus("server_version"))
	mark := rand.Text()
	results, err := conn.Exec(ctx, sqlSettings(all, release, true, mark)).ReadAll()
	if e := serverError(err); e != nil && e.Code == codePrivilege {
		// The role may not read the identity, so only whether the server is a primary is known.
		results, err = conn.Exec(ctx, sqlSettings(all, release, false, mark)).ReadAll()
	}
	if err != nil {
		return nil, fmt.Errorf("set up the session: %w", err)
	}
	if len(results) != 3 || len(results[2].Rows) != 1 || len(results[2].Rows[0]) != 6 {
		return nil, fmt.Errorf("%w: the server answers %d results to the settings, want 3", errSession, len(results))
	}
	if wrong := results[1].Rows; len(wrong) > 0 {
		w := wrong[0]
		return nil, fmt.Errorf("%w: %w: %s is %q (from: %s), a log needs %q, and the role may not set it; take it back with ALTER ROLE … RESET %s, ALTER DATABASE … RESET %s, or in the URL or the server's configuration",
			store.ErrInvalid, errSession, w[0], w[1], w[2], w[3], w[0], w[0])
	}
	row := results[2].Rows[0]
	p := &peer{conn: countingConnOf(conn.Conn()), mark: mark, replica: string(row[0]) == "t", started: string(row[2])}
	pid, err := strconv.ParseInt(string(row[1]), 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%w: process id %q", errSession, row[1])
	}
	p.pid = pid
	p.system, _ = strconv.ParseInt(string(row[3]), 10, 64) // 0 means unknown
	if name := string(row[4]); len(name) > timelineDigits {
		timeline, err := strconv.ParseUint(name[:timelineDigits], 16, 32)
		if err != nil {
			return nil, fmt.Errorf("%w: write-ahead log file %q", errSession, name)
		}
		p.timeline = uint32(timeline)
	}
	return p, nil
}

// releaseOf returns the number of a release such as "15.18 (Debian)" or "17beta1".
func releaseOf(version string) int {
	digits := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(version)
	}
	n, _ := strconv.Atoi(version[:digits]) // 0 if the version has no number, such as a pooler's
	return n
}

// timelineDigits is the number of digits of the timeline in the name of a WAL file.
const timelineDigits = 8
