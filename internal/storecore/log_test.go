package storecore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/internal/storecore"
	"github.com/perdure/perdure/store"
)

// patience bounds every wait of these tests, by the clock of the bubble.
const patience = time.Hour

// group returns a group of the given number of valid batches. Its name is the entity of all
// of them, and identifies the group.
func group(name string, batches int) []*store.Batch {
	g := make([]*store.Batch, batches)
	for i := range g {
		g[i] = &store.Batch{Key: store.Key{Kind: "book", ID: name}}
	}
	return g
}

func nameOf(c *storecore.Call) string { return c.Group[0].Key.ID }

// A log uses a queue as the stores do, and keeps the groups that it has committed. It
// notices two commits at the same time.
type log struct {
	storecore.Queue
	// before runs in each transaction, before a group is stored.
	before func(calls []*storecore.Call)

	mu       sync.Mutex
	inside   int
	beside   bool
	stored   []string   // names of groups, in order
	together [][]string // the groups of each transaction
}

func (l *log) commit(calls []*storecore.Call) {
	l.mu.Lock()
	l.inside++
	l.beside = l.beside || l.inside > 1
	names := make([]string, len(calls))
	for i, c := range calls {
		names[i] = nameOf(c)
	}
	l.together = append(l.together, names)
	l.mu.Unlock()
	if l.before != nil {
		l.before(calls)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inside--
	for _, c := range calls {
		if err := c.Ctx.Err(); err != nil {
			c.Err = storecore.NotStored(err)
			continue
		}
		l.stored = append(l.stored, nameOf(c))
		for i := range c.Results {
			c.Results[i].Position = store.Position(len(l.stored))
		}
	}
}

// put commits a group and compares the answer with the stored groups.
func (l *log) put(ctx context.Context, name string, batches int) error {
	results, err := l.Commit(ctx, group(name, batches), l.commit)
	if err != nil {
		return err
	}
	if len(results) != batches {
		return fmt.Errorf("group %s: %d results, want %d", name, len(results), batches)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range results {
		if n := int(r.Position); n < 1 || n > len(l.stored) || l.stored[n-1] != name {
			return fmt.Errorf("result %d of group %s is that of another: %+v", i, name, r)
		}
	}
	return nil
}

// A pending is a call of put that may not have ended.
type pending struct {
	name string
	end  chan error
}

// start begins to commit a group. It returns when the call is in the queue or further.
func (l *log) start(ctx context.Context, name string, batches int) *pending {
	p := &pending{name, make(chan error, 1)}
	go func() { p.end <- l.put(ctx, name, batches) }()
	synctest.Wait()
	return p
}

// wait returns the error with which a call has ended.
func (p *pending) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.end:
		return err
	case <-time.After(patience):
		t.Fatalf("group %s has not been answered within %v", p.name, patience)
		return nil
	}
}

// ended reports whether a call has ended, without waiting.
func (p *pending) ended() bool { return len(p.end) > 0 }

// A gate holds each transaction until the test opens it.
type gate chan struct{}

func (g gate) pass([]*storecore.Call) { <-g }

func (g gate) open(t *testing.T) {
	t.Helper()
	select {
	case g <- struct{}{}:
	case <-time.After(patience):
		t.Fatalf("no caller commits within %v", patience)
	}
	synctest.Wait()
}

// wantIdle checks that the queue is empty, and that there was one leader at a time.
func wantIdle(t *testing.T, l *log) {
	t.Helper()
	if n, led := l.Waiting(); n != 0 || led {
		t.Errorf("%d calls wait, led %t; want no call and no leader", n, led)
	}
	if l.beside {
		t.Error("two callers have committed at one time")
	}
}
