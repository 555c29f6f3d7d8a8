package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/store"
)

// WorkersDefault is the number of books that are imported at the same time, unless
// [Options.Workers] sets another one.
const WorkersDefault = 256

// WorkersMax bounds [Options.Workers], so that the commands in flight stay
// below the default of [perdure.Config.CallsMax].
const WorkersMax = inFlightMax

// Options configure an import. The zero value is a good default.
type Options struct {
	// Workers is the number of books that are imported at the same time. Zero means
	// [WorkersDefault].
	Workers int
	// Expected is the expected duration of every loan. Zero sets none. If it is set,
	// borrowers are reminded of loans that are open at the end of the ledger, and the
	// engine needs a handler for reminders, see [library.Books].
	Expected time.Duration
	// Source is stored in the metadata of every event, with the line of the event's loan.
	Source string
	// Done is called with the number of operations that have become safe; earlier says that
	// an earlier run has done them. Several goroutines call it at the same time. It may be
	// nil.
	Done func(operations int, earlier bool)
}

// Operations returns the number of commands that the ledger makes: one to register each
// book, one for each lending and one for each return.
func (l *Ledger) Operations() int {
	books := make(map[string]struct{})
	n := len(l.Loans)
	for i := range l.Loans {
		books[l.Loans[i].Book] = struct{}{}
		if l.Loans[i].Returned {
			n++
		}
	}
	return n + len(books)
}

// Import sends a ledger to its books and returns a report. Each book gets its commands in
// order. Many books are imported at the same time, and each has many commands in flight.
//
// # How an import continues
//
// An import finds out how far an earlier one came, because the rules of a book depend on
// the ledger alone. It rehearses them on a state of its own and compares each event with
// the one in the log, until the log has no more events for the book; it continues there. If
// the log has a different event, the import ends with a [*MismatchError] before anything is
// stored. So a ledger may be imported again, also with additional rows, if these are later
// than the other rows of the same book.
//
// Every command has an idempotency key, made of the loan and the action, so that it can be
// sent again when its answer is lost. The keys do not show where to continue after a
// restart: a book remembers a thousand of them for a day, and a ledger may have more rows
// for it and be continued later than that. For the same reason every command has the
// condition that the book is at the version of the rehearsal. So no command is applied
// twice, even if another import runs at the same time or answers are lost.
func Import(ctx context.Context, engine *perdure.Engine, l *Ledger, o Options) (*Report, error) {
	o.Workers = cmp.Or(o.Workers, WorkersDefault)
	if o.Workers < 0 || o.Workers > WorkersMax {
		return nil, fmt.Errorf("import: %w: %d workers, 1 to %d are allowed", store.ErrInvalid, o.Workers, WorkersMax)
	}
	if o.Done == nil {
		o.Done = func(int, bool) {}
	}
	begun := time.Now()
	var lanes []*lane
	var open atomic.Int64
	for _, s := range shelves(l.Loans) {
		lanes = append(lanes, newLane(engine, l, s, o, &open))
	}
	open.Store(int64(len(lanes)))
	// Compare all books before the first is changed.
	if err := each(ctx, o.Workers, lanes, (*lane).begin); err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	resumed := 0
	for _, lane := range lanes {
		resumed += lane.next
	}
	if err := each(ctx, o.Workers, lanes, (*lane).run); err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	r := newReport(lanes)
	r.Rejected = len(l.Rejects)
	r.Resumed = resumed
	r.Seconds = time.Since(begun).Seconds()
	return r, nil
}

// each calls do for every book, on the given number of goroutines, and returns the first
// error, which ends the calls in progress.
func each(ctx context.Context, workers int, lanes []*lane, do func(*lane, context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan *lane)
	var wg sync.WaitGroup
	for range min(workers, len(lanes)) {
		wg.Go(func() {
			for l := range queue {
				if err := do(l, ctx); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, l := range lanes {
		select {
		case queue <- l:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(queue)
	wg.Wait()
	return context.Cause(ctx)
}

// A MismatchError says that the log has records of a book that do not follow from the
// ledger.
type MismatchError struct {
	Key store.Key
	// Stored describes the event in the log, Want the event that the ledger makes.
	Stored, Want string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%v: the log is not of this ledger: it holds %s; the ledger makes %s", e.Key, e.Stored, e.Want)
}

// Bounds of the retries for a book: triesMax attempts in a row that make no progress, with
// pauses that double from pauseMin to pauseLongest. Together they take about five seconds.
const (
	triesMax     = 10
	pauseMin     = 10 * time.Millisecond
	pauseLongest = time.Second
)

// again reports whether the attempt that ended with err can succeed if it is repeated.
func again(err error) bool {
	if errors.Is(err, store.ErrBroken) || errors.Is(err, store.ErrClosed) || errors.Is(err, store.ErrCorrupt) {
		return false
	}
	for _, e := range []error{
		perdure.ErrOutcomeUnknown, perdure.ErrOverloaded, perdure.ErrVersion, perdure.ErrContention, perdure.ErrStore,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// pause waits before the next try, longer after each try.
func pause(ctx context.Context, tries int) error {
	t := time.NewTimer(min(pauseMin<<tries, pauseLongest))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A Refusal is a command that a book has refused.
type Refusal struct {
	Loan *Loan
	// Return says that the command was the return of the loan, not its lending.
	Return bool
	// Err is the reason, by the book's rules, see [library.ReasonOf].
	Err error
}

// At returns the time of the refused command, by the ledger.
func (r *Refusal) At() time.Time {
	if r.Return {
		return r.Loan.ReturnedOn
	}
	return r.Loan.LentOn
}

func sortRefusals(refusals []Refusal) {
	slices.SortFunc(refusals, func(a, b Refusal) int {
		return cmp.Or(a.At().Compare(b.At()), cmp.Compare(a.Loan.Line, b.Loan.Line))
	})
}
