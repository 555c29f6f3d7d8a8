package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/postgres"
	"github.com/perdure/perdure/store/postgres/pgtest"
)

// A job is a kind of commit. The test loses its connection at each of its messages. The stored rows
// of a commit are found by its number.
type job struct {
	name  string
	cold  bool // the session has prepared nothing yet
	large bool // it is lost at every fifth message only
	setup func(n int) *store.Batch
	group func(n int) []*store.Batch
	// stored reports whether the commit with the number is stored. It fails the test if the
	// commit is stored in part or more than once.
	stored func(t *testing.T, l *postgres.Log, n int) bool
	// next returns a commit that can follow, given whether the one before is stored.
	next func(n int, stored bool) *store.Batch
}

func jobKey(n int) store.Key { return key(fmt.Sprint("job ", n)) }

// events returns a job of n events, each of another entity.
func events(name string, entities int, more func(n int, b *store.Batch)) *job {
	entity := func(n, i int) store.Key { return key(fmt.Sprint("job ", n, " ", i)) }
	return &job{
		name: name,
		group: func(n int) []*store.Batch {
			var all []*store.Batch
			for i := range entities {
				all = append(all, one(entity(n, i), 0, "first"))
			}
			if more != nil {
				more(n, all[0])
			}
			return all
		},
		stored: func(t *testing.T, l *postgres.Log, n int) bool {
			t.Helper()
			stored := 0
			for i := range entities {
				all := texts(t, l, entity(n, i))
				for j, text := range all {
					switch {
					case text == "first" && j == 0:
						stored++
					case text != "next" || i > 0:
						t.Fatalf("commit %d: entity %d holds %q", n, i, all)
					}
				}
			}
			if stored != 0 && stored != entities {
				t.Fatalf("commit %d: %d of %d batches are stored", n, stored, entities)
			}
			return stored > 0
		},
		next: func(n int, stored bool) *store.Batch {
			if stored {
				return one(entity(n, 0), 1, "next")
			}
			return one(entity(n, 0), 0, "next")
		},
	}
}

