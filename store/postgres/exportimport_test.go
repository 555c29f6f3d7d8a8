package postgres_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
	"github.com/perdure/perdure/store/storetest"
)

var writeGolden = flag.Bool("golden", false, "rewrite the golden data of the present schema")

// goldenFiles are logs written by the first version with each form of the schema, keyed by the
// number of its last migration. The last file is of the current form. An existing file must
// never be rewritten, except one whose form was never released.
var goldenFiles = map[int]string{3: "testdata/schema3.sql", 4: "testdata/schema4.sql"}

var tables = []string{"log", "events", "snapshots", "states", "messages", "receipts", "claims", "bookmarks"}

// dump returns a script that inserts the rows of a log.
func dump(t *testing.T, p place) string {
	t.Helper()
	conn := connect(t, p.db)
	var script strings.Builder
	for _, table := range tables {
		var columns, values string
		row := conn.QueryRow(t.Context(), `SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum),
			string_agg('quote_nullable(' || quote_ident(attname) || '::text)', ' || '', '' || ' ORDER BY attnum)
			FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped`, p.schema+"."+table)
		if err := row.Scan(&columns, &values); err != nil {
			t.Fatal(err)
		}
		rows, err := conn.Query(t.Context(), postgres.In(p.schema, fmt.Sprintf("SELECT %s FROM S.%s AS r ORDER BY r", values, table)))
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			fmt.Fprintf(&script, "INSERT INTO S.%s (%s) VALUES (%s);\n", table, columns, line)
		}
	}
	for _, sequence := range []string{"clock", "message_sequence"} {
		var last int64
		var called bool
		row := conn.QueryRow(t.Context(), postgres.In(p.schema, "SELECT last_value, is_called FROM S."+sequence))
		if err := row.Scan(&last, &called); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&script, "SELECT setval('S.%s', %d, %t);\n", sequence, last, called)
	}
	return script.String()
}

