package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// wantReadOnly reads all of a log that is opened for reading, and tries to write.
func wantReadOnly(t *testing.T, what, address string, k store.Key, events int) {
	t.Helper()
	l, err := postgres.Open(t.Context(), address, postgres.ReadOnly())
	if err != nil {
		t.Fatalf("open %s for reading: %v", what, err)
	}
	closeAtEnd(t, l)
	if got := texts(t, l, k); len(got) != events {
		t.Errorf("%s has %d events, want %d", what, len(got), events)
	}
	if found := faults(t, l); found != "" {
		t.Errorf("%s: verify finds %s", what, found)
	}
	l.Changed()
	commit := commitOne(t.Context(), l, one(k, store.Version(events), "no"))
	_, prune := l.DeleteEvents(t.Context(), k, 1, store.LastPosition(0))
	_, fill := l.Import(t.Context(), store.Origin{})
	for did, err := range map[string]error{"commit": commit, "delete events": prune, "import": fill} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %s got %v, want %v", what, did, err, errors.ErrUnsupported)
		}
	}
	if !errors.Is(commit, store.ErrNotStored) {
		t.Errorf("%s: commit got %v, want %v", what, commit, store.ErrNotStored)
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	longOnly(t)
	k := key("a")
	t.Run("a role that may only select", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		role := "reader_" + d.Name
		address := strings.Replace(d.URL, "user=postgres", "user="+role, 1)
		d.Exec(t, "CREATE ROLE "+role+" LOGIN")
		t.Cleanup(func() { d.Exec(t, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
		if _, err := postgres.Open(t.Context(), address, postgres.ReadOnly()); !errors.Is(err, store.ErrFormat) {
			t.Errorf("open nothing for reading: got %v, want %v", err, store.ErrFormat)
		}
		l, err := postgres.Open(t.Context(), d.URL)
		if err != nil {
			t.Fatal(err)
		}
		if err := commitOne(t.Context(), l, rich(k, 0, "x")); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		d.Exec(t, "GRANT USAGE ON SCHEMA perdure TO "+role+"; GRANT SELECT ON ALL TABLES IN SCHEMA perdure TO "+role+"; GRANT SELECT ON ALL SEQUENCES IN SCHEMA perdure TO "+role)
		wantReadOnly(t, "a role that may only select", address, k, 1)
	})
	t.Run("a replica", func(t *testing.T) {
		t.Parallel()
		s := pgtest.Start(t)
		d := s.Database(t)
		l, err := postgres.Open(t.Context(), d.URL)
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		for v := range store.Version(3) {
			if err := commitOne(t.Context(), l, rich(k, v, fmt.Sprint(v))); err != nil {
				t.Fatal(err)
			}
		}
		r := s.Replica(t, false)
		if _, err := postgres.Open(t.Context(), r.URL(d.Name)); !errors.Is(err, store.ErrFormat) {
			t.Errorf("open a replica: got %v, want %v", err, store.ErrFormat)
		}
		wantReadOnly(t, "a replica", r.URL(d.Name), k, 3)
	})
}
