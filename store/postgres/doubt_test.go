package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// waitUntil runs a query until its result is true.
func waitUntil(t *testing.T, conn *pgx.Conn, what, question string, args ...any) {
	t.Helper()
	late := time.After(waitMax)
	for tick, is := time.Tick(5*time.Millisecond), false; ; {
		if err := conn.QueryRow(t.Context(), "SELECT "+question, args...).Scan(&is); err != nil {
			t.Fatalf("ask whether %s: %v", what, err)
		}
		if is {
			return
		}
		select {
		case <-tick:
		case <-late:
			rows, _ := conn.Query(t.Context(), `SELECT concat_ws(' ', pid, application_name, state, wait_event, query)
				FROM pg_stat_activity WHERE backend_type = 'client backend'`)
			sessions, _ := pgx.CollectRows(rows, pgx.RowTo[string])
			t.Fatalf("waited %v until %s; sessions:\n%s", waitMax, what, strings.Join(sessions, "\n"))
		}
	}
}

// standbys sets the names of the replicas that the server of a connection waits for.
func standbys(t *testing.T, conn *pgx.Conn, names string) {
	t.Helper()
	for _, sql := range []string{fmt.Sprintf("ALTER SYSTEM SET synchronous_standby_names = '%s'", names), "SELECT pg_reload_conf()"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if names == "" {
		return // a process of the server lets those go that wait
	}
	// This process must know about the replicas before a commit waits for one.
	probe := connect(t, &pgtest.Database{URL: conn.Config().ConnString()})
	for held := false; !held; {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = probe.Exec(context.WithoutCancel(t.Context()), "SELECT pg_logical_emit_message(true, 'probe', '')") // it is cancelled
		}()
		late := time.After(waitMax)
		for ended := false; !ended; {
			row := conn.QueryRow(t.Context(), `SELECT count(pg_cancel_backend(pid)) > 0 FROM pg_stat_activity
				WHERE wait_event = 'SyncRep' AND pid = $1`, int64(probe.PgConn().PID()))
			var waits bool
			if err := row.Scan(&waits); err != nil {
				t.Fatal(err)
			}
			held = held || waits
			select {
			case <-done:
				ended = true
			case <-late:
				t.Fatalf("waited %v for a commit that waits for a replica", waitMax)
			default:
			}
		}
	}
}

// waiting counts the sessions of a log that wait for a replica.
const waiting = `(SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'victim')`

// A primary is a test's own server that can be made to wait for a replica.
type primary struct {
	db   *pgtest.Database
	conn *pgx.Conn
}

func newPrimary(t *testing.T) *primary {
	t.Helper()
	d := pgtest.Start(t, "fsync = off").Database(t) // no server crashes
	p := &primary{d, connect(t, d)}
	t.Cleanup(func() { // closing the log would wait as well
		_, _ = p.conn.Exec(context.WithoutCancel(t.Context()), "ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()", pgx.QueryExecModeSimpleProtocol)
	})
	return p
}

func (p *primary) open(t *testing.T, address string, opts ...postgres.Option) *postgres.Log {
	t.Helper()
	l, err := postgres.Open(t.Context(), address+"&application_name=victim", opts...)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	return l
}

// start commits in another goroutine.
func start(t *testing.T, l store.Log, b *store.Batch) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- commitOne(context.WithoutCancel(t.Context()), l, b) }()
	return done
}

// outcomeOf waits for the end of a commit.
func outcomeOf(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(3 * time.Minute):
		t.Fatal("waited three minutes for a commit")
		return nil
	}
}

func isUnknown(err error) bool {
	return err != nil && !errors.Is(err, store.ErrNotStored) && !errors.Is(err, store.ErrConflict)
}