func TestGoldenSchemasAreReadAndWritten(t *testing.T) {
	t.Parallel()
	longOnly(t)
	all, err := postgres.Migrations(t.Context(), pgtest.Shared(t).URL, postgres.WithSchema(newSchema()))
	if err != nil {
		t.Fatal(err)
	}
	if *writeGolden {
		p := place{pgtest.Shared(t), newSchema()}
		storetest.FillGolden(t, openAt(t, p, options(storetest.GoldenSetup())...))
		if err := os.WriteFile(goldenFiles[len(all)], []byte(dump(t, p)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if goldenFiles[len(all)] == "" {
		t.Errorf("there is no golden data of schema %d", len(all))
	}
	for number, file := range goldenFiles {
		p := place{pgtest.Shared(t), newSchema()}
		script, err := os.ReadFile(file)
		if err == nil {
			err = postgres.MigrateUp(t.Context(), p.db.URL, postgres.WithSchema(p.schema))
		}
		if err == nil {
			err = postgres.MigrateDown(t.Context(), p.db.URL, number, postgres.WithSchema(p.schema))
		}
		if err != nil {
			t.Fatal(err)
		}
		p.exec(t, string(script))
		storetest.CheckGolden(t, openAt(t, p))
	}
}

// faults verifies a log and returns the faults found.
func faults(t *testing.T, l store.Log) string {
	t.Helper()
	report, err := admin.Verify(t.Context(), l, admin.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Err(); err != nil {
		return fmt.Sprint(report.Faults)
	}
	return ""
}

func TestVerifyFindsRowsThatDifferFromTheirRecords(t *testing.T) {
	t.Parallel()
	longOnly(t)
	db, places := pgtest.Shared(t), &recycler{}
	for change, says := range map[string]string{
		"UPDATE S.events SET type = 'other' WHERE version = 2":      "type other",
		"UPDATE S.events SET tags = '{other}' WHERE version = 2":    `tags ["other"]`,
		"UPDATE S.events SET id = 'z' WHERE version = 3":            "table events, position 3",
		"DELETE FROM S.events WHERE version = 2":                    "lacks 1 of its events",
		"UPDATE S.messages SET due = 5 WHERE sequence = 3":          "due 5",
		"UPDATE S.messages SET parked = true WHERE sequence = 3":    "parked true",
		"UPDATE S.messages SET sequence = 9999 WHERE sequence = 3":  "in its place",
		"UPDATE S.snapshots SET version = version + 10":             "in its place",
		"UPDATE S.log SET pruned = 1":                               "holds",
		"UPDATE S.bookmarks SET name = name || 'x'":                 "in its place",
		"SELECT setval('S.message_sequence', 1, false)":             "the last message has sequence 0",
		"UPDATE S.receipts SET name = name || 'x' WHERE kind <> ''": "receipt",
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			p := places.place(t, db)
			l := openAt(t, p)
			for v := range store.Version(3) {
				b := rich(key("a"), v, fmt.Sprint(v))
				b.Claim = nil
				if err := commitOne(t.Context(), l, b); err != nil {
					t.Fatal(err)
				}
			}
			if found := faults(t, l); found != "" {
				t.Fatalf("faults of a whole log: %s", found)
			}
			p.exec(t, change)
			if found := faults(t, l); !strings.Contains(found, says) {
				t.Errorf("after %s: found %q, want a fault that says %q", change, found, says)
			}
		})
	}
}

// The server no longer maintains the index, so rows are missing from it.
func TestVerifyFindsAnIndexThatLacksARow(t *testing.T) {
	t.Parallel()
	longOnly(t)
	for _, index := range []string{"events_version", "events_position", "messages_due"} {
		p := place{pgtest.Shared(t), newSchema()}
		l := openAt(t, p)
		if err := commitOne(t.Context(), l, rich(key("a"), 0, "1")); err != nil {
			t.Fatal(err)
		}
		const ready = "UPDATE pg_index SET indisready = %t WHERE indexrelid = '%s.%s'::regclass"
		p.exec(t, fmt.Sprintf(ready, false, p.schema, index))
		again := openAt(t, p) // its session knows of the index as it is now
		b := rich(key("b"), 0, "2")
		b.Claim = nil
		err := commitOne(t.Context(), again, b)
		p.exec(t, fmt.Sprintf(ready, true, p.schema, index))
		if err != nil {
			t.Fatalf("commit without %s: %v", index, err)
		}
		if found := faults(t, l); !strings.Contains(found, "index "+index) {
			t.Errorf("index %s lacks a row: found %q", index, found)
		}
	}
}

func TestImportExcludesOtherWriters(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := place{pgtest.Shared(t), newSchema()}
	l, other := openAt(t, p), openAt(t, p)
	in, err := l.Import(ctx, store.Origin{Heads: []store.Position{1}})
	if err != nil {
		t.Fatal(err)
	}
	e := rich(key("a"), 0, "1").Events[0]
	e.Key, e.Version, e.Position = key("a"), 1, 1
	if err := in.Add(ctx, &e); err != nil {
		t.Fatal(err)
	}
	err = commitOne(ctx, other, one(key("b"), 0, "x"))
	if !errors.Is(err, store.ErrUnfinished) || !errors.Is(err, store.ErrNotStored) {
		t.Errorf("commit of another: got %v, want %v that is not stored", err, store.ErrUnfinished)
	}
	if _, err := other.Import(ctx, store.Origin{Heads: []store.Position{0}}); !errors.Is(err, store.ErrUnfinished) {
		t.Errorf("import of another: got %v, want %v", err, store.ErrUnfinished)
	}
	if _, err := other.Export(ctx); !errors.Is(err, store.ErrUnfinished) {
		t.Errorf("export of another: got %v, want %v", err, store.ErrUnfinished)
	}
	if got := texts(t, other, key("a")); len(got) != 0 {
		t.Errorf("events that another sees before the end: got %q, want none", got)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	_, err = postgres.Open(ctx, p.db.URL, postgres.WithSchema(p.schema))
	if !errors.Is(err, store.ErrUnfinished) {
		t.Errorf("open after an import was broken off: got %v, want %v", err, store.ErrUnfinished)
	}
	if err := commitOne(ctx, other, one(key("b"), 0, "x")); !errors.Is(err, store.ErrUnfinished) {
		t.Errorf("commit of another after that: got %v, want %v", err, store.ErrUnfinished)
	}
}

// The server ends the session of an import. No record of the import remains.
func TestImportWhoseConnectionIsLostLeavesOnlyItsMark(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := place{pgtest.Open(t), newSchema()}
	l := openAt(t, p)
	in, err := l.Import(ctx, store.Origin{Heads: []store.Position{1}})
	if err != nil {
		t.Fatal(err)
	}
	e := rich(key("a"), 0, "1").Events[0]
	e.Key, e.Version, e.Position = key("a"), 1, 1
	if err := in.Add(ctx, &e); err != nil {
		t.Fatal(err)
	}
	p.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'")
	if err := in.Finish(ctx); err == nil {
		t.Error("finish after the connection was lost: got no error")
	}
	var events int
	var unfinished bool
	row := connect(t, p.db).QueryRow(ctx, postgres.In(p.schema, "SELECT (SELECT count(*) FROM S.events), unfinished FROM S.log"))
	if err := row.Scan(&events, &unfinished); err != nil || events != 0 || !unfinished {
		t.Errorf("what is left: got %d events, unfinished %t, %v, want none and true", events, unfinished, err)
	}
}

// A refused commit uses up the sequence of its message, but stores nothing.
func TestImportAfterARefusedCommit(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	for v := range store.Version(2) {
		b := one(key("a"), v+7, "refused")
		b.Enqueue = []store.Message{{ID: newID(), Type: "test.v1.Message", Payload: []byte("refused")}}
		if err := commitOne(t.Context(), l, b); !errors.Is(err, store.ErrConflict) {
			t.Fatalf("commit: got %v, want %v", err, store.ErrConflict)
		}
	}
	from := memory.New()
	if err := commitOne(t.Context(), from, rich(key("a"), 0, "1")); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Copy(t.Context(), from, l, nil); err != nil {
		t.Fatalf("copy: %v", err)
	}
	if got := texts(t, l, key("a")); len(got) != 1 {
		t.Errorf("events of the copy: got %q, want one", got)
	}
}