func jobs() []*job {
	cold := events("a pipeline of a session that has prepared nothing", 1, nil)
	cold.cold, cold.large = true, true
	checkpoint := func(n, position int) *store.Batch {
		return &store.Batch{Checkpoints: []store.Checkpoint{{Name: fmt.Sprint("job ", n), Position: store.Position(position)}}}
	}
	read := events("a pipeline that is decided on what is read", 1, func(n int, b *store.Batch) {
		b.Claim = []store.Claim{{Space: "s", Value: fmt.Sprint(n)}}
	})
	copied := events("a script that is decided on what is read", postgres.ScriptEventsMin, func(n int, b *store.Batch) {
		b.Claim = []store.Claim{{Space: "s", Value: fmt.Sprint(n)}}
	})
	read.large, copied.large = true, true
	return []*job{
		events("a pipeline that is decided ahead", 1, nil),
		events("a script that is decided ahead", postgres.ScriptEventsMin, nil),
		cold,
		read, copied,
		{
			name: "a checkpoint, of no entity", large: true,
			group: func(n int) []*store.Batch { return []*store.Batch{checkpoint(n, 1)} },
			stored: func(t *testing.T, l *postgres.Log, n int) bool {
				t.Helper()
				all, err := l.Checkpoints(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, b := range all {
					if b.Name == fmt.Sprint("job ", n) {
						return b.Position == 1
					}
				}
				return false
			},
			next: func(n int, _ bool) *store.Batch { return checkpoint(n, 2) },
		},
		{
			name: "a settlement, of no entity", large: true,
			setup: func(n int) *store.Batch {
				return &store.Batch{Key: jobKey(n), Enqueue: []store.Message{{ID: newID(), Type: "test.v1.Message"}}}
			},
			group: func(n int) []*store.Batch {
				return []*store.Batch{{Settle: []store.Settlement{{Sequence: uint64(n + 1)}}}}
			},
			stored: func(t *testing.T, l *postgres.Log, n int) bool {
				t.Helper()
				for m, err := range l.Messages(t.Context(), store.MessageQuery{}) {
					if err != nil {
						t.Fatal(err)
					}
					if m.Source == jobKey(n) {
						return false
					}
				}
				return true
			},
			next: func(n int, _ bool) *store.Batch { return one(jobKey(n), 0, "next") },
		},
	}
}

// A lateness is the step at which the rest of a lost commit arrives.
type lateness int

const (
	never       lateness = iota
	inDoubt              // before the resolver has found the outcome of the commit
	afterDoubt           // after the resolver, which could not reach the server before, has found it
	afterReturn          // after the commit has returned
	afterNext            // after the next commit
	afterOpen            // after the log was closed while in doubt and then opened again
	latenesses
)

func (l lateness) String() string {
	return [...]string{"never", "in doubt", "after the doubt", "after the commit", "after the next commit", "after the log is opened again"}[l]
}

// refuses reports whether the log cannot reach the server before that step.
func (l lateness) refuses() bool { return l == inDoubt || l == afterDoubt || l == afterOpen }

// A trial loses the commits of a job one after the other, and compares each with the answer of the
// log. An acknowledged commit must be stored once. One that is reported as not stored must never be
// stored. If the outcome was unknown, a later read finds it, and it must not change after that.
type trial struct {
	t    *testing.T
	job  *job
	opts []postgres.Option
	p    *pgtest.Proxy
	log  *postgres.Log // through the proxy
	real *postgres.Log // beside it
	late lateness
	n    int
	acks []bool // by number: whether the commit is stored
	said map[string]int
}

func newTrial(t *testing.T, s *pgtest.Server, j *job, opts ...postgres.Option) *trial {
	t.Helper()
	d := s.Database(t)
	x := &trial{t: t, job: j, p: pgtest.NewProxy(t, d), said: make(map[string]int)}
	// A session that holds the lock and waits for the rest of a message is ended soon.
	x.opts = append([]postgres.Option{
		postgres.WithoutProbation(), postgres.WithPoolSize(2), postgres.WithSilence(50*time.Millisecond, 200*time.Millisecond),
	}, opts...)
	var err error
	if x.real, err = postgres.Open(t.Context(), d.URL); err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, x.real)
	x.reopen()
	t.Cleanup(func() { _ = x.log.Close() }) // it may be closed
	return x
}

func (x *trial) reopen() {
	x.t.Helper()
	opts := x.opts
	if x.late.refuses() {
		// The log gives up at once, because it cannot reach the server.
		opts = append(slices.Clip(opts), postgres.WithBounds(30*time.Second, 20*time.Millisecond))
	}
	l, err := postgres.Open(x.t.Context(), x.p.URL(), opts...)
	if err != nil {
		x.t.Fatalf("commit %d: open: %v", x.n, err)
	}
	x.log = l
}

