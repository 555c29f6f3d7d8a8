package storekit_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/internal/storekit"
	"github.com/perdure/perdure/store"
)

// patience bounds every wait of these tests, by the clock of the bubble.
const patience = time.Hour

// group returns a group of so many batches that are valid. Its name is the
// entity of all of them, and tells one group from another.
func group(name string, batches int) []*store.Batch {
	g := make([]*store.Batch, batches)
	for i := range g {
		g[i] = &store.Batch{Key: store.Key{Kind: "book", ID: name}}
	}
	return g
}

func nameOf(c *storekit.Call) string { return c.Group[0].Key.ID }

// A log is what a store does with a queue: it commits calls as the stores do, and
// keeps what it has committed. It notices who commits beside another one.
type log struct {
	storekit.Queue
	// before runs in each transaction, before anything is stored.
	before func(calls []*storekit.Call)

	mu       sync.Mutex
	inside   int
	beside   bool
	stored   []string   // groups, in order
	together [][]string // the groups of each transaction
}

func (l *log) commit(calls []*storekit.Call) {
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
			c.Err = storekit.NotStored(err)
			continue
		}
		l.stored = append(l.stored, nameOf(c))
		for i := range c.Results {
			c.Results[i].Position = store.Position(len(l.stored))
		}
	}
}

// put commits a group and holds the answer against what is stored.
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

// A pending is a call on its way.
type pending struct {
	name string
	end  chan error
}

// start begins to commit a group, and returns once it is in the queue or further.
func (l *log) start(ctx context.Context, name string, batches int) *pending {
	p := &pending{name, make(chan error, 1)}
	go func() { p.end <- l.put(ctx, name, batches) }()
	synctest.Wait()
	return p
}

// wait returns how a call has ended.
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

// A gate stops transactions until it is told how many may pass.
type gate chan struct{}

func (g gate) pass([]*storekit.Call) { <-g }

func (g gate) open(t *testing.T) {
	t.Helper()
	select {
	case g <- struct{}{}:
	case <-time.After(patience):
		t.Fatalf("nobody commits within %v", patience)
	}
	synctest.Wait()
}

// wantIdle checks that the queue is left as it was found, and was led by one at a time.
func wantIdle(t *testing.T, l *log) {
	t.Helper()
	if n, led := l.Waiting(); n != 0 || led {
		t.Errorf("%d calls wait, led %t; want nobody", n, led)
	}
	if l.beside {
		t.Error("two callers have committed at one time")
	}
}
