package stream_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// A watchedLog notifies of changes when the test calls it.
type watchedLog struct {
	*memory.Log
	mu      sync.Mutex
	changed chan struct{}
}

func (l *watchedLog) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *watchedLog) change() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

func TestReaderIsToldOfCommitsOfOthersByAWatcher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &watchedLog{Log: memory.New(), changed: make(chan struct{})}
		w := newWriter(t, log, time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a, b := follow(ctx, w.hub, store.Query{}), follow(ctx, w.hub, store.Query{})
		synctest.Wait()
		began := time.Now()
		for n := 1; n <= 3; n++ {
			w.commit(book("a"), make([]store.Event, 1)...)
			log.change()
			synctest.Wait()
		}
		wantSeen(t, "a reader", a, 1, 2, 3)
		wantSeen(t, "another", b, 1, 2, 3)
		if passed := time.Since(began); passed != 0 {
			t.Errorf("the readers have waited %v", passed)
		}
		// Polling, at a longer interval than configured, replaces a lost notice.
		w.commit(book("a"), make([]store.Event, 1)...)
		timer := time.NewTimer(stream.PollWatched - time.Millisecond)
		<-timer.C
		synctest.Wait()
		wantSeen(t, "a reader", a, 1, 2, 3)
		timer.Reset(time.Millisecond)
		<-timer.C
		synctest.Wait()
		wantSeen(t, "a reader", a, 1, 2, 3, 4)
	})
}
