package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
	"github.com/perdure/perdure/stream/streamtest"
)

// prune makes a snapshot of an entity and deletes all of its events but the last.
func (w *writer) prune(key store.Key) {
	w.tb.Helper()
	version := w.at[key]
	results, err := w.log.Commit(context.Background(), []*store.Batch{{Key: key, Expected: version, Snapshot: &store.State{ID: store.ID{1}, Type: "x.State"}}})
	if err == nil {
		err = results[0].Err
	}
	if err == nil {
		_, err = w.log.DeleteEvents(context.Background(), key, version, ^store.Position(0))
	}
	if err != nil {
		w.tb.Fatal(err)
	}
}

// readTo reads up to a position and returns the events and notices.
func readTo(t *testing.T, hub *stream.Hub, q store.Query, between func(at store.Position)) (got []store.Position, notices []*stream.DeletedError) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for e, err := range hub.Follow(ctx, q) {
		var notice *stream.DeletedError
		switch {
		case errors.As(err, &notice):
			notices = append(notices, notice)
		case errors.Is(err, context.DeadlineExceeded):
			return got, notices
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, e.Position)
			between(e.Position)
		}
	}
	return got, notices
}

// pass advances the clock of a synctest bubble.
func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // it is the time of the bubble

func TestReaderIsToldOfDeletedEvents(t *testing.T) {
	t.Parallel()
	shelf := store.Key{Kind: "shelf", ID: "s"}
	run := func(name string, do func(t *testing.T, w *writer)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { do(t, newWriter(t, memory.New(), 50*time.Millisecond)) })
		})
	}
	want := func(t *testing.T, notices []*stream.DeletedError, wanted ...stream.DeletedError) {
		t.Helper()
		if len(notices) != len(wanted) {
			t.Fatalf("got the notices %v, want %d", notices, len(wanted))
		}
		for i, n := range notices {
			w := &wanted[i]
			if n.After != w.After || n.Through != w.Through || !slices.Equal(n.Kinds, w.Kinds) || !errors.Is(n, stream.ErrDeleted) {
				t.Errorf("got the notice %+v, want %+v", n, w)
			}
		}
	}
	idle := func(store.Position) {}
	run("but not if it begins at the beginning", func(t *testing.T, w *writer) {
		w.write(book("a"), 5)
		w.prune(book("a"))
		got, notices := readTo(t, w.hub, store.Query{}, idle)
		want(t, notices)
		if !slices.Equal(got, []store.Position{5}) {
			t.Errorf("got the events at %v, want what is kept, 5", got)
		}
	})
	run("when it begins at a position with deleted ones above", func(t *testing.T, w *writer) {
		w.write(book("a"), 5)
		w.prune(book("a"))
		got, notices := readTo(t, w.hub, store.Query{After: 2}, idle)
		want(t, notices, stream.DeletedError{After: 2, Through: 4, Kinds: []string{"book"}})
		if !slices.Equal(got, []store.Position{5}) {
			t.Errorf("got the events at %v, want what is kept, 5", got)
		}
		_, notices = readTo(t, w.hub, store.Query{After: 4}, idle)
		want(t, notices)
	})
	run("of the kinds that it selects", func(t *testing.T, w *writer) {
		w.write(book("a"), 5)
		w.write(shelf, 5)
		w.prune(shelf)
		_, notices := readTo(t, w.hub, store.Query{After: 2, Kinds: []string{"book", "other"}}, idle)
		want(t, notices)
		w.prune(book("a"))
		_, notices = readTo(t, w.hub, store.Query{After: 2}, idle)
		want(t, notices, stream.DeletedError{After: 2, Through: 9, Kinds: []string{"book", "shelf"}})
		for key, told := range map[store.Key]int{book("b"): 1, shelf: 1, {Kind: "other", ID: "x"}: 0} {
			n := 0
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			for _, err := range w.hub.Commits(ctx, stream.Query{Query: store.Query{After: 2}, Keys: []store.Key{key}}) {
				if errors.Is(err, stream.ErrDeleted) {
					n++
				}
			}
			cancel()
			if n != told {
				t.Errorf("a reader of %v alone: got %d notices, want %d", key, n, told)
			}
		}
	})
	run("while it reads", func(t *testing.T, w *writer) {
		w.commit(book("a"), make([]store.Event, 1)...)
		got, notices := readTo(t, w.hub, store.Query{}, func(at store.Position) {
			if at == 1 { // these events are not published, so they are read from the log
				w.commit(book("a"), make([]store.Event, 9)...)
				w.prune(book("a"))
			}
		})
		if !slices.Equal(got, []store.Position{1, 10}) || len(notices) != 1 || notices[0].Through != 9 {
			t.Errorf("got the events at %v and the notices %v, want 1 and 10 and a notice through 9", got, notices)
		}
	})
	run("once the log says what was deleted", func(t *testing.T, w *writer) {
		mute := &mute{Log: w.log.(*memory.Log)}
		w = newWriter(t, mute, 50*time.Millisecond)
		w.commit(book("a"), make([]store.Event, 1)...)
		got, notices := readTo(t, w.hub, store.Query{}, func(at store.Position) {
			if at == 1 {
				w.commit(book("a"), make([]store.Event, 9)...)
				w.prune(book("a"))
				mute.fails.Store(3)
			}
		})
		if !slices.Equal(got, []store.Position{1, 10}) || len(notices) != 1 || notices[0].After != 0 || mute.fails.Load() > 0 {
			t.Errorf("got the events at %v and the notices %v, with %d failures to come, want 1 and 10 and a notice", got, notices, mute.fails.Load())
		}
	})
	run("unless the log cannot say", func(t *testing.T, w *writer) {
		mute := &mute{Log: w.log.(*memory.Log)}
		mute.fails.Store(-1)
		w = newWriter(t, mute, 50*time.Millisecond)
		w.write(book("a"), 5)
		w.prune(book("a"))
		got, notices := readTo(t, w.hub, store.Query{After: 2}, idle)
		want(t, notices)
		if !slices.Equal(got, []store.Position{5}) {
			t.Errorf("got the events at %v, want 5", got)
		}
	})
	run("as a subscription, which goes on", func(t *testing.T, w *writer) {
		w.write(book("a"), 5)
		w.write(shelf, 5)
		commitMarks(t, w.log, store.Checkpoint{Name: "subscription/s", Position: 1})
		w.prune(book("a"))
		w.prune(shelf)
		s := w.subscribe(stream.SubscriptionConfig{})
		_, err := s.Next(t.Context())
		var notice *stream.DeletedError
		if !errors.As(err, &notice) {
			t.Fatalf("the first answer: got %v, want a notice", err)
		}
		want(t, []*stream.DeletedError{notice}, stream.DeletedError{After: 1, Through: 9, Kinds: []string{"book", "shelf"}})
		d := next(t, s)
		if d.Events[0].Position != 5 {
			t.Errorf("the first delivery: got position %v, want 5", d.Events[0].Position)
		}
	})
}

