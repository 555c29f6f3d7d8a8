package postgres_test

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// leftSettings are settings of PostgreSQL 14 to 18 that a session could change and a log does not
// set, grouped by the reason. A setting that is neither in this list nor pinned fails a test.
var leftSettings = map[string]string{
	"It changes how fast the server is, or how much memory it takes, and no result.": `
		backend_flush_after commit_delay commit_siblings cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost cursor_tuple_fraction
		debug_discard_caches debug_logical_replication_streaming debug_parallel_query default_statistics_target effective_cache_size
		effective_io_concurrency enable_async_append enable_distinct_reordering enable_gathermerge enable_group_by_reordering
		enable_hashagg enable_incremental_sort enable_material enable_memoize enable_parallel_append enable_parallel_hash
		enable_partition_pruning enable_partitionwise_aggregate enable_partitionwise_join enable_presorted_aggregate
		enable_self_join_elimination enable_tidscan file_copy_method file_extend_method force_parallel_mode from_collapse_limit
		geqo geqo_effort geqo_generations geqo_pool_size geqo_seed geqo_selection_bias geqo_threshold hash_mem_multiplier
		io_combine_limit jit_above_cost jit_dump_bitcode jit_debugging_support jit_expressions jit_inline_above_cost
		jit_optimize_above_cost jit_profiling_support jit_tuple_deforming join_collapse_limit logical_decoding_work_mem
		maintenance_io_concurrency maintenance_work_mem max_parallel_maintenance_workers max_parallel_workers
		max_parallel_workers_per_gather min_parallel_index_scan_size min_parallel_table_scan_size parallel_leader_participation
		parallel_setup_cost parallel_tuple_cost random_page_cost recursive_worktable_factor seq_page_cost temp_buffers
		vacuum_buffer_usage_limit vacuum_cost_delay vacuum_cost_limit vacuum_cost_page_dirty vacuum_cost_page_hit
		vacuum_cost_page_miss wal_compression wal_init_zero wal_recycle wal_skip_threshold work_mem deadlock_timeout
		client_connection_check_interval post_auth_delay max_stack_depth ignore_system_indexes`,
	"It is about statements that a log does not use.": `
		allow_in_place_tablespaces allow_system_table_mods check_function_bodies constraint_exclusion createrole_self_grant
		default_text_search_config event_triggers extension_control_path extension_destdir dynamic_library_path gin_fuzzy_search_limit
		gin_pending_list_limit icu_validation_level lc_monetary lc_numeric lc_time lo_compat_privileges md5_password_warnings
		password_encryption quote_all_identifiers restrict_nonsystem_relation_kind scram_iterations synchronize_seqscans
		timezone_abbreviations vacuum_failsafe_age vacuum_freeze_min_age vacuum_freeze_table_age vacuum_max_eager_freeze_failure_rate
		vacuum_multixact_failsafe_age vacuum_multixact_freeze_min_age vacuum_multixact_freeze_table_age vacuum_truncate
		wal_sender_timeout xmlbinary xmloption backtrace_functions allow_alter_system send_abort_for_crash send_abort_for_kill
		log_replication_commands stats_fetch_consistency`,
	"It is where the database's administrator wants tables and temporary files.": `
		default_tablespace temp_tablespaces temp_file_limit default_toast_compression`,
	"It is what the database's administrator wants to see of sessions.": `
		application_name compute_query_id debug_pretty_print log_connections log_disconnections log_duration log_error_verbosity
		log_executor_stats log_lock_failures log_lock_waits log_min_duration_sample log_min_duration_statement log_min_messages
		log_parser_stats log_planner_stats log_statement log_statement_sample_rate log_statement_stats log_temp_files
		log_transaction_sample_rate lc_messages track_activities track_cost_delay_timing track_counts track_functions track_io_timing
		track_wal_io_timing trace_connection_negotiation trace_notify trace_sort trace_locks trace_lock_oidmin trace_lock_table
		trace_lwlocks trace_userlocks update_process_title wal_consistency_checking`,
	"It is code that the database's administrator has every session load.": `
		local_preload_libraries session_preload_libraries`,
	"It is of the transaction that runs; transactions of a log that write say what they want.": `
		transaction_deferrable transaction_isolation transaction_read_only`,
}