// TestReplica interrupts a commit that waits for a synchronous replica which is down.
func TestReplica(t *testing.T) {
	t.Parallel()
	for how, function := range map[string]string{"cancelled": "pg_cancel_backend", "ended": "pg_terminate_backend"} {
		t.Run("a wait that is "+how+" acknowledges nothing until the replica is there", func(t *testing.T) {
			t.Parallel()
			longOnly(t)
			p := newPrimary(t)
			l := p.open(t, p.db.URL, postgres.WithBounds(time.Second, time.Second), postgres.WithReady(100*time.Millisecond))
			k := key("a")
			if err := commitOne(t.Context(), l, one(k, 0, "before")); err != nil {
				t.Fatal(err)
			}
			standbys(t, p.conn, "replica_that_is_down")
			done := start(t, l, one(k, 1, "doubtful"))
			waitUntil(t, p.conn, "a session waits for the replica", waiting+" = 1")
			if _, err := p.conn.Exec(t.Context(), "SELECT "+function+"(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"); err != nil {
				t.Fatal(err)
			}
			if err := outcomeOf(t, done); !isUnknown(err) {
				t.Errorf("a commit whose wait was %s: got %v, want an unknown outcome", how, err)
			}
			// What a log in doubt reads may be lost together with the primary.
			_, err := l.Heads(t.Context())
			if !errors.Is(err, postgres.ErrInDoubt) {
				t.Errorf("heads of a log in doubt: got %v, want %v", err, postgres.ErrInDoubt)
			}
			for what, b := range map[string]*store.Batch{"check": {Key: k, Expected: 2}, "commit": one(k, 2, "next")} {
				if err := commitOne(t.Context(), l, b); !errors.Is(err, postgres.ErrInDoubt) || errors.Is(err, store.ErrNotStored) {
					t.Errorf("%s on a log in doubt: got %v, want %v, which says nothing of what is stored", what, err, postgres.ErrInDoubt)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := commitOne(ctx, l, one(k, 2, "next")); !errors.Is(err, context.Canceled) || !errors.Is(err, store.ErrNotStored) {
				t.Errorf("a commit whose context has ended on a log in doubt: got %v, want %v and %v", err, context.Canceled, store.ErrNotStored)
			}
			if _, err := l.Heads(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("heads whose context has ended: got %v, want %v", err, context.Canceled)
			}
			standbys(t, p.conn, "")
			settle(t, l)
			if got := texts(t, l, k); len(got) != 2 || got[1] != "doubtful" {
				t.Errorf("after the replica is given up the log holds %q, want two events", got)
			}
			if err := commitOne(t.Context(), l, one(k, 2, "next")); err != nil {
				t.Errorf("the next commit: %v", err)
			}
			verifyDense(t, l, 3)
		})
	}
	t.Run("a session that waits for it is not ended, and its commit is found", func(t *testing.T) {
		t.Parallel()
		longOnly(t)
		p := newPrimary(t)
		proxy := pgtest.NewProxy(t, p.db)
		l := p.open(t, proxy.URL())
		k := key("a")
		if err := commitOne(t.Context(), l, one(k, 0, "before")); err != nil {
			t.Fatal(err)
		}
		standbys(t, p.conn, "replica_that_is_down")
		done := start(t, l, one(k, 1, "doubtful"))
		waitUntil(t, p.conn, "a session waits for the replica", waiting+" = 1")
		proxy.HangUp()
		// The resolver waits for the lock, or if it does not, for the replica as well.
		waitUntil(t, p.conn, "the resolver waits", `(SELECT count(*) FROM pg_stat_activity
			WHERE wait_event IN ('SyncRep', 'advisory') AND application_name = 'victim') = 2`)
		var visible int
		if err := p.conn.QueryRow(t.Context(), "SELECT count(*) FROM perdure.events").Scan(&visible); err != nil || visible != 1 {
			t.Errorf("while no replica has the commit %d events are visible, %v; want one", visible, err)
		}
		standbys(t, p.conn, "")
		if err := outcomeOf(t, done); err != nil {
			t.Errorf("the commit: %v", err)
		}
		if got := texts(t, l, k); len(got) != 2 {
			t.Errorf("the log holds %q, want two events", got)
		}
	})
}

// TestReplicaThatComesAndGoes promotes the replica at the end. It must have all acknowledged
// commits.
func TestReplicaThatComesAndGoes(t *testing.T) {
	t.Parallel()
	longOnly(t)
	s := pgtest.Start(t, "fsync = off") // what it loses by a crash is not looked at
	d := s.Database(t)
	conn := connect(t, d)
	r := s.Replica(t, true)
	p := &primary{d, conn}
	proxy := pgtest.NewProxy(t, d)
	l := p.open(t, proxy.URL(), postgres.WithBounds(30*time.Second, 300*time.Millisecond), postgres.WithoutProbation())
	r.Stop(t, "immediate")
	standbys(t, conn, "replica")
	r.Restart(t)
	k := key("a")
	var acked []string
	commit := func(text string) {
		t.Helper()
		if err := commitOne(t.Context(), l, one(k, store.Version(len(acked)), text)); err != nil {
			t.Fatalf("commit %s: %v", text, err)
		}
		acked = append(acked, text)
	}
	lost := []func(){
		func() { proxy.HangUp() },
		func() {
			if _, err := conn.Exec(t.Context(), "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"); err != nil {
				t.Fatal(err)
			}
		},
		func() {
			if _, err := conn.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"); err != nil {
				t.Fatal(err)
			}
		},
	}
	doubtful := func(i int) {
		t.Helper()
		done := start(t, l, one(k, store.Version(len(acked)), fmt.Sprint("doubtful ", i)))
		waitUntil(t, conn, "a session waits for the replica", waiting+" = 1")
		lost[i]()
		if err := outcomeOf(t, done); !isUnknown(err) {
			t.Errorf("a commit whose wait for the replica has ended: got %v, want an unknown outcome", err)
		}
	}
	for i := range lost {
		commit(fmt.Sprint("before ", i))
		r.Stop(t, "immediate")
		doubtful(i)
		r.Restart(t)
		settle(t, l)
		got := texts(t, l, k)
		if len(got) != len(acked)+1 {
			t.Fatalf("the log holds %q, want the doubtful commit behind %q", got, acked)
		}
		acked = got // it is durable, or else it would not be read
		commit(fmt.Sprint("after ", i))
	}
	r.Stop(t, "immediate")
	doubtful(0)
	s.Stop(t, "immediate")
	r.Restart(t)
	r.Promote(t)
	l, err := postgres.Open(t.Context(), r.URL(d.Name))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	if got := texts(t, l, k); fmt.Sprint(got) != fmt.Sprint(acked) {
		t.Errorf("the replica that has taken over holds\n got %q\nwant %q", got, acked)
	}
}

// settle waits until the log is not in doubt.
func settle(t *testing.T, l *postgres.Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	for {
		_, err := l.Heads(ctx)
		if !errors.Is(err, postgres.ErrInDoubt) || ctx.Err() != nil {
			if err != nil {
				t.Fatalf("waited until the log is not in doubt: %v", err)
			}
			return
		}
	}
}

// answerOfCommit matches the answer that a committer waits for.
func answerOfCommit(m pgtest.Message) bool { return !m.FromClient && m.Contains('C', "COMMIT") }

// scriptOfCommit matches a message that holds a whole transaction.
func scriptOfCommit(m pgtest.Message) bool { return m.FromClient && m.Contains('Q', "COMMIT") }

// wide returns a group that is sent as a script.
func wide(name string, expected store.Version) []*store.Batch {
	var all []*store.Batch
	for i := range postgres.ScriptEventsMin {
		all = append(all, one(key(fmt.Sprint(name, i)), expected, name))
	}
	return all
}

func TestResolver(t *testing.T) {
	t.Parallel()
	t.Run("ends the session that it has lost, which holds no lock", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		p, conn := pgtest.NewProxy(t, d), connect(t, d)
		l, err := postgres.Open(t.Context(), p.URL(), postgres.WithoutProbation())
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		for v := range store.Version(2) {
			if _, err := l.Commit(t.Context(), wide("a", v)); err != nil {
				t.Fatal(err)
			}
		}
		pid := l.PID()
		p.ArmAt(scriptOfCommit, pgtest.Hold)
		if _, err := l.Commit(t.Context(), wide("a", 2)); err != nil || !p.Disarm() {
			t.Fatalf("a commit that is held: %v", err)
		}
		waitUntil(t, conn, "the session that was lost is gone", "NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", int64(pid))
		for _, late := range p.Late() {
			late.Deliver(t)
		}
		verifyDense(t, l, 3*postgres.ScriptEventsMin)
	})
	t.Run("fences a message of a session that it may not end", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		role := "owner_of_" + d.Name
		d.Exec(t, fmt.Sprintf(`CREATE ROLE %s LOGIN; ALTER DATABASE %s OWNER TO %s;
			REVOKE EXECUTE ON FUNCTION pg_terminate_backend FROM PUBLIC`, role, d.Name, role))
		t.Cleanup(func() {
			d.Exec(t, fmt.Sprintf("REASSIGN OWNED BY %s TO postgres; DROP OWNED BY %s; DROP ROLE %s", role, role, role))
		})
		p := pgtest.NewProxy(t, d)
		l, err := postgres.Open(t.Context(), strings.Replace(p.URL(), "postgres@", role+"@", 1),
			postgres.WithoutProbation(), postgres.WithBounds(30*time.Second, 20*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		if _, err := l.Commit(t.Context(), wide("a", 0)); err != nil {
			t.Fatal(err)
		}
		p.ArmAt(scriptOfCommit, pgtest.HoldAndRefuse)
		if _, err := l.Commit(t.Context(), wide("a", 1)); !isUnknown(err) || !p.Disarm() {
			t.Fatalf("a commit that is held: got %v, want an unknown outcome", err)
		}
		if got := texts(t, l, key("a0")); len(got) != 1 {
			t.Fatalf("what has not arrived is read: %q", got)
		}
		for _, late := range p.Late() {
			late.Deliver(t)
		}
		verifyDense(t, l, postgres.ScriptEventsMin)
	})
	t.Run("finds a proof that trims those before it", func(t *testing.T) {
		t.Parallel()
		p := pgtest.NewProxy(t, pgtest.Open(t))
		l, err := postgres.Open(t.Context(), p.URL(), postgres.WithTrimEvery(1))
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		for v := range store.Version(3) {
			p.ArmAt(answerOfCommit, pgtest.Cut)
			if err := commitOne(t.Context(), l, one(key("a"), v, "e")); err != nil || !p.Disarm() {
				t.Errorf("a commit whose answer is lost: %v", err)
			}
		}
		verifyDense(t, l, 3)
	})
	t.Run("makes room for its session where the role may have no more", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		role := "limited_in_" + d.Name
		d.Exec(t, fmt.Sprintf("CREATE ROLE %s LOGIN CONNECTION LIMIT 3; ALTER DATABASE %s OWNER TO %s", role, d.Name, role))
		t.Cleanup(func() {
			d.Exec(t, fmt.Sprintf("REASSIGN OWNED BY %s TO postgres; DROP OWNED BY %s; DROP ROLE %s", role, role, role))
		})
		p := pgtest.NewProxy(t, d)
		l, err := postgres.Open(t.Context(), strings.Replace(p.URL(), "postgres@", role+"@", 1), postgres.WithPoolSize(2))
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		l.FillPool(t)
		p.ArmAt(answerOfCommit, pgtest.Hold) // the server keeps the session
		if err := outcomeOf(t, start(t, l, one(key("a"), 0, "e"))); err != nil || !p.Disarm() {
			t.Errorf("a commit whose answer is lost: %v", err)
		}
		verifyDense(t, l, 1)
	})
	t.Run("leaves the outcome unknown where the proofs of its writer are gone", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		p := pgtest.NewProxy(t, d)
		l, err := postgres.Open(t.Context(), p.URL())
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		p.ArmAt(answerOfCommit, pgtest.HoldAndRefuse)
		done := start(t, l, one(key("a"), 0, "e"))
		waitFor(t, "the answer is lost", p.Failed)
		d.Exec(t, "DELETE FROM perdure.commits")
		p.Refuse(false)
		if err := outcomeOf(t, done); !isUnknown(err) {
			t.Errorf("a commit whose proof is gone: got %v, want an unknown outcome", err)
		}
		if got := texts(t, l, key("a")); len(got) != 1 {
			t.Errorf("the log holds %q, want one event", got)
		}
		if err := commitOne(t.Context(), l, one(key("a"), 1, "e")); err != nil {
			t.Errorf("the next commit: %v", err)
		}
		verifyDense(t, l, 2)
	})
}

