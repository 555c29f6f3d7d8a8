package stream_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
	"github.com/perdure/perdure/stream/streamtest"
)

// TestSubscriptionAtTheBeginningIsToldOfDeletions opens a subscription that has
// acknowledged no commit when an operator removes its checkpoint by mistake. Then events
// that it has not read are deleted below the highest position of an earlier deletion,
// so that only the time of the record shows the later one.
func TestSubscriptionAtTheBeginningIsToldOfDeletions(t *testing.T) {
	t.Parallel()
	for name, acked := range map[string]int{"nothing_is_acknowledged": 0, "something_is_acknowledged": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				log := memory.New()
				w := newWriter(t, log, 0)
				for range 10 {
					w.write(book("a"), 1)
				}
				w.write(book("b"), 10)
				w.prune(book("b")) // through 19
				s := w.subscribe(stream.SubscriptionConfig{Checkpoints: new(streamtest.Elsewhere), OpenMax: 2})
				first := next(t, s)
				if acked > 0 {
					ack(t, s, first)
					pass(time.Minute)
					first = next(t, s)
				}
				synctest.Wait()
				if err := readersOf(t, log).Remove(t.Context(), "subscription/s"); err != nil {
					t.Fatal(err)
				}
				w.prune(book("a"))
				ack(t, s, first)
				pass(time.Minute)
				for {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					d, err := s.Next(ctx)
					cancel()
					if errors.Is(err, stream.ErrDeleted) {
						return
					}
					if err != nil {
						t.Fatalf("got %v, want %v", err, stream.ErrDeleted)
					}
					ack(t, s, d)
				}
			})
		})
	}
}

// TestSubscriptionNeedsNoLogThatTakesCommits opens a subscription whose checkpoints
// are not in the log.
func TestSubscriptionNeedsNoLogThatTakesCommits(t *testing.T) {
	t.Parallel()
	w := newWriter(t, memory.New(), 0)
	w.write(book("a"), 3)
	for _, log := range []store.Log{sealed{w.log.(*memory.Log)}, unmarked{w.log.(*memory.Log)}} {
		r := newWriter(t, log, 0)
		s := r.subscribe(stream.SubscriptionConfig{Checkpoints: new(streamtest.Elsewhere), SaveEvery: 1})
		ack(t, s, next(t, s))
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("%T: %v", log, err)
		}
	}
}

// An unmarked log has the method Checkpoints, which returns ErrUnsupported.
type unmarked struct{ *memory.Log }

func (unmarked) Checkpoints(context.Context) ([]store.Checkpoint, error) {
	return nil, fmt.Errorf("checkpoints: %w", errors.ErrUnsupported)
}

func (u unmarked) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	for _, b := range group {
		if len(b.Checkpoints) > 0 {
			return nil, fmt.Errorf("commit: %w: %w", store.ErrNotStored, errors.ErrUnsupported)
		}
	}
	return u.Log.Commit(ctx, group)
}

func TestLogWithoutCheckpointsCanBePruned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := unmarked{memory.New()}
		w := newWriter(t, log, 0)
		w.write(book("a"), 3)
		hub, err := stream.NewHub(t.Context(), stream.Config{Log: log, Poll: time.Second, Register: true})
		if err != nil {
			t.Fatal(err)
		}
		if keep, err := hub.Keep(t.Context(), 0); err != nil || keep != store.LastPosition(0) {
			t.Errorf("got %v, %v, want to keep nothing", keep, err)
		}
		if got, notices := readTo(t, hub, store.Query{Through: 3}, func(store.Position) {}); len(got) != 3 || len(notices) != 0 {
			t.Errorf("got %v and the notices %v, want three events", got, notices)
		}
		if err := hub.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A moody log returns errors from commits of registrations, or from Deleted, while the
// test has set it so.
type moody struct {
	*memory.Log
	refuses atomic.Bool
	blind   atomic.Bool // Deleted returns an error
}

func (m *moody) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	if m.refuses.Load() && group[0].Key.Kind == stream.ReaderKind {
		return nil, errLost
	}
	return m.Log.Commit(ctx, group)
}

func (m *moody) Deleted(ctx context.Context) ([]store.Deletion, error) {
	if m.blind.Load() {
		return nil, errLost
	}
	return m.Log.Deleted(ctx)
}

// TestCheckpointThatWasRemovedIsSetAgainWhateverFails removes the checkpoint of a subscription,
// and makes the log fail when the subscription notices that.
func TestCheckpointThatWasRemovedIsSetAgainWhateverFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(m *moody) *atomic.Bool{
		"the_commit":                func(m *moody) *atomic.Bool { return &m.refuses },
		"the_look_at_the_deletions": func(m *moody) *atomic.Bool { return &m.blind },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				log := &moody{Log: memory.New()}
				w := newWriter(t, log, 0)
				for range 5 {
					w.write(book("a"), 1)
				}
				s := w.subscribe(stream.SubscriptionConfig{Checkpoints: new(streamtest.Elsewhere)})
				ack(t, s, next(t, s))
				pass(time.Minute)
				wantMarks(t, "before", log, "subscription/s@1")
				if err := readersOf(t, log).Remove(t.Context(), "subscription/s"); err != nil {
					t.Fatal(err)
				}
				w.prune(book("a"))
				away := fail(log)
				away.Store(true)
				ack(t, s, next(t, s))
				pass(time.Minute)
				if err := s.Stats().SaveErr; !errors.Is(err, errLost) {
					t.Errorf("while the log is away: got %v, want %v", err, errLost)
				}
				away.Store(false)
				pass(time.Minute)
				wantMarks(t, "afterwards", log, "subscription/s@2")
				if _, err := s.Next(t.Context()); !errors.Is(err, stream.ErrDeleted) {
					t.Errorf("afterwards: got %v, want %v", err, stream.ErrDeleted)
				}
			})
		})
	}
}
