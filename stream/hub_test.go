package stream_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// waitMax bounds every wait that is not in a bubble of synctest.
const waitMax = 30 * time.Second

// A writer commits events to a log. Its method write also publishes them.
type writer struct {
	mu  sync.Mutex
	tb  testing.TB
	log store.Log
	hub *stream.Hub
	ids uint64
	at  map[store.Key]store.Version
}

func newWriter(tb testing.TB, log store.Log, poll time.Duration) *writer {
	tb.Helper()
	hub, err := stream.NewHub(tb.Context(), stream.Config{Log: log, Poll: poll})
	if err != nil {
		tb.Fatal(err)
	}
	return &writer{tb: tb, log: log, hub: hub, at: make(map[store.Key]store.Version)}
}

// commit commits events of an entity as one batch and returns them with their
// positions, ready to publish.
func (w *writer) commit(key store.Key, events ...store.Event) []store.Event {
	w.tb.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range events {
		e := &events[i]
		w.ids++
		binary.BigEndian.PutUint64(e.ID[8:], w.ids)
		e.ID[6] = 0x70
		if e.Type == "" {
			e.Type = "test.v1.Happened"
		}
	}
	b := &store.Batch{Key: key, Expected: w.at[key], Events: events}
	results, err := w.log.Commit(context.Background(), []*store.Batch{b})
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		w.tb.Errorf("commit %v: %v", key, err)
		return nil
	}
	w.at[key] = b.Next()
	return b.Events
}

// write commits and publishes n events.
func (w *writer) write(key store.Key, n int) {
	w.tb.Helper()
	w.hub.Publish(w.commit(key, make([]store.Event, n)...))
}

func book(id string) store.Key { return store.Key{Kind: "book", ID: id} }

// A follower keeps the events and errors of a reader.
type follower struct {
	mu     sync.Mutex
	got    []store.Position
	lagged []*stream.LaggedError
	err    error
	ended  bool
	pause  chan struct{} // if set, the follower waits at the next event until it is closed
}

// follow reads on a goroutine of its own.
func follow(ctx context.Context, hub *stream.Hub, q store.Query) *follower {
	f := &follower{}
	go f.run(hub.Follow(ctx, q))
	return f
}

func (f *follower) run(events iter.Seq2[*store.Event, error]) {
	for e, err := range events {
		var lagged *stream.LaggedError
		f.mu.Lock()
		switch {
		case errors.As(err, &lagged):
			f.lagged = append(f.lagged, lagged)
		case err != nil:
			f.err = err
		default:
			f.got = append(f.got, e.Position)
		}
		pause := f.pause
		f.pause = nil
		f.mu.Unlock()
		if pause != nil {
			<-pause
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
}

// seen returns the sequences of the events that the reader has got.
func (f *follower) seen() (sequences []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.got {
		sequences = append(sequences, int(p.Sequence()))
	}
	return sequences
}

// end reports whether the reader has ended, and with which error.
func (f *follower) end() (ended bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended, f.err
}

func wantSeen(t *testing.T, when string, f *follower, want ...int) {
	t.Helper()
	const short = 20
	got := f.seen()
	switch {
	case slices.Equal(got, want):
	case len(got) <= short && len(want) <= short:
		t.Errorf("%s: got the events at %d, want %d", when, got, want)
	default:
		t.Errorf("%s: got %d events, want %d; they differ from number %d on", when, len(got), len(want), firstDifference(got, want))
	}
}

// upTo returns 1, 2, …, n.
func upTo(n int) (numbers []int) {
	for i := range n {
		numbers = append(numbers, i+1)
	}
	return numbers
}

func TestReaderCatchesUpAndThenFollows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 3)
		w.write(book("b"), 2)
		ctx, cancel := context.WithCancel(t.Context())
		all, late := follow(ctx, w.hub, store.Query{}), follow(ctx, w.hub, store.Query{After: 4})
		synctest.Wait()
		wantSeen(t, "what was stored", all, 1, 2, 3, 4, 5)
		wantSeen(t, "what was stored, after 4", late, 5)
		w.write(book("a"), 1)
		synctest.Wait()
		w.write(book("c"), 2)
		synctest.Wait()
		wantSeen(t, "and what came", all, upTo(8)...)
		wantSeen(t, "and what came, after 4", late, 5, 6, 7, 8)
		cancel()
		synctest.Wait()
		if ended, err := all.end(); !ended || !errors.Is(err, context.Canceled) {
			t.Errorf("after the end of the context: got ended %t with %v, want the context's error", ended, err)
		}
	})
}

func TestPublicationsMayComeInAnyOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		ctx, cancel := context.WithCancel(t.Context())
		f := follow(ctx, w.hub, store.Query{})
		synctest.Wait()
		first := w.commit(book("a"), make([]store.Event, 2)...)
		second := w.commit(book("b"), make([]store.Event, 2)...)
		w.commit(book("c"), store.Event{}) // is never published
		fourth := w.commit(book("d"), store.Event{})
		w.hub.Publish(second)
		synctest.Wait()
		wantSeen(t, "the second of two published", f, 1, 2, 3, 4)
		w.hub.Publish(first)
		w.hub.Publish(nil)
		synctest.Wait()
		wantSeen(t, "then the first", f, 1, 2, 3, 4)
		w.hub.Publish(fourth)
		synctest.Wait()
		wantSeen(t, "one behind another that was not published", f, 1, 2, 3, 4, 5, 6)
		cancel()
	})
}

func TestPublicationThatIsOldDoesNotTakeTheHeadBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		release := make(chan struct{})
		held := &follower{pause: release}
		go held.run(w.hub.Follow(ctx, store.Query{}))
		synctest.Wait()
		first, second := w.commit(book("a"), store.Event{}), w.commit(book("b"), store.Event{})
		w.hub.Publish(second)
		w.hub.Publish(first)
		close(release)
		synctest.Wait()
		wantSeen(t, "after both", held, 1, 2, 3)
	})
}

func TestPublisherMayUseItsEventsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got []string
		go func() {
			for e, err := range w.hub.Follow(ctx, store.Query{}) {
				if err == nil {
					got = append(got, fmt.Sprintf("%s %s %s %s", e.Type, e.Tags, e.Metadata.Values, e.Payload))
				}
			}
		}()
		synctest.Wait()
		events := w.commit(book("a"), store.Event{
			Type: "x.Y", Tags: []string{"t"}, Payload: []byte("p"),
			Metadata: store.Metadata{Values: map[string]string{"k": "v"}},
		})
		w.hub.Publish(events)
		events[0].Tags[0], events[0].Metadata.Values["k"] = "other", "other"
		events[0] = store.Event{}
		synctest.Wait()
		if want := []string{"x.Y [t] map[k:v] p"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestReaderThatFallsBehindIsToldAndMissesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const behind = stream.BufferEventsMax + 500
		w := newWriter(t, memory.New(), 0)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		release := make(chan struct{})
		slow, quick := &follower{pause: release}, follow(ctx, w.hub, store.Query{})
		go slow.run(w.hub.Follow(ctx, store.Query{}))
		synctest.Wait()
		for range behind / 100 {
			w.write(book("a"), 100)
			synctest.Wait()
		}
		written := behind / 100 * 100
		wantSeen(t, "the slow reader while it is held", slow, 1)
		if got := len(quick.seen()); got != written {
			t.Errorf("a reader beside it: got %d events, want %d: a slow reader holds up others", got, written)
		}
		close(release)
		synctest.Wait()
		wantSeen(t, "the slow reader at the end", slow, upTo(written)...)
		if len(slow.lagged) != 1 || len(quick.lagged) != 0 {
			t.Fatalf("notices: got %d for the slow reader and %d for the quick one, want 1 and 0", len(slow.lagged), len(quick.lagged))
		}
		notice := slow.lagged[0]
		if !errors.Is(notice, stream.ErrLagged) || notice.Head != store.Position(written) || notice.Position == 0 || notice.Position > 256 {
			t.Errorf("notice: got %v, want one at the head %d and a position that the reader had got", notice, written)
		}
	})
}

