package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/store"
)

// Bounds of the commands in flight, of one book and of all books. Those of one book are fewer than
// the keys that it remembers, see [perdure.KeepReceipts].
const (
	windowMax   = 512        // the default of perdure.Config.InFlightMax
	inFlightMax = 16_384 / 2 // half of the default of perdure.Config.CallsMax
)

// The default and the maximum of [Options.Workers].
const (
	WorkersDefault = 256
	WorkersMax     = inFlightMax
)

// Options configure an import. The zero value is a good default.
type Options struct {
	// Workers is the number of books that are imported at the same time.
	Workers int
	// Expected is the expected duration of every loan; zero sets none. If it is set, borrowers
	// are reminded of loans that are open at the end of the ledger.
	Expected time.Duration
	// Source is stored in the metadata of every event, with the line of the event's loan.
	Source string
	// Done is called with the number of commands that have become durable; earlier says that an
	// earlier import has sent them. Several goroutines call it at the same time.
	Done func(commands int, earlier bool)
}

// Import sends a ledger to its books and returns a report. Each book gets its commands in order.
// Many books are imported at the same time, and each has many commands in flight.
//
// # How an import continues
//
// The rules of a book depend on its commands alone. So an import rehearses them on a state of its
// own, compares each event with the one in the log, and continues where the log ends. If the log
// has another event, the import ends with an error before anything is stored. A ledger may be
// imported again, also with additional rows, if these are later than the other rows of the same
// book.
//
// Every command has an idempotency key, made of the loan and the action, so that it can be sent
// again when its answer is lost. The keys do not show where to continue: a book remembers a
// thousand of them for a day. So every command also has the condition that the book is at the
// version of the rehearsal. No command is applied twice, even if another import runs at the same
// time.
func Import(ctx context.Context, engine *perdure.Engine, l *Ledger, o Options) (*Report, error) {
	o.Workers = cmp.Or(o.Workers, WorkersDefault)
	if o.Workers < 0 || o.Workers > WorkersMax {
		return nil, fmt.Errorf("import: %w: %d workers (use 1 to %d)", store.ErrInvalid, o.Workers, WorkersMax)
	}
	if o.Done == nil {
		o.Done = func(int, bool) {}
	}
	begun, all, resumed := time.Now(), pages(engine, l, &o), atomic.Int64{}
	// Compare all books before the first is changed.
	err := each(ctx, o.Workers, all, func(ctx context.Context, p *page) error {
		err := p.retry(ctx, p.catchUp)
		resumed.Add(int64(p.next))
		p.report(true)
		if p.next == 0 {
			p.state = nil // books that wait for their turn are many
		}
		return err
	})
	var open atomic.Int64 // the books that are not done
	open.Store(int64(len(all)))
	if err == nil {
		err = each(ctx, o.Workers, all, func(ctx context.Context, p *page) error {
			defer open.Add(-1)
			return p.send(ctx, func() int { // the fewer books are left, the larger are their windows
				return min(windowMax, max(1, inFlightMax/min(int(open.Load()), o.Workers)))
			})
		})
	}
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	r := newReport(all)
	r.Rejected, r.Resumed, r.Seconds = len(l.Rejects), int(resumed.Load()), time.Since(begun).Seconds()
	return r, nil
}

// each calls do for every page, on a number of goroutines, and returns the first error, which ends
// the calls in progress.
func each(ctx context.Context, workers int, pages []*page, do func(context.Context, *page) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(workers, len(pages)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(pages)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				if err := do(ctx, pages[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// Bounds of the retries for a book: attempts in a row that make no progress, and the pauses between
// them, which double. Together they take about five seconds.
const (
	triesMax = 10
	pauseMin = 10 * time.Millisecond
	pauseMax = time.Second
)

// retry makes attempts until one succeeds or fails for good.
func (p *page) retry(ctx context.Context, attempt func(context.Context) error) error {
	for tries := 1; ; tries++ {
		before := p.reported
		err := attempt(ctx)
		if p.reported > before {
			tries = 1
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case tries == triesMax || !passing(err):
			return err
		}
		select {
		case <-time.After(min(pauseMin<<tries, pauseMax)):
		case <-ctx.Done():
		}
	}
}

// passing reports whether the cause of an error may pass, so that another attempt may succeed.
func passing(err error) bool {
	is := func(target error) bool { return errors.Is(err, target) }
	return !is(store.ErrBroken) && !is(store.ErrClosed) && !is(store.ErrCorrupt) &&
		(is(perdure.ErrOutcomeUnknown) || is(perdure.ErrOverloaded) || is(perdure.ErrVersion) ||
			is(perdure.ErrContention) || is(perdure.ErrStore))
}
