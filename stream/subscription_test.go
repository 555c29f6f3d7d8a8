package stream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/internal/testlog"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
	"github.com/perdure/perdure/stream/streamtest"
)

// subscribe opens a subscription named s with its position in the log.
func (w *writer) subscribe(c stream.SubscriptionConfig) *stream.Subscription {
	w.tb.Helper()
	c.Name = "s"
	if c.Checkpoints == nil {
		c.Checkpoints = stream.LogCheckpoints(w.log)
	}
	s, err := w.hub.Subscribe(w.tb.Context(), c)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { // most tests close it themselves
		if err := s.Close(context.Background()); err != nil && !errors.Is(err, stream.ErrFenced) {
			w.tb.Errorf("close at the end: %v", err)
		}
	})
	return s
}

func next(t testing.TB, s *stream.Subscription) *stream.Delivery {
	t.Helper()
	d, err := s.Next(t.Context())
	if err != nil {
		t.Fatalf("next: %v", err)
	}
	return d
}

// nothing fails the test if a delivery comes within the time d, by the clock of the
// bubble.
func nothing(t testing.TB, s *stream.Subscription, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if d, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got the delivery %+v with %v, want none for now", d, err)
	}
}

func ack(t testing.TB, s *stream.Subscription, deliveries ...*stream.Delivery) {
	t.Helper()
	if err := s.Ack(deliveries...); err != nil {
		t.Errorf("ack: %v", err)
	}
}

func nack(t testing.TB, d *stream.Delivery, delay time.Duration) {
	t.Helper()
	if err := d.Nack(t.Context(), delay, errRefused); err != nil {
		t.Errorf("nack: %v", err)
	}
}

var errRefused = errors.New("refused")

// saved returns the checkpoint of the subscription s in partition 0.
func (w *writer) saved() store.Position {
	w.tb.Helper()
	marks, err := w.log.Checkpoints(context.Background())
	if err != nil {
		w.tb.Fatal(err)
	}
	for _, m := range marks {
		if m.Name == stream.CheckpointPrefix+"s" && m.Position.Partition() == 0 {
			return m.Position
		}
	}
	return 0
}

func TestPositionMovesOverAGaplessPrefixOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		for range 5 {
			w.write(book("a"), 2)
		}
		s := w.subscribe(stream.SubscriptionConfig{})
		var d []*stream.Delivery
		for range 5 {
			d = append(d, next(t, s))
		}
		at := func(want store.Position) {
			t.Helper()
			if got := s.Stats().Positions[0]; got != want {
				t.Errorf("position: got %v, want %v", got, want)
			}
		}
		ack(t, s, d[1], d[3])
		at(0)
		ack(t, s, d[0])
		at(4)
		ack(t, s, d[4])
		at(4)
		ack(t, s, d[2])
		at(10)
	})
}

func TestPositionIsSavedLazilyAndOnClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		for range 20 {
			w.write(book("a"), 1)
		}
		s := w.subscribe(stream.SubscriptionConfig{SaveEvery: 4, SaveAfter: time.Minute})
		saved := func(what string, want store.Position) {
			t.Helper()
			synctest.Wait()
			if got := w.saved(); got != want {
				t.Errorf("saved %s: got %v, want %v", what, got, want)
			}
		}
		for range 3 {
			ack(t, s, next(t, s))
		}
		saved("after three", 0)
		ack(t, s, next(t, s))
		saved("after four", 4)
		ack(t, s, next(t, s))
		saved("after one more", 4)
		<-time.After(59 * time.Second)
		saved("a little before the time", 4)
		<-time.After(time.Second)
		saved("after the time", 5)
		ack(t, s, next(t, s))
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		saved("after closing", 6)
	})
}

func TestSubscriptionRepeatsCommitsAboveTheSavedPosition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		for range 6 {
			w.write(book("a"), 1)
		}
		s := w.subscribe(stream.SubscriptionConfig{SaveEvery: 2, SaveAfter: time.Hour})
		for range 3 {
			ack(t, s, next(t, s))
			synctest.Wait()
		}
		again := w.subscribe(stream.SubscriptionConfig{}) // the first subscription does nothing more, as after a crash
		for want := store.Position(3); want <= 6; want++ {
			if d := next(t, again); d.Through != want || d.Attempt != 1 {
				t.Errorf("after a crash: got attempt %d of %v, want the first of %v", d.Attempt, d.Through, want)
			}
		}
	})
}

func TestRefusedCommitComesAgainAfterItsDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 2)
		w.write(book("b"), 1)
		s := w.subscribe(stream.SubscriptionConfig{})
		first := next(t, s)
		nack(t, first, time.Minute)
		ack(t, s, next(t, s)) // other deliveries go on
		nothing(t, s, 59*time.Second)
		d := next(t, s)
		if d.Through != first.Through || d.Attempt != 2 || !errors.Is(d.Cause, errRefused) || len(d.Events) != 2 {
			t.Errorf("got attempt %d of %v with cause %v, want the second of %v with %v", d.Attempt, d.Through, d.Cause, first.Through, errRefused)
		}
		if got := s.Stats().Positions[0]; got != 0 {
			t.Errorf("position before it is acknowledged: got %v, want 0", got)
		}
		for what, err := range map[string]error{"ack": first.Ack(), "nack": first.Nack(t.Context(), 0, nil), "ack through": first.AckThrough()} {
			if !errors.Is(err, stream.ErrAcked) {
				t.Errorf("%s of the first attempt: got %v, want %v", what, err, stream.ErrAcked)
			}
		}
		ack(t, s, d)
		if got := s.Stats().Positions[0]; got != 3 {
			t.Errorf("position: got %v, want 3", got)
		}
		if err := d.Ack(); !errors.Is(err, stream.ErrAcked) {
			t.Errorf("second acknowledgement: got %v, want %v", err, stream.ErrAcked)
		}
	})
}

func TestSubscriptionStopsAtACommitThatIsRefusedTooOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 1)
		w.write(book("b"), 1)
		w.write(book("c"), 1)
		s := w.subscribe(stream.SubscriptionConfig{AttemptsMax: 3})
		ack(t, s, next(t, s))
		for range 3 {
			d := next(t, s)
			for d.Through != 2 {
				d = next(t, s)
			}
			nack(t, d, time.Second)
			<-time.After(time.Second)
		}
		_, err := s.Next(t.Context())
		var exhausted *stream.ExhaustedError
		if !errors.As(err, &exhausted) || !errors.Is(err, stream.ErrExhausted) || !errors.Is(err, errRefused) ||
			exhausted.Position != 2 || exhausted.Attempts != 3 || exhausted.Key != book("b") {
			t.Fatalf("got %v, want the end of the attempts at position 2", err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.saved(); got != 1 {
			t.Errorf("saved: got %v, want 1", got)
		}
	})
}

func TestDeadLetterDecidesAfterTooManyRefusals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 1)
		w.write(book("b"), 1)
		var letters []string
		s := w.subscribe(stream.SubscriptionConfig{AttemptsMax: 2, DeadLetter: func(_ context.Context, d *stream.Delivery, cause error) error {
			letters = append(letters, fmt.Sprintf("%v %d %v", d.Through, d.Attempt, cause))
			if len(letters) < 3 {
				return errors.New("no room")
			}
			return nil
		}})
		for range 6 {
			nack(t, next(t, s), 0)
		}
		want := []string{"1 2 refused", "1 3 refused", "1 4 refused", "2 2 refused"}
		if !slices.Equal(letters, want) {
			t.Errorf("dead letters: got %q, want %q", letters, want)
		}
	})
}

func TestSkippedCommitsCountAsAcknowledged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 1)
		w.write(book("b"), 1)
		s := w.subscribe(stream.SubscriptionConfig{AttemptsMax: 1, DeadLetter: stream.Skip})
		nack(t, next(t, s), time.Hour)
		ack(t, s, next(t, s))
		if got := s.Stats().Positions[0]; got != 2 {
			t.Errorf("position: got %v, want 2", got)
		}
	})
}

func TestDeadLetterThatPanicsLeavesTheSubscriptionUsable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 1)
		w.write(book("b"), 1)
		s := w.subscribe(stream.SubscriptionConfig{AttemptsMax: 1, DeadLetter: func(context.Context, *stream.Delivery, error) error {
			panic("bug")
		}})
		func() {
			defer func() { _ = recover() }()
			nack(t, next(t, s), 0)
			t.Error("the panic was swallowed")
		}()
		ack(t, s, next(t, s))
		if got := s.Stats().Positions[0]; got != 0 {
			t.Errorf("position: got %v, want 0, since nobody has decided on the first commit", got)
		}
		d := next(t, s)
		if d.Through != 1 || d.Attempt != 2 || d.Cause == nil {
			t.Errorf("the commit that nobody has decided on: got attempt %d of %v with cause %v, want the second", d.Attempt, d.Through, d.Cause)
		}
		ack(t, s, d)
		if got := s.Stats().Positions[0]; got != 2 {
			t.Errorf("position: got %v, want 2", got)
		}
	})
}

func TestAckThroughAcknowledgesWhatCameBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		for range 5 {
			w.write(book("a"), 1)
		}
		s := w.subscribe(stream.SubscriptionConfig{})
		nack(t, next(t, s), time.Hour)
		next(t, s)
		next(t, s)
		d := next(t, s)
		if err := d.AckThrough(); err != nil {
			t.Fatal(err)
		}
		if got, late := s.Stats().Positions[0], s.Stats().Late; got != 4 || late != 0 {
			t.Errorf("position: got %v with %d late, want 4 and none", got, late)
		}
	})
}

func TestOpenCommitsHaveABound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		for range 4 {
			w.write(book("a"), 3)
		}
		w.write(book("a"), 50)
		w.write(book("a"), 1)
		s := w.subscribe(stream.SubscriptionConfig{OpenMax: 6})
		a, b := next(t, s), next(t, s)
		nothing(t, s, time.Hour)
		ack(t, s, b) // b is behind an open commit, so it still counts
		nothing(t, s, time.Hour)
		ack(t, s, a)
		a, b = next(t, s), next(t, s)
		nothing(t, s, time.Hour)
		ack(t, s, a, b)
		large := next(t, s)
		if len(large.Events) != 50 {
			t.Fatalf("got a commit of %d events, want 50", len(large.Events))
		}
		nothing(t, s, time.Hour)
		ack(t, s, large)
		ack(t, s, next(t, s))
	})
}

func TestWithOneOpenCommitRefusedOnesKeepTheirPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		for range 3 {
			w.write(book("a"), 1)
		}
		s := w.subscribe(stream.SubscriptionConfig{OpenMax: 1})
		var got []store.Position
		for range 6 {
			d := next(t, s)
			got = append(got, d.Through)
			if d.Attempt == 1 {
				nack(t, d, time.Minute)
			} else {
				ack(t, s, d)
			}
		}
		if want := []store.Position{1, 1, 2, 2, 3, 3}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestPositionMovesOverEventsThatAreNotSelected(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 3)
		w.write(book("b"), 1)
		w.write(book("a"), 3)
		s := w.subscribe(stream.SubscriptionConfig{Keys: []store.Key{book("b")}})
		d := next(t, s)
		ack(t, s, d)
		w.write(book("a"), 5)
		synctest.Wait()
		if got := s.Stats().Positions[0]; got != 12 {
			t.Errorf("position: got %v, want 12", got)
		}
		<-time.After(time.Second)
		synctest.Wait()
		if got := w.saved(); got != 12 {
			t.Errorf("saved: got %v, want 12", got)
		}
	})
}

func TestSubscriptionThatBeginsAtTheHeadStaysThere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 3)
		s := w.subscribe(stream.SubscriptionConfig{FromHead: true})
		nothing(t, s, time.Minute)
		w.write(book("a"), 1)
		again := w.subscribe(stream.SubscriptionConfig{FromHead: true}) // before any acknowledgement
		if d := next(t, again); d.Through != 4 {
			t.Errorf("after a crash: got %v, want 4", d.Through)
		}
	})
}

func TestSubscriptionFencesAnEarlierOneOfItsName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		for range 4 {
			w.write(book("a"), 1)
		}
		first := w.subscribe(stream.SubscriptionConfig{SaveEvery: 1})
		ack(t, first, next(t, first))
		synctest.Wait()
		second := w.subscribe(stream.SubscriptionConfig{SaveEvery: 1})
		a, b := next(t, first), next(t, second)
		if a.Through != 2 || b.Through != 2 {
			t.Fatalf("got %v and %v, want both to deliver 2", a.Through, b.Through)
		}
		if err := next(t, first).AckThrough(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := first.Next(t.Context()); !errors.Is(err, stream.ErrFenced) {
			t.Errorf("next of the earlier one: got %v, want %v", err, stream.ErrFenced)
		}
		if got := w.saved(); got != 1 {
			t.Errorf("saved after the earlier one has tried: got %v, want 1", got)
		}
		ack(t, second, b)
		synctest.Wait()
		if got := w.saved(); got != 2 {
			t.Errorf("saved by the later one: got %v, want 2", got)
		}
		if err := first.Close(t.Context()); err != nil {
			t.Errorf("close of the earlier one: %v", err)
		}
	})
}

