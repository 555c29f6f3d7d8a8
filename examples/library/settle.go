package main

import (
	"context"
	"time"

	"github.com/perdure/perdure"
)

// How often a command looks whether all that is due has been done, and how long
// it waits while nothing moves on.
const (
	settleEvery = 2 * time.Millisecond
	settleMax   = 2 * time.Second
)

// settle waits until the readers have heard of all loans, and all reminders that
// are due are written or parked, and says what is left of that. Nothing is lost
// if it gives up: what is left is in the log, and the next command goes on with it.
func (a *app) settle(ctx context.Context, engine *perdure.Engine) error {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	delivered, moved := uint64(0), time.Now()
	for {
		// The figures of the engine are free; the log is asked only when they
		// say that nothing is on its way.
		now := engine.Stats()
		if now.Deliveries == 0 {
			if pending, err := anyDue(ctx, engine); err != nil || !pending {
				return err
			}
		}
		if now.Delivered != delivered {
			delivered, moved = now.Delivered, time.Now()
		}
		if time.Since(moved) > settleMax {
			a.err.printf("not all that is due is done yet; the next command goes on with it\n")
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// anyDue reports whether a message of the outbox, or a timer, is due. The first
// one tells, because they are in the order of when they are due.
func anyDue(ctx context.Context, engine *perdure.Engine) (bool, error) {
	for m, err := range engine.Pending(ctx) {
		if err != nil {
			return false, err
		}
		return !m.Due.After(time.Now()), nil
	}
	return false, nil
}
