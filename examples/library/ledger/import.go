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

// WorkersDefault is how many books are at work at one time, unless
// [Options.Workers] says otherwise.
const WorkersDefault = 256

// WorkersMax bounds [Options.Workers], so that the commands in flight stay
// below [perdure.CallsMaxDefault].
const WorkersMax = inFlightMax

// Options say how a ledger is imported. The zero value is a good default.
type Options struct {
	// Workers is how many books are at work at one time; zero is [WorkersDefault].
	Workers int
	// Expected is how long every loan is expected to last; zero says nothing.
	// With it, borrowers are reminded of loans that the ledger leaves open; then
	// the engine needs a handler for reminders, see [library.Books].
	Expected time.Duration
	// Source is kept in the metadata of every event, beside the line it is from.
	Source string
	// Done is called with the number of operations that are known to be safe
	// from now on; earlier says that an earlier run has done them. It is called
	// by many goroutines at once. It may be nil.
	Done func(operations int, earlier bool)
}

// Operations returns how many commands the ledger makes: one to register each
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

// Import sends a ledger to its books and returns what became of it. Each book
// has its commands in order; many books are at work at one time, and each has
// many commands in flight.
//
// # How an import goes on
//
// An import knows what an earlier one has done because the rules of a book are
// functions of nothing but the ledger: it rehearses them on a state of its own
// and compares each event with the one that the log holds, until the log has no
// more; there it goes on. A log that holds something else ends the import with a
// [*MismatchError], before anything is stored. So a ledger may be imported
// again, also after rows have been added to it, as long as they are later than
// those of the same book.
//
// Every command has an idempotency key, made of the loan and the action, so that
// it can be sent again when its answer is lost. The keys do not tell where to go
// on after a restart: a book remembers a thousand of them for a day, and a
// ledger may have more for it, and be taken up again later than that. For the
// same reason every command is also on condition of the version that the
// rehearsal has come to. No command is therefore applied twice, whoever else
// imports, and whatever becomes of an answer.
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
	// All books are compared before the first is changed.
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

// each calls do for every lane, so many at a time, and returns the first error,
// which ends the calls in progress.
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

// A MismatchError says that the log holds something for a book that does not
// follow from the ledger.
type MismatchError struct {
	Key store.Key
	// Stored and Want describe what the log has and what the ledger makes.
	Stored, Want string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%v: the log is not of this ledger: it holds %s; the ledger makes %s", e.Key, e.Stored, e.Want)
}

// A book is tried again this often in a row without getting any further, with
// pauses that double; together they are about five seconds.
const (
	triesMax     = 10
	pauseMin     = 10 * time.Millisecond
	pauseLongest = time.Second
)

// again reports whether an attempt that ended with err is worth another one.
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

// pause waits before the next try, the longer the more tries there were.
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

// A Refusal is what a book has refused.
type Refusal struct {
	Loan *Loan
	// Return tells the return of the loan from its lending.
	Return bool
	// Err is why, by the book's rules, see [library.ReasonOf].
	Err error
}

// At returns when the refused command was given, by the ledger.
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
