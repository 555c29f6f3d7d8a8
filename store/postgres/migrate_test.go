package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

func TestMigrationsGoUpAndDownAndAreListed(t *testing.T) {
	t.Parallel()
	longOnly(t)
	d, ctx := pgtest.Open(t), t.Context()
	applied := func() (n int) {
		t.Helper()
		all, err := postgres.Migrations(ctx, d.URL)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range all {
			if m.Number != i+1 || m.Name == "" || len(m.Checksum) != 64 {
				t.Errorf("migration %d is listed as %d %q %q", i+1, m.Number, m.Name, m.Checksum)
			}
			if !m.Applied.IsZero() {
				n++
			}
		}
		return n
	}
	all, err := postgres.Migrations(ctx, d.URL)
	if err != nil || len(all) < 2 || applied() != 0 {
		t.Fatalf("of an empty database: %v, %v", all, err)
	}
	if err := postgres.ValidateMigrations(ctx, d.URL); !errors.Is(err, store.ErrFormat) {
		t.Errorf("validate an empty database: got %v, want %v", err, store.ErrFormat)
	}
	if _, err := postgres.Open(ctx, d.URL, postgres.NoMigration()); !errors.Is(err, store.ErrFormat) {
		t.Errorf("open without migration: got %v, want %v", err, store.ErrFormat)
	}
	for range 2 { // down and up again
		if err := postgres.MigrateUp(ctx, d.URL); err != nil {
			t.Fatal(err)
		}
		if err := postgres.MigrateUp(ctx, d.URL); err != nil {
			t.Errorf("up again: %v", err)
		}
		if err := postgres.ValidateMigrations(ctx, d.URL); err != nil {
			t.Errorf("validate: %v", err)
		}
		if n := applied(); n != len(all) {
			t.Errorf("up: %d of %d are applied", n, len(all))
		}
		l, err := postgres.Open(ctx, d.URL, postgres.NoMigration())
		if err != nil {
			t.Fatal(err)
		}
		if err := commitOne(ctx, l, rich(key("a"), 0, "e")); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		for n := range slices.Backward(all) {
			if err := postgres.MigrateDown(ctx, d.URL, n); err != nil {
				t.Fatalf("down to %d: %v", n, err)
			}
			if got := applied(); got != n {
				t.Errorf("down to %d: %d are applied", n, got)
			}
		}
	}
	var left int
	row := d.Pool(t).QueryRow(ctx, "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'perdure' AND relname NOT LIKE 'migrations%'")
	if err := row.Scan(&left); err != nil || left != 0 {
		t.Errorf("after down to 0: %d tables, indexes and sequences are left, %v", left, err)
	}
	if err := postgres.MigrateDown(ctx, d.URL, 99); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("down to 99: got %v, want %v", err, store.ErrInvalid)
	}
}

func TestMigrationsRefuseASchemaThatIsNewerOrChanged(t *testing.T) {
	t.Parallel()
	longOnly(t)
	ctx := t.Context()
	for _, c := range []struct{ change, says string }{
		{"INSERT INTO perdure.migrations (number, name, checksum) VALUES (99, 'later', 'x')", "use a newer one"},
		{"UPDATE perdure.migrations SET checksum = 'x' WHERE number = 2", "is not the one"},
		{"DELETE FROM perdure.migrations WHERE number = 1", "lacks 1"},
	} {
		d := pgtest.Open(t)
		if err := postgres.MigrateUp(ctx, d.URL); err != nil {
			t.Fatal(err)
		}
		d.Exec(t, c.change)
		_, open := postgres.Open(ctx, d.URL)
		for what, err := range map[string]error{
			"open": open, "up": postgres.MigrateUp(ctx, d.URL), "down": postgres.MigrateDown(ctx, d.URL, 0), "validate": postgres.ValidateMigrations(ctx, d.URL),
		} {
			if !errors.Is(err, store.ErrFormat) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%s after %s: got %v, want %v that says %q", what, c.change, err, store.ErrFormat, c.says)
			}
		}
		if all, err := postgres.Migrations(ctx, d.URL); err != nil || len(all) < 2 {
			t.Errorf("list after %s: %v, %v", c.change, all, err)
		}
	}
}