func TestReaderThatOnlyCatchesUpDoesNotLag(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		const stored = 2 * stream.BufferEventsMax
		w.write(book("a"), stored/2)
		w.write(book("b"), stored/2)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := follow(ctx, w.hub, store.Query{})
		synctest.Wait()
		wantSeen(t, "a long log", f, upTo(stored)...)
		if len(f.lagged) > 0 {
			t.Errorf("got the notice %v, want none", f.lagged[0])
		}
	})
}

func TestFilterHoldsForStoredAndForNewEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		write := func() {
			w.hub.Publish(w.commit(book("a"), store.Event{Type: "x.A"}, store.Event{Type: "x.B", Tags: []string{"t", "u"}}))
			w.hub.Publish(w.commit(store.Key{Kind: "shelf", ID: "a"}, store.Event{Type: "x.A", Tags: []string{"u"}}))
		}
		write()
		cases := []struct {
			q    store.Query
			want []int
		}{
			{store.Query{Kinds: []string{"book"}}, []int{1, 2, 4, 5}},
			{store.Query{Types: []string{"x.A"}}, []int{1, 3, 4, 6}},
			{store.Query{Tags: []string{"u"}}, []int{2, 3, 5, 6}},
			{store.Query{Tags: []string{"t"}, Kinds: []string{"shelf"}}, nil},
			{store.Query{Types: []string{"x.B"}, After: 2}, []int{5}},
		}
		var readers []*follower
		for _, c := range cases {
			readers = append(readers, follow(ctx, w.hub, c.q))
		}
		synctest.Wait()
		write()
		synctest.Wait()
		for i, c := range cases {
			wantSeen(t, fmt.Sprintf("query %+v", c.q), readers[i], c.want...)
		}
	})
}

func TestReaderEndsAtItsLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 4)
		past := follow(t.Context(), w.hub, store.Query{Through: 3})
		future := follow(t.Context(), w.hub, store.Query{After: 1, Through: 6})
		none := follow(t.Context(), w.hub, store.Query{After: 3, Through: 3})
		filtered := follow(t.Context(), w.hub, store.Query{Through: 6, Kinds: []string{"shelf"}})
		synctest.Wait()
		if ended, _ := future.end(); ended {
			t.Error("a reader through an event to come has ended before it came")
		}
		w.write(book("a"), 4)
		synctest.Wait()
		wantSeen(t, "through 3", past, 1, 2, 3)
		wantSeen(t, "after 1 through 6", future, 2, 3, 4, 5, 6)
		wantSeen(t, "after 3 through 3", none)
		wantSeen(t, "another kind", filtered)
		for _, f := range []*follower{past, future, none, filtered} {
			if ended, err := f.end(); !ended || err != nil {
				t.Errorf("reader that got %d: got ended %t with %v, want it ended without an error", f.seen(), ended, err)
			}
		}
	})
}

func TestPartitionsAreFollowedSeparately(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const partitions, entities = 4, 40
		w := newWriter(t, memory.New(memory.WithPartitions(partitions)), 0)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var readers []*follower
		for p := range partitions {
			readers = append(readers, follow(ctx, w.hub, store.Query{After: store.NewPosition(p, 0)}))
		}
		for i := range entities {
			w.write(book(fmt.Sprint(i)), 2)
			if i == entities/2 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		sum := 0
		for p, f := range readers {
			n := len(f.got)
			wantSeen(t, fmt.Sprintf("partition %d", p), f, upTo(n)...)
			if n > 0 && f.got[0].Partition() != p {
				t.Errorf("reader of partition %d: got an event of partition %d", p, f.got[0].Partition())
			}
			sum += n
		}
		if sum != 2*entities {
			t.Errorf("all partitions together: got %d events, want %d", sum, 2*entities)
		}
		for _, err := range w.hub.Follow(ctx, store.Query{After: store.NewPosition(partitions, 0)}) {
			if !errors.Is(err, store.ErrInvalid) {
				t.Errorf("a partition that the log does not have: got %v, want an error matching ErrInvalid", err)
			}
		}
	})
}

