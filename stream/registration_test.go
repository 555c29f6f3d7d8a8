package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/perdure/perdure/internal/testlog"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// A doubtful log loses answers: it stores a commit and returns an error.
type doubtful struct {
	*memory.Log
	lose atomic.Int32 // number of answers to lose
}

var errLost = errors.New("connection reset by peer")

func (d *doubtful) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	results, err := d.Log.Commit(ctx, group)
	if err == nil && d.lose.Add(-1) >= 0 {
		return nil, errLost
	}
	return results, err
}

func readersOf(t *testing.T, log store.Log) *stream.Readers {
	t.Helper()
	return stream.NewReaders(log)
}

func register(t *testing.T, log store.Log, name, id string, positions ...store.Position) *stream.Registration {
	t.Helper()
	g, err := readersOf(t, log).Register(t.Context(), name, id, positions...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func move(t *testing.T, g *stream.Registration, positions ...store.Position) {
	t.Helper()
	if err := g.Move(t.Context(), positions...); err != nil {
		t.Fatal(err)
	}
}

// wantMarks fails the test unless the log has exactly these checkpoints, each written as
// name@position.
func wantMarks(t *testing.T, when string, log store.Checkpoints, want ...string) {
	t.Helper()
	marks, err := log.Checkpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range marks {
		got = append(got, fmt.Sprintf("%s@%v", m.Name, m.Position))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: got the checkpoints %q, want %q", when, got, want)
	}
}

func TestRegisteredReaders(t *testing.T) {
	t.Parallel()
	run := func(name string, do func(t *testing.T, log *memory.Log)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			do(t, memory.New(memory.WithPartitions(3)))
		})
	}
	one := func(n uint64) store.Position { return store.NewPosition(1, n) }
	run("have their checkpoint at the lowest of their instances", func(t *testing.T, log *memory.Log) {
		a := register(t, log, "sums", "a", 0)
		wantMarks(t, "after the first", log, "sums@0")
		b := register(t, log, "sums", "b", 0)
		move(t, b, 13)
		move(t, a, 3)
		wantMarks(t, "with one at 3 and one at 13", log, "sums@3")
		move(t, a, 20)
		wantMarks(t, "with one at 20 and one at 13", log, "sums@13")
		move(t, a, 2)
		wantMarks(t, "with one that has gone back to 2", log, "sums@2")
		register(t, log, "sums", "a", 5) // after a restart
		wantMarks(t, "with one that has begun again at 5", log, "sums@5")
	})
	run("have a checkpoint for each partition", func(t *testing.T, log *memory.Log) {
		g := register(t, log, "sums", "a", 4, one(7))
		move(t, g, one(8))
		wantMarks(t, "after a move in one", log, "sums@4", "sums@1:8")
		register(t, log, "sums", "b", store.NewPosition(2, 0), one(1))
		wantMarks(t, "with another in two", log, "sums@4", "sums@1:1", "sums@2:0")
		register(t, log, "sums", "b", store.NewPosition(2, 9))
		wantMarks(t, "when the other reads one no more", log, "sums@4", "sums@1:8", "sums@2:9")
	})
	run("hold nothing once they are removed", func(t *testing.T, log *memory.Log) {
		a, b := register(t, log, "sums", "a", 3), register(t, log, "sums", "b", 13)
		if err := a.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantMarks(t, "without the lower one", log, "sums@13")
		for range 2 {
			if err := b.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		wantMarks(t, "without both", log)
		if err := b.Move(t.Context(), 14); !errors.Is(err, stream.ErrUnregistered) {
			t.Errorf("move of one that was removed: got %v, want %v", err, stream.ErrUnregistered)
		}
		wantMarks(t, "after that", log)
		register(t, log, "sums", "b", 14)
		wantMarks(t, "after it has registered again", log, "sums@14")
	})
	run("are told when their name is removed", func(t *testing.T, log *memory.Log) {
		g := register(t, log, "sums", "a", 3, one(3))
		move(t, g, 4)
		readers := readersOf(t, log)
		if err := readers.Remove(t.Context(), "sums"); err != nil {
			t.Fatal(err)
		}
		wantMarks(t, "after the removal", log)
		if err := g.Move(t.Context(), 5); !errors.Is(err, stream.ErrUnregistered) {
			t.Errorf("move: got %v, want %v", err, stream.ErrUnregistered)
		}
		if err := readers.Remove(t.Context(), "sums"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("removal again: got %v, want %v", err, store.ErrNotFound)
		}
	})
	run("take the place of a checkpoint without instances", func(t *testing.T, log *memory.Log) {
		commitMarks(t, log, store.Checkpoint{Name: "sums", Position: 3})
		g := register(t, log, "sums", "a", 7)
		wantMarks(t, "after the first instance", log, "sums@7")
		move(t, g, 8)
		wantMarks(t, "and its move", log, "sums@8")
	})
	run("are listed with their instances, and other checkpoints too", func(t *testing.T, log *memory.Log) {
		commitMarks(t, log, store.Checkpoint{Name: "by hand", Position: 3})
		register(t, log, "sums", "a", 3, one(3))
		register(t, log, "sums", "b", 2)
		all, err := readersOf(t, log).List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range all {
			got = append(got, fmt.Sprint(r.Name, r.Positions))
			if r.Moved.IsZero() {
				t.Errorf("%s: the time of its last move is zero", r.Name)
			}
			for _, i := range r.Instances {
				got = append(got, fmt.Sprint(i.ID, i.Positions))
				if i.Moved.IsZero() || i.Process == "" {
					t.Errorf("instance %s: got the time %v and the process %q, want both", i.ID, i.Moved, i.Process)
				}
			}
		}
		if want := []string{"by hand[3]", "sums[2 1:3]", "a[3 1:3]", "b[2]"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	run("move only what has moved", func(t *testing.T, log *memory.Log) {
		g := register(t, log, "sums", "a", 3)
		before := claims(t, log, stream.ReaderKind)
		move(t, g, 3)
		move(t, g)
		if after := claims(t, log, stream.ReaderKind); after != before {
			t.Errorf("version of the reader after moves to where it is: got %d, want %d", after, before)
		}
	})
	run("need a name, an instance and a log with checkpoints", func(t *testing.T, log *memory.Log) {
		for _, names := range [][2]string{{"", "a"}, {"a\x00", "a"}, {"sums", ""}} {
			if _, err := readersOf(t, log).Register(t.Context(), names[0], names[1], 0); !errors.Is(err, store.ErrInvalid) {
				t.Errorf("register %q: got %v, want %v", names, err, store.ErrInvalid)
			}
		}
		if _, err := stream.NewReaders(testlog.Bare(log)).Register(t.Context(), "sums", "a", 0); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("a log without checkpoints: got %v, want %v", err, errors.ErrUnsupported)
		}
	})
}

func commitMarks(t *testing.T, log store.Log, marks ...store.Checkpoint) {
	t.Helper()
	results, err := log.Commit(t.Context(), []*store.Batch{{Checkpoints: marks}})
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		t.Fatal(err)
	}
}

// claims returns the sum of the versions of all entities of a kind.
func claims(t *testing.T, log store.Catalog, kind string) (sum store.Version) {
	t.Helper()
	for e, err := range log.Entities(t.Context(), kind, "") {
		if err != nil {
			t.Fatal(err)
		}
		sum += e.Version
	}
	return sum
}

func TestInstancesThatChangeAtOnceAreAllKept(t *testing.T) {
	t.Parallel()
	log := memory.New(memory.Shared())
	const replicas, moves = 8, 50
	var wait sync.WaitGroup
	for i := range replicas {
		wait.Go(func() {
			g, err := stream.NewReaders(log).Register(t.Context(), "sums", fmt.Sprint(i), 0)
			for n := 1; n <= moves && err == nil; n++ {
				err = g.Move(t.Context(), store.Position(100*i+n))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	wantMarks(t, "after all moves", log, fmt.Sprintf("sums@%d", moves))
	all, err := readersOf(t, log).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all[0].Instances {
		var n int
		if _, err := fmt.Sscan(i.ID, &n); err != nil || i.Positions[0] != store.Position(100*n+moves) {
			t.Errorf("instance %s: got position %v, want %d", i.ID, i.Positions, 100*n+moves)
		}
	}
	if len(all[0].Instances) != replicas {
		t.Errorf("got %d instances, want %d", len(all[0].Instances), replicas)
	}
}

func TestMoveWithoutAnAnswerIsMadeGoodByTheNext(t *testing.T) {
	t.Parallel()
	log := &doubtful{Log: memory.New()}
	g := register(t, log, "sums", "a", 0)
	log.lose.Store(1)
	if err := g.Move(t.Context(), 5); !errors.Is(err, errLost) {
		t.Fatalf("got %v, want %v", err, errLost)
	}
	move(t, g, 6)
	wantMarks(t, "after the next move", log, "sums@6")
}

func TestSubscriptionWhoseNameIsRemovedIsFenced(t *testing.T) {
	t.Parallel()
	log := memory.New()
	checkpoint, _, err := stream.LogCheckpoints(log).Claim(t.Context(), "mails")
	if err != nil {
		t.Fatal(err)
	}
	if err := checkpoint.Save(t.Context(), []store.Position{0}); err != nil {
		t.Fatal(err)
	}
	if err := readersOf(t, log).Remove(t.Context(), stream.CheckpointPrefix+"mails"); err != nil {
		t.Fatal(err)
	}
	wantMarks(t, "after the removal", log)
	if err := checkpoint.Save(t.Context(), []store.Position{1}); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("save after the removal: got %v, want %v", err, stream.ErrFenced)
	}
	wantMarks(t, "after that", log)
}

func TestSaveWithoutAnAnswerFencesNoOther(t *testing.T) {
	t.Parallel()
	log := &doubtful{Log: memory.New()}
	checkpoint, _, err := stream.LogCheckpoints(log).Claim(t.Context(), "mails")
	if err != nil {
		t.Fatal(err)
	}
	for n := range store.Position(4) {
		log.lose.Store(int32(n % 2)) // the answer of every second save is lost
		err := checkpoint.Save(t.Context(), []store.Position{n})
		if n%2 == 1 && !errors.Is(err, errLost) || n%2 == 0 && err != nil {
			t.Fatalf("save %d: got %v", n, err)
		}
		wantMarks(t, "after a save", log, fmt.Sprintf("subscription/mails@%d", n))
	}
	rival, _, err := stream.LogCheckpoints(log).Claim(t.Context(), "mails")
	if err != nil {
		t.Fatal(err)
	}
	if err := checkpoint.Save(t.Context(), []store.Position{9}); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("save after a rival has claimed the name: got %v, want %v", err, stream.ErrFenced)
	}
	log.lose.Store(1)
	if err := rival.Save(t.Context(), []store.Position{5}); !errors.Is(err, errLost) {
		t.Fatalf("save of the rival: got %v, want %v", err, errLost)
	}
	if err := checkpoint.Save(t.Context(), []store.Position{9}); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("and once more: got %v, want %v", err, stream.ErrFenced)
	}
}
