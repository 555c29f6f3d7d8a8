package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// A hole is a proxy between a log and its server that acts like a firewall which drops
// connections: it discards the bytes of a dropped connection, and keeps the connection open.
type hole struct {
	socket string

	mu     sync.Mutex
	age    int   // connections that are older are forgotten
	left   int64 // bytes that clients may still send, before all are forgotten
	black  bool  // new ones are forgotten as well
	gone   chan struct{}
	conns  []net.Conn
	closed bool
	wg     sync.WaitGroup
}

func newHole(t testing.TB, d *pgtest.Database) (h *hole, address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h = &hole{socket: d.Server.Socket(), left: 1 << 60, gone: make(chan struct{})}
	h.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			h.open(client)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		h.mu.Lock()
		h.closed = true
		for _, c := range h.conns {
			_ = c.Close()
		}
		h.mu.Unlock()
		h.wg.Wait()
	})
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: l.Addr().String(), Path: d.Name, RawQuery: "sslmode=disable"}
	return h, u.String()
}

func (h *hole) open(client net.Conn) {
	h.mu.Lock()
	socket := h.socket
	h.mu.Unlock()
	server, err := net.Dial("unix", socket)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil || h.closed {
		_ = client.Close()
		return
	}
	h.conns = append(h.conns, client, server)
	age := h.age
	h.wg.Go(func() { h.pass(server, client, age, true) })
	h.wg.Go(func() { h.pass(client, server, age, false) })
}

func (h *hole) pass(to, from net.Conn, age int, counted bool) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err == nil {
			n = h.allow(n, age, counted)
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			if h.allow(1, age, false) == 1 {
				_ = to.Close()
			}
			return
		}
	}
}

// allow returns how many of n bytes of a connection the hole passes on.
func (h *hole) allow(n, age int, counted bool) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.black || age < h.age {
		return 0
	}
	if counted {
		if h.left -= int64(n); h.left < 0 {
			n += int(h.left)
			h.left = 1 << 60
			h.age++
			close(h.gone)
		}
	}
	return n
}

// forget drops all current connections, and if black is true also the later ones.
func (h *hole) forget(black bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.age++
	h.black = black
}

// forgetAfter lets clients send n more bytes, and then drops all connections.
func (h *hole) forgetAfter(bytes int64) (gone <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left, h.gone = bytes, make(chan struct{})
	return h.gone
}

// allowed returns the number of bytes that clients may still send.
func (h *hole) allowed() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.left
}

const waitMax = time.Minute

