package main

import (
	"context"
	"time"

	"github.com/perdure/perdure"
)

// The pause between two checks whether all due work has been done, and the bound for the wait
// without progress.
const (
	settleEvery = 2 * time.Millisecond
	settleMax   = 2 * time.Second
)

// settle waits until the readers have got the messages of all loans, and all due reminders are
// written or parked. It prints the remaining work. Nothing is lost if settle gives up: the
// remaining work is in the log, and the next command continues it.
func (a *app) settle(ctx context.Context, engine *perdure.Engine) error {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	delivered, moved := uint64(0), time.Now()
	for {
		// The figures of the engine cost nothing. The log is asked only when they say that no
		// message is in flight.
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

// anyDue reports whether a message of the outbox, or a timer, is due. The first one is enough,
// because they are sorted by their due times.
func anyDue(ctx context.Context, engine *perdure.Engine) (bool, error) {
	for m, err := range engine.Pending(ctx) {
		if err != nil {
			return false, err
		}
		return !m.Due.After(time.Now()), nil
	}
	return false, nil
}
