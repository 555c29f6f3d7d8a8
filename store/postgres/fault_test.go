package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// cutEverywhere commits batches. It cuts the connection before the first message, then before the
// one a stride later, and so on, until a commit ends before the cut. It returns the faults found.
func cutEverywhere(t testing.TB, stride int, batch func(k store.Key, expected store.Version, text string) *store.Batch, opts ...postgres.Option) error {
	p := pgtest.NewProxy(t, pgtest.Open(t))
	l, err := postgres.Open(t.Context(), p.URL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	k := key("a")
	version := store.Version(0)
	const messagesMax = 1000
	for n := 0; n < messagesMax; n += stride {
		for _, cut := range []bool{false, true} { // the first warms the connection
			text := fmt.Sprint(n, cut)
			if cut {
				p.Arm(n, pgtest.Cut)
			}
			err := commitOne(t.Context(), l, batch(k, version, text))
			done := cut && !p.Disarm()
			if err != nil {
				return fmt.Errorf("cut before message %d: %w", n, err)
			}
			version++
			all := texts(t, l, k)
			if len(all) != int(version) || all[version-1] != text {
				return fmt.Errorf("cut before message %d: acknowledged at version %d, %d are stored", n, version, len(all))
			}
			if done {
				t.Logf("a commit is %d messages", n)
				verifyDense(t, l, int(version))
				return nil
			}
		}
	}
	return fmt.Errorf("no commit without a cut within %d messages", messagesMax)
}

func TestCommitSurvivesAConnectionCutAnywhere(t *testing.T) {
	t.Parallel()
	longOnly(t)
	if err := cutEverywhere(t, 2, rich); err != nil {
		t.Error(err)
	}
	// A commit in one message, which is decided from the cache.
	held := 0
	count := postgres.WithAhead(func(holds bool) {
		if holds {
			held++
		}
	})
	if err := cutEverywhere(t, 1, one, postgres.WithoutProbation(), count); err != nil {
		t.Error(err)
	}
	if held == 0 {
		t.Error("no commit was decided ahead")
	}
	for _, batch := range []func(store.Key, store.Version, string) *store.Batch{rich, one} {
		if err := cutEverywhere(t, 3, batch, postgres.WithGuess(), postgres.WithoutProbation()); err == nil {
			t.Error("a log that takes a lost connection for a failed commit is not caught")
		} else {
			t.Logf("the twin is caught: %v", err)
		}
	}
}

func TestCommitWhoseOutcomeCannotBeFoundIsUnknown(t *testing.T) {
	t.Parallel()
	longOnly(t)
	d := pgtest.Open(t)
	p := pgtest.NewProxy(t, d)
	l, err := postgres.Open(t.Context(), p.URL(), postgres.WithBounds(time.Second, 20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	k, version := key("a"), store.Version(0)
	unknown := 0
	for n := 0; ; n++ {
		if err := commitOne(t.Context(), l, one(k, version, "before")); err != nil {
			t.Fatalf("commit before: %v", err)
		}
		version++
		p.Arm(n, pgtest.CutAndRefuse)
		err := commitOne(t.Context(), l, one(k, version, "cut"))
		cut := p.Disarm()
		stored := len(texts(t, l, k)) == int(version)+1
		if stored {
			version++
		}
		switch {
		case !cut:
			if unknown == 0 {
				t.Error("no outcome was unknown, whichever message was cut")
			}
			t.Logf("%d of %d outcomes were unknown", unknown, n)
			return
		case err == nil && !stored:
			t.Fatalf("cut before message %d: no error, but it is not stored", n)
		case err == nil: // the message was one of another connection, that of the announcements
		case errors.Is(err, store.ErrNotStored) && stored:
			t.Fatalf("cut before message %d: %v, but it is stored", n, err)
		case !errors.Is(err, store.ErrNotStored):
			unknown++
		}
	}
}

func TestSessionEndedUnderLoadLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	const workers, endsMax, stepsMin = 4, 60, 20
	d := pgtest.Open(t)
	l, err := postgres.Open(t.Context(), d.URL+"&application_name=victim", postgres.WithPoolSize(4))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	other := d.Pool(t, "pool_max_conns=1")
	var clients []*client
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range workers {
		c := &client{key: key(fmt.Sprint(i))}
		clients = append(clients, c)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					if len(c.acked) >= stepsMin {
						return
					}
				default:
				}
				if err := c.step(t.Context(), l); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range endsMax {
		_, err := other.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name = 'victim' AND datname = current_database()`)
		if err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	wg.Wait()
	verify(t, l, clients)
}

func TestSessionThatIsLostWithTheLockIsEnded(t *testing.T) {
	t.Parallel()
	at := place{pgtest.Shared(t), newSchema()}
	conn := connect(t, at.db)
	var l *postgres.Log
	pauses := 0
	l = openAt(t, at, postgres.WithPause(func() {
		if pauses++; pauses > 1 {
			return
		}
		if ended, err := l.EndSessions(t.Context(), conn); ended != 1 || err != nil {
			t.Errorf("sessions of the writer: ended %d, %v, want one", ended, err)
		}
	}))
	if err := commitOne(t.Context(), l, rich(key("a"), 0, "e")); err != nil {
		t.Errorf("commit whose session was ended: %v", err)
	}
	if pauses != 2 {
		t.Errorf("the transaction was tried %d times, want twice", pauses)
	}
	verifyDense(t, l, 1)
}

func TestCommitBehindALockThatIsNeverReleasedIsNotStored(t *testing.T) {
	t.Parallel()
	d := pgtest.Open(t)
	l, err := postgres.Open(t.Context(), d.URL, postgres.WithBounds(50*time.Millisecond, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	tx, err := d.Pool(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT pg_advisory_xact_lock($1)", l.LockKey()); err != nil {
		t.Fatal(err)
	}
	if err := commitOne(t.Context(), l, one(key("a"), 0, "no")); !errors.Is(err, store.ErrNotStored) {
		t.Errorf("commit behind the lock: got %v, want %v", err, store.ErrNotStored)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := commitOne(t.Context(), l, one(key("a"), 0, "yes")); err != nil {
		t.Errorf("commit after it: %v", err)
	}
	verifyDense(t, l, 1)
}

func TestCommitThatTheServerAbortsIsTriedAgain(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"40001", "40P01"} {
		d := pgtest.Open(t)
		l, err := postgres.Open(t.Context(), d.URL, postgres.WithSchema("log"))
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		fail := func(times int) {
			d.Exec(t, fmt.Sprintf(`CREATE SEQUENCE IF NOT EXISTS fails;
				SELECT setval('public.fails', 1, false);
				CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
					IF nextval('public.fails') <= %d THEN RAISE EXCEPTION 'given up' USING ERRCODE = '%s'; END IF;
					RETURN NULL;
				END $$;
				CREATE OR REPLACE TRIGGER fail AFTER INSERT ON log.events FOR EACH STATEMENT EXECUTE FUNCTION public.fail()`, times, code))
		}
		fail(2)
		b := rich(key("a"), 0, "yes")
		if err := commitOne(t.Context(), l, b); err != nil {
			t.Errorf("%s twice: %v", code, err)
		}
		fail(1000)
		if err := commitOne(t.Context(), l, rich(key("a"), 1, "no")); !errors.Is(err, store.ErrNotStored) {
			t.Errorf("%s for ever: got %v, want %v", code, err, store.ErrNotStored)
		}
		verifyDense(t, l, 1)
	}
}

func TestLogContinuesAfterItsServerHasCrashed(t *testing.T) {
	t.Parallel()
	longOnly(t)
	s := pgtest.Start(t)
	d := s.Database(t)
	l, err := postgres.Open(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	if err := commitOne(t.Context(), l, rich(key("a"), 0, "one")); err != nil {
		t.Fatal(err)
	}
	texts(t, l, key("a"))
	s.Stop(t, "immediate")
	if err := commitOne(t.Context(), l, one(key("a"), 1, "two")); !errors.Is(err, store.ErrNotStored) {
		t.Errorf("commit without a server: got %v, want %v", err, store.ErrNotStored)
	}
	if _, err := l.Heads(t.Context()); err == nil {
		t.Error("heads without a server: no error")
	}
	s.Restart(t)
	if got := texts(t, l, key("a")); len(got) != 1 {
		t.Errorf("after the crash: got %v, want one event", got)
	}
	if err := commitOne(t.Context(), l, one(key("a"), 1, "two")); err != nil {
		t.Errorf("commit after the crash: %v", err)
	}
	verifyDense(t, l, 2)
}

func TestCommitOnAFullDiskIsNotStored(t *testing.T) {
	t.Parallel()
	longOnly(t)
	d := pgtest.Open(t)
	dir := filepath.Join(filepath.Dir(d.Server.Socket()), d.Name)
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can mount a small file system to fill")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: a small file system cannot be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	info, err := os.Stat(d.Server.Socket())
	if err != nil {
		t.Fatal(err)
	}
	if err := chownLike(dir, info); err != nil {
		t.Fatal(err)
	}
	l, err := postgres.Open(t.Context(), d.URL, postgres.WithSchema("log"))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	small := fmt.Sprint("small_", d.Name)
	d.Exec(t, fmt.Sprintf("CREATE TABLESPACE %s LOCATION '%s'", small, dir))
	d.Exec(t, "ALTER TABLE log.events SET TABLESPACE "+small)
	t.Cleanup(func() {
		d.Exec(t, "DROP SCHEMA log CASCADE")
		d.Exec(t, "DROP TABLESPACE "+small)
	})
	const versionsMax = 100
	version := store.Version(0)
	filler := string(make([]byte, 200<<10))
	for {
		err := commitOne(t.Context(), l, one(key("a"), version, filler))
		if err != nil {
			if !errors.Is(err, store.ErrNotStored) {
				t.Errorf("commit on a full disk: got %v, want %v", err, store.ErrNotStored)
			}
			t.Logf("after %d events: %v", version, err)
			break
		}
		if version++; version > versionsMax {
			t.Fatal("the disk does not get full")
		}
	}
	if got := len(texts(t, l, key("a"))); got != int(version) {
		t.Errorf("the full log has %d events, want %d", got, version)
	}
	d.Exec(t, "ALTER TABLE log.events SET TABLESPACE pg_default") // more room
	if err := commitOne(t.Context(), l, one(key("a"), version, "room")); err != nil {
		t.Errorf("commit with more room: %v", err)
	}
	verifyDense(t, l, int(version)+1)
}

func chownLike(dir string, like os.FileInfo) error {
	owner, ok := like.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.ErrUnsupported
	}
	return os.Chown(dir, int(owner.Uid), int(owner.Gid))
}

func TestReadThatIsCancelledReturnsTheErrorOfItsContext(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Heads(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("heads: got %v, want %v", err, context.Canceled)
	}
}