// within runs fn, and fails the test if fn does not return in time.
func within(t testing.TB, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(waitMax):
		t.Fatalf("waited %v for %s", waitMax, what)
	}
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	silence := postgres.WithSilence(100*time.Millisecond, time.Second)
	t.Run("a connection that is forgotten is replaced", func(t *testing.T) {
		t.Parallel()
		h, address := newHole(t, pgtest.Open(t))
		l, err := postgres.Open(t.Context(), address, postgres.WithPoolSize(1), silence)
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		k := key("a")
		for v := range store.Version(6) {
			if err := commitOne(t.Context(), l, one(k, v, "before")); err != nil {
				t.Fatal(err)
			}
		}
		texts(t, l, k)
		h.forget(false)
		within(t, "a commit on a connection that is forgotten", func() {
			if err := commitOne(context.WithoutCancel(t.Context()), l, one(k, 6, "after")); err != nil {
				t.Errorf("commit: %v", err)
			}
		})
		h.forget(false)
		within(t, "a read on a connection that is forgotten", func() { // without a deadline
			if heads, err := l.Heads(context.WithoutCancel(t.Context())); err != nil || heads[0] != 7 {
				t.Errorf("heads: got %v, %v, want 7", heads, err)
			}
		})
		x, err := l.Export(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h.forget(false)
		within(t, "an export on a connection that is forgotten", func() {
			for _, err := range x.Records(context.WithoutCancel(t.Context()), store.KindEvent) {
				if err == nil {
					t.Error("export: an event has come over a connection that is forgotten")
				}
			}
			_ = x.Close() // its session is gone
		})
		verifyDense(t, l, 7)
	})
	t.Run("a connection that is forgotten while it is set up is replaced", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		h, address := newHole(t, d)
		l, err := postgres.Open(t.Context(), address+"&connect_timeout=1", postgres.WithPoolSize(1), silence)
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		if err := commitOne(t.Context(), l, one(key("a"), 0, "x")); err != nil {
			t.Fatal(err)
		}
		// The number of bytes that a client sends until the end of its first read.
		const plenty = 1 << 40
		h.move(d.Server) // without the connections there are
		h.forgetAfter(plenty)
		if _, err := l.Heads(t.Context()); err != nil {
			t.Fatal(err)
		}
		all := plenty - h.allowed()
		version := store.Version(1)
		for bytes := all - 800; bytes < all; bytes += 80 {
			h.move(d.Server)
			h.forgetAfter(bytes)
			within(t, fmt.Sprintf("a read whose connection is forgotten after %d bytes of %d", bytes, all), func() { // without a deadline
				heads, err := l.Heads(context.WithoutCancel(t.Context()))
				if err == nil && heads[0] != store.Position(version) {
					t.Errorf("heads: got %v, want %d", heads, version)
				}
			})
			h.move(d.Server)
			h.forgetAfter(bytes)
			within(t, fmt.Sprintf("a commit whose connection is forgotten after %d bytes of %d", bytes, all), func() {
				err := commitOne(context.WithoutCancel(t.Context()), l, one(key("a"), version, "x"))
				if err == nil {
					version++
				} else if !errors.Is(err, store.ErrNotStored) {
					t.Errorf("commit: %v", err)
				}
			})
		}
		if version < 5 {
			t.Errorf("%d commits are stored of those whose first connection is forgotten", version)
		}
		h.forgetAfter(plenty)
		verifyDense(t, l, int(version))
	})
	t.Run("a read ends with its context", func(t *testing.T) {
		t.Parallel()
		h, address := newHole(t, pgtest.Open(t))
		l, err := postgres.Open(t.Context(), address, postgres.WithSilence(time.Hour, time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Heads(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.forget(true)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		within(t, "a read whose context has ended", func() {
			if _, err := l.Heads(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("heads: got %v, want %v", err, context.DeadlineExceeded)
			}
		})
		h.forget(false)
	})
	t.Run("a server that works is waited for", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		h, address := newHole(t, d)
		_ = h
		l, err := postgres.Open(t.Context(), address, postgres.WithSilence(20*time.Millisecond, time.Hour), postgres.WithPoolSize(1))
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		if err := commitOne(t.Context(), l, one(key("a"), 0, "x")); err != nil {
			t.Fatal(err)
		}
		var before, after int64
		l.Sessions(t, func(what string, conn *pgx.Conn) {
			if what == "reads" {
				before = int64(conn.PgConn().PID())
			}
		})
		conn := connect(t, d)
		if _, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE perdure.events IN ACCESS EXCLUSIVE MODE"); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := l.Heads(context.WithoutCancel(t.Context()))
			done <- err
		}()
		// Each probe opens and closes one session.
		look := connect(t, d)
		began := probesOf(t, look)
		for limit := time.Now().Add(waitMax); probesOf(t, look) < began+3; {
			if time.Now().After(limit) {
				t.Fatalf("waited %v for three questions after the read", waitMax)
			}
		}
		if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("heads: %v", err)
		}
		l.Sessions(t, func(what string, conn *pgx.Conn) {
			if what == "reads" {
				after = int64(conn.PgConn().PID())
			}
		})
		if before != after {
			t.Errorf("the session of reads was %d and is %d, want the same", before, after)
		}
	})
	t.Run("a listener that is forgotten listens again", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		h, address := newHole(t, d)
		l, err := postgres.Open(t.Context(), address, postgres.WithHearing(50*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		other, err := postgres.Open(t.Context(), d.URL)
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, other)
		conn := connect(t, d)
		listeners := func() (n int) {
			row := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND (query LIKE 'LISTEN%' OR query = 'SELECT 1')")
			if err := row.Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		changed := l.Changed()
		for limit := time.Now().Add(waitMax); listeners() == 0; {
			if time.Now().After(limit) {
				t.Fatalf("waited %v for a session that listens", waitMax)
			}
		}
		h.forget(false)
		version := store.Version(0)
		for limit := time.Now().Add(waitMax); ; version++ {
			if err := commitOne(t.Context(), other, one(key("a"), version, "x")); err != nil {
				t.Fatal(err)
			}
			select {
			case <-changed:
				if changed = l.Changed(); version > 0 && listeners() > 1 {
					return // the new one has heard, beside the forgotten one
				}
			default:
			}
			if time.Now().After(limit) {
				t.Fatalf("waited %v for an announcement on a new connection, with %d sessions that have listened", waitMax, listeners())
			}
		}
	})
}