func TestSubscriptionTakesNoAcknowledgementAfterClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 1)
		s := w.subscribe(stream.SubscriptionConfig{})
		d := next(t, s)
		waiting := make(chan error, 1)
		go func() {
			_, err := s.Next(context.Background())
			waiting <- err
		}()
		synctest.Wait()
		for range 2 {
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-waiting; !errors.Is(err, stream.ErrClosed) {
			t.Errorf("next: got %v, want %v", err, stream.ErrClosed)
		}
		if err := d.Ack(); !errors.Is(err, stream.ErrClosed) {
			t.Errorf("ack: got %v, want %v", err, stream.ErrClosed)
		}
	})
}

func TestSubscriptionEndsWithItsHubAndSavesAllTheSame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 1)
		s := w.subscribe(stream.SubscriptionConfig{})
		d := next(t, s)
		synctest.Wait()
		w.hub.Close()
		var last error
		for _, err := range s.All(t.Context()) {
			last = err
		}
		if !errors.Is(last, stream.ErrClosed) {
			t.Errorf("got %v, want %v", last, stream.ErrClosed)
		}
		ack(t, s, d)
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.saved(); got != 1 {
			t.Errorf("saved: got %v, want 1", got)
		}
	})
}

func TestWrongConfigurationsOfASubscriptionAreNamed(t *testing.T) {
	t.Parallel()
	w := newWriter(t, memory.New(), 0)
	marks := stream.LogCheckpoints(w.log)
	for what, c := range map[string]stream.SubscriptionConfig{
		"no name":                 {Checkpoints: marks},
		"no checkpoints":          {Name: "s"},
		"a name with a zero":      {Name: "a\x00", Checkpoints: marks},
		"negative open":           {Name: "s", Checkpoints: marks, OpenMax: -1},
		"negative save every":     {Name: "s", Checkpoints: marks, SaveEvery: -1},
		"negative save after":     {Name: "s", Checkpoints: marks, SaveAfter: -1},
		"attempts below no bound": {Name: "s", Checkpoints: marks, AttemptsMax: -2},
	} {
		if _, err := w.hub.Subscribe(t.Context(), c); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: got %v, want %v", what, err, store.ErrInvalid)
		}
	}
	bare := testlog.Bare(w.log)
	if _, err := w.hub.Subscribe(t.Context(), stream.SubscriptionConfig{Name: "s", Checkpoints: stream.LogCheckpoints(bare)}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a log without checkpoints: got %v, want %v", err, errors.ErrUnsupported)
	}
}

// A flaky checkpoint returns an error from Save while the test has set it so.
type flaky struct {
	stream.Checkpoints
	fails atomic.Bool
	saves atomic.Int32
}

var errDisk = errors.New("disk full")

func (f *flaky) Claim(ctx context.Context, name string) (stream.CheckpointWriter, []store.Position, error) {
	c, positions, err := f.Checkpoints.Claim(ctx, name)
	return flakyOne{f, c}, positions, err
}

type flakyOne struct {
	f *flaky
	stream.CheckpointWriter
}

func (o flakyOne) Save(ctx context.Context, positions []store.Position) error {
	o.f.saves.Add(1)
	if o.f.fails.Load() {
		return errDisk
	}
	return o.CheckpointWriter.Save(ctx, positions)
}

func TestPositionThatCannotBeSavedIsSavedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		for range 3 {
			w.write(book("a"), 1)
		}
		f := &flaky{Checkpoints: stream.LogCheckpoints(w.log)}
		s := w.subscribe(stream.SubscriptionConfig{SaveEvery: 1, SaveAfter: time.Minute, Checkpoints: f})
		f.fails.Store(true)
		ack(t, s, next(t, s))
		synctest.Wait()
		if err := s.Stats().SaveErr; !errors.Is(err, errDisk) {
			t.Errorf("error in the statistics: got %v, want %v", err, errDisk)
		}
		ack(t, s, next(t, s)) // the subscription goes on
		f.fails.Store(false)
		<-time.After(time.Minute)
		synctest.Wait()
		if got, err := w.saved(), s.Stats().SaveErr; got != 2 || err != nil {
			t.Errorf("saved: got %v and error %v, want 2", got, err)
		}
		f.fails.Store(true)
		ack(t, s, next(t, s))
		for range 2 {
			if err := s.Close(t.Context()); !errors.Is(err, errDisk) {
				t.Errorf("close: got %v, want %v", err, errDisk)
			}
		}
		f.fails.Store(false)
		if err := s.Close(t.Context()); err != nil || w.saved() != 3 {
			t.Errorf("close once the disk has room: got %v and position %v, want 3", err, w.saved())
		}
	})
}

