package ledger

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/perdure/perdure"
	"github.com/perdure/perdure/examples/library/library"
	libraryv1 "github.com/perdure/perdure/examples/library/proto/library/v1"
	"github.com/perdure/perdure/store"
)

// Bounds of the commands in flight, for one book and for all books together. For one book
// they are fewer than the keys that it remembers (see [perdure.KeepReceipts]).
const (
	windowMax   = 512        // the default of perdure.Config.InFlightMax
	inFlightMax = 16_384 / 2 // half of the default of perdure.Config.CallsMax
)

// A lane is the queue of one book's operations, and sends them.
//
//  1. book is the state after the first next operations, computed by the rules alone.
//     version is the number of events of these operations, refusals the refused ones.
//  2. Each command has a key of its own, and the condition that the book is at the version
//     of the rehearsal before the command.
//  3. The lane waits for the answer to the last command of a window only. An answer at the
//     expected version proves that the commands before it have stored the expected number
//     of events, and that the commands expected to be refused have stored none. The
//     comparison at the end proves that these are the expected events and not those of
//     another import on a shared store.
//
// After an error it is unknown how many of the operations are stored. The rehearsal then
// begins again and follows the log, see catchUp. Operations that the log does not show may
// still be in flight, and are sent again: the book decides each key once. It remembers more
// keys than are in flight, see windowMax, but not all keys. If another import has continued
// further, the condition on the version makes the book refuse the command.
type lane struct {
	engine *perdure.Engine
	ledger *Ledger
	shelf  shelf
	o      Options
	open   *atomic.Int64 // number of lanes that have not ended
	ref    perdure.Ref[*libraryv1.Book]

	book     *libraryv1.Book // nil before the first operation, and after the last
	out      bool            // the book was lent at the end
	version  store.Version
	next     int
	refusals []Refusal
	lent     int
	returned int

	reported int // operations reported to Done
}

func newLane(engine *perdure.Engine, l *Ledger, s shelf, o Options, open *atomic.Int64) *lane {
	return &lane{
		engine: engine, ledger: l, shelf: s, o: o, open: open,
		ref: library.Books.Ref(engine, s.book),
	}
}

// begin finds out which operations an earlier import has done.
func (l *lane) begin(ctx context.Context) error {
	if err := l.retry(ctx, l.catchUp); err != nil {
		return err
	}
	l.report(true)
	if l.next == 0 {
		l.book = nil // books that wait for their turn are many
	}
	return nil
}

// run sends the remaining operations, and compares the book's final state with the
// rehearsal.
func (l *lane) run(ctx context.Context) error {
	defer l.open.Add(-1)
	lost := false
	return l.retry(ctx, func(ctx context.Context) error {
		if lost {
			if err := l.catchUp(ctx); err != nil {
				return err
			}
		}
		lost = true
		return l.finish(ctx)
	})
}

// retry makes attempts until one succeeds, or fails permanently, or triesMax of them in a
// row have made no progress.
func (l *lane) retry(ctx context.Context, attempt func(context.Context) error) error {
	for tries := 0; ; {
		before := l.reported
		err := attempt(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !again(err):
			return err
		}
		if tries++; l.reported > before {
			tries = 1
		}
		if tries == triesMax {
			return fmt.Errorf("given up after %d tries: %w", triesMax, err)
		}
		if err := pause(ctx, tries); err != nil {
			return err
		}
	}
}

// finish sends the operations that are not rehearsed yet, and compares the final state.
func (l *lane) finish(ctx context.Context) error {
	for l.next < len(l.shelf.operations) {
		if err := l.window(ctx); err != nil {
			return err
		}
		l.report(false)
	}
	var receipt perdure.Receipt
	book, err := l.ref.State(ctx, perdure.WithReceipt(&receipt))
	if err != nil {
		return err
	}
	if receipt.Version != l.version || !proto.Equal(book, l.book) {
		return &MismatchError{
			Key:    l.ref.Key(),
			Stored: fmt.Sprintf("version %d, %s", receipt.Version, describe(book)),
			Want:   fmt.Sprintf("version %d, %s", l.version, describe(l.book)),
		}
	}
	l.book, l.out = nil, book.GetLoan() != nil
	return nil
}

// report reports the number of newly safe operations to Done.
func (l *lane) report(earlier bool) {
	if l.next > l.reported {
		l.o.Done(l.next-l.reported, earlier)
		l.reported = l.next
	}
}

// window sends the next commands and waits for the last of them. The fewer books are left,
// the larger the windows are. The sum of the open windows stays below inFlightMax, because
// the number of lanes only decreases.
func (l *lane) window(ctx context.Context) error {
	lanes := min(l.open.Load(), int64(l.o.Workers))
	size := max(1, min(windowMax, inFlightMax/lanes))
	for n := int64(1); ; n++ {
		s := l.rehearse(ctx)
		options := []perdure.CallOption{
			perdure.WithIdempotencyKey(s.key),
			perdure.IfVersion(s.version),
			perdure.WithCorrelationID(s.loan.ID),
			perdure.WithMetadata(map[string]string{"ledger": l.o.Source, "line": strconv.Itoa(s.loan.Line)}),
		}
		if n < size && l.next < len(l.shelf.operations) {
			if err := l.ref.Tell(ctx, s.command, options...); err != nil {
				return err
			}
			continue
		}
		receipt, err := l.ref.Do(ctx, s.command, options...)
		return l.check(&s, receipt, err)
	}
}