// probesOf returns the number of sessions that the database has had.
func probesOf(t *testing.T, conn *pgx.Conn) (n int64) {
	t.Helper()
	row := conn.QueryRow(t.Context(), "SELECT coalesce(sum(sessions), 0)::bigint FROM pg_stat_database WHERE datname = current_database()")
	if err := row.Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// stalls are groups whose commits the test stops in the middle of a message.
func stalls() map[string][]*store.Batch {
	all := make(map[string][]*store.Batch)
	for what, n := range map[string]int{"a COPY": 32, "a pipeline": 4} {
		for i := range n {
			b := one(key(fmt.Sprint("large ", i)), 0, strings.Repeat("x", 100<<10))
			all[what] = append(all[what], b)
		}
	}
	return all
}

func TestLockHolder(t *testing.T) {
	t.Parallel()
	for what, group := range stalls() {
		t.Run("that stops within "+what+" is ended", func(t *testing.T) {
			t.Parallel()
			d := pgtest.Open(t)
			h, address := newHole(t, d)
			victim, err := postgres.Open(t.Context(), address+"&application_name=victim",
				postgres.WithSilence(10*time.Second, time.Minute)) // the other log comes first
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { h.forget(true) })
			closeAtEnd(t, victim)
			var logged safeBuilder
			l, err := postgres.Open(t.Context(), d.URL, postgres.WithBounds(100*time.Millisecond, time.Second),
				postgres.WithSilence(50*time.Millisecond, 300*time.Millisecond), postgres.WithLogger(textLogger(&logged)))
			if err != nil {
				t.Fatal(err)
			}
			closeAtEnd(t, l)
			if _, err := victim.Commit(t.Context(), group); err != nil { // statements are prepared
				t.Fatal(err)
			}
			for _, b := range group {
				b.Expected = 1
				b.Events[0].ID = newID()
			}
			gone := h.forgetAfter(200 << 10)
			ended := make(chan error, 1)
			go func() {
				_, err := victim.Commit(context.Background(), group)
				ended <- err
			}()
			<-gone
			tries, named := 0, false
			for limit := time.Now().Add(waitMax); ; tries++ {
				err := commitOne(t.Context(), l, one(key("b"), 0, "another process"))
				if err == nil {
					break
				}
				if !errors.Is(err, store.ErrNotStored) {
					t.Fatalf("commit behind a holder that has stopped: got %v, want %v", err, store.ErrNotStored)
				}
				named = named || strings.Contains(err.Error(), "victim")
				if time.Now().After(limit) {
					t.Fatalf("waited %v, %d tries, for the end of a holder that has stopped: %v", waitMax, tries, err)
				}
			}
			if !named {
				t.Errorf("none of %d errors says whose session holds the lock", tries)
			}
			for limit := time.Now().Add(waitMax); !strings.Contains(logged.String(), "victim"); runtime.Gosched() {
				if time.Now().After(limit) { // it is logged after the session has ended
					t.Fatalf("waited %v for a line that says whose session was ended, logged %q", waitMax, logged.String())
				}
			}
			h.forget(false)
			within(t, "the commit whose session was ended", func() {
				if err := <-ended; err != nil {
					t.Errorf("the commit whose session was ended: %v", err)
				}
			})
			verifyDense(t, l, 2*len(group)+1)
		})
	}
	t.Run("that goes on is not ended", func(t *testing.T) {
		t.Parallel()
		d := pgtest.Open(t)
		l, err := postgres.Open(t.Context(), d.URL, postgres.WithBounds(100*time.Millisecond, time.Second),
			postgres.WithSilence(20*time.Millisecond, 2*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, l)
		conn := connect(t, d)
		if _, err := conn.Exec(t.Context(), "BEGIN; SELECT pg_advisory_xact_lock("+fmt.Sprint(l.LockKey())+")"); err != nil {
			t.Fatal(err)
		}
		failed := make(chan error, 1)
		go func() {
			var err error
			for range 10 {
				if err = commitOne(context.Background(), l, one(key("a"), 0, "x")); !errors.Is(err, store.ErrNotStored) {
					break
				}
			}
			failed <- err
		}()
		for {
			select {
			case err := <-failed:
				if !errors.Is(err, store.ErrNotStored) {
					t.Errorf("commit behind a holder that goes on: got %v, want %v", err, store.ErrNotStored)
				}
				if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
					t.Errorf("commit of the holder: %v", err)
				}
				return
			default:
				if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
					t.Fatalf("the holder: %v", err)
				}
			}
		}
	})
}

