package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/admin"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// awkward are texts with a special meaning in a script, a literal or an array.
var awkward = []string{
	"", "a", "'", "''", `\`, `\\`, `\'`, `'; DROP TABLE x; --`, `"`, `","`, "{}", "{a,b}", "NULL", "null", "$1", "$tag$", "é€😀",
	"\n\t", " ", "E'\\''", `\x41`, "a,b", "(a)", "%s", "--", "/*", ";",
}

// TestStatementLiteralMeansItsArgument sends arguments as literals, with every setting of the
// session for backslashes, and compares the values that the server reads.
func TestStatementLiteralMeansItsArgument(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Shared(t))
	execute := func(sql string, arg any) string { // by a script
		t.Helper()
		script, name, ok := postgres.Execution(sql, arg)
		if !ok {
			t.Fatalf("%v cannot be in a script", arg)
		}
		_, err := conn.Prepare(t.Context(), name, sql)
		if err == nil {
			var results []*pgconn.Result
			if results, err = conn.PgConn().Exec(t.Context(), script).ReadAll(); err == nil {
				return string(results[0].Rows[0][0])
			}
		}
		t.Errorf("%s: %v", script, err)
		return ""
	}
	for _, conforming := range []string{"on", "off"} {
		if _, err := conn.Exec(t.Context(), "SELECT set_config('standard_conforming_strings', $1, false)", conforming); err != nil {
			t.Fatal(err)
		}
		var pointers []*string
		var records [][]byte
		for i := range awkward {
			pointers = append(pointers, &awkward[i], nil)
			records = append(records, []byte(awkward[i]), []byte{0, 1, 0xff, byte(i)})
		}
		for _, c := range []struct {
			kind string
			arg  any
		}{
			{"text[]", awkward},
			{"text[]", pointers},
			{"bytea[]", records},
			{"bigint[]", []int64{-1 << 63, -1, 0, 1<<63 - 1}},
			{"integer[]", []int32{-1 << 31, 7}},
			{"boolean[]", []bool{true, false}},
			{"text[]", []string{}},
			{"bigint", int64(-1 << 63)},
			{"text", `'\'`},
			{"text", nil},
		} {
			var want, got string
			if err := conn.QueryRow(t.Context(), fmt.Sprintf("SELECT coalesce($1::%s::text, '-')", c.kind), c.arg).Scan(&want); err != nil {
				t.Fatal(err)
			}
			if got = execute(fmt.Sprintf("SELECT coalesce($1::%s::text, '-')", c.kind), c.arg); got != want {
				t.Errorf("with standard_conforming_strings=%s, %v in a script is %q, want %q", conforming, c.arg, got, want)
			}
		}
		for _, text := range awkward {
			if got := execute("SELECT $1::text", text); got != text {
				t.Errorf("with standard_conforming_strings=%s, %q in a script is %q", conforming, text, got)
			}
		}
	}
	if script, _, ok := postgres.Execution("SELECT $1::text", "a\x00b"); ok {
		t.Errorf("a text with a zero byte is in the script %q, want none", script)
	}
}

// TestStatementKeepsAwkwardNames commits every kind of record with names that have a special
// meaning in a script. It does so in a script, in a transaction that is decided on a read, and in
// one that is decided from the cache.
func TestStatementKeepsAwkwardNames(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	held := 0
	l := newLog(t, postgres.WithoutProbation(), postgres.WithAhead(func(holds bool) {
		if holds {
			held++
		}
	}))
	version := map[string]store.Version{}
	for round := range 2 {
		for i, name := range awkward {
			k := store.Key{Kind: "k" + name, ID: "i" + name}
			if k.Validate() != nil {
				continue
			}
			b := one(k, version[name], name)
			b.Events[0].Type, b.Events[0].Tags = "t"+name, []string{"tag" + name, "tag", `"`, `\`}
			b.Receipts = []store.Receipt{{Name: fmt.Sprint(round, name), Reply: []byte(name)}}
			b.Enqueue = []store.Message{{ID: newID(), Type: "m" + name, Payload: []byte(name)}}
			b.Checkpoints = []store.Checkpoint{{Name: "b" + name, Position: 1}}
			if i%2 == 0 && round == 0 {
				b.Claim = []store.Claim{{Space: "s" + name, Value: "v" + name}}
			}
			if err := commitOne(ctx, l, b); err != nil {
				if errors.Is(err, store.ErrInvalid) {
					continue
				}
				t.Fatalf("commit of %q: %v", name, err)
			}
			version[name]++
			if r, err := l.Receipt(ctx, k, fmt.Sprint(round, name)); err != nil || string(r.Reply) != name {
				t.Errorf("receipt of %q: got %v, %v", name, r, err)
			}
		}
	}
	if held == 0 || len(version) < 10 {
		t.Errorf("%d names were committed, %d commits were decided ahead; want more", len(version), held)
	}
	for name, want := range version {
		k := store.Key{Kind: "k" + name, ID: "i" + name}
		if got := texts(t, l, k); len(got) != int(want) || got[0] != name {
			t.Errorf("events of %q: got %q, want %d", name, got, want)
		}
	}
	if report, err := admin.Verify(ctx, l, admin.VerifyOptions{}); err != nil || report.Err() != nil {
		t.Errorf("verify: %v, %v", err, report.Err())
	}
}

func TestMessageLength(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]bool{4: true, postgres.MessageBytesMax: true, postgres.MessageBytesMax + 1: false, 1<<32 + 4: false} {
		w := make([]byte, n) // nothing reads or writes more than its head
		if got := postgres.PutLength(w); got != want {
			t.Errorf("a message of %d bytes: accepted %t, want %t", n, got, want)
		}
	}
	e := &store.Event{ID: newID(), Type: "t", Key: key("a"), Payload: make([]byte, store.PayloadBytesMax)}
	for n, want := range map[int]bool{1: true, postgres.MessageBytesMax/store.PayloadBytesMax + 1: false, 1<<32/store.PayloadBytesMax + 1: false} {
		if got := postgres.ScriptFits(slices.Repeat([]*store.Event{e}, n)); got != want {
			t.Errorf("rows of %d events of 16 MiB: in a script %t, want %t", n, got, want)
		}
	}
}

// TestLargeGroups commits groups that are sent in several parts, by COPY and by arrays.
func TestLargeGroups(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	total := 0
	for _, events := range []int{3, postgres.ScriptEventsMin + 20} {
		var group []*store.Batch
		for i := range events {
			b := one(key(fmt.Sprint(events, " ", i)), 0, strings.Repeat(fmt.Sprint(i), 200<<10))
			group = append(group, b)
		}
		results, err := l.Commit(t.Context(), group)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			total++
			if r.Err != nil || r.Position != store.Position(total) {
				t.Errorf("batch %d of %d: got %v, %v", i, events, r.Position, r.Err)
			}
			if got := texts(t, l, group[i].Key); len(got) != 1 || got[0] != string(group[i].Events[0].Payload) {
				t.Errorf("batch %d of %d is not read as it was stored", i, events)
			}
		}
	}
	verifyDense(t, l, total)
}