func TestMigrationsThatFailLeaveNothing(t *testing.T) {
	t.Parallel()
	longOnly(t)
	d := pgtest.Open(t)
	d.Exec(t, "CREATE SCHEMA perdure; CREATE TABLE perdure.receipts (other int)") // in the way of the second
	if err := postgres.MigrateUp(t.Context(), d.URL); err == nil || !strings.Contains(err.Error(), "2_outbox") {
		t.Errorf("up: got %v, want an error that names the migration", err)
	}
	all, err := postgres.Migrations(t.Context(), d.URL)
	if err != nil || all[0].Applied.IsZero() || !all[1].Applied.IsZero() {
		t.Errorf("got %+v, %v, want the first one applied only", all, err)
	}
	var messages bool
	if err := d.Pool(t).QueryRow(t.Context(), "SELECT to_regclass('perdure.messages') IS NOT NULL").Scan(&messages); err != nil || messages {
		t.Errorf("a table of the failed migration is there: %t, %v", messages, err)
	}
}

func TestOpenByManyAtOnceMakesOneLog(t *testing.T) {
	t.Parallel()
	at := place{pgtest.Open(t), newSchema()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	found := map[store.ID]int{}
	for range 6 {
		wg.Go(func() {
			l, err := postgres.Open(t.Context(), at.db.URL, postgres.WithSchema(at.schema))
			if err != nil {
				t.Error(err)
				return
			}
			closeAtEnd(t, l)
			s, err := l.Stats(t.Context())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			found[s.Info.ID]++
		})
	}
	wg.Wait()
	if len(found) != 1 {
		t.Errorf("got logs %v, want one", found)
	}
}

func TestGrantsAllowAllButChangingEvents(t *testing.T) {
	t.Parallel()
	longOnly(t)
	d, ctx := pgtest.Open(t), t.Context()
	role := `odd "role" ` + d.Name
	quoted := `"odd ""role"" ` + d.Name + `"`
	if err := postgres.MigrateUp(ctx, d.URL); err != nil {
		t.Fatal(err)
	}
	script, err := postgres.Grants(role)
	if err != nil {
		t.Fatal(err)
	}
	d.Exec(t, "CREATE ROLE "+quoted+" LOGIN")
	d.Exec(t, script)
	t.Cleanup(func() { d.Exec(t, "DROP OWNED BY "+quoted+"; DROP ROLE "+quoted) })
	address := strings.Replace(d.URL, "user=postgres", "user="+strings.NewReplacer(" ", "%20", `"`, "%22").Replace(role), 1)

	l, err := postgres.Open(ctx, address, postgres.NoMigration())
	if err != nil {
		t.Fatal(err)
	}
	k := key("a")
	first := rich(k, 0, "1")
	for _, b := range []*store.Batch{
		first, rich(k, 1, "2"), rich(k, 2, "3"), rich(k, 3, "4"),
		{Key: key("saved"), Save: &store.State{ID: newID(), Type: "t", Payload: []byte("1")}},
		{Key: key("saved"), Expected: 1, Save: &store.State{ID: newID(), Type: "t", Payload: []byte("2")}},
		{
			Key: k, Expected: 4, Cancel: []string{"t"}, Forget: []string{"1"}, Release: []store.Claim{{Space: "s", Value: "1"}},
			Checkpoints: []store.Checkpoint{{Name: "b", Remove: true}},
		},
	} {
		if err := commitOne(ctx, l, b); err != nil {
			t.Errorf("commit of %v at %d: %v", b.Key, b.Expected, err)
		}
	}
	for _, err := range l.Load(ctx, k, nil) {
		if err != nil {
			t.Error(err)
		}
	}
	for _, err := range l.Messages(ctx, store.MessageQuery{}) {
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := l.Checkpoints(ctx); err != nil {
		t.Error(err)
	}
	if _, err := l.Kinds(ctx); err != nil {
		t.Error(err)
	}
	if _, err := l.Stats(ctx); err != nil {
		t.Error(err)
	}
	if n, err := l.DeleteSnapshots(ctx, k, 4); err != nil || n != 1 {
		t.Errorf("delete snapshots: %d, %v", n, err)
	}
	if _, err := l.DeleteEvents(ctx, k, 3, store.LastPosition(0)); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("delete events: got %v, want %v", err, errors.ErrUnsupported)
	}
	verifyDense(t, l, 4)
	if err := l.Close(); err != nil {
		t.Error(err)
	}

	d.URL = address
	pool := d.Pool(t)
	for _, change := range []string{
		"UPDATE perdure.events SET record = ''", "DELETE FROM perdure.events", "TRUNCATE perdure.events", "DROP TABLE perdure.events",
		"UPDATE perdure.log SET info = ''", "DELETE FROM perdure.log", "DELETE FROM perdure.migrations", "ALTER TABLE perdure.events DISABLE TRIGGER ALL",
	} {
		if _, err := pool.Exec(ctx, change); err == nil {
			t.Errorf("the role may do this: %s", change)
		}
	}
	d.URL = d.Server.URL(d.Name)
}

func TestOpenRefusesWrongOptionsAndDatabases(t *testing.T) {
	t.Parallel()
	longOnly(t)
	d, ctx := pgtest.Open(t), t.Context()
	for _, c := range []struct {
		what  string
		url   string
		opt   postgres.Option
		match error
	}{
		{"a schema that is no plain name", d.URL, postgres.WithSchema(`x"; DROP TABLE y; --`), store.ErrInvalid},
		{"an empty schema", d.URL, postgres.WithSchema(""), store.ErrInvalid},
		{"a schema that is too long", d.URL, postgres.WithSchema(strings.Repeat("a", 64)), store.ErrInvalid},
		{"no partitions", d.URL, postgres.WithPartitions(0), store.ErrInvalid},
		{"too many partitions", d.URL, postgres.WithPartitions(store.PartitionsMax + 1), store.ErrInvalid},
		{"no clock", d.URL, postgres.WithClock(nil), store.ErrInvalid},
		{"no connections", d.URL, postgres.WithPoolSize(0), store.ErrInvalid},
		{"no logger", d.URL, postgres.WithLogger(nil), store.ErrInvalid},
		{"no URL", "postgres://a:b:c", postgres.WithPartitions(1), store.ErrInvalid},
	} {
		if _, err := postgres.Open(ctx, c.url, c.opt); !errors.Is(err, c.match) {
			t.Errorf("open with %s: got %v, want %v", c.what, err, c.match)
		}
	}
	d.Exec(t, "CREATE DATABASE latin_"+d.Name+" ENCODING 'LATIN1' TEMPLATE template0")
	t.Cleanup(func() { d.Exec(t, "DROP DATABASE latin_"+d.Name+" WITH (FORCE)") })
	if _, err := postgres.Open(ctx, d.Server.URL("latin_"+d.Name)); !errors.Is(err, store.ErrFormat) {
		t.Errorf("open a database in LATIN1: got %v, want %v", err, store.ErrFormat)
	}
	at := place{d, newSchema()}
	openAt(t, at, postgres.WithPartitions(3))
	if _, err := postgres.Open(ctx, d.URL, postgres.WithSchema(at.schema), postgres.WithPartitions(2)); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("open with other partitions: got %v, want %v", err, store.ErrInvalid)
	}
	openAt(t, at) // any number
}