// A trickle is the input of a COPY: one row for each round trip, until the test ends it.
type trickle struct {
	conn *pgx.Conn
	end  chan error
	last error
}

func (r *trickle) Read(b []byte) (int, error) {
	select {
	case r.last = <-r.end:
		return 0, io.EOF
	default:
	}
	if _, err := r.conn.Exec(context.Background(), "SELECT 1"); err != nil {
		return 0, err
	}
	return copy(b, "row\n"), nil
}

// TestLockHolderThatSendsSlowlyIsNotEnded holds the lock by a COPY that takes many times as
// long as a holder may be idle.
func TestLockHolderThatSendsSlowlyIsNotEnded(t *testing.T) {
	t.Parallel()
	d := pgtest.Open(t)
	l, err := postgres.Open(t.Context(), d.URL, postgres.WithBounds(200*time.Millisecond, time.Second),
		postgres.WithSilence(20*time.Millisecond, 500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	conn := connect(t, d)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE slow (t text); BEGIN; SELECT pg_advisory_xact_lock("+fmt.Sprint(l.LockKey())+")"); err != nil {
		t.Fatal(err)
	}
	r := &trickle{conn: connect(t, d), end: make(chan error, 1)}
	go func() {
		var err error
		for range 10 {
			if err = commitOne(context.Background(), l, one(key("a"), 0, "x")); !errors.Is(err, store.ErrNotStored) {
				break
			}
		}
		r.end <- err
	}()
	if _, err := conn.PgConn().CopyFrom(t.Context(), r, "COPY slow FROM STDIN"); err != nil {
		t.Fatalf("the holder: %v", err)
	}
	if !errors.Is(r.last, store.ErrNotStored) {
		t.Errorf("commit behind a holder that sends slowly: got %v, want %v", r.last, store.ErrNotStored)
	}
	if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
		t.Errorf("commit of the holder: %v", err)
	}
}

// A safeBuilder is a strings.Builder for many goroutines.
type safeBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safeBuilder) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuilder) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