// check compares the answer to a command with the rehearsal.
func (l *lane) check(s *step, receipt perdure.Receipt, err error) error {
	want, refused := library.ReasonOf(s.refusal)
	got, refuses := library.ReasonOf(err)
	switch {
	case err != nil && !refuses:
		return err
	case refused != refuses || want != got || err == nil && receipt.Version != l.version:
		return fmt.Errorf("%v: line %d: the book answers otherwise than by its rules: version %d, %s; want version %d, %s",
			l.ref.Key(), s.loan.Line, receipt.Version, fmt.Sprint(err), l.version, fmt.Sprint(s.refusal))
	}
	return nil
}

// catchUp rehearses the operations whose events are in the log.
func (l *lane) catchUp(ctx context.Context) error {
	l.book, l.version, l.next = new(libraryv1.Book), 0, 0
	l.refusals, l.lent, l.returned = nil, 0, 0
	var events []proto.Message // events of the ledger that the log has not shown yet
	for stored, err := range l.engine.Store().Read(ctx, l.ref.Key(), 0) {
		if err != nil {
			return fmt.Errorf("%v: %w: %w", l.ref.Key(), perdure.ErrStore, err)
		}
		for len(events) == 0 && l.next < len(l.shelf.operations) {
			events = l.rehearse(ctx).events
		}
		if len(events) == 0 {
			return l.mismatch(stored, "no more")
		}
		if !holds(stored, events[0]) {
			return l.mismatch(stored, describe(events[0]))
		}
		events = events[1:]
	}
	return nil
}

func (l *lane) mismatch(stored *store.Event, want string) error {
	text := stored.Type
	if m := empty(protoreflect.FullName(stored.Type)); m != nil && proto.Unmarshal(stored.Payload, m) == nil {
		text = describe(m)
	}
	return &MismatchError{Key: l.ref.Key(), Stored: fmt.Sprintf("event %d, %s", stored.Version, text), Want: want}
}

// holds reports whether a stored event has the message.
func holds(stored *store.Event, m proto.Message) bool {
	if stored.Type != string(m.ProtoReflect().Descriptor().FullName()) {
		return false
	}
	got := m.ProtoReflect().New().Interface()
	return proto.Unmarshal(stored.Payload, got) == nil && proto.Equal(got, m)
}

// A step is a rehearsed operation.
type step struct {
	loan    *Loan
	key     string
	command proto.Message
	version store.Version // version of the book before the operation
	events  []proto.Message
	refusal error
}

// rehearse runs the rules for the next operation.
func (l *lane) rehearse(ctx context.Context) step {
	if l.book == nil {
		l.book = new(libraryv1.Book)
	}
	op := l.shelf.operations[l.next]
	s := step{loan: &l.ledger.Loans[op.loan], version: l.version}
	s.key = s.loan.ID + keys[op.action]
	s.command = command(op.action, s.loan, l.o.Expected)
	s.events, s.refusal = library.Rehearse(ctx, l.book, s.command)
	l.next++
	l.version += store.Version(len(s.events))
	switch {
	case s.refusal != nil:
		l.refusals = append(l.refusals, Refusal{Loan: s.loan, Return: op.action == actReturn, Err: s.refusal})
	case op.action == actLend:
		l.lent++
	case op.action == actReturn:
		l.returned++
	}
	return s
}

// keys are the suffixes of the idempotency keys, by action. A key begins with the loan's
// id.
var keys = [...]string{actRegister: "/register", actLend: "/lend", actReturn: "/return"}

// command makes the command of an operation. A loan that ends within the ledger gets no
// reminder, even if it was due long before.
func command(a action, loan *Loan, expected time.Duration) proto.Message {
	switch a {
	case actRegister:
		return &libraryv1.RegisterBook{Title: loan.Title}
	case actLend:
		c := &libraryv1.LendBook{
			LoanId: loan.ID, Borrower: loan.Borrower, Date: timestamppb.New(loan.LentOn), Ended: loan.Returned,
		}
		if expected != 0 {
			c.Expected = durationpb.New(expected)
		}
		return c
	default:
		return &libraryv1.ReturnBook{LoanId: loan.ID, Date: timestamppb.New(loan.ReturnedOn), By: loan.Borrower}
	}
}

// describe formats a message on one line, for error texts.
func describe(m proto.Message) string {
	return fmt.Sprintf("%s{%s}", m.ProtoReflect().Descriptor().Name(), prototext.MarshalOptions{}.Format(m))
}

// empty returns an empty message of the domain, or nil if there is no such type.
func empty(name protoreflect.FullName) proto.Message {
	for _, m := range []proto.Message{
		new(libraryv1.BookRegistered), new(libraryv1.BookLent), new(libraryv1.BookReturned),
	} {
		if m.ProtoReflect().Descriptor().FullName() == name {
			return m
		}
	}
	return nil
}