// A mute log returns an error from Deleted, for the set number of calls. Below zero it
// returns ErrUnsupported.
type mute struct {
	*memory.Log
	fails atomic.Int32
}

func (m *mute) Deleted(ctx context.Context) ([]store.Deletion, error) {
	if m.fails.Load() < 0 {
		return nil, errors.ErrUnsupported
	}
	if m.fails.Load() > 0 {
		m.fails.Add(-1)
		return nil, errLost
	}
	return m.Log.Deleted(ctx)
}

// A gone log cannot be read while the test has set it so.
type gone struct {
	*memory.Log
	fails atomic.Bool
	reads atomic.Int32 // number of failed reads
}

func (g *gone) Heads(ctx context.Context) ([]store.Position, error) {
	if g.fails.Load() {
		g.reads.Add(1)
		return nil, errLost
	}
	return g.Log.Heads(ctx)
}

func (g *gone) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	if g.fails.Load() {
		g.reads.Add(1)
		return func(yield func(*store.Event, error) bool) { yield(nil, errLost) }
	}
	return g.Log.Scan(ctx, q)
}

func TestReadersSurviveALogThatIsAwayForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		log := &gone{Log: memory.New()}
		w := newWriter(t, log, 0)
		hub, err := stream.NewHub(t.Context(), stream.Config{Log: log, Poll: time.Second, Logger: slog.New(slog.NewTextHandler(&said, nil))})
		if err != nil {
			t.Fatal(err)
		}
		w.hub = hub
		w.commit(book("a"), make([]store.Event, 2)...)
		s := w.subscribe(stream.SubscriptionConfig{})
		ack(t, s, next(t, s))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := follow(ctx, hub, store.Query{})
		synctest.Wait()
		wantSeen(t, "before", f, 1, 2)
		log.fails.Store(true)
		pass(time.Hour)
		late := follow(ctx, hub, store.Query{After: 1}) // this reader cannot begin
		pass(time.Hour)
		synctest.Wait()
		if err := s.Stats().ReadErr; !errors.Is(err, errLost) || !errors.Is(hub.ReadErr(), errLost) {
			t.Errorf("while the log is away: got the errors %v and %v, want %v", err, hub.ReadErr(), errLost)
		}
		// This is the number of reads of two and a half readers in two hours, each at
		// most once in ten seconds.
		if got := log.reads.Load(); got < 100 || got > 4000 {
			t.Errorf("reads in two hours: got %d, want some, with pauses of ten seconds in the end", got)
		}
		log.fails.Store(false)
		w.commit(book("a"), make([]store.Event, 2)...)
		pass(time.Minute)
		synctest.Wait()
		wantSeen(t, "after", f, 1, 2, 3, 4)
		wantSeen(t, "after, of the late one", late, 2, 3, 4)
		if d := next(t, s); d.Through != 4 || s.Stats().ReadErr != nil || hub.ReadErr() != nil {
			t.Errorf("afterwards: got a delivery through %v and the errors %v and %v, want 4 and none", d.Through, s.Stats().ReadErr, hub.ReadErr())
		}
		if got := strings.Count(said.String(), "level=WARN"); got != 1 || !strings.Contains(said.String(), errLost.Error()) {
			t.Errorf("got %d warnings, want 1 that names the error:\n%s", got, &said)
		}
		if got := strings.Count(said.String(), "level=INFO"); got != 1 {
			t.Errorf("got %d notes that all is well, want 1:\n%s", got, &said)
		}
		cancel()
	})
}

