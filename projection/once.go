package projection

import (
	"context"
	"fmt"
	"sync"

	"github.com/perdure/perdure/store"
)

// RunOnce runs the runners until they have handled all events that are in the log when it is
// called, and returns. It is for jobs and tests. The error matches [ErrStopped] if one of the
// runners has stopped. If the context ends first, RunOnce returns the context's error. A nil
// error does not mean that no entity was parked.
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

// RunRange is like [RunOnce], but handles events only through the given positions, at most one
// for each partition. It leaves other partitions alone. Events below the position of a runner are
// not handled again; see [Runner.Reset].
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
		switch {
		case p.Partition() >= len(heads):
			return fmt.Errorf("run projections through %v: %w: position %v: the log has %d partitions", through, store.ErrInvalid, p, len(heads))
		case p > heads[p.Partition()]:
			return fmt.Errorf("run projections through %v: %w: position %v is above the head of the log, %v", through, store.ErrInvalid, p, heads[p.Partition()])
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