// hostile are values of pinned settings that would break the statements of a log.
var hostile = map[string]string{
	"client_encoding": "SJIS", "standard_conforming_strings": "off", "backslash_quote": "on", "escape_string_warning": "on",
	"array_nulls": "off", "transform_null_equals": "on", "bytea_output": "escape", "DateStyle": "SQL, DMY", "IntervalStyle": "iso_8601",
	"TimeZone": "Asia/Tokyo", "extra_float_digits": "-15", "search_path": "other, pg_catalog", "row_security": "on",
	"session_replication_role": "replica", "default_transaction_isolation": "serializable", "default_transaction_read_only": "on",
	"default_transaction_deferrable": "on", "exit_on_error": "on", "synchronous_commit": "off", "statement_timeout": "5000",
	"transaction_timeout": "5000", "idle_session_timeout": "5000", "lock_timeout": "1", "idle_in_transaction_session_timeout": "1",
	"client_min_messages": "error", "zero_damaged_pages": "on", "ignore_checksum_failure": "on", "plan_cache_mode": "force_custom_plan",
	"enable_seqscan": "on", "enable_bitmapscan": "on", "enable_hashjoin": "on", "enable_mergejoin": "on", "enable_nestloop": "off",
	"enable_indexscan": "off", "enable_indexonlyscan": "off", "enable_sort": "off", "jit": "on", "debug_print_parse": "on",
	"debug_print_rewritten": "on", "debug_print_plan": "on", "log_parameter_max_length_on_error": "-1", "log_parameter_max_length": "-1",
	"log_min_error_statement": "error",
}

