package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
	"github.com/perdure/perdure/store/storetest"
)

func options(s storetest.Setup) []postgres.Option {
	opts := []postgres.Option{postgres.WithPartitions(max(s.Partitions, 1))}
	if s.Clock != nil {
		opts = append(opts, postgres.WithClock(s.Clock))
	}
	if s.Pause != nil {
		opts = append(opts, postgres.WithPause(s.Pause))
	}
	return opts
}

// TestSuite runs the suite on logs that decided from the cache from their second
// commit on, where they can, so that they do in most cases.
func TestSuite(t *testing.T) {
	t.Parallel()
	db, places := pgtest.Shared(t), &recycler{}
	open := func(t testing.TB, s storetest.Setup) store.Log {
		return openAt(t, places.place(t, db), append(options(s), postgres.WithoutProbation())...)
	}
	again := func(t testing.TB, l store.Log, s storetest.Setup) store.Log {
		return openAt(t, placeOf(l), append(options(s), postgres.WithoutProbation())...)
	}
	storetest.Run(t, open, storetest.Features{
		Watcher: true, Partitions: true, Clock: true, Pause: true,
		Share: again,
		Reopen: func(t testing.TB, l store.Log, s storetest.Setup) store.Log {
			if err := l.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
				t.Fatalf("close: %v", err)
			}
			return again(t, l, s)
		},
		Damage: func(t testing.TB, l store.Log, record any, flip func([]byte)) store.Log {
			damage(t, placeOf(l), record, flip)
			return l
		},
	})
}

// damage flips the stored form of a record.
func damage(t testing.TB, p place, record any, flip func([]byte)) {
	t.Helper()
	var from string
	var args []any
	switch r := record.(type) {
	case *store.Event:
		from, args = "S.events WHERE position = $1", []any{int64(r.Position)}
	case *store.State:
		from, args = "S.snapshots WHERE kind = $1 AND id = $2 AND version = $3", []any{r.Key.Kind, r.Key.ID, int64(r.Version)}
		if r.Position == 0 {
			from, args = "S.states WHERE kind = $1 AND id = $2", args[:2]
		}
	case *store.Message:
		from, args = "S.messages WHERE sequence = $1", []any{int64(r.Sequence)}
	case *store.Receipt:
		from, args = "S.receipts WHERE kind = $1 AND id = $2 AND name = $3", []any{r.Entity.Kind, r.Entity.ID, r.Name}
	case *store.Claimed:
		from, args = "S.claims WHERE space = $1 AND value = $2", []any{r.Claim.Space, r.Claim.Value}
	case *store.Checkpoint:
		from, args = "S.bookmarks WHERE name = $1 AND partition = $2", []any{r.Name, r.Position.Partition()}
	default:
		t.Fatalf("damage a %T", record)
	}
	err := pgx.BeginFunc(t.Context(), connect(t, p.db), func(tx pgx.Tx) error {
		var sealed []byte
		row := tx.QueryRow(t.Context(), postgres.In(p.schema, "SELECT record FROM "+from), args...)
		if err := row.Scan(&sealed); err != nil {
			return err
		}
		flip(sealed)
		table, where, _ := strings.Cut(from, " ")
		update := fmt.Sprintf("UPDATE %s SET record = $%d %s", table, len(args)+1, where)
		_, err := tx.Exec(t.Context(), postgres.In(p.schema, update), append(args, sealed)...)
		return err
	})
	if err != nil {
		t.Fatalf("damage %T: %v", record, err)
	}
}

func TestScanFindsTagsOfAnyText(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	tags := []string{`"`, `\`, `a,b`, `{`, `}`, "NULL", " ", "é\n", `\"`, "'"}
	b := one(key("a"), 0, "tagged")
	b.Events[0].Tags = tags
	for i, b := range []*store.Batch{b, one(key("a"), 1, "plain")} {
		if err := commitOne(t.Context(), l, b); err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
	}
	for _, tag := range append(tags, "other") {
		found := 0
		for e, err := range l.Scan(t.Context(), store.Query{Tags: []string{tag}}) {
			if err != nil {
				t.Fatal(err)
			}
			if string(e.Payload) == "tagged" {
				found++
			}
		}
		if want := map[bool]int{true: 0, false: 1}[tag == "other"]; found != want {
			t.Errorf("tag %q: found %d events, want %d", tag, found, want)
		}
	}
}