// lose loses the commit after n messages. It reports whether the commit has so many messages.
func (x *trial) lose(messages int) bool {
	t, j, late := x.t, x.job, x.late
	t.Helper()
	how := pgtest.Cut
	switch {
	case late.refuses():
		how = pgtest.HoldAndRefuse
	case late != never:
		how = pgtest.Hold
	}
	warm := []*store.Batch{one(key(fmt.Sprint("warm ", x.n)), 0, "warm")}
	if j.setup != nil {
		warm = append(warm, j.setup(x.n))
	}
	if j.cold {
		if err := x.log.Close(); err != nil {
			t.Fatal(err)
		}
		x.reopen()
	} else if _, err := x.log.Commit(t.Context(), warm); err != nil {
		t.Fatalf("commit %d: the one before: %v", x.n, err)
	}
	group := j.group(x.n)
	x.p.Arm(messages, how)
	results, err := x.log.Commit(t.Context(), group)
	for _, r := range results {
		err = errors.Join(err, r.Err)
	}
	deliver := func(at lateness) {
		if at == late {
			for _, l := range x.p.Late() {
				l.Deliver(t)
			}
		}
	}
	deliver(inDoubt)
	deliver(afterReturn)
	if late == afterOpen {
		_ = x.log.Close()
	}
	reached := x.p.Disarm()
	if late == afterOpen {
		x.reopen()
	}
	stored := j.stored(t, x.log, x.n) // waits until the log is not in doubt
	switch {
	case err == nil && !stored:
		t.Fatalf("commit %d, lost at message %d, the rest arrives %v: acknowledged and not stored", x.n, messages, late)
	case errors.Is(err, store.ErrNotStored) && stored:
		t.Fatalf("commit %d, lost at message %d, the rest arrives %v: %v; but it is stored", x.n, messages, late, err)
	case err == nil:
		x.said["stored"]++
	case errors.Is(err, store.ErrNotStored):
		x.said["not stored"]++
	default:
		x.said["unknown"]++
	}
	x.acks = append(x.acks, stored)
	deliver(afterDoubt)
	deliver(afterOpen)
	x.unchanged(messages)
	if next := j.next(x.n, stored); next != nil {
		if err := commitOne(t.Context(), x.log, next); err != nil {
			t.Fatalf("commit %d, lost at message %d, the rest arrives %v: the next one: %v", x.n, messages, late, err)
		}
	}
	if j.setup == nil && j.group(x.n)[0].Key.IsZero() {
		x.acks[x.n] = false // the next one has taken its place
	}
	deliver(afterNext)
	x.unchanged(messages)
	x.n++
	return reached
}

// unchanged checks that the outcome of the last commit is still the one found before.
func (x *trial) unchanged(messages int) {
	x.t.Helper()
	if stored := x.job.stored(x.t, x.real, x.n); stored != x.acks[x.n] {
		x.t.Fatalf("commit %d, lost at message %d, was stored: %t; after its rest has arrived %v: %t",
			x.n, messages, x.acks[x.n], x.late, stored)
	}
}

// end checks all commits a last time.
func (x *trial) end() {
	x.t.Helper()
	for n, want := range x.acks {
		if stored := x.job.stored(x.t, x.real, n); stored != want {
			x.t.Errorf("at the end, commit %d is stored: %t, want %t", n, stored, want)
		}
	}
	next := store.Position(1)
	for e, err := range x.real.Scan(context.WithoutCancel(x.t.Context()), store.Query{}) {
		if err != nil {
			x.t.Fatalf("scan: %v", err)
		}
		if e.Position != next {
			x.t.Fatalf("scan: got position %v, want %v", e.Position, next)
		}
		next++
	}
	if f := faults(x.t, x.real); f != "" {
		x.t.Error(f)
	}
}

// TestLostCommit loses the connection of a commit at each of its messages, in both directions. The
// rest of the client's bytes arrives at each later step.
func TestLostCommit(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, "fsync = off") // it does not crash
	for _, j := range jobs() {
		t.Run(j.name, func(t *testing.T) {
			t.Parallel()
			stride := 1
			if j.large {
				stride = 5
			}
			if testing.Short() {
				stride = 11
			}
			x := newTrial(t, s, j)
			const messagesMax = 1000
			for x.late = range latenesses {
				if err := x.log.Close(); err != nil {
					t.Fatal(err)
				}
				x.reopen()
				messages, stride := 0, stride
				if x.late == afterOpen { // which takes long, as half a message holds the lock for a while
					stride *= 4
				}
				for ; x.lose(messages); messages += stride {
					if messages > messagesMax {
						t.Fatalf("a commit has more than %d messages", messagesMax)
					}
				}
				if messages < 3 {
					t.Errorf("the rest arrives %v: a commit has %d messages", x.late, messages)
				}
			}
			t.Logf("of %d commits %v were told", x.n, x.said)
			x.end()
		})
	}
}