func TestCloseEndsReaders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 2)
		before := follow(t.Context(), w.hub, store.Query{})
		synctest.Wait()
		w.hub.Close()
		w.hub.Close()
		after := follow(t.Context(), w.hub, store.Query{})
		synctest.Wait()
		for name, f := range map[string]*follower{"a reader": before, "a reader that comes later": after} {
			wantSeen(t, name, f, 1, 2)
			if ended, err := f.end(); !ended || !errors.Is(err, stream.ErrClosed) {
				t.Errorf("%s of a closed hub: got ended %t with %v, want ErrClosed", name, ended, err)
			}
		}
	})
}

func TestCommitsOfOthersAreFoundByPolling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const poll = 50 * time.Millisecond
		log := memory.New()
		polling, trusting := newWriter(t, log, poll), newWriter(t, log, 0)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a, b := follow(ctx, polling.hub, store.Query{}), follow(ctx, trusting.hub, store.Query{})
		synctest.Wait()
		polling.commit(book("a"), make([]store.Event, 2)...)
		timer := time.NewTimer(poll)
		<-timer.C
		synctest.Wait()
		wantSeen(t, "a hub that polls", a, 1, 2)
		wantSeen(t, "a hub that does not", b)
	})
}

// A brokenLog returns an error from each read.
type brokenLog struct {
	store.Log
	heads, scan error
}

func (l *brokenLog) Heads(ctx context.Context) ([]store.Position, error) {
	if l.heads != nil {
		return nil, l.heads
	}
	return l.Log.Heads(ctx)
}

func (l *brokenLog) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	if l.scan == nil {
		return l.Log.Scan(ctx, q)
	}
	return func(yield func(*store.Event, error) bool) { yield(nil, l.scan) }
}

func TestReaderIsToldTheErrorOfTheLog(t *testing.T) {
	t.Parallel()
	errIO := &store.CorruptError{What: "event", Reason: "a bit has flipped"} // waiting cannot cure this error
	log := &brokenLog{Log: memory.New()}
	w := newWriter(t, log, 0)
	w.write(book("a"), 1)
	first := func() error {
		for _, err := range w.hub.Follow(t.Context(), store.Query{}) {
			return err
		}
		return nil
	}
	log.scan = errIO
	if err := first(); !errors.Is(err, errIO) {
		t.Errorf("a scan that fails: got %v, want %v", err, errIO)
	}
	log.heads, log.scan = errIO, nil
	if err := first(); !errors.Is(err, errIO) {
		t.Errorf("heads that cannot be read: got %v, want %v", err, errIO)
	}
	if _, err := stream.NewHub(t.Context(), stream.Config{Log: log}); !errors.Is(err, errIO) {
		t.Errorf("a hub on such a log: got %v, want %v", err, errIO)
	}
	log.heads = nil
	if err := first(); err != nil {
		t.Errorf("once all is well: got %v, want an event", err)
	}
}

func TestEventThatIsLargeIsReadFromTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := follow(ctx, w.hub, store.Query{})
		synctest.Wait()
		large := store.Event{Payload: make([]byte, stream.BufferPayloadMax+1)}
		w.hub.Publish(w.commit(book("a"), store.Event{}, large, store.Event{}))
		synctest.Wait()
		wantSeen(t, "a large event between two", f, 1, 2, 3)
		if len(f.lagged) > 0 {
			t.Errorf("got the notice %v, want none", f.lagged[0])
		}
	})
}

