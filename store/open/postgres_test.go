package open_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/open"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

func TestPostgresTakesItsParametersAndLeavesTheRestToTheServer(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it starts a server, and does one thing at a time")
	}
	d := pgtest.Open(t)
	if _, err := open.Open(t.Context(), d.URL+"&migrate=false"); !errors.Is(err, store.ErrFormat) {
		t.Errorf("open an empty database without migration: got %v, want %v", err, store.ErrFormat)
	}
	for _, c := range []struct {
		uri        string
		partitions int
	}{
		{d.URL, 1},
		{d.URL + "&migrate=false", 1},
		{d.URL + "&schema=other&partitions=3&pool_size=2&application_name=a+b", 3},
		{strings.Replace(d.URL, "postgres:", "postgresql:", 1) + "&schema=other&migrate=true", 3},
	} {
		l := openLog(t, c.uri)
		if _, ok := l.(*postgres.Log); !ok {
			t.Errorf("open %q: got a %T, want a %T", c.uri, l, &postgres.Log{})
		}
		if got := partitions(t, l); got != c.partitions {
			t.Errorf("partitions of %q: got %d, want %d", c.uri, got, c.partitions)
		}
	}
	var schemas int
	row := d.Pool(t).QueryRow(t.Context(), "SELECT count(*) FROM pg_namespace WHERE nspname IN ('perdure', 'other')")
	if err := row.Scan(&schemas); err != nil || schemas != 2 {
		t.Errorf("got %d schemas, %v, want 2", schemas, err)
	}
}

func TestWrongParametersOfPostgresAreNamedWithoutThePassword(t *testing.T) {
	t.Parallel()
	for uri, says := range map[string]string{
		"postgres://u:secret@h/d?partitions=0":               `parameter partitions="0"`,
		"postgres://u:secret@h/d?schema=":                    `parameter schema=""`,
		"postgres://u:secret@h/d?schema=A":                   `schema "A"`,
		"postgres://u:secret@h/d?pool_size=none":             `parameter pool_size="none"`,
		"postgres://u:secret@h/d?migrate=maybe":              `parameter migrate="maybe"`,
		"postgres://u:secret@h/d?schema=a&schema=b":          "given 2 times",
		"postgres://u:secret@h/d?sslmode=sometimes":          "sslmode",
		"postgres://u:secret@h:port/d?application_name=none": "port",
	} {
		_, err := open.Open(t.Context(), uri)
		if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("open %q: got %v, want %v that says %s", uri, err, store.ErrInvalid, says)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("open %q: the error tells the password: %v", uri, err)
		}
	}
}