// waitFor waits until a condition of this process holds.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	late := time.After(waitMax)
	for tick := time.Tick(time.Millisecond); !is(); {
		select {
		case <-tick:
		case <-late:
			t.Fatalf("waited %v until %s", waitMax, what)
		}
	}
}

// TestSweep opens a log again and again while another log has lost the answer to a commit.
func TestSweep(t *testing.T) {
	t.Parallel()
	for name, clock := range map[string]string{
		"spares the proof of a commit that is in doubt":                             "now()",
		"spares the proof that a clock which was behind has written":                "now() - interval '3 days'",
		"spares the proof that a clock which was ahead has written":                 "now() + interval '3 days'",
		"spares the proof of a commit that is in doubt, on a clock without a value": "'-infinity'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := pgtest.Open(t)
			if err := postgres.MigrateUp(t.Context(), d.URL); err != nil {
				t.Fatal(err)
			}
			d.Exec(t, "ALTER TABLE perdure.commits ALTER COLUMN at SET DEFAULT "+clock)
			p := pgtest.NewProxy(t, d)
			l, err := postgres.Open(t.Context(), p.URL())
			if err != nil {
				t.Fatal(err)
			}
			closeAtEnd(t, l)
			if err := commitOne(t.Context(), l, one(key("a"), 0, "before")); err != nil {
				t.Fatal(err)
			}
			p.ArmAt(answerOfCommit, pgtest.CutAndRefuse)
			done := start(t, l, one(key("a"), 1, "doubtful"))
			waitFor(t, "the answer is lost", p.Failed)
			d.Exec(t, "ALTER TABLE perdure.commits ALTER COLUMN at SET DEFAULT now()")
			for range 3 {
				other, err := postgres.Open(t.Context(), d.URL)
				if err == nil {
					err = other.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			p.Refuse(false)
			if err := outcomeOf(t, done); err != nil {
				t.Errorf("the commit: %v", err)
			}
			verifyDense(t, l, 2)
		})
	}
	t.Run("by age, as older programs do it, leaves the server one that has what was acknowledged", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		if err := postgres.MigrateUp(t.Context(), d.URL); err != nil {
			t.Fatal(err)
		}
		d.Exec(t, "ALTER TABLE perdure.commits ALTER COLUMN at SET DEFAULT now() - interval '3 days'")
		p := pgtest.NewProxy(t, d)
		l, err := postgres.Open(t.Context(), p.URL())
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		for v := range store.Version(2) {
			p.ArmAt(answerOfCommit, pgtest.Cut) // so that a resolver changes the first row
			if err := commitOne(t.Context(), l, one(key("a"), v, "e")); err != nil || !p.Disarm() {
				t.Errorf("a commit whose answer is lost: %v", err)
			}
			d.Exec(t, "DELETE FROM perdure.commits WHERE at < now() - interval '1 day'")
			p.HangUp()
			verifyDense(t, l, int(v)+1)
		}
	})
	t.Run("keeps the first and the last proof of the last writers that are gone, and all of a log that is open", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		l, err := postgres.Open(t.Context(), d.URL)
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		for v := range store.Version(5) {
			if err := commitOne(t.Context(), l, one(key("a"), v, "e")); err != nil {
				t.Fatal(err)
			}
		}
		// The proofs of the log are older than all of these.
		d.Exec(t, fmt.Sprintf(`INSERT INTO perdure.commits (writer, serial)
			SELECT lpad(w::text, 32, '0')::uuid, 4000000000000000000 + w * 1000 + s FROM generate_series(1, %d) w, generate_series(1, 3) s`,
			postgres.WritersKept+10))
		other, err := postgres.Open(t.Context(), d.URL)
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, other)
		conn := connect(t, d)
		var own, gone, oldest int
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE serial < 4000000000000000000),
			count(*) FILTER (WHERE serial > 4000000000000000000), (min(right(writer::text, 9)) FILTER (WHERE serial > 4000000000000000000))::int
			FROM perdure.commits`).Scan(&own, &gone, &oldest); err != nil {
			t.Fatal(err)
		}
		const ownWant = 1 + 5 + 1 // of l, and of other
		if own != ownWant || gone != 2*postgres.WritersKept || oldest != 11 {
			t.Errorf("%d proofs of open logs and %d of others are kept, the oldest of writer %d; want %d, %d and 11",
				own, gone, oldest, ownWant, 2*postgres.WritersKept)
		}
	})
}

// TestGuard deletes the last transaction in the database, as if a replica without that transaction
// had taken over.
func TestGuard(t *testing.T) {
	t.Parallel()
	d := pgtest.Open(t)
	l, err := postgres.Open(t.Context(), d.URL, postgres.WithoutProbation())
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	for v := range store.Version(3) {
		if err := commitOne(t.Context(), l, one(key("a"), v, "e")); err != nil {
			t.Fatal(err)
		}
	}
	d.Exec(t, `DELETE FROM perdure.events WHERE position = 3;
		DELETE FROM perdure.commits WHERE serial = (SELECT max(serial) FROM perdure.commits)`)
	if err := commitOne(t.Context(), l, one(key("a"), 3, "e")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a commit on a version that is gone: got %v, want a conflict", err)
	}
	again, err := postgres.Open(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, again)
	verifyDense(t, again, 2)
}

// TestStatement removes the prepared statements of a session.
func TestStatement(t *testing.T) {
	t.Parallel()
	l := newLog(t, postgres.WithoutProbation())
	for v := range store.Version(4) {
		if err := commitOne(t.Context(), l, one(key("a"), v, "e")); err != nil {
			t.Errorf("commit %d: %v", v, err)
		}
		l.Deallocate(t)
		if _, err := l.Commit(t.Context(), wide("b", v)); err != nil {
			t.Errorf("script %d: %v", v, err)
		}
		l.Deallocate(t)
	}
	verifyDense(t, l, 4+4*postgres.ScriptEventsMin)
}

// TestRegistration closes a log that could not reach the server, and opens another one. Only then
// the message of the first log arrives.
func TestRegistration(t *testing.T) {
	t.Parallel()
	d := pgtest.Open(t)
	p := pgtest.NewProxy(t, d)
	l, err := postgres.Open(t.Context(), p.URL(), postgres.WithoutProbation(), postgres.WithBounds(30*time.Second, 20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	if _, err := l.Commit(t.Context(), wide("a", 0)); err != nil {
		t.Fatal(err)
	}
	p.ArmAt(scriptOfCommit, pgtest.HoldAndRefuse)
	if _, err := l.Commit(t.Context(), wide("a", 1)); !isUnknown(err) {
		t.Fatalf("a commit that is held: got %v, want an unknown outcome", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("close a log in doubt: %v", err)
	}
	if _, err := l.Heads(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("heads of a log that is closed in doubt: got %v, want %v", err, store.ErrClosed)
	}
	next, err := postgres.Open(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, next)
	if got := texts(t, next, key("a0")); len(got) != 1 {
		t.Fatalf("what has not arrived is read: %q", got)
	}
	late := p.Late()
	for _, l := range late {
		l.Deliver(t)
	}
	if len(late) != 1 || late[0].Size() == 0 {
		t.Errorf("%d messages were late, want one", len(late))
	}
	verifyDense(t, next, postgres.ScriptEventsMin)
}

// TestPanic makes the clock of a log panic in the middle of a transaction.
func TestPanic(t *testing.T) {
	t.Parallel()
	at := place{pgtest.Shared(t), newSchema()}
	broken := false
	l := openAt(t, at, postgres.WithClock(func() time.Time {
		if broken {
			panic("the clock is broken")
		}
		return time.Now()
	}))
	other := openAt(t, at, postgres.WithBounds(5*time.Second, time.Minute))
	if err := commitOne(t.Context(), l, one(key("a"), 0, "e")); err != nil {
		t.Fatal(err)
	}
	broken = true
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a commit with a broken clock does not panic")
			}
		}()
		_ = commitOne(t.Context(), l, one(key("a"), 1, "e"))
	}()
	broken = false
	if err := commitOne(t.Context(), other, one(key("b"), 0, "e")); err != nil {
		t.Errorf("a commit of another log, while the lock may be held: %v", err)
	}
	if err := commitOne(t.Context(), l, one(key("a"), 1, "e")); err != nil {
		t.Errorf("the next commit: %v", err)
	}
	verifyDense(t, l, 3)
}
