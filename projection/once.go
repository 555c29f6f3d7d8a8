package projection

import (
	"context"
	"fmt"
	"sync"

	"github.com/perdure/perdure/store"
)

// RunOnce runs the runners until they have handled everything that is in the log
// when it is called, and returns. It is for jobs and tests. The error matches
// [ErrStopped] if one of them has stopped, and is the context's if that ends
// first. Entities may be parked by it.
func RunOnce(ctx context.Context, c Config, runners ...*Runner) error {
	if err := c.defaults(); err != nil {
		return fmt.Errorf("run projections once: %w", err)
	}
	heads, err := c.Log.Heads(ctx)
	if err != nil {
		return fmt.Errorf("run projections once: read heads: %w", err)
	}
	return runThrough(ctx, c, heads, runners)
}

// RunRange is like [RunOnce] and goes only through a position in each partition
// that is given, and handles nothing above it. Other partitions are left alone.
// What is below where a runner has been is not handled again; see [Runner.Reset].
func RunRange(ctx context.Context, c Config, through []store.Position, runners ...*Runner) error {
	if err := c.defaults(); err != nil {
		return fmt.Errorf("run projections through %v: %w", through, err)
	}
	heads, err := c.Log.Heads(ctx)
	if err != nil {
		return fmt.Errorf("run projections through %v: read heads: %w", through, err)
	}
	limit := make([]store.Position, len(heads))
	for p := range limit {
		limit[p] = store.NewPosition(p, 0)
	}
	for _, p := range through {
		if p.Partition() >= len(heads) || p > heads[p.Partition()] {
			return fmt.Errorf("run projections through %v: %w: position %v is above the head", through, store.ErrInvalid, p)
		}
		limit[p.Partition()] = p
	}
	c.limit = limit
	return runThrough(ctx, c, limit, runners)
}

func runThrough(ctx context.Context, c Config, through []store.Position, runners []*Runner) error {
	running, cancel := context.WithCancel(ctx)
	c.follow, c.once = nil, true
	runs, err := prepare(&c, runners)
	if err != nil {
		cancel()
		return fmt.Errorf("run projections once: %w", err)
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	for _, n := range runs {
		n.start(running, &wait)
	}
	for _, n := range runs {
		for _, p := range through {
			done, err := n.await(ctx, p)
			if err == nil && !done {
				err = ErrNotRunning
			}
			if err != nil {
				return n.runner.wrap("run once", err)
			}
		}
		if err := n.mark(ctx); err != nil {
			return n.runner.wrap("run once", err)
		}
	}
	return nil
}