func TestSettingsThatWeakenDurabilityAreOverruled(t *testing.T) {
	t.Parallel()
	longOnly(t)
	d, ctx := pgtest.Open(t), t.Context()
	for setting, want := range map[string]string{"off": "on", "local": "on", "remote_apply": "remote_apply"} {
		l, err := postgres.Open(ctx, d.URL+"&synchronous_commit="+setting)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Setting(t, "synchronous_commit"); got != want {
			t.Errorf("with synchronous_commit=%s in the URL: got %s, want %s", setting, got, want)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenReportsAServerThatDoesNotSync(t *testing.T) {
	t.Parallel()
	longOnly(t)
	d := pgtest.Start(t, "fsync = off").Database(t)
	var logged strings.Builder
	l, err := postgres.Open(t.Context(), d.URL, postgres.WithLogger(textLogger(&logged)))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	if !strings.Contains(logged.String(), "fsync=off") {
		t.Errorf("logged %q, want a warning about fsync", logged.String())
	}
}

func TestMigrationsHaveRecentTimes(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	at := placeOf(l)
	all, err := postgres.Migrations(t.Context(), at.db.URL, postgres.WithSchema(at.schema))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if age := time.Since(m.Applied); age < -time.Hour || age > time.Hour {
			t.Errorf("migration %d was applied at %v", m.Number, m.Applied)
		}
	}
}

// TestMigrationsSayWhichProgramsCanUseASchema makes a newer program apply a migration that
// this program does not know. This program must be able to open that schema, and the newer one
// again.
func TestMigrationsSayWhichProgramsCanUseASchema(t *testing.T) {
	t.Parallel()
	longOnly(t)
	known, err := postgres.Migrations(t.Context(), pgtest.Open(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	n := len(known)
	for _, c := range []struct{ reader, writer int }{{n, n}, {n, n + 1}, {n + 1, n + 1}} {
		d := pgtest.Open(t)
		newer := postgres.WithMigration(c.reader, c.writer, "CREATE TABLE S.later (n int)", "DROP TABLE S.later")
		open := func(what string, fits bool, opts ...postgres.Option) {
			t.Helper()
			l, err := postgres.Open(t.Context(), d.URL, opts...)
			if fits != (err == nil) || err != nil && !errors.Is(err, store.ErrFormat) {
				t.Errorf("%s of a schema that can be read by %d and written by %d: got %v, want it open %t", what, c.reader, c.writer, err, fits)
			}
			if err == nil {
				closeAtEnd(t, l)
			}
		}
		open("this program, before", true)
		open("the newer program that must not migrate", false, newer, postgres.NoMigration())
		open("the newer program", true, newer)
		open("this program", c.writer <= n)
		open("this program that must not migrate", c.writer <= n, postgres.NoMigration())
		open("this program for reading", c.reader <= n, postgres.ReadOnly())
		open("the newer program again", true, newer)
		if err := postgres.MigrateDown(t.Context(), d.URL, 0); !errors.Is(err, store.ErrFormat) {
			t.Errorf("down by a program that does not know all of it: got %v, want %v", err, store.ErrFormat)
		}
		if err := postgres.MigrateDown(t.Context(), d.URL, n, newer); err != nil {
			t.Errorf("down by the newer program: %v", err)
		}
		open("this program, after", true)
	}
}

// TestMigrationsLetReadersPass migrates while an export reads, and reads behind it.
func TestMigrationsLetReadersPass(t *testing.T) {
	t.Parallel()
	longOnly(t)
	d := pgtest.Open(t)
	if err := postgres.MigrateUp(t.Context(), d.URL); err != nil {
		t.Fatal(err)
	}
	if err := postgres.MigrateDown(t.Context(), d.URL, 2); err != nil {
		t.Fatal(err)
	}
	export, reader := connect(t, d), connect(t, d)
	if _, err := export.Exec(t.Context(), "BEGIN; LOCK TABLE perdure.log IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	var logged safeBuilder
	done := make(chan error, 1)
	go func() { done <- postgres.MigrateUp(t.Context(), d.URL, postgres.WithLogger(textLogger(&logged))) }()
	for limit := time.Now().Add(waitMax); !strings.Contains(logged.String(), "a migration waits"); {
		if time.Now().After(limit) {
			t.Fatalf("waited %v for a migration to give up its turn", waitMax)
		}
		if _, err := reader.Exec(t.Context(), "SELECT count(*) FROM perdure.log"); err != nil {
			t.Fatalf("a reader beside a migration that waits: %v", err)
		}
	}
	if _, err := export.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("migrate: %v", err)
	}
	if err := postgres.ValidateMigrations(t.Context(), d.URL); err != nil {
		t.Error(err)
	}
}