// TestSubscriptionKeepsTheSixPromises runs many workers that take commits, refuse
// some, acknowledge the others in any order, and crash, while other goroutines write.
func TestSubscriptionKeepsTheSixPromises(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 3} {
		for _, c := range []stream.SubscriptionConfig{
			{OpenMax: 16, SaveEvery: 5},
			{OpenMax: 200, SaveEvery: 7, Types: []string{"x.Even"}},
			{OpenMax: 1, SaveEvery: 1, Keys: []store.Key{book("1"), book("2")}},
		} {
			t.Run(fmt.Sprintf("%d partitions, %d open", partitions, c.OpenMax), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { sixPromises(t, partitions, c) })
			})
		}
	}
}

func sixPromises(t *testing.T, partitions int, c stream.SubscriptionConfig) {
	w := newWriter(t, memory.New(memory.WithPartitions(partitions)), 0)
	h := new(streamtest.History)
	c.AttemptsMax, c.SaveAfter = -1, 50*time.Millisecond
	c.Checkpoints = h.Checkpoints(stream.LogCheckpoints(w.log))
	const sessions, commits = 4, 40
	write := func() {
		for i := range commits {
			batch := make([]store.Event, i%4+1)
			for n := range batch {
				batch[n].Type = []string{"x.Even", "x.Odd"}[(i+n)%2]
			}
			w.hub.Publish(w.commit(book(fmt.Sprint(i%9)), batch...))
		}
	}
	write()
	for session := range sessions {
		s := w.subscribe(c)
		for _, p := range s.Stats().Positions {
			h.Began(p)
		}
		write()
		last := session == sessions-1
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if last {
			ctx, cancel = context.WithTimeout(t.Context(), 4*time.Second)
		}
		order := make(chan struct{}, 1) // a lock: the worker that has put the token takes a commit and records it
		var working sync.WaitGroup
		for worker := range 4 {
			r := rand.New(rand.NewPCG(uint64(session), uint64(worker)))
			working.Go(func() { work(ctx, t, s, h, r, order) })
		}
		if last {
			write()
		}
		working.Wait()
		cancel()
		if session%2 == 1 || last {
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	streamtest.Check(t, h, streamtest.Held(t, w.log, stream.Query{Query: store.Query{Types: c.Types}, Keys: c.Keys}))
}

// work takes commits until the context ends. It then neither acknowledges nor refuses
// the commits that it still has.
func work(ctx context.Context, t *testing.T, s *stream.Subscription, h *streamtest.History, r *rand.Rand, order chan struct{}) {
	for {
		order <- struct{}{}
		d, err := nextNow(ctx, s)
		if d != nil {
			for i := range d.Events {
				h.Got(&d.Events[i])
			}
		}
		<-order
		if err != nil {
			return
		}
		if d != nil {
			answer(ctx, t, d, h, r)
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// nextNow returns a delivery if one is available without waiting.
func nextNow(ctx context.Context, s *stream.Subscription) (*stream.Delivery, error) {
	now, cancel := context.WithTimeout(ctx, time.Microsecond)
	defer cancel()
	d, err := s.Next(now)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, ctx.Err()
	}
	return d, err
}

func answer(ctx context.Context, t *testing.T, d *stream.Delivery, h *streamtest.History, r *rand.Rand) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(time.Duration(r.IntN(8)) * time.Millisecond):
	}
	var err error
	if r.IntN(5) == 0 {
		for i := range d.Events {
			h.Refused(&d.Events[i])
		}
		err = d.Nack(ctx, time.Duration(r.IntN(5))*time.Millisecond, errRefused)
	} else {
		for i := range d.Events {
			h.Acked(&d.Events[i])
		}
		err = d.Ack()
	}
	if err != nil {
		t.Errorf("answer %v: %v", d.Through, err)
	}
}
