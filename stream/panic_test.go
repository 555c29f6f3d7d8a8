package stream_test

import (
	"context"
	"iter"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
	"github.com/perdure/perdure/stream"
)

// A panickyLog panics in a method, for the set number of calls.
type panickyLog struct {
	*memory.Log
	heads, scans, commits, deleted atomic.Int32
}

func once(n *atomic.Int32) {
	if n.Add(-1) >= 0 {
		panic("a mistake of the store")
	}
}

func (l *panickyLog) Heads(ctx context.Context) ([]store.Position, error) {
	once(&l.heads)
	return l.Log.Heads(ctx)
}

func (l *panickyLog) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	once(&l.scans)
	return l.Log.Scan(ctx, q)
}

func (l *panickyLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	once(&l.commits)
	return l.Log.Commit(ctx, group)
}

func (l *panickyLog) Deleted(ctx context.Context) ([]store.Deletion, error) {
	once(&l.deleted)
	return l.Log.Deleted(ctx)
}

// A store that panics must not end the process, nor a reader if the call can be
// repeated.
func TestLogThatPanics(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*panickyLog){
		"in Heads":   func(l *panickyLog) { l.heads.Store(1) },
		"in Scan":    func(l *panickyLog) { l.scans.Store(2) },
		"in Deleted": func(l *panickyLog) { l.deleted.Store(1) },
		"in Commit":  func(l *panickyLog) { l.commits.Store(1) },
	} {
		t.Run(name+" keeps its readers", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				log := &panickyLog{Log: memory.New()}
				w := newWriter(t, log, 50*time.Millisecond)
				s := w.subscribe(stream.SubscriptionConfig{})
				w.write(book("a"), 1)
				ack(t, s, next(t, s))
				fail(log)
				pass(time.Minute)
				log.commits.Store(0)
				w.commit(book("a"), store.Event{}) // the event is not published, so the reader reads it from the log
				w.write(book("a"), 1)
				ack(t, s, next(t, s))
				ack(t, s, next(t, s))
			})
		})
	}
	t.Run("in Scan and goes on with that ends its subscription with an error", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			log := &panickyLog{Log: memory.New()}
			w := newWriter(t, log, 0)
			w.write(book("a"), 1)
			log.scans.Store(100)
			s := w.subscribe(stream.SubscriptionConfig{})
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			if _, err := s.Next(ctx); err == nil || !strings.Contains(err.Error(), "a mistake of the store") {
				t.Errorf("got %v, want what the store has panicked with", err)
			}
		})
	})
}
