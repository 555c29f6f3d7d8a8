package perdure_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/perdure/perdure"
	testv1 "github.com/perdure/perdure/internal/testproto/perdure/test/v1"
	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/stream"
	"github.com/perdure/perdure/stream/streamtest"
)

func TestEventsAreReadOnceAndInOrder(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind := accounts()
	e := open(t, newLog(t), kind)
	const writers, each, readers = 16, 200, 8
	const before = 10 * (readers - 1)
	deposits(t, kind.Ref(e, "1"), before)
	var wg sync.WaitGroup
	for reader := range readers {
		wg.Go(func() {
			// Each reader begins at a different position, the last one at the head.
			after := store.Position(reader * 10)
			versions := map[store.Key]store.Version{}
			for ev, err := range e.Events(ctx, store.Query{After: after}) {
				if err != nil {
					t.Errorf("reader %d: %v", reader, err)
					return
				}
				if ev.Position != after+1 {
					t.Errorf("reader %d: got position %v after %v", reader, ev.Position, after)
					return
				}
				if v, known := versions[ev.Key]; known && ev.Version != v+1 {
					t.Errorf("reader %d: got version %d of %v after %d", reader, ev.Version, ev.Key, v)
					return
				}
				versions[ev.Key] = ev.Version
				if after = ev.Position; after == before+writers*each {
					return
				}
			}
		})
	}
	for writer := range writers {
		wg.Go(func() {
			for n := range each {
				if _, err := kind.Ref(e, fmt.Sprint((writer+n)%7)).Do(ctx, &testv1.Deposit{Amount: 1}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestEventsReaderThatLagsMissesNothing(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind := accounts()
	e := open(t, newLog(t), kind)
	ref := kind.Ref(e, "1")
	deposit := func(parts uint32) {
		if _, err := ref.Do(ctx, &testv1.Deposit{Amount: int64(parts), Parts: parts}); err != nil {
			t.Fatal(err)
		}
	}
	deposit(1)
	const more = stream.BufferEventsMax + 1000
	var at store.Position
	var lagged *stream.LaggedError
	read := make(chan struct{})
	go func() { // write when the reader waits at the head
		<-read
		deposit(1)
		<-read
		for range more / 1000 {
			deposit(1000)
		}
		close(read)
	}()
	for ev, err := range e.Events(ctx, store.Query{}) {
		if errors.Is(err, stream.ErrLagged) {
			if lagged != nil || !errors.As(err, &lagged) || lagged.Position != at || lagged.Head < at+stream.BufferEventsMax {
				t.Fatalf("got the notice %v at position %v", err, at)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if ev.Position != at+1 {
			t.Fatalf("got position %v after %v", ev.Position, at)
		}
		switch at = ev.Position; at {
		case 1:
			read <- struct{}{}
		case 2: // the reader is live now: stop reading for too long
			read <- struct{}{}
			<-read
		}
		if at == 2+more/1000*1000 {
			break
		}
	}
	if lagged == nil {
		t.Error("the reader was not told that it had fallen behind")
	}
}

func TestEventsEndWithTheContextAndTheEngine(t *testing.T) {
	t.Parallel()
	kind := accounts()
	e, err := perdure.Open(t.Context(), perdure.Config{Store: newLog(t), Kinds: []perdure.AnyKind{kind}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 2)
	follow := func(ctx context.Context) {
		var last error
		for _, err := range e.Events(ctx, store.Query{}) {
			last = err
		}
		results <- last
	}
	go follow(ctx)
	cancel()
	if err := <-results; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	go follow(t.Context())
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-results; !errors.Is(err, perdure.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	for _, err := range e.Events(t.Context(), store.Query{After: store.NewPosition(3, 0)}) {
		if !errors.Is(err, store.ErrInvalid) {
			t.Errorf("a partition that does not exist: got %v, want ErrInvalid", err)
		}
	}
}

func TestSubscriptionResumesAndGetsWholeCommits(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	kind := accounts()
	log := newLog(t)
	var h streamtest.History
	for session := range 3 {
		e := open(t, log, kind)
		s, err := e.Subscribe(ctx, stream.SubscriptionConfig{Name: "mail", SaveEvery: 2})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.Stats().Positions {
			h.Began(p)
		}
		for n := range 4 {
			if _, err := kind.Ref(e, fmt.Sprint(n)).Do(ctx, &testv1.Deposit{Amount: 4, Parts: uint32(n + 1)}); err != nil {
				t.Fatal(err)
			}
		}
		for range 4 {
			d, err := s.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if n := uint32(len(d.Events)); n != d.Events[0].Remaining+1 {
				t.Errorf("got %d events of a commit of %d", n, d.Events[0].Remaining+1)
			}
			for i := range d.Events {
				h.Got(&d.Events[i])
				h.Acked(&d.Events[i])
			}
			if err := d.Ack(); err != nil {
				t.Error(err)
			}
		}
		if session%2 == 0 {
			if err := s.Close(ctx); err != nil {
				t.Error(err)
			}
		}
		if err := e.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Next(ctx); !errors.Is(err, stream.ErrClosed) {
			t.Errorf("after the end of the engine: got %v, want %v", err, stream.ErrClosed)
		}
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		for _, p := range s.Stats().Saved {
			h.Saved(p)
		}
	}
	streamtest.Check(t, &h, streamtest.Held(t, log, stream.Query{}))
}

// TestEventsIncludeCommitsWithAnUnknownOutcome stores a commit whose outcome the engine does not
// learn. The engine answers the command all the same, so a reader must get its event.
func TestEventsIncludeCommitsWithAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kind := accounts()
		log := &hookedLog{Log: newLog(t)}
		e := open(t, log, kind)
		ref := kind.Ref(e, "1")
		got := make(chan store.Position, 2)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() {
			for ev, err := range e.Events(ctx, store.Query{}) {
				if err != nil {
					return
				}
				got <- ev.Position
			}
		}()
		deposits(t, ref, 1)
		synctest.Wait() // the reader waits at the end of the log
		log.on(func(group []*store.Batch, next commitFunc) ([]store.Result, error) {
			log.on(nil)
			if _, err := next(group); err != nil {
				return nil, err
			}
			return nil, errors.New("connection lost")
		})
		deposits(t, ref, 1)
		synctest.Wait()
		if n := len(got); n != 2 {
			t.Errorf("a reader has got %d events, want both", n)
		}
	})
}