func TestPassedIsWhatEveryReaderHasPassed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, memory.New(), 0)
		w.write(book("a"), 3)
		if got, want := w.hub.Passed(0), store.LastPosition(0); got != want {
			t.Errorf("without readers: got %v, want %v", got, want)
		}
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		held := &follower{pause: release}
		go held.run(w.hub.Follow(ctx, store.Query{After: 1}))
		follow(ctx, w.hub, store.Query{})
		synctest.Wait()
		if got := w.hub.Passed(0); got != 1 {
			t.Errorf("with a reader that is held at its first event after 1: got %v, want 1", got)
		}
		close(release)
		synctest.Wait()
		if got := w.hub.Passed(0); got != 3 {
			t.Errorf("with readers that are up to date: got %v, want 3", got)
		}
		cancel()
		synctest.Wait()
		if got, want := w.hub.Passed(0), store.LastPosition(0); got != want {
			t.Errorf("after the readers have gone: got %v, want %v", got, want)
		}
	})
}

// TestManyReadersSeeEverythingOnceInOrder runs readers, one of which is blocked for the
// whole time, beside writers that publish in any order.
func TestManyReadersSeeEverythingOnceInOrder(t *testing.T) {
	t.Parallel()
	const readers, writers, commits, perCommit = 20, 16, 350, 2
	const total = writers * commits * perCommit // more events than the hub keeps
	log := memory.New()
	hub := newWriter(t, log, 0).hub
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()

	release := make(chan struct{})
	followers := make([]*follower, readers)
	var reading, writing sync.WaitGroup
	for i := range followers {
		f := &follower{}
		if i == 0 {
			f.pause = release
		}
		followers[i] = f
		reading.Go(func() { f.run(hub.Follow(ctx, store.Query{Through: total})) })
	}
	for i := range writers {
		w := &writer{tb: t, log: log, hub: hub, ids: uint64(i) << 32, at: make(map[store.Key]store.Version)}
		writing.Go(func() {
			var kept []store.Event
			for n := range commits {
				events := w.commit(book(fmt.Sprint(i)), make([]store.Event, perCommit)...)
				if n%3 == i%3 { // the next commit is published first
					kept = events
					continue
				}
				hub.Publish(events)
				hub.Publish(kept)
				kept = nil
			}
			hub.Publish(kept)
		})
	}
	writing.Wait()
	close(release)
	reading.Wait()
	want := upTo(total)
	for i, f := range followers {
		if _, err := f.end(); err != nil {
			t.Errorf("reader %d has got %d of %d events: %v", i, len(f.got), total, err)
			continue
		}
		if got := f.seen(); !slices.Equal(got, want) {
			t.Errorf("reader %d: got %d events, want each of %d once and in order; the first that is wrong is at %d",
				i, len(got), total, firstDifference(got, want))
		}
	}
}

// firstDifference returns the first index at which two lists differ.
func firstDifference(a, b []int) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// BenchmarkPublish measures the cost of one event for a writer, with readers that each
// get the event. On a machine with few cores the time includes the work of the readers.
func BenchmarkPublish(b *testing.B) {
	for _, readers := range []int{0, 1, 16, 100} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			b.ReportAllocs()
			w := newWriter(b, memory.New(), 0)
			ctx, cancel := context.WithCancel(b.Context())
			events := w.commit(book("a"), store.Event{Payload: make([]byte, 400)})
			var beginning, reading sync.WaitGroup
			for range readers {
				beginning.Add(1)
				begun := sync.OnceFunc(beginning.Done)
				reading.Go(func() {
					for _, err := range w.hub.Follow(ctx, store.Query{}) {
						begun()
						if err != nil && !errors.Is(err, stream.ErrLagged) && ctx.Err() == nil {
							b.Error(err)
						}
					}
				})
			}
			beginning.Wait()
			for b.Loop() {
				w.hub.Publish(events)
				events[0].Position++ // the next operation publishes another event
			}
			cancel()
			reading.Wait()
		})
	}
}