func TestReaderEndsWhereWaitingDoesNotHelp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, end := range []error{store.ErrClosed, store.ErrBroken, store.ErrFormat, store.ErrUnfinished, store.ErrInvalid, &store.CorruptError{What: "event"}} {
			log := &brokenLog{Log: memory.New()}
			w := newWriter(t, log, 0)
			w.write(book("a"), 1)
			log.scan = end
			for _, err := range w.hub.Follow(t.Context(), store.Query{}) {
				if !errors.Is(err, end) {
					t.Errorf("got %v, want %v", err, end)
				}
			}
		}
	})
}

func TestSaveIsRepeatedWithPausesAfterAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 1)
		f := &flaky{Checkpoints: stream.LogCheckpoints(w.log)}
		s := w.subscribe(stream.SubscriptionConfig{SaveEvery: 1, SaveAfter: time.Minute, Checkpoints: f})
		f.fails.Store(true)
		before := f.saves.Load()
		for range 3600 { // each round has a new position to save
			w.write(book("a"), 1)
			ack(t, s, next(t, s))
			pass(time.Second)
		}
		if got := f.saves.Load() - before; got < 50 || got > 62 {
			t.Errorf("saves in an hour, a minute after each that fails: got %d, want about 60", got)
		}
		f.fails.Store(false)
	})
}

func TestFirstPositionIsSavedBeforeTheFirstDelivery(t *testing.T) {
	t.Parallel()
	for _, fromHead := range []bool{false, true} {
		for _, outside := range []bool{false, true} {
			log := memory.New(memory.WithPartitions(2))
			w := newWriter(t, log, 0)
			part := store.PartitionOf(book("a"), 2)
			w.write(book("a"), 2)
			var checkpoints stream.Checkpoints
			if outside {
				checkpoints = new(streamtest.Elsewhere)
			}
			w.subscribe(stream.SubscriptionConfig{FromHead: fromHead, Checkpoints: checkpoints})
			want := []string{"subscription/s@0", "subscription/s@1:0"}
			if fromHead {
				want[part] = "subscription/s@" + store.NewPosition(part, 2).String()
			}
			wantMarks(t, "after Subscribe", log, want...)
		}
	}
}

func TestCheckpointsElsewhereHoldTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := memory.New()
		w := newWriter(t, log, 0)
		elsewhere := &flaky{Checkpoints: new(streamtest.Elsewhere)}
		open := func() *stream.Subscription {
			return w.subscribe(stream.SubscriptionConfig{Checkpoints: elsewhere})
		}
		s := open()
		for range 5 {
			w.write(book("a"), 1)
		}
		ack(t, s, next(t, s), next(t, s))
		elsewhere.fails.Store(true)
		pass(time.Minute)
		wantMarks(t, "while nothing is saved", log, "subscription/s@0")
		elsewhere.fails.Store(false)
		pass(time.Minute)
		wantMarks(t, "once it is", log, "subscription/s@2")
		ack(t, s, next(t, s))
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantMarks(t, "after Close", log, "subscription/s@3")

		// An operator removes the checkpoint by mistake, and events are deleted.
		s = open()
		synctest.Wait() // the reader has read all events
		if err := readersOf(t, log).Remove(t.Context(), "subscription/s"); err != nil {
			t.Fatal(err)
		}
		w.prune(book("a"))
		ack(t, s, next(t, s))
		pass(time.Minute)
		wantMarks(t, "after it was removed", log, "subscription/s@4")
		if _, err := s.Next(t.Context()); !errors.Is(err, stream.ErrDeleted) {
			t.Errorf("after it was removed: got %v, want %v", err, stream.ErrDeleted)
		}
	})
}

func TestSubscriptionNoticesThatItsLogWasReplaced(t *testing.T) {
	t.Parallel()
	old := newWriter(t, memory.New(), 0)
	old.write(book("a"), 3)
	elsewhere := new(streamtest.Elsewhere)
	s := old.subscribe(stream.SubscriptionConfig{Checkpoints: elsewhere})
	ack(t, s, next(t, s))
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	subscribe := func(log store.Log, c stream.Checkpoints) error {
		w := newWriter(t, log, 0)
		s, err := w.hub.Subscribe(t.Context(), stream.SubscriptionConfig{Name: "s", Checkpoints: c})
		if err == nil {
			err = s.Close(t.Context())
		}
		return err
	}
	shorter, other := newWriter(t, memory.New(), 0), newWriter(t, memory.New(), 0)
	shorter.write(book("a"), 2)
	other.ids = 100
	other.write(book("a"), 9)
	without := &flaky{Checkpoints: elsewhere} // these checkpoints keep no proofs
	for _, c := range []struct {
		name        string
		log         store.Log
		checkpoints stream.Checkpoints
		want        error
	}{
		{"the same log", old.log, elsewhere, nil},
		{"a shorter log", shorter.log, elsewhere, stream.ErrReplaced},
		{"a log with other events", other.log, elsewhere, stream.ErrReplaced},
		{"a shorter log, without proofs", shorter.log, without, stream.ErrReplaced},
	} {
		if err := subscribe(c.log, c.checkpoints); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// A sealed log takes no commits, like a log that is open for reading only.
type sealed struct{ *memory.Log }

func (sealed) Commit(context.Context, []*store.Batch) ([]store.Result, error) {
	return nil, fmt.Errorf("commit: %w: %w", store.ErrNotStored, errors.ErrUnsupported)
}

func TestLogThatTakesNoCommitsIsReadAllTheSame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 3)
		hub, err := stream.NewHub(t.Context(), stream.Config{Log: sealed{w.log.(*memory.Log)}, Poll: time.Second, Register: true})
		if err != nil {
			t.Fatal(err)
		}
		got, notices := readTo(t, hub, store.Query{}, func(at store.Position) {
			if at == 3 {
				w.write(book("a"), 2)
			}
		})
		if !slices.Equal(got, []store.Position{1, 2, 3, 4, 5}) || len(notices) != 0 {
			t.Errorf("got the events at %v and the notices %v, want five and none", got, notices)
		}
		if err := hub.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