func TestSettings(t *testing.T) {
	t.Parallel()
	t.Run("each setting of the server is pinned or left with a reason", func(t *testing.T) {
		t.Parallel()
		known := make(map[string]bool)
		for name := range postgres.Pinned() {
			known[name] = true
		}
		for _, names := range leftSettings {
			for name := range strings.FieldsSeq(names) {
				if known[name] {
					t.Errorf("setting %s is listed twice", name)
				}
				known[name] = true
			}
		}
		rows, _ := connect(t, pgtest.Shared(t)).Query(t.Context(),
			"SELECT name FROM pg_settings WHERE context IN ('user', 'superuser', 'backend', 'superuser-backend') AND name NOT LIKE '%.%'")
		all, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(all) < 100 {
			t.Fatalf("settings of the server: %d, %v", len(all), err)
		}
		for _, name := range all {
			if !known[name] {
				t.Errorf("setting %s can change what a session means: it is neither pinned nor left with a reason", name)
			}
		}
	})
	t.Run("every session has the pinned ones", func(t *testing.T) {
		t.Parallel()
		for _, where := range []string{"DATABASE", "ROLE", "URL", "options"} {
			d := pgtest.Open(t)
			address, role := d.URL, "hostile_"+d.Name
			switch where {
			case "DATABASE":
				setAll(t, d, "ALTER DATABASE "+d.Name)
			case "ROLE":
				d.Exec(t, "CREATE ROLE "+role+" LOGIN SUPERUSER")
				t.Cleanup(func() { d.Exec(t, "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role) })
				setAll(t, d, "ALTER ROLE "+role)
				address = strings.Replace(d.URL, "user=postgres", "user="+role, 1)
			case "URL", "options":
				q := url.Values{}
				var options []string
				for name, value := range ofServer(t, d) {
					q.Set(name, value)
					options = append(options, "-c "+name+"="+strings.ReplaceAll(value, " ", `\ `))
				}
				if where == "options" {
					q = url.Values{"options": {strings.Join(options, " ")}}
				}
				address += "&" + strings.ReplaceAll(q.Encode(), "+", "%20")
			}
			address += "&default_query_exec_mode=simple_protocol&statement_cache_capacity=0"
			l, err := postgres.Open(t.Context(), address, postgres.WithPoolSize(2))
			if err != nil {
				t.Fatalf("open with settings of the %s: %v", where, err)
			}
			closeAtEnd(t, l)
			pinned := postgres.Pinned()
			l.Sessions(t, func(what string, conn *pgx.Conn) {
				for name := range ofServer(t, d) {
					var got string
					if err := conn.QueryRow(t.Context(), "SELECT setting FROM pg_settings WHERE name = $1", name).Scan(&got); err != nil {
						t.Fatal(err)
					}
					if what == "exports" && name == "idle_in_transaction_session_timeout" {
						continue // they take the time that they take
					}
					if got != pinned[name] {
						t.Errorf("the session of %s, with settings of the %s: %s is %q, want %q", what, where, name, got, pinned[name])
					}
				}
			})
			k := store.Key{Kind: "account", ID: "é\\'日本"}
			for v := range store.Version(3) {
				if err := commitOne(t.Context(), l, rich(k, v, fmt.Sprint(v, "表\\'"))); err != nil {
					t.Fatalf("commit with settings of the %s: %v", where, err)
				}
			}
			plain, err := postgres.Open(t.Context(), d.URL+"&client_encoding=UTF8")
			if err != nil {
				t.Fatal(err)
			}
			closeAtEnd(t, plain)
			if got := texts(t, plain, k); len(got) != 3 {
				t.Errorf("another session sees %q, want 3 events, of what was stored with settings of the %s", got, where)
			}
			if found := faults(t, plain); found != "" {
				t.Errorf("faults of what was stored with settings of the %s: %s", where, found)
			}
		}
	})
	t.Run("one that the role may not set is refused by its name", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		role := "bound_" + d.Name
		d.Exec(t, "CREATE ROLE "+role+" LOGIN; GRANT CREATE ON DATABASE "+d.Name+" TO "+role+"; ALTER ROLE "+role+" SET session_replication_role = replica")
		t.Cleanup(func() { d.Exec(t, "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role) })
		address := strings.Replace(d.URL, "user=postgres", "user="+role, 1)
		_, err := postgres.Open(t.Context(), address)
		if !errors.Is(err, store.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "session_replication_role") || !strings.Contains(fmt.Sprint(err), "RESET") {
			t.Errorf("open: got %v, want %v that names the setting and how to take it back", err, store.ErrInvalid)
		}
		if err := postgres.MigrateUp(t.Context(), address); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("migrate: got %v, want %v", err, store.ErrInvalid)
		}
		d.Exec(t, "ALTER ROLE "+role+" RESET session_replication_role")
		l, err := postgres.Open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
	})
}

// ofServer returns the hostile values of those settings that the server has.
func ofServer(t *testing.T, d *pgtest.Database) map[string]string {
	t.Helper()
	rows, _ := d.Pool(t, "pool_max_conns=1").Query(t.Context(), "SELECT name FROM pg_settings WHERE name = ANY ($1)", slices.Collect(maps.Keys(hostile)))
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, name := range names {
		all[name] = hostile[name]
	}
	return all
}

func setAll(t *testing.T, d *pgtest.Database, alter string) {
	t.Helper()
	var script strings.Builder
	for name, value := range ofServer(t, d) {
		if name == "search_path" {
			fmt.Fprintf(&script, "%s SET search_path = other, pg_catalog;", alter)
			continue
		}
		fmt.Fprintf(&script, "%s SET %s = '%s';", alter, name, value)
	}
	d.Exec(t, script.String())
}

// TestSerializableDefaults runs the operations that take the lock and then read. The default
// isolation of their sessions would let them see the state before the lock.
func TestSerializableDefaults(t *testing.T) {
	t.Parallel()
	d := pgtest.Open(t)
	d.Exec(t, "ALTER DATABASE "+d.Name+" SET default_transaction_isolation = 'serializable'")
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			l, err := postgres.Open(t.Context(), d.URL)
			if err != nil {
				t.Errorf("open a new log beside others: %v", err)
				return
			}
			closeAtEnd(t, l)
		})
	}
	wg.Wait()
}
